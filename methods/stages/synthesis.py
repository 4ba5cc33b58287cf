"""`initial` and `regenerate`: pairs from seeds, by the drafting model as it is and by the one that a driver ends with.

`regenerate` over-generates: it draws pass after pass over the seeds, shard by shard, until as many samples as were
declared survive validity checks, duplicate removal and the contamination gate, or until the declared line of tokens or
operations is reached. The count is retaken from the committed shards, so a resumed stage stops where an uninterrupted
one does.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from harness.config import SynthesisConfig
from harness.costs.estimator import SURVIVE, Estimator
from harness.costs.records import Before, Cost, Load
from harness.errors import BudgetError, ConfigError
from harness.executor import Task
from harness.shards import Summary, parts, read_records, summarise
from harness.stage import Stage, StageRun, ordered, read_summary, stage_folder
from harness.synthesis.route import Draw, Route
from harness.types import Sample, Seed, Usage, derive_seed
from methods.plan import Plan
from methods.stages.gate import Gate, gate_settings
from methods.stages.labels import label_settings, with_labels
from methods.stages.lengths import line_settings, weigher
from methods.stages.selection import Selection
from methods.stages.sources import read_documents
from methods.stages.trajectories import synthesis_worker


def draws_of_pass(seeds: Sequence[Seed], per_seed: int, seed: int, number: int, origin: str = "") -> list[Draw]:
    """Pass `number` over the seeds in its own shuffled order, `per_seed` draws of each in a row."""
    order = list(seeds)
    random.Random(derive_seed(seed, "pass", number)).shuffle(order)
    return [Draw(s, number * per_seed + j, origin) for s in order for j in range(per_seed)]


def initial(plan: Plan, source: Stage, policy: Stage | None = None) -> Stage:
    """Pairs of the untrained drafting model, or of that of `policy`, of which a share warms the target up."""
    c = plan.config
    settings = {
        **plan.synthesis_settings(),
        "writer_model": "trained" if policy else plan.untrained_identity,
        "samples": c.synthesis.initial_samples,
        "per_seed": c.synthesis.samples_per_seed,
        "shard": c.synthesis.shard_size,
        "seed": c.synthesis_seed,
    }

    def work(run: StageRun) -> Mapping[str, Any]:
        seeds = run.records(source.name, Seed)
        wanted = c.synthesis.initial_samples or len(seeds) * c.synthesis.samples_per_seed
        draws: list[Draw] = []
        number = 0
        while len(draws) < wanted:
            draws += draws_of_pass(seeds, c.synthesis.samples_per_seed, run.seed, number)
            number += 1
        folder = run.input(policy.name) / "policy" if policy else None
        run.map_shards(draws[:wanted], c.synthesis.shard_size, synthesis_worker(run, plan, seeds, folder))
        return {}

    def estimate(e: Estimator, before: Before) -> Cost | None:
        count = c.synthesis.initial_samples or (e.seeds or 0) * c.synthesis.samples_per_seed
        return e.trajectories(count, "drafts, then pairs") if count else None

    return Stage(
        name="initial",
        version=5,
        settings=settings,
        inputs=(source, policy) if policy else (source,),
        work=work,
        kind="pairs",
        estimate=estimate,
        loads=lambda sizer: Load("synthesis", tuple(sizer.makes(trained=policy is not None))),
    )


TEACHERS = ("generator", "answerer", "labeller")
"""The roles whose tokens a budget of `teacher_tokens` counts: those that write what the target learns."""


SPENT = ("teacher_tokens", "flops")
"""The lines that are reached by what generation spends, and not by what it leaves."""


def upstream_usage(run: StageRun, roles: Collection[str]) -> tuple[float, float]:
    """Tokens of `roles`, and FLOPs of all, that the stages before this one have spent."""
    tokens = flops = 0.0
    for stage in ordered(run.stage.inputs):
        summary = read_summary(stage_folder(run.store, stage))
        more = add_usage(summary.usage if summary else (), roles)
        tokens, flops = tokens + more[0], flops + more[1]
    return tokens, flops


def add_usage(usage: Sequence[Usage], roles: Collection[str]) -> tuple[float, float]:
    """Tokens of the calls of `roles`, those of training left out, and FLOPs of all."""
    tokens = sum(u.prompt_tokens + u.completion_tokens for u in usage if u.role in roles and u.calls)
    return tokens, sum(u.flops for u in usage)


@dataclass(frozen=True, slots=True)
class Round:
    """A round of a loop, by whose end the data set has the budget's size: its number, and the data set before it.

    `before` is the line of the round before it; pairs are made after at most `chosen` seeds.
    """

    number: int
    chosen: int
    before: float = 0.0
    prior: Stage | None = None

    def earlier(self, run: StageRun) -> list[Sample]:
        """The pairs of the rounds before it."""
        return run.records(self.prior.name, Sample) if self.prior else []


ALONE = Round(0, 0)
"""Where there are no rounds."""


def regenerate(plan: Plan, source: Stage, policy: Stage | None, selection: Selection, round_: Round = ALONE) -> Stage:
    """Pairs for the data set, as many as `selection` needs to be left with the budget; after the seeds of `source`.

    In a round of a loop those of the rounds before count, too.
    """
    c = plan.config
    if not c.route_roles and c.labels is None and c.match in SPENT:
        raise ConfigError(
            f"on route '{c.route.name}' nothing is written, so that a budget of {c.match} is never used up; take "
            "--match samples or sft_tokens"
        )
    settings = {
        **plan.synthesis_settings(),
        "writer_model": "trained" if policy else plan.drafter_identity,
        **line_settings(plan),
        **selection.draw_settings,
        "passes": c.synthesis.max_passes,
        "allow_shortfall": c.allow_shortfall,
        "shard": c.synthesis.shard_size,
        **gate_settings(plan),
        **label_settings(plan),
        "seed": c.synthesis_seed,
    }
    inputs = tuple(stage for stage in (source, policy, round_.prior) if stage)
    trained = policy is not None or plan.policy is not None
    return Stage(
        name="regenerate",
        version=6,
        settings=settings,
        inputs=inputs,
        work=lambda run: _regenerate(run, plan, source, policy, selection, round_),
        kind="pairs",
        estimate=lambda e, before: _labelled(e, _estimate(e, before, plan, selection, round_)),
        loads=lambda sizer: Load(
            "synthesis", (*sizer.makes(trained=trained), *sizer.labels_pairs(trained=trained), *sizer.gates())
        ),
        lacks=lambda documents: _too_few(plan, selection, min(documents, round_.chosen or documents), round_.before),
    )


def _too_few(plan: Plan, selection: Selection, documents: int, before: float) -> str:
    """The reason why so many documents cannot give the budget, even if every draw survives; empty where they can."""
    c = plan.config
    seeds = read_documents(plan).seeds if type(plan.route).unusable is not Route.unusable else ()
    reasons = [plan.route.unusable(seed) for seed in seeds]
    if seeds and all(reasons):
        how = "give rows with both (--seeds), and name their columns where they are not found (seeds.question_field, "
        how += "seeds.answer_field)"
        if c.seeds.source == "lab":
            how = "ask the lab for questions with answers: --set lab.labelled=true"
        return f"route '{plan.route.name}' can use none of the {len(seeds)} seeds: {reasons[0]}; {how}"
    documents = min(documents, reasons.count("")) if seeds else documents
    most = selection.most(documents * selection.per_seed * c.synthesis.max_passes, documents)
    line = c.budget - before
    if c.match != "samples" or c.allow_shortfall or most >= line:
        return ""
    return (
        f"{documents} documents give at most {most} pairs in {c.synthesis.max_passes} passes (synthesis.max_passes), "
        f"and the budget is {line:g}; use more documents, a smaller --budget, or set allow_shortfall"
    )


def _labelled(e: Estimator, made: Cost | None) -> Cost | None:
    return None if made is None else with_labels(e, made)


def _estimate(e: Estimator, before: Before, plan: Plan, selection: Selection, round_: Round) -> Cost | None:
    """The draws that the declared budget takes, at the assumed surviving share."""
    c, note = plan.config, "until the budget is met"
    share = selection.kept_share(SURVIVE)
    if c.match == "samples":
        return e.trajectories(round((c.budget - round_.before) / share), note)
    if c.match == "sft_tokens":
        return e.trajectories(round((c.budget - round_.before) / e.sizes.pair / share), note)
    # A line of spending counts what the stages before have spent.
    spent = list(before.values())
    if any(cost is None for cost in spent):
        return None
    if c.match == "flops":
        one = with_labels(e, e.trajectories(MANY, "")).flops / MANY
        left = c.budget - sum(cost.flops for cost in spent if cost)
        return e.trajectories(max(0, round(left / one)), note) if one else None
    teacher = sum(_taught(cost) for cost in spent if cost)
    each = _taught(with_labels(e, e.trajectories(MANY, ""))) / MANY
    return e.trajectories(max(0, round((c.budget - teacher) / each)), note)


MANY = 1000
"""Draws whose estimate gives the mean cost of one, its labels included, of which only the surviving have any."""


def _taught(cost: Cost) -> int:
    """Tokens of a cost that a budget of `teacher_tokens` counts."""
    return sum(sum(cost.models.get(role, (0, 0))) for role in TEACHERS)


class _Line:
    """The end of regeneration: at a number of surviving samples or SFT tokens, or of teacher tokens or FLOPs spent.

    A selection that comes later is counted at its worst, as if it took the samples that count least: then its result
    reaches the line whatever it takes, and is cut there.
    """

    def __init__(self, run: StageRun, plan: Plan, gate: Gate, selection: Selection, round_: Round) -> None:
        self.run, self.config, self.gate, self.selection = run, plan.config, gate, selection
        self.base = upstream_usage(run, TEACHERS)
        self.weigh = weigher(plan)
        self.earlier = round_.earlier(run)

    def reached(self) -> tuple[float, str]:
        """The progress to the line (1.0: reached) and a note.

        Raises `BudgetError` where a line of spending is so near that the first shard oversteps it by more than a tenth.
        """
        line = self.config.budget
        if self.weigh is not None:
            made = [*self.earlier, *read_records(self.run.folder, Sample)]
            size = self.selection.least(self.gate.accept(made).kept, self.weigh)
            what = "samples survive" if self.config.match == "samples" else "fine-tuning tokens"
            return size / line, f"{int(size)} of {int(line)} {what}"
        spent = summarise(self.run.folder)
        tokens, flops = add_usage(spent.usage, TEACHERS)
        if self.config.match == "teacher_tokens":
            done = (self.base[0] + tokens) / line
            note = f"{int(self.base[0] + tokens)} of {int(line)} teacher tokens"
        else:
            done, note = (self.base[1] + flops) / line, f"{self.base[1] + flops:.3g} of {line:.3g} FLOPs"
        if done > 1.1 and len(parts(self.run.folder)) == 1:
            raise BudgetError(
                f"the first shard of {spent.rows_in} pairs oversteps the budget ({note}); raise --budget, or lower "
                "synthesis.shard_size"
            )
        return done, note


def _regenerate(
    run: StageRun, plan: Plan, source: Stage, policy: Stage | None, selection: Selection, round_: Round
) -> Mapping[str, Any]:
    c = plan.config
    seeds = run.records(source.name, Seed)
    line = _Line(run, plan, Gate(run, plan), selection, round_)
    if (line.base[0] >= c.budget and c.match == "teacher_tokens") or (line.base[1] >= c.budget and c.match == "flops"):
        raise BudgetError(
            f"the budget of {c.budget:g} {c.match} is spent before the data set is generated (training used "
            f"{line.base[0 if c.match == 'teacher_tokens' else 1]:g}); raise --budget"
        )
    folder = stage_folder(run.store, policy) / "policy" if policy else plan.policy[1] if plan.policy else None
    worker = synthesis_worker(run, plan, seeds, folder, gated=True)
    done, note = line.reached() if parts(run.folder) else (0.0, "")
    if done < 1.0:
        line.gate.prepare()
        # In order, since the line is counted shard by shard; what workers had begun beyond it is dropped.
        tasks = _tasks(run, seeds, selection, c.synthesis, round_)
        with closing(run.compute(worker, tasks, ordered=True)) as made:
            for computed in made:
                made_in = [replace(sample, round=round_.number) for sample in computed.output.rows]
                output = replace(computed.output, rows=made_in)
                run.write(computed.task.index, output, computed.seconds, computed.place)
                done, note = line.reached()
                run.observer.progress(run.stage.name, min(100, int(100 * done)), 100, note)
                if done >= 1.0:
                    break
    if done >= 1.0:
        return {"line": note}
    account: Summary = summarise(run.folder)
    if not c.allow_shortfall:
        raise BudgetError(
            f"{note} after {c.synthesis.max_passes} passes over {len(seeds)} seeds ({account.line()}); use more seeds, "
            "a smaller --budget, or set allow_shortfall, which trims the comparison"
        )
    return {"line": note, "shortfall": round(1 - done, 4)}


def _tasks(
    run: StageRun, seeds: Sequence[Seed], selection: Selection, synthesis: SynthesisConfig, round_: Round
) -> Iterator[Task]:
    """The shards of all passes that are not yet committed."""
    per_seed, index = selection.per_seed, 0
    size = max(per_seed, synthesis.shard_size // per_seed * per_seed)
    # A seed that is chosen again may lead to the same words; they are another pair.
    origin = f"round {round_.number}" if round_.number else ""
    for number in range(synthesis.max_passes):
        draws = draws_of_pass(seeds, per_seed, run.seed, number, origin)
        for start in range(0, len(draws), size):
            if not run.shard_done(index):
                yield Task(draws[start : start + size], index, derive_seed(run.seed, index))
            index += 1
