"""What each stage of a run would cost: every stage is asked, after those that it is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.costs.estimator import Estimator
from harness.costs.records import Cost
from harness.stage import Stage, ordered


def estimates(stages: Sequence[Stage], estimator: Estimator) -> Mapping[str, Cost | None]:
    """Costs of `stages` and all that they need, by identity; None for one that is not known in advance."""
    found: dict[str, Cost | None] = {}
    for stage in ordered(stages):
        before = {s.name: found[s.identity] for s in ordered(stage.inputs)}
        found[stage.identity] = stage.estimate(estimator, before)
    return found
