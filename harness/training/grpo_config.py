"""The settings of a GRPO training, which the trainer reads; what is rewarded is its driver's business."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from harness.config_models import Section


class GrpoConfig(Section):
    """GRPO of a policy, as TRL carries it out."""

    prompts_per_step: int = Field(256, ge=1)
    """Documents whose rubrics are drawn in a step."""
    mini_batch_prompts: int | None = Field(None, ge=1)
    """Documents of one optimizer step; by default all of a step's."""
    group_size: int = Field(5, ge=2)
    """Rollouts of each document, which are judged against each other."""
    steps: int | None = Field(None, ge=1)
    """Steps of the training; by default as many as `epochs` takes."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the documents, where `steps` is not set."""
    learning_rate: float = Field(1e-6, gt=0)
    """Peak learning rate."""
    schedule: Literal["linear", "constant"] = "constant"
    """How the learning rate goes on."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Largest norm of a gradient; longer ones are shortened."""
    temperature: float = Field(1.5, gt=0)
    """Temperature of rollouts."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Share of probability that rollouts are drawn from."""
    max_tokens: int = Field(8192, ge=1)
    """Most tokens of a rollout."""
    kl_coefficient: float = Field(0.001, ge=0)
    """Weight of the KL term to the writer before training; 0 leaves it out."""
    kl_bias_correction: bool = True
    """Whether the KL term (k3) is multiplied by the ratio of probabilities, whose gradient is then that of the reverse
    KL divergence (TRL's default); without it the term is plain k3, as verl has it."""
    clip_epsilon: float = Field(0.2, gt=0)
    """How far the ratio of probabilities may leave 1 before it is clipped."""
    entropy_coefficient: float = Field(0.0, ge=0)
    """Weight of an entropy bonus."""
    loss: Literal["grpo", "dapo", "bnpo", "dr_grpo"] = "grpo"
    """How tokens are averaged: within a rollout first (`grpo`), over all tokens (`dapo`, `bnpo`), or over the longest
    length (`dr_grpo`)."""
    advantage_scale: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation divides advantages."""
    tune: Literal["full", "lora"] = "full"
    """Whether all weights are trained, or a LoRA adapter."""
    lora_rank: int = Field(16, ge=1)
    """Rank of the adapter."""
    lora_alpha: int = Field(32, ge=1)
    """Scale of the adapter: alpha over rank."""
    lora_modules: tuple[str, ...] = ("all-linear",)
    """Layers of the adapter: names, `attention` or `all-linear`."""
    rollouts: Literal["transformers", "server", "colocate"] = "transformers"
    """Who samples: transformers in the trainer's process, a vLLM `server` that is given the adapter anew for every
    batch, or TRL's own vLLM in the trainer's process (`colocate`, CUDA only)."""
    max_logprob_gap: float = Field(0.1, gt=0)
    """Largest mean difference between a token's log-probability where it was sampled and where it is trained on."""
    micro_batch: int = Field(8, ge=1)
    """Most rollouts of a forward pass; it changes no result beyond rounding."""

    def lacks(self, prompts: int) -> str:
        """The reason why TRL would stop without a single step on so many prompts; empty where they suffice."""
        if prompts >= self.prompts_per_step:
            return ""
        return (
            f"a rollout batch takes {self.prompts_per_step} prompts and there are {prompts}; use more seeds, or set "
            f"driver.prompts_per_step (and driver.mini_batch_prompts) to at most {prompts}"
        )

    @model_validator(mode="after")
    def _sizes(self) -> GrpoConfig:
        if self.mini_batch_prompts and self.prompts_per_step % self.mini_batch_prompts:
            raise ValueError("prompts_per_step must be a multiple of mini_batch_prompts")
        return self
