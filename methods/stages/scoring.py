"""Preparing a signal for a run, and scoring a stage's samples with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from harness.config import SignalChoice
from harness.costs.estimator import Estimator
from harness.costs.records import Before, Cost, Load
from harness.errors import ConfigError
from harness.executor import Work
from harness.facts import Fact, facts_to_rows
from harness.models.embedder import embedder_identity
from harness.models.open import model_path
from harness.raters.catalogue import rater_identity
from harness.shards import ShardOutput, read_records
from harness.stage import Stage, StageInputs, StageRun
from harness.types import Sample, Score, Seed, derive_seed, file_hash
from methods.plan import Plan
from methods.signals.base import Archive, Preparation, Signal, SignalContext, TargetState
from methods.signals.catalogue import (
    check_use,
    declares,
    make_signal,
    signal_class,
    signal_files,
    signal_members,
    signal_needs,
    signal_raters,
)
from methods.signals.sets import SetSignal
from methods.stages.selection import Selection
from methods.stages.signal_cost import scoring_cost, scoring_parts
from methods.stages.sources import GuideRow
from methods.stages.warmup import member_names, read_checkpoints

REFERENCE = "reference"
"""What the name of a stage begins with that scores the first pairs, for a signal that is normalised by them."""


def signal_settings(plan: Plan, signal: SignalChoice) -> dict[str, Any]:
    """The part of a signal that can change its scores: its name, what is not at its default, and what it reads."""
    own = signal.identity()
    settings: dict[str, Any] = {"signal": own if len(own) > 1 else signal.name, "seed": plan.config.synthesis_seed}
    needs, target = signal_needs(signal), plan.config.models.target
    if "planted" in needs:
        settings["world"] = plan.world.key if plan.world else None
    if "embedder" in needs:
        settings["embedder"] = embedder_identity(plan.config.models.embedder)
    if "target" in needs:
        settings["target"] = [plan.identity(target), target.dtype, target.max_length]
    if "rater" in needs:
        settings["raters"] = [rater_identity(rater) for rater in signal_raters(signal)]
    if named := signal_files(signal):
        settings["files"] = [file_hash(Path(name).expanduser()) for name in named]
    return settings


@dataclass(frozen=True, slots=True)
class Reading:
    """A signal's reading in a round of a loop: the stage whose fine-tuned target is its `student`, and which `draw`.

    The stage is one of the scoring stage's inputs, by its name, and its folder's name is the weights' revision. Without
    a student it is the target as it is; draw 0 is that of a run without rounds. `warmup` is the name of the stage that
    left the checkpoints of a warmed-up target, among the inputs, too.
    """

    student: str = ""
    revision: str = ""
    draw: int = 0
    warmup: str = "warmup"


ONCE = Reading()


def prepare_signal(
    inputs: StageInputs, plan: Plan, choice: SignalChoice, reading: Reading = ONCE, *, refers: bool = False
) -> tuple[Signal[Any], Preparation]:
    """A signal ready to score, or where it `refers` to make its own reference, and what its preparation found.

    What preparation cost is the signal's first `usage()`, for the caller to account for.
    """
    c = plan.config
    signal, needs = make_signal(choice), signal_needs(choice)
    target = None
    if needs & {"warm_target", "target", "ensemble"}:
        target = TargetState(
            model=model_path(c.models.target, plan.world),
            revision=plan.identity(c.models.target),
            max_length=c.models.target.max_length,
            dtype=c.models.target.dtype,
            hub_revision=c.models.target.revision,
            checkpoints=read_checkpoints(inputs.input(reading.warmup)) if "warm_target" in needs else (),
            members=tuple(read_checkpoints(inputs.input(name))[-1] for name in member_names(signal_members(choice))),
        )
        if reading.student:
            own = inputs.input(reading.student) / "model"
            target = replace(target, model=own, revision=reading.revision, hub_revision=None)
    guide = inputs.records("sources", GuideRow, "validation") if declares(choice, "reads_validation") else []
    context = SignalContext(
        seed=derive_seed(c.synthesis_seed, "draw", reading.draw) if reading.draw else c.synthesis_seed,
        validation=[row.example() for row in guide],
        seeds=inputs.records("sources", Seed) if declares(choice, "reads_seeds") else [],
        lab_world=plan.world,
        batch_size=c.runtime.batch_size,
        scoring=c.runtime.scoring,
        embedder=c.models.embedder,
        reference=_reference(inputs) if "reference" in needs and not refers else None,
    )
    prepared = signal.prepare(context, target)
    if reading.student:
        student = Fact("student", reading.student, "stage whose model is read as the target")
        prepared = replace(prepared, facts=[student, *prepared.facts])
    return signal, prepared


def _reference(inputs: StageInputs) -> list[Score]:
    """The rows of the reference that is among a stage's inputs."""
    return inputs.records(next(name for name in inputs.folders if name.startswith(REFERENCE)), Score)


class Wanted(Protocol):
    """The request to a signal that chooses sets."""

    def wanted(self, items: Sequence[Any]) -> tuple[int, Sequence[Any] | None]:
        """The number of `items` to choose, and the groups of which one each is chosen."""


@dataclass(frozen=True)
class SignalWorker:
    """Scores shards under a signal, wherever its target can be loaded; its first shard brings what it found.

    With a `selection`, a shard is the whole pool, out of which the signal chooses what the selection asks for. Where it
    `refers`, rows are those of the signal's own reference.
    """

    plan: Plan
    signal: SignalChoice
    inputs: StageInputs
    selection: Wanted | None = None
    reading: Reading = ONCE
    refers: bool = False

    def open(self) -> Work:
        """Prepare the signal."""
        signal, prepared = prepare_signal(self.inputs, self.plan, self.signal, self.reading, refers=self.refers)
        news = [prepared.to_json()]

        def shard(items: Sequence[Any], index: int, seed: int) -> ShardOutput:
            notes = news.pop() if news else {}
            if self.selection is not None and isinstance(signal, SetSignal):
                count, groups = self.selection.wanted(items)
                scores = signal.choose(items, count, Archive(), groups)
            elif self.refers:
                # Rows are not items here: there may be several of each.
                scores = signal.reference(items)
            else:
                scores = signal.score(items, Archive())
            return ShardOutput(scores, rows_in=len(items), kept=len(items), usage=signal.usage(), notes=notes)

        return shard


def scored_cost(e: Estimator, plan: Plan, signal: SignalChoice, count: int) -> Cost:
    """The cost of a stage that scores `count` items by the chosen signal and does nothing else."""
    own = scoring_cost(e, plan, signal, count)
    return Cost(
        rows=count,
        out=count,
        tokens_in=sum(tokens for tokens, _ in own.models.values()),
        tokens_out=sum(tokens for _, tokens in own.models.values()),
        flops=own.flops + own.drawn,
        seconds=e.seconds(compute=own.flops, moved=own.moved, known=own.known, lab=own.lab),
        note=f"scored by {signal.name}",
        compute=own.flops,
        moved=own.moved,
        models=own.models,
        usd=own.usd,
    )


def diagnosed(run: StageRun, signal: SignalChoice) -> Mapping[str, Any]:
    """The notes of a scoring stage: what preparing its signal found, and what is reported of its scores.

    All is read back, since shards of an earlier process count as well.
    """
    found = signal_class(signal.name).diagnose(read_records(run.folder, Score))
    run.event("signal_diagnostics", signal=signal.name, diagnostics={fact.name: fact.value for fact in found})
    return {"prepared": dict(run.shard_notes()), "diagnostics": facts_to_rows(found)}


def references(inputs: Sequence[Stage]) -> tuple[Stage, ...]:
    """Those of the inputs that are a signal's reference."""
    return tuple(stage for stage in inputs if stage.name.startswith(REFERENCE))


def with_reference(
    plan: Plan, signal: SignalChoice, first: Stage, inputs: Sequence[Stage], name: str = REFERENCE
) -> tuple[Stage, ...]:
    """`inputs`, and where the signal needs one its reference: a stage that has it look at pairs of `first`.

    A run may have several, of which each has a `name` of its own; one that is among the inputs stays.
    """
    if "reference" not in signal_needs(signal) or references(inputs):
        return tuple(inputs)
    most = signal_class(signal.name).reference_items(signal.settings)
    shard = plan.config.synthesis.shard_size
    settings = {**signal_settings(plan, signal), "most": most, "shard": shard}

    def work(run: StageRun) -> Mapping[str, Any]:
        pairs = run.records(first.name, Sample)[:most]
        run.map_shards(pairs, shard, SignalWorker(plan, signal, run.inputs, refers=True))
        return {"pairs": len(pairs)}

    def estimate(e: Estimator, before: Before) -> Cost | None:
        made = before[first.name]
        if made is None or made.out is None:
            return None
        return scored_cost(e, plan, signal, min(made.out, most or made.out))

    stage = Stage(
        name=name,
        version=1,
        settings=settings,
        inputs=(first, *inputs),
        work=work,
        kind="measurement",
        estimate=estimate,
        loads=lambda sizer: Load("scoring", tuple(scoring_parts(sizer, plan, signal))),
        signal=signal.name,
    )
    return (*inputs, stage)


def score_stage(
    plan: Plan,
    signal: SignalChoice,
    samples: Stage,
    inputs: Sequence[Stage],
    selection: Selection | None = None,
    reading: Reading = ONCE,
) -> Stage:
    """Scores of the samples of `samples` under `signal`; `inputs` are the stages that the signal reads.

    A reference, where the signal needs one and none is among them, is taken of the samples themselves. `selection` is
    what the scores are for: a signal that chooses sets does so out of the whole pool, as the selection asks.
    Raises `ConfigError` for a signal that cannot be used so.
    """
    check_use(signal, "selection")
    whole = signal_class(signal.name).unit == "set"
    if whole and selection is None:
        raise ConfigError(f"signal '{signal.name}' chooses sets, and here items are scored one by one; take another")
    cut: dict[str, Any] = {"shard": plan.config.synthesis.shard_size}
    if whole and selection is not None:
        cut = {"choice": selection.choice_settings}
    settings = {**signal_settings(plan, signal), **cut}
    inputs = with_reference(plan, signal, samples, inputs)
    referred = [stage for stage in references(inputs) if stage.inputs[0].identity == samples.identity]

    def work(run: StageRun) -> Mapping[str, Any]:
        pool = run.records(samples.name, Sample)
        size = max(1, len(pool)) if whole else plan.config.synthesis.shard_size
        worker = SignalWorker(plan, signal, run.inputs, selection=selection if whole else None, reading=reading)
        run.map_shards(pool, size, worker)
        return diagnosed(run, signal)

    def estimate(e: Estimator, before: Before) -> Cost | None:
        made = before[samples.name]
        if made is None or made.out is None:
            return None
        # What the reference holds is not scored again.
        known = [cost.out for stage in referred if (cost := before[stage.name]) and cost.out]
        return replace(scored_cost(e, plan, signal, made.out - sum(known)), rows=made.out, out=made.out)

    return Stage(
        name="score",
        version=3,
        settings=settings,
        inputs=(samples, *inputs),
        work=work,
        kind="scores",
        estimate=estimate,
        loads=lambda sizer: Load("scoring", tuple(scoring_parts(sizer, plan, signal))),
        signal=signal.name,
    )
