"""Rollouts as a GRPO stage stores them, and of every group the pair with the best reward: what the learner accepted.

The archive of a step is that of all steps before it, and frozen while the step is scored. It follows from stored rows
alone, so a resumed stage has the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from harness.types import Message, Sample


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One rollout as stored: what was written, what became of it, what it scored, what the learner was given.

    `value` is the signal's raw score and `withheld` its score on withheld validation items; both None where nothing was
    measured. `reason` is empty for a valid pair.
    """

    id: str
    step: int
    seed_id: str
    rubric: str
    question_type: str
    question: str
    answer: str
    reason: str
    value: float | None
    withheld: float | None
    reward: float | None
    completion_tokens: int


def accepted(rows: Iterable[RolloutRow], group_size: int, system: str) -> list[Sample]:
    """The best-rewarded pair of each group of `rows`, which are in the order of their draws; ties go to the earlier.

    `system` is the system message that pairs begin with; empty for none.
    """
    found = []
    for _, step in groupby(rows, key=lambda row: row.step):
        batch = list(step)
        for start in range(0, len(batch), group_size):
            scored = [r for r in batch[start : start + group_size] if r.value is not None and r.reward is not None]
            if scored:
                found.append(_sample(max(scored, key=lambda row: row.reward or 0.0), system))
    return found


def _sample(row: RolloutRow, system: str) -> Sample:
    first = (Message("system", system),) if system else ()
    messages = (*first, Message("user", row.question), Message("assistant", row.answer))
    return Sample(
        id=row.id,
        seed_ids=(row.seed_id,),
        rubric_id=None,
        prompt_hash="",
        messages=messages,
        raw="",
        generator="",
        finish_reason="",
    )
