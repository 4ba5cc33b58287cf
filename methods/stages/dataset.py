"""`dataset`: what is trained on: of the pairs that passed the gate, the selected ones, to the line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.costs.estimator import SURVIVE, Estimator
from harness.costs.records import Before, Cost
from harness.costs.sizer import no_models
from harness.errors import BudgetError
from harness.shards import ShardOutput
from harness.stage import Stage, StageRun
from harness.types import Reject, Sample, Score
from methods.plan import Plan
from methods.signals.catalogue import sign, signal_class
from methods.signals.sets import PICK
from methods.stages.lengths import Weigh, line_settings, weigher
from methods.stages.selection import Selection


def dataset(plan: Plan, samples: Stage, scores: Stage | None, selection: Selection) -> Stage:
    """The final samples as main table; with `scores`, chosen by them in the direction of their signal."""
    c = plan.config
    settings = {**selection.choice_settings, **line_settings(plan)}

    def work(run: StageRun) -> Mapping[str, Any]:
        pool = run.records(samples.name, Sample)
        values: dict[str, float | None] = {}
        if scores:
            values = _values(scores.signal, run.records(scores.name, Score))
        chosen, dropped = selection.choose(pool, values)
        weigh = weigher(plan)
        kept, beyond = trim_to_budget(chosen, weigh, c.budget)
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

    def estimate(e: Estimator, before: Before) -> Cost | None:
        made = before[samples.name]
        if made is None or made.out is None:
            return None
        kept = int(c.budget) if c.match == "samples" else round(made.out / SURVIVE * selection.kept_share(SURVIVE))
        return Cost(rows=made.out, out=kept, note="the checked, up to the budget")

    inputs = (samples, scores) if scores else (samples,)
    return Stage(
        name="dataset",
        version=2,
        settings=settings,
        inputs=inputs,
        work=work,
        kind="dataset",
        estimate=estimate,
        loads=no_models,
    )


def _values(signal: str, scores: Sequence[Score]) -> dict[str, float | None]:
    """The values to rank by, the higher the better: the score, or, of a chosen set, the order of its choice."""
    if signal_class(signal).unit == "set":
        return {s.item_id: None if s.value is None else -s.parts.get(PICK, math.inf) for s in scores}
    better = sign(signal)
    return {s.item_id: None if s.value is None else better * s.value for s in scores}


def trim_to_budget(samples: Sequence[Sample], weigh: Weigh | None, budget: float) -> tuple[list[Sample], list[Reject]]:
    """Cut at the declared line, in generation order; lines of spending (`weigh` is None) do not cut here."""
    kept: list[Sample] = []
    spent = 0.0
    for s in samples:
        spent += weigh(s) if weigh else 0.0
        if spent > budget:
            break
        kept.append(s)
    return kept, [Reject(s.id, "beyond_budget", s.raw) for s in samples[len(kept) :]]
