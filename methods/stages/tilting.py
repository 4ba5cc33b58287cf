"""Subsets of a pool that lean towards or away from a score, with length and question type held equal.

Subsets drawn evenly differ too little in worth to show whether a score tells it. So a pair is drawn with a weight
exp(t·z), z its standardised score and t the tilt: at t = 0 evenly, at t > 0 mostly what the score likes, at t < 0 what
it does not. Every subset takes the same number from each stratum of question type and length, since both change what a
fine-tuning learns and many scores follow them. It gives up what a score gains by preferring a length or a type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.types import Sample, stable_hash

Strata = Mapping[str, Sequence[str]]
"""Item ids by stratum."""


def length_strata(samples: Sequence[Sample], question_types: Mapping[str, str]) -> Strata:
    """Items by question type and by whether they belong to the shorter or the longer half of their type.

    Length is the number of words of question and answer; equal lengths are parted by id, so that halves are halves.
    """
    words = {s.id: len(s.question.split()) + len(s.answer.split()) for s in samples}
    by_type: dict[str, list[str]] = {}
    for s in samples:
        by_type.setdefault(question_types[s.id], []).append(s.id)
    found: dict[str, list[str]] = {}
    for name, ids in by_type.items():
        ranked = sorted(ids, key=lambda i: (words[i], stable_hash("length", i)))
        half = len(ranked) // 2
        found[f"{name}, short"], found[f"{name}, long"] = ranked[:half], ranked[half:]
    return {name: ids for name, ids in found.items() if ids}


def standardised(scores: Mapping[str, float]) -> dict[str, float]:
    """(score - mean) / standard deviation over all items (n in the denominator); all 0 where scores are equal."""
    if not scores:
        return {}
    mean = math.fsum(scores.values()) / len(scores)
    sd = math.sqrt(math.fsum((x - mean) ** 2 for x in scores.values()) / len(scores))
    return {item: (x - mean) / sd if sd > 1e-12 * max(1.0, abs(mean)) else 0.0 for item, x in scores.items()}


def shares(strata: Strata, size: int) -> dict[str, int]:
    """The number of `size` items that each stratum gives: in proportion to its items, by largest remainder."""
    total = sum(map(len, strata.values()))
    exact = {name: size * len(ids) / total for name, ids in strata.items()}
    taken = {name: math.floor(x) for name, x in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (taken[name] - exact[name], name))
    for name in by_remainder[: size - sum(taken.values())]:
        taken[name] += 1
    return taken


def tilted(scores: Mapping[str, float], strata: Strata, size: int, tilt: float, draw: int) -> list[str]:
    """`size` items drawn without replacement, one after another with chances ∝ exp(tilt · z), stratum by stratum.

    Drawing that way is the same as taking the largest values of tilt · z + G with G independent standard Gumbel noise
    (Kool et al. 2019, arXiv 1903.06059, §2.3). The noise is a hash of `draw` and the item, so subsets of the same draw
    share it: two scores, or two tilts, differ by what they prefer and not by luck, and at tilt 0 all scores give one
    subset. Items without a score are never drawn. Returns ids in the order of the strata. Raises `ValueError` where a
    stratum has too few scored items.
    """
    z = standardised(scores)
    chosen: list[str] = []
    for name, count in shares(strata, size).items():
        scored = [i for i in strata[name] if i in z]
        if len(scored) < count:
            raise ValueError(f"stratum '{name}' has {len(scored)} scored items, fewer than the {count} to draw")
        chosen += sorted(scored, key=lambda i: -(tilt * z[i] + _gumbel(draw, i)))[:count]
    return chosen


def _gumbel(draw: int, item: str) -> float:
    uniform = (int(stable_hash("gumbel", draw, item, length=13), 16) + 0.5) / 16**13
    return -math.log(-math.log(uniform))
