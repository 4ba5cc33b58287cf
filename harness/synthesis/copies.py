"""Near copies: how much of a question's wording is another's, by ROUGE-L.

A generator that is shown an example writes the example again with a word changed; one that is asked often enough of one
seed repeats itself. Exact duplicates are removed on every route (`harness.synthesis.duplicates`). Near copies are where
a route has the model write after an example, as self-instruct does (Wang et al., arXiv 2212.10560, §2.2, at 0.7).
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.synthesis.validity import words
from harness.types import Reject, Sample

COPIES_SEED = "copies_seed"
COPIES_SIBLING = "copies_sibling"
COPY_REASONS = {
    COPIES_SEED: "the question is nearly that of its seed (ROUGE-L above route.copy_limit)",
    COPIES_SIBLING: "the question is nearly that of an earlier pair of the same seed (ROUGE-L above route.copy_limit)",
}
"""Reason codes of near copies, with what each means."""


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L of two texts in words, as F1 in [0, 1]: twice their longest common subsequence over both lengths.

    Lin (2004), with β = 1. Words are lower-case letters and digits of any script; two texts without words give 0.
    """
    first, second = words(one), words(other)
    if not first or not second:
        return 0.0
    return 2 * common_subsequence(first, second) / (len(first) + len(second))


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bit vectors (Hyyrö 2004): one integer holds a row of the table."""
    places: dict[str, int] = {}
    for at, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << at
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        hits = row & places.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(first) - row.bit_count()


def drop_near_copies(samples: Sequence[Sample], limit: float) -> tuple[list[Sample], list[Reject]]:
    """Samples whose question is no near copy of an earlier kept one of the same seed, and a reject for each other.

    `limit` is the highest ROUGE-L that is kept; 1 keeps all.
    """
    if limit >= 1:
        return list(samples), []
    kept: list[Sample] = []
    rejects: list[Reject] = []
    earlier: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        siblings = earlier.setdefault(sample.seed_ids, [])
        nearest = max(((rouge_l(sample.question, s.question), s.id) for s in siblings), default=(0.0, ""))
        if nearest[0] > limit:
            rejects.append(Reject(sample.id, COPIES_SIBLING, sample.raw, f"ROUGE-L {nearest[0]:.2f} with {nearest[1]}"))
            continue
        siblings.append(sample)
        kept.append(sample)
    return kept, rejects
