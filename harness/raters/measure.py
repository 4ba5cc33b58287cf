"""How well a rater's numbers agree with held-out judgments, head by head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.raters.judgments import Judgments
from harness.statistics import spearman, standard_error

if TYPE_CHECKING:
    from harness.raters.model import Matrix

BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Held-out agreement on one head over `items` judgments.

    `accuracy`: the share of comparisons whose side is met, or of grades that are met when rounded to the nearest one
    there is, with its standard error; `majority` is what the commonest side or grade reaches. `calibration`: the mean
    distance of predicted and judged means over ten bins of equal size (0 is perfect), in probability or in grades.
    `correlation` is Spearman's with the judged numbers.
    """

    head: str
    items: int
    accuracy: float | None
    error: float | None
    majority: float | None
    calibration: float | None
    correlation: float | None


def agreements(judgments: Judgments, ratings: Sequence[Matrix], grades: Sequence[float] = ()) -> list[Agreement]:
    """Agreement by head; `ratings` are [texts of a judgment, heads] for each judgment, `grades` all that were given."""
    found = []
    for place, head in enumerate(judgments.heads):
        both = [
            (rating[:, place], row.values[place])
            for rating, row in zip(ratings, judgments.rows, strict=True)
            if not math.isnan(row.values[place])
        ]
        judged = [value for _, value in both]
        if judgments.kind == "pairs":
            predicted = [float(pair[1] - pair[0]) for pair, _ in both]
            sides = [(float(x > 0), float(p > 0.5)) for x, p in zip(predicted, judged, strict=True) if p != 0.5]
            likely = [_sigmoid(x) for x in predicted]
        else:
            predicted = likely = [float(pair[0]) for pair, _ in both]
            nearest = [min(grades, key=lambda grade: abs(grade - x)) for x in predicted]
            sides = list(zip(nearest, judged, strict=True))
        met = [float(own == other) for own, other in sides]
        others = [other for _, other in sides]
        found.append(
            Agreement(
                head=head,
                items=len(both),
                accuracy=sum(met) / len(met) if met else None,
                error=standard_error(met),
                majority=max((others.count(o) for o in set(others)), default=0) / len(others) if others else None,
                calibration=calibration(likely, judged),
                correlation=spearman(predicted, judged),
            )
        )
    return found


def calibration(predicted: Sequence[float], judged: Sequence[float]) -> float | None:
    """Expected calibration error, Σ n_b / n |mean predicted - mean judged| over equal bins; None without any value."""
    order = sorted(range(len(predicted)), key=lambda index: (predicted[index], index))
    if not order:
        return None
    bins = min(BINS, len(order))
    total = 0.0
    for number in range(bins):
        own = order[number * len(order) // bins : (number + 1) * len(order) // bins]
        total += abs(math.fsum(predicted[i] - judged[i] for i in own))
    return total / len(order)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
