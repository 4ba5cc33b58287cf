"""Settings of driver `grpo`: the training, the decoding of what follows a rollout, the shaping of its reward."""

from __future__ import annotations

from pydantic import model_validator

from harness.config import SamplingConfig
from harness.training.grpo_config import GrpoConfig
from methods.drivers.shaping import RewardConfig


class GrpoSettings(GrpoConfig):
    """Settings of the training, the decoding of pairs whose scores reward it, and the shaping of the reward."""

    generator: SamplingConfig = SamplingConfig(temperature=0.0, max_tokens=8192)
    """Decoding of the pairs that rollouts lead to, on routes where they are not pairs themselves."""
    reward: RewardConfig = RewardConfig()
    """From scores to rewards."""

    @model_validator(mode="after")
    def _scaled(self) -> GrpoSettings:
        if self.reward.scope == "none" and self.advantage_scale == "none":
            raise ValueError(
                "reward.scope and advantage_scale are both 'none': raw scores would reach the learner without a scale; "
                "set one of them to 'batch' or 'group'"
            )
        return self
