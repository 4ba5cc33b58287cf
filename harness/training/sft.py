"""Supervised fine-tuning with TRL: full or LoRA, loss on the answer only, tokens as `chat.encode` makes them.

Rows are tokenised here and handed over with a completion mask, so that warm-up, scoring and fine-tuning see the
same tokens to the last one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import StageError
from harness.stage import SCRATCH
from harness.training.adam_state import save_adam_state
from harness.training.chat import encode
from harness.training.trainer import callback, common_arguments, publish, quiet_libraries, train
from harness.types import Sample, Usage


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """A LoRA adapter's shape."""

    rank: int
    alpha: int
    dropout: float
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fine-tune. `batch_size` is the number of samples of one optimizer step.

    `micro_batch` bounds how many of them share a forward pass; the largest divisor of `batch_size` within it is used.
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


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a fine-tuning left: usage, mean loss over the last epoch, and how many samples could not be used.

    `epoch_rates` are the mean learning rates of the epochs.
    """

    usage: Usage
    steps: int
    final_loss: float
    truncated: int
    unusable: int
    epoch_rates: tuple[float, ...] = ()


def epoch_name(output: str, epoch: int) -> str:
    """Name of the folder that holds the state after `epoch`, which was not the last."""
    return f"{output}-epoch-{epoch}"


def finetune(
    model_path: Path | str,
    samples: Sequence[Sample],
    recipe: Recipe,
    *,
    seed: int,
    folder: Path,
    output: str,
    dtype: str = "float32",
    revision: str | None = None,
    save_every: int = 200,
    save_adam: bool = False,
    keep_epochs: bool = False,
    on_step: Callable[[int, int], None] = lambda step, total: None,
) -> Tuned:
    """Fine-tune the model at `model_path` on `samples` and leave it in `folder/output`.

    With `recipe.lora` the output is an adapter; with `save_adam` Adam's moments lie beside it as `adam.safetensors`.
    With `keep_epochs` the state after every epoch but the last is kept too, in `folder/OUTPUT-epoch-K`.
    Raises `StageError` when no sample has a completion token within `recipe.max_length`.
    """
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from harness.models.transformers_backend import load_causal_lm

    quiet_libraries()
    torch.manual_seed(seed)
    model, tokenizer = load_causal_lm(model_path, dtype, revision)
    encoded = [encode(tokenizer, s.messages, recipe.max_length) for s in samples]
    usable = [e for e in encoded if e.completion_length]
    if not usable:
        raise StageError(
            f"none of the {len(samples)} training samples fits into {recipe.max_length} tokens; raise sft.max_length"
        )
    rows = Dataset.from_dict(
        {
            "input_ids": [list(e.ids) for e in usable],
            "completion_mask": [[0] * e.prompt_length + [1] * e.completion_length for e in usable],
        }
    )
    micro = max(d for d in range(1, min(recipe.micro_batch, recipe.batch_size) + 1) if recipe.batch_size % d == 0)
    arguments = SFTConfig(
        **common_arguments(folder / SCRATCH, seed, save_every, dtype),
        learning_rate=recipe.learning_rate,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=recipe.batch_size // micro,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_length=None,
        completion_only_loss=True,
        packing=False,
    )

    def end_epoch(epoch: int) -> None:
        _save(trainer, tokenizer, folder / epoch_name(output, epoch), save_adam)

    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=_lora(recipe.lora, seed) if recipe.lora else None,
        callbacks=[callback(on_step, on_epoch=end_epoch if keep_epochs else None)],
    )
    parameters = trainer.model.num_parameters()
    train(trainer, folder / SCRATCH)
    _save(trainer, tokenizer, folder / output, save_adam)
    tokens = recipe.epochs * sum(len(e.ids) for e in usable)
    # The trainer's history, unlike a list of our own, is whole after a resume.
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    last = losses[-max(1, len(losses) // recipe.epochs) :]
    return Tuned(
        usage=Usage("target", str(output), tokens, 0, len(usable) * recipe.epochs, 0.0, 6.0 * parameters * tokens),
        steps=int(trainer.state.global_step),
        final_loss=sum(last) / len(last) if last else float("nan"),
        truncated=sum(e.truncated > 0 for e in encoded),
        unusable=len(encoded) - len(usable),
        epoch_rates=_epoch_rates(trainer, recipe.epochs),
    )


def _save(trainer: Any, tokenizer: Any, final: Path, adam: bool) -> None:
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    trainer.save_model(str(temporary))
    tokenizer.save_pretrained(temporary)
    if adam:
        save_adam_state(temporary / "adam.safetensors", trainer.model, trainer.optimizer)
    publish(temporary, final)


def _epoch_rates(trainer: Any, epochs: int) -> tuple[float, ...]:
    """Mean learning rate of each epoch's steps, from the schedule itself: a resumed trainer has not seen them all."""
    schedule = trainer.lr_scheduler
    steps = int(trainer.state.max_steps) // epochs
    rates = [schedule.base_lrs[0] * schedule.lr_lambdas[0](step) for step in range(steps * epochs)]
    return tuple(sum(rates[k * steps : (k + 1) * steps]) / steps for k in range(epochs))


def _lora(settings: LoraSettings, seed: int) -> Any:
    import torch
    from peft import LoraConfig

    torch.manual_seed(seed)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.modules),
        task_type="CAUSAL_LM",
    )
