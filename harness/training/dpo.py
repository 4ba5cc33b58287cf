"""DPO of a policy with TRL's trainer: the learner of methods that turn scores into preferences between completions.

The loss is TRL's `sigmoid` (Rafailov et al. 2023, arXiv 2305.18290, Eq. 7), by default with the mean over samples of
summed token log-probabilities. The reference is the policy as it was: for an adapter the model without it, so that no
second copy is held, for full training a frozen copy. Ours is what must survive a kill, as in SFT and GRPO, and that
prompts are rendered as the model is prompted: by its own template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from harness.config_runtime import TrainingConfig
from harness.errors import InputError
from harness.stage import SCRATCH
from harness.training.chat import encode
from harness.training.lora_modules import meta_model
from harness.training.recipe import LoraSettings, largest_divisor, lora_config
from harness.training.schedule import FirstStepTrains
from harness.training.trainer import (
    begin,
    callback,
    common_arguments,
    last_epoch,
    model_arguments,
    require_moved,
    require_one_side,
    save_policy,
    settle_tokens,
    train,
)
from harness.types import Message, Usage


@dataclass(frozen=True, slots=True)
class Preference:
    """Two completions of one prompt, of which the first is to be preferred."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


Schedule: TypeAlias = Literal["linear", "constant", "warmup_stable_decay"]
"""How the learning rate goes on after its warm-up; the last falls over `DECAY` of the steps to `FLOOR` of its peak."""

DECAY, FLOOR = 0.4, 1e-3
"""Of `warmup_stable_decay`, as Montessori-Instruct's released configuration has them."""


@dataclass(frozen=True, slots=True)
class DpoRecipe:
    """A DPO training. `beta` scales the implicit reward; `batch_size` is the number of pairs of one optimizer step.

    The published values for a generator (Montessori-Instruct, `dpo_generator`) are beta 0.1, learning rate 1e-6, one
    epoch. Longer conversations are cut to `max_length` tokens.
    """

    beta: float = 0.1
    learning_rate: float = 1e-6
    epochs: int = 1
    batch_size: int = 16
    micro_batch: int = 2
    schedule: Schedule = "linear"
    warmup_ratio: float = 0.1
    max_length: int = 1024
    lora: LoraSettings | None = None


@dataclass(frozen=True, slots=True)
class Preferred:
    """The result of training: cost, steps, and the share of the last epoch's pairs whose chosen side had more reward.

    `dropped` counts the pairs that could not be used, by reason; `truncated` the used ones of which a side was cut.
    """

    usage: Usage
    steps: int
    accuracy: float
    dropped: Mapping[str, int]
    truncated: int


EQUAL, FULL, CUT_EQUAL = "equal sides", "prompt fills max_length", "equal sides within max_length"
"""Why a pair is not used: nothing tells its sides apart, or no token of them is left."""


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
    setting: str = "lora.modules",
    on_step: Callable[[int, int], None] = lambda step, total: None,
    on_log: Callable[[int, Mapping[str, float]], None] = lambda step, logs: None,
) -> Preferred:
    """Train the policy at `model_path` on `pairs` and leave it in `folder/policy`, loadable by `from_pretrained`.

    With `recipe.lora` its adapter is in `adapter` there. A resumed call goes on from the newest complete checkpoint.
    Raises `InputError` where no pair can be used, and `ConfigError` where the model's RoPE takes other frequencies for
    some of their lengths.
    """
    from harness.models.tokenizers import load_tokenizer

    begin(seed)
    tokenizer = load_tokenizer(model_path, revision)
    rows = _rows(tokenizer, pairs, recipe.max_length)
    require_one_side(model_path, revision, rows.longest, "DPO computes pairs together", "max_length")
    training = training or TrainingConfig()
    arguments = _arguments(recipe, len(rows.used), folder / SCRATCH, seed, save_every, dtype, training)
    adapted = recipe.lora is not None
    arguments.model_init_kwargs = model_arguments(dtype, revision, training.attention, adapter=adapted)
    adapter = lora_config(recipe.lora, seed, meta_model(model_path, revision), setting) if recipe.lora else None
    trainer = _trainer(model_path, rows.used, arguments, tokenizer, adapter, callback(on_step, on_log=on_log))
    parameters = float(trainer.model.num_parameters())
    require_moved(train(trainer, folder / SCRATCH), "the learning rate", trainer)
    save_policy(trainer, tokenizer, folder, merge=adapted)
    tokens = int(trainer.state.num_input_tokens_seen) or recipe.epochs * rows.tokens
    # Policy forward and backward (6 operations per parameter and token), and the reference's forward pass (2).
    calls = len(rows.used) * recipe.epochs
    usage = Usage(
        role="generator",
        model="policy training",
        prompt_tokens=tokens,
        completion_tokens=0,
        calls=calls,
        seconds=0.0,
        flops=8 * parameters * tokens,
    )
    accuracy = last_epoch(trainer, "rewards/accuracies", recipe.epochs)
    return Preferred(
        usage=usage,
        steps=int(trainer.state.global_step),
        accuracy=accuracy,
        dropped=dict(rows.dropped),
        truncated=rows.truncated,
    )


def _trainer(
    model_path: Path | str, rows: Sequence[_Row], arguments: Any, tokenizer: Any, adapter: Any, watch: Any
) -> Any:
    """TRL's trainer, whose model stops where its template closes a turn."""
    from datasets import Dataset
    from trl import DPOTrainer

    class Trainer(FirstStepTrains, DPOTrainer):
        """TRL's trainer for rows that are token ids already."""

        def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
            return dataset

    trainer = Trainer(
        model=str(model_path),
        args=arguments,
        train_dataset=Dataset.from_list([asdict(row) for row in rows]),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[watch],
    )
    settle_tokens(trainer, tokenizer)
    return trainer


@dataclass(frozen=True, slots=True)
class _Row:
    """A pair as ids, under TRL's names."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of both sides with their prompt."""
        return len(self.prompt_ids) + len(self.chosen_ids), len(self.prompt_ids) + len(self.rejected_ids)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The pairs that are used, those that are not by reason, and how many of the used ones are cut."""

    used: list[_Row]
    dropped: Counter[str]
    truncated: int

    @property
    def longest(self) -> int:
        """Tokens of the longest side with its prompt."""
        return max(max(row.lengths) for row in self.used)

    @property
    def tokens(self) -> int:
        """Tokens of both sides of all pairs, prompts included."""
        return sum(sum(row.lengths) for row in self.used)


def unusable(tokenizer: Any, pairs: Sequence[Preference], max_length: int) -> list[str]:
    """The reason why each of `pairs` cannot be trained on (`EQUAL`, `FULL`, `CUT_EQUAL`); empty where it can."""
    return [_row(tokenizer, pair, max_length)[1] for pair in pairs]


def _row(tokenizer: Any, pair: Preference, max_length: int) -> tuple[_Row, str, bool]:
    """A pair as ids, cut to `max_length`; why it cannot be used, empty where it can; and whether a side was cut."""
    turns = [[*pair.prompt, Message("assistant", side)] for side in (pair.chosen, pair.rejected)]
    chosen, rejected = (encode(tokenizer, talk, max_length) for talk in turns)
    start = chosen.prompt_length
    row = _Row(list(chosen.ids[:start]), list(chosen.ids[start:]), list(rejected.ids[start:]))
    fault = ""
    if pair.chosen == pair.rejected:
        fault = EQUAL
    elif start >= max_length:
        fault = FULL
    elif chosen.ids == rejected.ids:
        fault = CUT_EQUAL
    return row, fault, chosen.truncated + rejected.truncated > 0


def _rows(tokenizer: Any, pairs: Sequence[Preference], max_length: int) -> _Rows:
    """The pairs as ids, cut to `max_length`. Raises `InputError` where none can be used."""
    made = [_row(tokenizer, pair, max_length) for pair in pairs]
    used = [row for row, fault, _ in made if not fault]
    dropped = Counter(fault for _, fault, _ in made if fault)
    if not used:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "there are none"
        raise InputError(
            f"none of {len(pairs)} preference pairs can be used ({reasons}); DPO needs two sides that differ within "
            f"max_length, {max_length} tokens"
        )
    return _Rows(used, dropped, sum(cut for _, fault, cut in made if not fault))


def _arguments(
    recipe: DpoRecipe, pairs: int, folder: Path, seed: int, save_every: int, dtype: str, training: TrainingConfig
) -> Any:
    from trl import DPOConfig

    micro = largest_divisor(recipe.batch_size, recipe.micro_batch)
    shape = {}
    if recipe.schedule == "warmup_stable_decay":
        steps = -(-pairs // recipe.batch_size) * recipe.epochs
        shape = {"num_decay_steps": round(DECAY * steps), "min_lr_ratio": FLOOR}
    return DPOConfig(
        **common_arguments(folder, seed, save_every, dtype, checkpointing=training.activation_checkpointing),
        beta=recipe.beta,
        loss_type=["sigmoid"],
        learning_rate=recipe.learning_rate,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=recipe.batch_size // micro,
        lr_scheduler_type=recipe.schedule,
        lr_scheduler_kwargs=shape,
        warmup_steps=recipe.warmup_ratio,
        # Rows are cut already.
        max_length=None,
    )
