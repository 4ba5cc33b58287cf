"""Reward shaping: from scores to what the learner sees. It belongs to the driver and is the same under every signal.

OptimSyn's reward is R = Valid·IF − λ·(1 − Valid) with IF min-max scaled to [0, 1] (paper §2.3 and App. D.4). Scaling
is over the valid, scored samples of the scope: an invalid sample's placeholder score must not set the range. A positive
affine map shared by a batch cancels in GRPO's advantages, so the scope decides where invalid samples stand, not what is
learned among valid ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from harness.config_models import Section

TAGS = ("<question>", "</question>", "<reasoning>", "</reasoning>", "<answer>", "</answer>")
"""The tags of route `direct`, in order."""


class RewardConfig(Section):
    """Shaping, which belongs to the driver: the scale of scores, and what an invalid sample gets."""

    scope: Literal["batch", "group", "none"] = "batch"
    """Over which samples scores are brought to one scale, from 0 to 1: a step's, a group's, or none."""
    invalid: Literal["penalty", "zero"] = "penalty"
    """What an invalid sample gets: minus the penalty, or 0."""
    penalty: float = Field(0.1, ge=0)
    """What an invalid sample costs."""
    clip: tuple[float, float] | None = None
    """Lowest and highest value of a score, to which it is cut before it is scaled; by default as it is."""
    format_term: Literal["none", "tags", "upstream"] = "none"
    """Added to the reward of a valid sample for the tags of route `direct`: 0.75 for all six in order, less 0.001 a
    character after the last (`tags`), or as AcquisitionSynthesis' released code, which charges every character after
    the question, reasoning and answer included (`upstream`)."""

    @model_validator(mode="after")
    def _ordered(self) -> RewardConfig:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError("clip must be a lower and a higher number")
        return self


def shape(
    values: Sequence[float | None],
    valid: Sequence[bool],
    group: Sequence[int],
    config: RewardConfig,
    drafts: Sequence[str],
) -> list[float | None]:
    """Rewards: a scaled value for valid scored samples, −λ (or 0) for invalid ones, None for valid unscored ones.

    Equal values give 0 to all, hence no advantage among them. `group` numbers each sample's GRPO group; `drafts` are
    what the policy wrote, for the format term.
    """
    low_cut, high_cut = config.clip or (-math.inf, math.inf)
    scaled: list[float | None] = [None if v is None else min(high_cut, max(low_cut, v)) for v in values]
    scopes: dict[int, list[int]] = {}
    for i, (value, ok) in enumerate(zip(values, valid, strict=True)):
        if ok and value is not None:
            scopes.setdefault(group[i] if config.scope == "group" else 0, []).append(i)
    if config.scope != "none":
        for members in scopes.values():
            numbers = [float(scaled[i] or 0.0) for i in members]
            low, spread = min(numbers), max(numbers) - min(numbers)
            for i, number in zip(members, numbers, strict=True):
                scaled[i] = (number - low) / spread if spread > 0 else 0.0
    invalid = -config.penalty if config.invalid == "penalty" else 0.0
    return [
        (None if value is None else value + format_term(draft, config.format_term)) if ok else invalid
        for value, ok, draft in zip(scaled, valid, drafts, strict=True)
    ]


def format_term(draft: str, kind: str) -> float:
    """The reward term of a draft's form (AcquisitionSynthesis, arXiv 2605.13149; `RewardConfig.format_term`).

    `upstream` gives 0.125 for each of the six tags that stands on a line of its own once, and takes 0.001 for each
    character after the closing question tag and again for each after the closing answer tag. The question comes first,
    so that 1,000 characters of reasoning cost 1 and outweigh every bounded score.
    """
    if kind == "none":
        return 0.0
    if kind == "tags":
        places = [draft.find(tag) for tag in TAGS]
        ordered = -1 not in places and places == sorted(places)
        return 0.75 * ordered - 0.001 * len(draft.rpartition(TAGS[-1])[2].strip() if TAGS[-1] in draft else "")
    lines = [line.strip() for line in draft.split("\n")]
    found = 0.125 * sum(lines.count(tag) == 1 for tag in TAGS)
    charged = [draft.partition(tag)[2].strip() for tag in (TAGS[1], TAGS[5]) if tag in draft]
    return found - 0.001 * sum(map(len, charged))


def without_spread(rewards: Sequence[float | None], group: Sequence[int]) -> int:
    """The number of groups whose rewards are all equal, or fewer than two, and which so teach nothing."""
    members: dict[int, set[float]] = {}
    for reward, number in zip(rewards, group, strict=True):
        seen = members.setdefault(number, set())
        if reward is not None:
            seen.add(reward)
    return sum(len(seen) < 2 for seen in members.values())
