"""Judgments of a world's pairs by what they are worth, for training a rater where no judge is to be had.

A pair's strength on a head follows from its kind, and b is better than a with the probability of the Bradley-Terry
model, σ(strength of b - strength of a). Which rules a target knows cannot be seen in a text, so `worth` can be learned
in part, by wording and by this world's values; `substance` can be seen.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from harness.lab.pool import Candidate, PoolKind, candidates
from harness.lab.world import World
from harness.shards import replace_into
from harness.types import derive_seed

STRENGTHS: dict[str, dict[PoolKind, int]] = {
    "worth": {"filler": 0, "false": 1, "unasked": 2, "known": 3, "repeat": 4, "useful": 4},
    "substance": {"filler": 0, "false": 3, "unasked": 3, "known": 3, "repeat": 3, "useful": 3},
}
"""By head the strength of each kind of pair."""


def write_judgments(world: World, path: Path, count: int, grades: bool, seed: int) -> int:
    """Write `count` comparisons, or `grades` (at most one a pair of the pool), to a JSONL file; returns how many."""
    rng = random.Random(derive_seed("lab judgments", world.number, seed))
    pool = candidates(world)
    if grades:
        chosen = rng.sample(pool, min(count, len(pool)))
        rows = [{"text": _text(c), "grade": {head: own[c.kind] for head, own in STRENGTHS.items()}} for c in chosen]
    else:
        rows = [_comparison(*rng.sample(pool, 2)) for _ in range(count)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    replace_into(path, lambda temporary: _write(temporary, lines))
    return len(rows)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _comparison(a: Candidate, b: Candidate) -> dict[str, Any]:
    p = {head: round(1 / (1 + math.exp(own[a.kind] - own[b.kind])), 4) for head, own in STRENGTHS.items()}
    return {"a": _text(a), "b": _text(b), "p": p}


def _text(candidate: Candidate) -> dict[str, str]:
    return {"question": candidate.sample.question, "answer": candidate.sample.answer}
