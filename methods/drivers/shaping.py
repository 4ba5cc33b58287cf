"""Reward shaping: from scores to what the learner sees. It belongs to the driver and is the same under every signal.

OptimSyn's reward is R = Valid·IF − λ·(1 − Valid) with IF min-max scaled to [0, 1] (paper §2.3 and App. D.4). Scaling
is over the valid, scored samples of the scope: an invalid sample's placeholder score must not set the range. A positive
affine map shared by a batch cancels in GRPO's advantages, so the scope decides where invalid samples stand, not what is
learned among valid ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from harness.config_models import Section


class RewardConfig(Section):
    """Shaping, which belongs to the driver: the scale of scores, and what an invalid sample gets."""

    scope: Literal["batch", "group", "none"] = "batch"
    """Over which samples scores are brought to one scale, from 0 to 1: a step's, a group's, or none."""
    invalid: Literal["penalty", "zero"] = "penalty"
    """What an invalid sample gets: minus the penalty, or 0."""
    penalty: float = Field(0.1, ge=0)
    """What an invalid sample costs."""


def shape(
    values: Sequence[float | None], valid: Sequence[bool], group: Sequence[int], config: RewardConfig
) -> list[float | None]:
    """Rewards: a scaled value for valid scored samples, −λ (or 0) for invalid ones, None for valid unscored ones.

    Equal values give 0 to all, hence no advantage among them. `group` numbers each sample's GRPO group.
    """
    scaled: list[float | None] = list(values)
    scopes: dict[int, list[int]] = {}
    for i, (value, ok) in enumerate(zip(values, valid, strict=True)):
        if ok and value is not None:
            scopes.setdefault(group[i] if config.scope == "group" else 0, []).append(i)
    if config.scope != "none":
        for members in scopes.values():
            numbers = [float(values[i] or 0.0) for i in members]
            low, spread = min(numbers), max(numbers) - min(numbers)
            for i, number in zip(members, numbers, strict=True):
                scaled[i] = (number - low) / spread if spread > 0 else 0.0
    invalid = -config.penalty if config.invalid == "penalty" else 0.0
    return [value if ok else invalid for value, ok in zip(scaled, valid, strict=True)]
