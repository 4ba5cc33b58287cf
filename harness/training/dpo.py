"""DPO of a policy with TRL's trainer: the learner of methods that turn scores into preferences between completions.

The loss is TRL's `sigmoid` (Rafailov et al. 2023, arXiv 2305.18290, Eq. 7), by default with the mean over samples of
summed token log-probabilities. The reference is the policy as it was: for an adapter the model without it, so that no
second copy is held, for full training a frozen copy. Ours is what must survive a kill, as in SFT and GRPO.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import TrainingConfig
from harness.errors import InputError
from harness.stage import SCRATCH
from harness.training.chat import encode
from harness.training.lora_modules import meta_model
from harness.training.recipe import LoraSettings, lora_config
from harness.training.schedule import FirstStepTrains
from harness.training.trainer import (
    callback,
    common_arguments,
    loaded_dtype,
    publish,
    quiet_libraries,
    require_moved,
    train,
)
from harness.types import Message, Usage


@dataclass(frozen=True, slots=True)
class Preference:
    """Two completions of one prompt, of which the first is to be preferred."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class DpoRecipe:
    """How to train. `beta` scales the implicit reward; `batch_size` is the number of pairs of one optimizer step.

    The published values for a generator (Montessori-Instruct, `dpo_generator`) are beta 0.1, learning rate 1e-6, one
    epoch.
    """

    beta: float = 0.1
    learning_rate: float = 1e-6
    epochs: int = 1
    batch_size: int = 16
    micro_batch: int = 2
    schedule: str = "linear"
    warmup_ratio: float = 0.1
    max_length: int = 1024
    lora: LoraSettings | None = None


@dataclass(frozen=True, slots=True)
class Preferred:
    """What training left: cost, steps, and the share of the last epoch's pairs whose chosen side had more reward."""

    usage: Usage
    steps: int
    accuracy: float


def train_preferences(
    model_path: Path | str,
    pairs: Sequence[Preference],
    recipe: DpoRecipe,
    *,
    seed: int,
    folder: Path,
    dtype: str = "float32",
    revision: str | None = None,
    save_every: int = 200,
    training: TrainingConfig | None = None,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    on_log: Callable[[int, Mapping[str, float]], None] = lambda step, logs: None,
) -> Preferred:
    """Train the policy at `model_path` on `pairs` and leave it in `folder/policy`, loadable by `from_pretrained`.

    With `recipe.lora` that is an adapter. A resumed call goes on from the newest complete checkpoint. Raises
    `InputError` where there is no pair, or none whose sides differ.
    """
    import torch
    from datasets import Dataset
    from trl import DPOTrainer

    from harness.models.tokenizers import declare_stop, fit_padding, load_tokenizer, save_beside

    class Trainer(FirstStepTrains, DPOTrainer):
        """TRL's trainer for rows that are token ids already."""

        def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
            return dataset

    training = training or TrainingConfig()
    usable = [p for p in pairs if p.chosen != p.rejected]
    if not usable:
        raise InputError(
            f"none of {len(pairs)} preference pairs has two different sides; DPO has nothing to learn from them"
        )
    quiet_libraries()
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(model_path, revision)
    rows = _rows(tokenizer, usable, recipe.max_length)
    arguments = _arguments(recipe, folder / SCRATCH, seed, save_every, dtype, training)
    arguments.model_init_kwargs = {
        "dtype": loaded_dtype(dtype, adapter=recipe.lora is not None),
        "revision": revision or "main",
    }
    if training.attention:
        arguments.model_init_kwargs["attn_implementation"] = training.attention
    adapter = lora_config(recipe.lora, seed, meta_model(model_path, revision), "lora.modules") if recipe.lora else None
    trainer = Trainer(
        model=str(model_path),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[callback(on_step, on_log=on_log)],
    )
    model = trainer.accelerator.unwrap_model(trainer.model)
    declare_stop(model, tokenizer)
    fit_padding(model, tokenizer)
    parameters = float(trainer.model.num_parameters())
    require_moved(train(trainer, folder / SCRATCH), "the learning rate", trainer)
    temporary = folder / ".policy.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    trainer.save_model(str(temporary))
    save_beside(model, tokenizer, temporary)
    publish(temporary, folder / "policy")
    history = [e for e in trainer.state.log_history if "rewards/accuracies" in e]
    last = [e["rewards/accuracies"] for e in history[-max(1, len(history) // recipe.epochs) :]]
    tokens = int(trainer.state.num_input_tokens_seen) or recipe.epochs * _tokens(rows)
    # Policy forward and backward (6 operations per parameter and token), and the reference's forward pass (2).
    usage = Usage("generator", "policy training", tokens, 0, len(usable) * recipe.epochs, 0.0, 8 * parameters * tokens)
    return Preferred(usage, int(trainer.state.global_step), sum(last) / len(last) if last else float("nan"))


def _rows(tokenizer: Any, pairs: Sequence[Preference], max_length: int) -> list[dict[str, list[int]]]:
    """The pairs as ids, without those whose prompt leaves no room for a completion.

    Raises `InputError` where that is all of them.
    """
    rows = []
    for pair in pairs:
        sides = [
            encode(tokenizer, [*pair.prompt, Message("assistant", side)], sys.maxsize)
            for side in (pair.chosen, pair.rejected)
        ]
        length = sides[0].prompt_length
        if length < max_length:
            chosen, rejected = (list(side.ids[length:]) for side in sides)
            rows.append({"prompt_ids": list(sides[0].ids[:length]), "chosen_ids": chosen, "rejected_ids": rejected})
    if not rows:
        raise InputError(f"the prompts of all {len(pairs)} preference pairs fill {max_length} tokens; raise max_length")
    return rows


def _tokens(rows: Sequence[Mapping[str, Sequence[int]]]) -> int:
    """Tokens of both sides of all pairs, prompts included."""
    return sum(2 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows)


def _arguments(
    recipe: DpoRecipe, folder: Path, seed: int, save_every: int, dtype: str, training: TrainingConfig
) -> Any:
    from trl import DPOConfig

    micro = max(d for d in range(1, min(recipe.micro_batch, recipe.batch_size) + 1) if recipe.batch_size % d == 0)
    return DPOConfig(
        **common_arguments(folder, seed, save_every, dtype, checkpointing=training.activation_checkpointing),
        beta=recipe.beta,
        loss_type=["sigmoid"],
        learning_rate=recipe.learning_rate,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=recipe.batch_size // micro,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_ratio,
        max_length=recipe.max_length,
        padding_free=training.packing,
    )
