"""`dataset`: what is trained on: of the pairs that passed the gate, the selected ones, to the line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from harness.errors import BudgetError
from harness.shards import ShardOutput
from harness.stage import Stage, StageRun
from harness.types import Reject, Sample, Score
from methods.plan import Plan
from methods.signals.catalogue import sign
from methods.stages.lengths import Weigh, line_settings, weigher

Selection = Literal["none", "top_share", "best_of_seed"]


def dataset(plan: Plan, samples: Stage, scores: Stage | None, selection: Selection) -> Stage:
    """The final samples as main table; with `scores`, chosen by them in the direction of their signal."""
    c = plan.config
    settings = {
        "selection": selection,
        "keep": c.select.keep if c.select and selection == "top_share" else None,
        **line_settings(plan),
    }

    def work(run: StageRun) -> Mapping[str, Any]:
        pool = run.records(samples.name, Sample)
        values: dict[str, float | None] = {}
        if scores:
            better = sign(scores.signal)
            found = run.records("score", Score)
            values = {s.item_id: None if s.value is None else better * s.value for s in found}
        chosen, dropped = choose(pool, values, selection, c.select.keep if c.select else 1.0)
        weigh = weigher(plan)
        kept, beyond = trim(chosen, weigh, c.budget)
        if chosen and not kept and weigh is not None:
            raise BudgetError(
                f"the budget of {c.budget:g} {c.match} is less than the first sample takes ({weigh(chosen[0]):g}); "
                "raise --budget"
            )
        if not kept:
            raise BudgetError(
                f"no sample is left for the data set of {len(pool)} that passed the gate; see the rejects of stages "
                "regenerate, decontaminate and dataset with 'harness show'"
            )
        notes: dict[str, Any] = {"samples": len(kept)}
        if weigh is not None and not beyond and (size := sum(map(weigh, kept))) < c.budget:
            if not c.allow_shortfall:
                unscored = sum(r.reason == "unscored" for r in dropped)
                raise BudgetError(
                    f"the data set has {size:g} of {c.budget:g} {c.match} ({unscored} pairs could not be scored); "
                    "lower --budget, or set allow_shortfall, which trims the comparison"
                )
            notes["shortfall"] = round(1 - size / c.budget, 4)
        run.write(0, ShardOutput(kept, [*dropped, *beyond], rows_in=len(pool)), 0.0)
        return notes

    return Stage("dataset", 2, settings, (samples, scores) if scores else (samples,), work)


def choose(
    samples: Sequence[Sample], values: Mapping[str, float | None], selection: Selection, keep: float
) -> tuple[list[Sample], list[Reject]]:
    """Apply a selection. Samples without a value are excluded, never taken for 0; ties go to the earlier sample."""
    if selection == "none":
        return list(samples), []
    scored = [s for s in samples if values.get(s.id) is not None]
    rejects = [Reject(s.id, "unscored", s.raw) for s in samples if values.get(s.id) is None]
    order = {s.id: i for i, s in enumerate(scored)}
    ranked = sorted(scored, key=lambda s: (-float(values[s.id] or 0.0), order[s.id]))
    if selection == "top_share":
        taken = {s.id for s in ranked[: kept_count(len(ranked), keep)]}
    else:
        best: dict[tuple[str, ...], str] = {}
        for s in ranked:
            best.setdefault(s.seed_ids, s.id)
        taken = set(best.values())
    rejects += [Reject(s.id, "not_selected", s.raw) for s in scored if s.id not in taken]
    return [s for s in scored if s.id in taken], rejects


def kept_count(count: int, keep: float) -> int:
    """How many of `count` samples the share `keep` is, to the nearest."""
    return round(count * keep)


def trim(samples: Sequence[Sample], weigh: Weigh | None, budget: float) -> tuple[list[Sample], list[Reject]]:
    """Cut at the declared line, in generation order; lines of spending (`weigh` is None) do not cut here."""
    kept: list[Sample] = []
    spent = 0.0
    for s in samples:
        spent += weigh(s) if weigh else 0.0
        if spent > budget:
            break
        kept.append(s)
    return kept, [Reject(s.id, "beyond_budget", s.raw) for s in samples[len(kept) :]]
