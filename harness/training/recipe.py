"""Records of a fine-tuning: the recipe, the job that is handed to whatever process carries it out, the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.config_runtime import TrainingConfig
from harness.errors import ConfigError
from harness.training.lora_modules import ATTENTION, adapted
from harness.training.schedule import Start
from harness.types import Sample, Usage


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """A LoRA adapter's shape; `modules` are names, or words as in `harness.training.lora_modules`."""

    rank: int
    alpha: int
    dropout: float
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The recipe of a fine-tuning. `batch_size` is the number of samples of one optimizer step.

    `micro_batch` bounds how many of them share a forward pass; the largest divisor of `batch_size` within it is used.
    `warmup_start` is the first step's rate (`harness.training.schedule`).
    """

    learning_rate: float
    epochs: int
    batch_size: int
    micro_batch: int
    schedule: str
    warmup_ratio: float
    weight_decay: float
    adam_beta2: float
    max_length: int
    lora: LoraSettings | None = None
    warmup_start: Start = "half_step"


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of a fine-tuning: usage, mean loss over the last epoch, and how many samples could not be used.

    `epoch_rates` are the mean learning rates of the epochs.
    """

    usage: Usage
    steps: int
    final_loss: float
    truncated: int
    unusable: int
    epoch_rates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One fine-tuning, as it is handed to whatever process carries it out; the fields are `finetune`'s arguments."""

    model_path: str
    samples: tuple[Sample, ...]
    recipe: Recipe
    seed: int
    folder: str
    output: str
    dtype: str
    revision: str | None
    save_every: int
    save_adam: bool
    keep_epochs: bool
    training: TrainingConfig


def largest_divisor(batch: int, bound: int | None) -> int:
    """The micro batch that the trainers use: the largest divisor of `batch` within `bound`."""
    return max(d for d in range(1, min(bound or batch, batch) + 1) if batch % d == 0)


def lora_config(settings: LoraSettings, seed: int, model: Any, setting: str) -> Any:
    """PEFT's configuration of an adapter of `model`; seeds its random start.

    Raises `ConfigError` naming `setting` where its modules do not fit the model.
    """
    import torch
    from peft import LoraConfig

    chosen = adapted(model, settings.modules, setting)
    if chosen.parameters and settings.dropout:
        raise ConfigError(
            f"{setting} adapts experts ({', '.join(chosen.parameters)}), whose adapters take no dropout; set "
            f"{setting.rpartition('.')[0]}.lora_dropout=0, or {setting}={ATTENTION}"
        )
    torch.manual_seed(seed)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(chosen.modules),
        target_parameters=list(chosen.parameters) or None,
        task_type="CAUSAL_LM",
    )
