"""The stages of a loop's round that other drivers have not: seeds are scored, some are chosen, and their pairs scored.

A signal that reads the target reads the student that the round before fine-tuned, so its scores are taken anew in every
round, and so are draws; the scores of other signals are taken once and shared by all rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.config import SignalChoice
from harness.costs.estimator import Estimator
from harness.costs.records import Before, Cost, Load
from harness.costs.sizer import no_models
from harness.errors import BudgetError
from harness.shards import ShardOutput
from harness.stage import Stage, StageRun
from harness.types import Reject, Sample, Score, Seed
from methods.plan import Plan
from methods.signals.catalogue import sign, signal_class
from methods.stages.scoring import Reading, SignalWorker, diagnosed, scored_cost, signal_settings
from methods.stages.seed_choice import Count, SeedRule, choose, chosen_by_signal, pool_of
from methods.stages.signal_cost import scoring_parts
from methods.stages.sources import read_documents


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPool:
    """A pool of `size` seeds, drawn once for all rounds, of which `rule` takes `count`."""

    size: int
    rule: SeedRule
    count: int


@dataclass(frozen=True, slots=True)
class ChosenSeed:
    """A seed that a round took: as the `place`-th (from 1), with its score (None: the signal gave none)."""

    seed_id: str
    place: int
    score: float | None


CHOSEN = "choice"
"""The side table of `ChosenSeed`."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A `signal` that reads a round's items, and the `student` of the round before where it reads one.

    `number` is the round, or 0 for scores that are taken once for all rounds.
    """

    signal: SignalChoice
    student: Stage | None = None
    number: int = 0

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """The stage whose student is read."""
        return (self.student,) if self.student else ()

    @property
    def reading(self) -> Reading:
        """As the scoring worker takes it."""
        if self.student is None:
            return Reading(draw=self.number)
        return Reading(self.student.name, self.student.folder_name, self.number)


def score_seeds(plan: Plan, reader: Reader, source: Stage, pool: SeedPool) -> Stage:
    """Scores of the pool's seeds."""
    signal = reader.signal
    whole = signal_class(signal.name).unit == "set"
    settings: dict[str, Any] = {**signal_settings(plan, signal), "pool": pool.size, "draw": reader.number}
    settings |= {"choose": pool.count} if whole else {"shard": plan.config.synthesis.shard_size}

    def work(run: StageRun) -> Mapping[str, Any]:
        seeds = pool_of(run.records(source.name, Seed), pool.size, plan.config.synthesis_seed)
        size = max(1, len(seeds)) if whole else plan.config.synthesis.shard_size
        wanted = Count(pool.count) if whole else None
        run.map_shards(seeds, size, SignalWorker(plan, signal, run.inputs, selection=wanted, reading=reader.reading))
        return diagnosed(run, signal)

    def estimate(e: Estimator, before: Before) -> Cost | None:
        return scored_cost(e, plan, signal, min(e.seeds, pool.size)) if e.seeds else None

    return Stage(
        name="score_seeds",
        version=1,
        settings=settings,
        inputs=(source, *reader.inputs),
        work=work,
        kind="scores",
        estimate=estimate,
        loads=lambda sizer: Load("scoring seeds", tuple(scoring_parts(sizer, plan, signal))),
        lacks=lambda documents: _too_few(plan, signal, pool, documents),
        signal=signal.name,
    )


def _too_few(plan: Plan, signal: SignalChoice, pool: SeedPool, documents: int) -> str:
    """The reason for which a round cannot choose its seeds out of so many; empty where it can."""
    there = min(documents, pool.size)
    if there < pool.count:
        which = f"driver.pool={pool.size}" if pool.size < documents else f"{documents} seeds"
        return (
            f"a round chooses {pool.count} seeds, and the pool holds {there} ({which}); give more seeds, a larger "
            "driver.pool, a smaller driver.choose, or a smaller --budget"
        )
    seeds = pool_of(read_documents(plan).seeds, pool.size, plan.config.synthesis_seed)
    reasons = [signal_class(signal.name).unscorable(seed) for seed in seeds]
    scorable = sum(not reason for reason in reasons)
    if scorable >= pool.count:
        return ""
    reason = next(filter(None, reasons))
    lab = " (--set lab.labelled=true)" if plan.config.seeds.source == "lab" else ""
    return (
        f"signal '{signal.name}' can score {scorable} of the pool's {len(seeds)} seeds ({reason}), "
        f"and a round chooses {pool.count}; give questions with answers as seeds{lab}, or take another signal"
    )


def select_seeds(plan: Plan, source: Stage, scores: Stage, pool: SeedPool, number: int) -> Stage:
    """The seeds that round `number` writes after, in the order of their choice; side table `choice` has their scores.

    None is taken away from the pool: a seed may be chosen in every round.
    """
    seed = plan.config.synthesis_seed

    def work(run: StageRun) -> Mapping[str, Any]:
        seeds = {s.id: s for s in pool_of(run.records(source.name, Seed), pool.size, seed)}
        found = run.records(scores.name, Score)
        better = sign(scores.signal)
        values = {s.item_id: better * s.value for s in found if s.value is not None}
        by_set = pool.rule == "set"
        taken = chosen_by_signal(found) if by_set else choose(values, pool.rule, pool.count, seed, number)
        if len(taken) < pool.count:
            reason = next((s.reason for s in found if s.value is None), "")
            raise BudgetError(
                f"{len(values)} of the pool's {len(seeds)} seeds could be scored by {scores.signal}, and a round "
                f"chooses {pool.count}{f' ({reason})' if reason else ''}; give more seeds or a smaller --budget"
            )
        table = [ChosenSeed(key, place, better * values[key]) for place, key in enumerate(taken, 1)]
        left = [key for key in seeds if key not in set(taken)]
        rejects = [Reject(key, "not_chosen" if key in values else "unscored", "") for key in left]
        rows = [seeds[key] for key in taken]
        run.write(0, ShardOutput(rows, rejects, tables={CHOSEN: table}, rows_in=len(seeds)), 0.0)
        return {}

    def estimate(e: Estimator, before: Before) -> Cost | None:
        there = min(e.seeds, pool.size) if e.seeds else None
        return Cost(rows=there, out=pool.count, note=f"seeds of round {number}, {_words(pool.rule)}")

    settings = {"pool": pool.size, "rule": pool.rule, "choose": pool.count, "seed": seed, "round": number}
    inputs = (source, scores)
    return Stage(
        name="select",
        version=1,
        settings=settings,
        inputs=inputs,
        work=work,
        kind="chosen",
        estimate=estimate,
        loads=no_models,
    )


def _words(rule: SeedRule) -> str:
    return {
        "top": "the best-scored",
        "bottom": "the worst-scored",
        "balanced": "of either half of the scores",
        "set": "as the signal chooses sets",
    }[rule]


def score_children(plan: Plan, reader: Reader, source: Stage, data: Stage, number: int) -> Stage:
    """Scores of the pairs that round `number` has added to the data set, read as its seeds' scores were."""
    signal = reader.signal
    settings = {
        **signal_settings(plan, signal),
        "draw": reader.number,
        "round": number,
        "shard": plan.config.synthesis.shard_size,
    }

    def work(run: StageRun) -> Mapping[str, Any]:
        pairs = [s for s in run.records(data.name, Sample) if s.round == number]
        worker = SignalWorker(plan, signal, run.inputs, reading=reader.reading)
        run.map_shards(pairs, plan.config.synthesis.shard_size, worker)
        return {}

    def estimate(e: Estimator, before: Before) -> Cost | None:
        made = before[data.name]
        count = round(made.out / number) if made is not None and made.out else None
        return scored_cost(e, plan, signal, count) if count else None

    return Stage(
        name="score_children",
        version=1,
        settings=settings,
        inputs=(data, source, *reader.inputs),
        work=work,
        kind="measurement",
        estimate=estimate,
        loads=lambda sizer: Load("scoring pairs", tuple(scoring_parts(sizer, plan, signal))),
        signal=signal.name,
    )
