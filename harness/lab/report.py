"""The worth of a lab run's data, read after the fact from the planted truth: measurement, never feedback."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.lab.planted import PairKind, label
from harness.lab.words import EXACT
from harness.lab.world import World
from harness.types import Message


def kinds(conversations: Iterable[Sequence[Message]], world: World) -> Mapping[str, int]:
    """The number of pairs of each planted kind (`useful`, `known`, `unasked`, `false`, `filler`, `off_world`)."""
    return Counter(label(tuple(messages), world).kind for messages in conversations)


def useful_share(conversations: Sequence[Sequence[Message]], world: World) -> float:
    """Share of pairs that are asked, unknown to the target, and true."""
    return kinds(conversations, world).get("useful", 0) / max(1, len(conversations))


def auc(good: Sequence[float], rest: Sequence[float]) -> float | None:
    """The chance that one of `good` is above one of `rest`, ties counting half; None where one side is empty.

    Raises `ValueError` for a score that is no finite number.

    That is Mann and Whitney's U (1947) over the number of pairs, the area under the ROC curve.
    """
    if not all(map(math.isfinite, (*good, *rest))):
        raise ValueError("a score is no finite number; what was not measured is left out")
    wins = sum((a > b) + 0.5 * (a == b) for a in good for b in rest)
    return wins / (len(good) * len(rest)) if good and rest else None


@dataclass(frozen=True, slots=True)
class Learning:
    """Learning in one GRPO training's rollouts: mean raw value and useful share in its first and last tenth of steps.

    `auc` is the chance that a useful pair outscores another valid one in the first tenth, where the writer is still
    close to its start (ties count half); None where one side is empty. `false` is the share of false pairs among those
    whose rubric asks for the true value and whose answer names one, over all steps: the generator's own mistakes. None
    where no rubric asks so.
    """

    value: tuple[float, float]
    useful: tuple[float, float]
    auc: float | None
    false: float | None


def learning(rollouts: Sequence[Mapping[str, Any]], world: World) -> Learning:
    """Judge rollout rows (`step`, `rubric`, `question`, `answer`, `value`) by the planted truth, less unscored ones."""
    scored = [r for r in rollouts if r["value"] is not None]
    tenth = max(1, (max(r["step"] for r in scored) + 1) // 10)
    last = max(r["step"] for r in scored) - tenth
    first, end = [r for r in scored if r["step"] < tenth], [r for r in scored if r["step"] > last]
    early, late = [_useful(r, world) for r in first], [_useful(r, world) for r in end]
    good = [r["value"] for r, useful in zip(first, early, strict=True) if useful]
    rest = [r["value"] for r, useful in zip(first, early, strict=True) if not useful]
    return Learning(
        value=(_mean([r["value"] for r in first]), _mean([r["value"] for r in end])),
        useful=(_mean(early), _mean(late)),
        auc=auc(good, rest),
        false=_false_share([r for r in scored if any(text in r["rubric"] for text in EXACT)], world),
    )


def _false_share(asked_truly: Sequence[Mapping[str, Any]], world: World) -> float | None:
    named = [kind for row in asked_truly if (kind := _kind(row, world)) not in ("filler", "off_world")]
    return named.count("false") / len(named) if named else None


def _useful(row: Mapping[str, Any], world: World) -> bool:
    return _kind(row, world) == "useful"


def _kind(row: Mapping[str, Any], world: World) -> PairKind:
    turns = (Message("system", ""), Message("user", row["question"]), Message("assistant", row["answer"]))
    return label(turns, world).kind


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
