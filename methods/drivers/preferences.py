"""Preferences between drafts: which drafts of one prompt are preferred to which, by their scores and across a margin.

Montessori-Instruct (arXiv 2410.14208) prefers every draft of a prompt whose local influence is positive to every one
whose is negative, with no margin. Here the score that parts the sides, how pairs are taken and the margin are settings,
and a draft without a score is in no pair.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

PairRule: TypeAlias = Literal["sides", "best_worst"]
"""Every draft above the split with every one below it, or the best draft of a prompt with its worst."""

Split: TypeAlias = float | Literal["mean"] | None
"""A score, the mean of an iteration's scores, or whichever fits the signal's range."""

UNSCORED, ONE_SIDE, CLOSE = "fewer than two scored drafts", "all drafts on one side", "drafts within the margin"
"""Why a prompt has no pair."""


@dataclass(frozen=True, slots=True)
class Rated:
    """A draft: the id of the pair made of it, its text, and its score, higher being better (None: not measured)."""

    id: str
    text: str
    value: float | None


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """A preference as stored: of which seed, whose drafts' pairs, the texts, and their scores, higher being better."""

    seed_id: str
    chosen_id: str
    rejected_id: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float


@dataclass(frozen=True, slots=True)
class Preferences:
    """What was found: the pairs, and how many prompts have none, by reason. `split` and `margin` are in scores."""

    rows: tuple[PreferenceRow, ...]
    prompts: int
    without: Mapping[str, int]
    split: float | None
    margin: float

    @property
    def with_pairs(self) -> int:
        """Prompts that have a pair."""
        return self.prompts - sum(self.without.values())


def split_of(values: Sequence[float], given: Split, bounds: tuple[float | None, float | None]) -> float:
    """The score that parts the sides: as `given`; else 0 for a signal whose range has both signs, else the mean.

    `bounds` are those of the values, None where there is none. The mean, and not the median, parts values of which most
    are equal.
    """
    if isinstance(given, float):
        return given
    low, high = bounds
    if given is None and (low is None or low < 0) and (high is None or high > 0):
        return 0.0
    return math.fsum(values) / len(values) if values else 0.0


def prefer(groups: Mapping[str, Sequence[Rated]], rule: PairRule, split: float | None, margin: float) -> Preferences:
    """Pairs within each group (drafts by their prompt's seed) whose scores differ by more than `margin`.

    Under `sides` every draft that scores above `split` is preferred to every one that scores below it; `best_worst`
    reads no split. Pairs are in the order of groups and drafts; equal scores make none.
    """
    rows: list[PreferenceRow] = []
    without: Counter[str] = Counter()
    for seed, drafts in groups.items():
        scored = [(draft, draft.value) for draft in drafts if draft.value is not None]
        if len(scored) < 2:
            without[UNSCORED] += 1
            continue
        pairs = _sides(scored, split) if rule == "sides" and split is not None else _ends(scored)
        if not pairs:
            without[ONE_SIDE] += 1
            continue
        far = [_row(seed, chosen, rejected) for chosen, rejected in pairs if chosen[1] - rejected[1] > margin]
        rows += far
        without[CLOSE] += not far
    return Preferences(
        rows=tuple(rows),
        prompts=len(groups),
        without={k: n for k, n in without.items() if n},
        split=split,
        margin=margin,
    )


_Scored: TypeAlias = tuple[Rated, float]


def _sides(scored: Sequence[_Scored], split: float) -> list[tuple[_Scored, _Scored]]:
    return [(c, r) for c in scored if c[1] > split for r in scored if r[1] < split]


def _ends(scored: Sequence[_Scored]) -> list[tuple[_Scored, _Scored]]:
    """The best and the worst, the first of equals; two equal ends are no pair beyond any margin."""
    return [(max(scored, key=lambda s: s[1]), min(scored, key=lambda s: s[1]))]


def _row(seed: str, chosen: _Scored, rejected: _Scored) -> PreferenceRow:
    return PreferenceRow(
        seed_id=seed,
        chosen_id=chosen[0].id,
        rejected_id=rejected[0].id,
        chosen=chosen[0].text,
        rejected=rejected[0].text,
        chosen_score=chosen[1],
        rejected_score=rejected[1],
    )
