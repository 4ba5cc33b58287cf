"""Settings of driver `dpo`: what is probed, which drafts are preferred to which, and the training on it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.config_models import Section
from harness.training.dpo import Schedule
from methods.drivers.preferences import PairRule, Split


class DpoSettings(Section):
    """The iterations, their probes, the preferences between drafts, and DPO of the model that drafts."""

    iterations: int = Field(2, ge=1)
    """Iterations; each goes on from the model that the one before trained."""
    probe: int | None = Field(None, ge=1)
    """Most seeds whose drafts are scored in an iteration, drawn anew in each; by default all."""
    drafts: int = Field(4, ge=2)
    """Drafts of each of them, decoded as for the data set."""
    rewarm: bool = True
    """Warms the target up anew in every iteration, on pairs of the model so far, where the signal reads it so."""
    preferred: Literal["draft", "pair"] = "draft"
    """What is preferred: the draft alone, such as the instruction on route `question`, or with what became of it, the
    whole pair."""
    pairs: PairRule = "sides"
    """Which drafts of a prompt make pairs: all above `split` with all below it, or the best with the worst."""
    split: Split = None
    """The score that parts the sides, in the signal's own values, or the `mean` of an iteration's scores; by default 0
    for a signal whose values have both signs, else the mean."""
    margin: float = Field(0.0, ge=0)
    """How much farther than this two scores must be apart."""
    margin_unit: Literal["score", "sd"] = "score"
    """What the margin counts: the signal's own values, or standard deviations of an iteration's scores."""
    beta: float = Field(0.1, gt=0)
    """Scale of the implicit reward: the larger, the nearer the model stays to what it was."""
    learning_rate: float = Field(1e-6, gt=0)
    """Peak learning rate."""
    epochs: int = Field(1, ge=1)
    """Passes over the preferences."""
    batch_size: int = Field(16, ge=1)
    """Preferences of an optimizer step."""
    schedule: Schedule = "warmup_stable_decay"
    """How the learning rate goes on after its warm-up; under `warmup_stable_decay` it falls over the last 40 % of the
    steps, to a thousandth of its peak."""
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    max_length: int = Field(1024, ge=16)
    """Most tokens of prompt and text; longer texts are cut, and preferences whose prompt fills it are left out and
    counted before training."""
    tune: Literal["full", "lora"] = "full"
    """Whether all weights are trained, or a LoRA adapter."""
    lora_rank: int = Field(16, ge=1)
    """Rank of the adapter."""
    lora_alpha: int = Field(32, ge=1)
    """Scale of the adapter: alpha over rank."""
    lora_modules: tuple[str, ...] = ("all-linear",)
    """Layers of the adapter: names, `attention` or `all-linear`."""
    micro_batch: int = Field(2, ge=1)
    """Most preferences of a forward pass; it changes no result beyond rounding."""
