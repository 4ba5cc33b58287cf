"""`lab assess`: what do signals see in pairs of known worth, and does following them pay?

In every world all arms score one pool of pairs, and the target is fine-tuned on subsets of it that lean towards or away
from each arm's scores. Signals, warm-up and fine-tuning are the stages of a run and lie in the same store: equal work
is done once, whoever asks for it, and a stopped assessment goes on where it was. All subsets of a world are drawn with
the same noise, so arms and tilts differ by what they prefer, and the evenly drawn subset belongs to all. It gives up
what a driver makes of a score; `lab calibrate` measures that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.choice import stored_name
from harness.errors import ConfigError, InputError, suggest
from harness.lab.arms import read_arms
from harness.models.endpoint.calls import CallLog, MemoryLog
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.runtime.execute import execute
from harness.runtime.progress import Progress
from harness.settings import parse_assignment
from harness.shards import read_records, read_shards
from harness.stage import Stage, read_summary, stage_folder, store_of
from harness.types import Sample, Score, Usage, derive_seed, stable_hash
from methods.drivers.base import common
from methods.plan import Plan
from methods.signals.catalogue import sign, signal_classes
from methods.stages.known_worth import Exam, Realised, Worth, first_stage, load_exam, pool_stage, realised_stage
from methods.stages.scoring import score_stage
from methods.stages.tilting import Strata, length_strata, standardised, tilted
from results.assessment import KINDS, Ranking, Subset, assess_arms, render_assessment
from results.lab_files import write_assessment


@dataclass(frozen=True, slots=True)
class AssessArm:
    """An arm: a signal and the settings that it is prepared under."""

    signal: str
    sets: Mapping[str, Any] = field(default_factory=dict)


def _arm(choice: Any) -> AssessArm:
    """An arm as it is declared: a name, or a mapping of name and settings."""
    own = choice if isinstance(choice, Mapping) else {}
    return AssessArm(stored_name(choice), {f"signal.{key}": value for key, value in own.items() if key != "name"})


ARMS: Mapping[str, AssessArm] = {name: _arm(choice) for name, choice in read_arms("assess").items()}
"""The arms of an assessment, by the name that the tables show."""

TILTS = (-1.5, -0.75, 0.75, 1.5)
"""Tilts of every arm's own subsets, beside the evenly drawn one."""


@dataclass(frozen=True, slots=True)
class AssessSizes:
    """Sizes in a world: a run's scale, pairs per rule, question type and kind, pairs of a subset, tilts.

    `subset` None is a run's data set. Without tilts nothing is fine-tuned.
    """

    scale: str = "full"
    per_cell: int = 2
    subset: int | None = None
    tilts: tuple[float, ...] = TILTS


_TAKEN = {"lab.world": "--worlds", "seed": "--worlds", "signal": "--arm", "runtime.runs": "--runs"}
"""Settings that an assessment makes itself, and the options that they follow from."""


class _Shown:
    """An observer that only shows progress: the stages' own accounts are all that an assessment keeps."""

    def __init__(self, progress: Progress, label: str, total: int) -> None:
        self._progress, self._label, self._total, self._done = progress, label, total, 0

    def event(self, kind: str, **fields: Any) -> None:
        """Nothing is logged."""

    def spend(self, stage: str, signal: str, usage: Sequence[Usage]) -> None:
        """Cost stays in the stages."""

    def progress(self, label: str, done: int, total: int, note: str = "") -> None:
        """Steps of a single stage are too small to show."""

    def call_log(self, stage: str, signal: str) -> CallLog:
        """The lab's models call no endpoint; what one was called for would live as long as this process."""
        return MemoryLog()

    def step(self, note: str) -> None:
        """One more part of the world is done."""
        self._done += 1
        self._progress.update(self._label, self._done, self._total, note)


@dataclass(frozen=True, slots=True)
class _Scored:
    """One arm in one world: its plan and its scores, higher meaning better whatever the signal's direction."""

    plan: Plan
    values: Mapping[str, float]
    milliseconds: float


def assess(
    worlds: Sequence[int],
    arms: Sequence[str] | None = None,
    sets: Mapping[str, Any] | None = None,
    sizes: AssessSizes | None = None,
    runs: str = "runs",
    out: str | None = None,
) -> str:
    """Score and fine-tune in all worlds; returns the tables as Markdown, and with `out` writes them there too.

    An arm is a name of `ARMS`, or a signal followed by settings (`SIGNAL signal.KEY=VALUE`); None means all of
    `ARMS`. `sets` holds for every arm, and its own settings win. Raises `ConfigError` for an unknown arm or setting,
    and for one that the other arguments decide.
    """
    sizes = sizes or AssessSizes()
    chosen = {name: find_arm(name) for name in arms or ARMS}
    for key, option in _TAKEN.items():
        if any(key in given for given in (sets or {}, *(arm.sets for arm in chosen.values()))):
            raise ConfigError(f"{key} cannot be set in an assessment; it follows from {option}")
    rankings: list[Ranking] = []
    subsets: list[Subset] = []
    progress = Progress()
    try:
        for world in worlds:
            ranked, realised = _world(world, chosen, dict(sets or {}), sizes, runs, progress)
            rankings += ranked
            subsets += realised
    finally:
        progress.close()
    settings = {"worlds": list(worlds), "sets": dict(sets or {}), "scale": sizes.scale, "per_cell": sizes.per_cell}
    settings |= {"tilts": list(sizes.tilts), "arms": {n: [a.signal, dict(a.sets)] for n, a in chosen.items()}}
    assessment = assess_arms(sorted(rankings, key=lambda r: list(chosen).index(r.arm)), subsets, settings)
    if out is not None:
        write_assessment(assessment, Path(out))
    return render_assessment(assessment)


def find_arm(text: str) -> AssessArm:
    """The arm that `text` means. Raises `ConfigError` with the nearest known name."""
    if text in ARMS:
        return ARMS[text]
    signal, *rest = text.split() or [""]
    known = [found.name for found in signal_classes()[0] if found.unit == "item"]
    if signal in known:
        return AssessArm(signal, dict(map(parse_assignment, rest)))
    names = dict.fromkeys([*ARMS, *known])
    near = suggest(text, names)
    # Arms have commas in their names.
    raise ConfigError(f"there is no arm '{text}'{near if 'mean' in near else '; known: ' + '; '.join(names)}")


def mean_of_scored(scores: Mapping[str, float], ids: Sequence[str]) -> float | None:
    """The mean score of those of `ids` that have one; None where none has."""
    known = [scores[i] for i in ids if i in scores]
    return sum(known) / len(known) if known else None


def _world(
    world: int,
    arms: Mapping[str, AssessArm],
    sets: Mapping[str, Any],
    sizes: AssessSizes,
    runs: str,
    progress: Progress,
) -> tuple[list[Ranking], list[Subset]]:
    """All arms in one world."""
    plans = {name: _plan(world, arm, sets, sizes, runs) for name, arm in arms.items()}
    base = next(iter(plans.values()))
    _prepare(base)
    store = store_of(runs)
    tuned = len(arms) * len(sizes.tilts) + 2 if sizes.tilts else 0
    shown = _Shown(progress, f"world {world}", len(arms) + tuned)
    pool = pool_stage(base, sizes.per_cell)
    execute([pool], store, shown)
    samples = read_records(stage_folder(store, pool), Sample)
    worth = read_records(stage_folder(store, pool) / "worth", Worth)
    scored = {}
    for name in arms:
        scored[name] = _score(plans[name], pool, store, shown)
        shown.step(name)
    rankings = [_ranking(name, world, s, worth) for name, s in scored.items()]
    if not sizes.tilts:
        return rankings, []
    strata = length_strata(samples, {w.item_id: w.question_type for w in worth})
    exam = load_exam(base, base.suite.guided_columns(base.config.guide.set)[0])
    return rankings, _Tilting(
        world=world,
        scored=scored,
        strata=strata,
        samples=samples,
        worth=worth,
        pool=pool,
        exam=exam,
        store=store,
        shown=shown,
    ).subsets(base, sizes)


def _plan(world: int, arm: AssessArm, sets: Mapping[str, Any], sizes: AssessSizes, runs: str) -> Plan:
    """The plan of a run in this world with this signal; world and seed go together, as in a calibration."""
    own = {"lab.world": world, "runtime.runs": runs, "synthesis.shard_size": 1024, **sets, **arm.sets}
    resolved = resolve_run(
        target="nano", driver="best_of_n", signal=arm.signal, scale=sizes.scale, seed=world, sets=own
    )
    return assemble(resolved.config).plan


def _prepare(plan: Plan) -> None:
    """The libraries as a run prepares them, and the world's models."""
    import gc

    import torch

    from harness.lab.build import ensure_lab
    from harness.lab.world import World
    from harness.runtime.allocator import keep_freed_memory
    from harness.training.trainer import quiet_libraries

    quiet_libraries()
    keep_freed_memory()
    torch.set_num_threads(plan.config.runtime.threads or 1)
    ensure_lab(World.of(plan.world))
    # Every trainer collects garbage when it starts, which takes longer than a few of these tiny steps.
    gc.freeze()


def _score(plan: Plan, pool: Stage, store: Path, shown: _Shown) -> _Scored:
    signal = plan.config.signal
    first = first_stage(plan, plan.config.synthesis.initial_samples or plan.config.synthesis.samples_per_seed)
    stage = score_stage(plan, signal, pool, common(plan, signal, first).signal_inputs)
    execute([stage], store, shown)
    folder = stage_folder(store, stage)
    better = sign(signal.name)
    scores = read_records(folder, Score)
    values = {s.item_id: better * s.value for s in scores if s.value is not None}
    summary = read_summary(folder)
    return _Scored(plan, values, 1000 * (summary.seconds if summary else 0.0) / max(1, len(scores)))


def _ranking(name: str, world: int, scored: _Scored, worth: Sequence[Worth]) -> Ranking:
    from harness.lab.report import auc

    by_kind: dict[str, list[float]] = {}
    for w in worth:
        if w.item_id in scored.values:
            by_kind.setdefault(w.kind, []).append(scored.values[w.item_id])
    useful = by_kind.pop("useful", [])
    by_kind["all"] = [x for kind, values in by_kind.items() if kind != "repeat" for x in values]
    found = {kind: auc(useful, by_kind.get(kind, [])) for kind in KINDS}
    return Ranking(
        arm=name, world=world, auc=found, unscored=len(worth) - len(scored.values), milliseconds=scored.milliseconds
    )


@dataclass(frozen=True, slots=True)
class _Tilting:
    """Drawing a world's subsets and fine-tuning on them."""

    world: int
    scored: Mapping[str, _Scored]
    strata: Strata
    samples: Sequence[Sample]
    worth: Sequence[Worth]
    pool: Stage
    exam: Exam
    store: Path
    shown: _Shown

    def subsets(self, base: Plan, sizes: AssessSizes) -> list[Subset]:
        """The even subset, and every arm's at every tilt."""
        size = sizes.subset or int(base.config.budget)
        before = self._realise(base, [], "before")
        z = {name: standardised(s.values) for name, s in self.scored.items()}
        even: Mapping[str, float] = {s.id: 0.0 for s in self.samples}
        wanted = [("", 0.0, base, even)]
        wanted += [(name, t, s.plan, s.values) for name, s in self.scored.items() for t in sizes.tilts]
        found = []
        for name, tilt, plan, values in wanted:
            ids = self._draw(values, size, tilt, name)
            after = self._realise(plan, ids, f"{name} at {tilt:g}" if name else "even")
            means = {arm: m for arm, own in z.items() if (m := mean_of_scored(own, ids)) is not None}
            drop = before.loss - after.loss
            pairs, useful = stable_hash(ids), self._useful(ids)
            found.append(
                Subset(
                    world=self.world,
                    arm=name,
                    tilt=tilt,
                    pairs=pairs,
                    useful=useful,
                    accuracy=after.accuracy,
                    loss_drop=drop,
                    means=means,
                    probability=after.probability,
                )
            )
        return found

    def _draw(self, values: Mapping[str, float], size: int, tilt: float, name: str) -> list[str]:
        try:
            chosen = set(tilted(values, self.strata, size, tilt, derive_seed("tilted", self.world)))
        except ValueError as error:
            whose = f"arm '{name}'" if name else "the even subset"
            raise InputError(f"{whose} in world {self.world}: {error}; lower the subset's size") from None
        return [s.id for s in self.samples if s.id in chosen]

    def _realise(self, plan: Plan, ids: Sequence[str], note: str) -> Realised:
        stage = realised_stage(plan, self.pool, ids, self.exam)
        execute([stage], self.store, self.shown)
        self.shown.step(note)
        return Realised(**read_shards(stage_folder(self.store, stage))[0])

    def _useful(self, ids: Sequence[str]) -> float:
        """Share of different useful pairs: a copy beside its original, or beside another copy, counts once."""
        kind = {w.item_id: w.kind for w in self.worth}
        content = {s.id: s.content_hash for s in self.samples}
        return len({content[i] for i in ids if kind[i] in ("useful", "repeat")}) / len(ids)
