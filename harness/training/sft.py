"""Supervised fine-tuning with TRL: full or LoRA, loss on the answer only, tokens as `chat.encode` makes them.

Rows are tokenised here and handed over with a completion mask, so that warm-up, scoring and fine-tuning see the
same tokens to the last one. The loss is the mean over the completion tokens of an optimizer step, whatever micro
batches, packing or processes the step is cut into; these change sums by rounding alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.config_runtime import TrainingConfig
from harness.errors import ConfigError, StageError
from harness.models.rope import by_side, rope_switch
from harness.stage import SCRATCH
from harness.training.adam_state import save_adam_state
from harness.training.chat import Encoded, encode
from harness.training.launch import data_parallel, launch, sharding
from harness.training.recipe import Job, Recipe, Tuned, largest_divisor, lora_config
from harness.training.schedule import FirstStepTrains
from harness.training.trainer import (
    begin,
    callback,
    common_arguments,
    last_epoch,
    loaded_dtype,
    require_moved,
    save_output,
    train,
)
from harness.types import Sample, Usage


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
    training: TrainingConfig | None = None,
    keep_epochs: bool = False,
    on_step: Callable[[int, int], None] = lambda step, total: None,
) -> Tuned:
    """Fine-tune the model at `model_path` on `samples` and leave it in `folder/output`.

    With `recipe.lora` the output is an adapter; with `save_adam` Adam's moments lie beside it as `adam.safetensors`.
    With `keep_epochs` the state after every epoch but the last is kept too, in `folder/OUTPUT-epoch-K`. Where
    `training` asks for several processes, they are launched and this call waits for them; with `save_adam` its
    accelerate configuration is left out if it divides Adam's moments. Raises `StageError` when no sample has a
    completion token within `recipe.max_length`.
    """
    training = training or TrainingConfig()
    training = data_parallel(training) if save_adam else training
    job = Job(
        model_path=str(model_path),
        samples=tuple(samples),
        recipe=recipe,
        seed=seed,
        folder=str(folder),
        output=output,
        dtype=dtype,
        revision=revision,
        save_every=save_every,
        save_adam=save_adam,
        keep_epochs=keep_epochs,
        training=training,
    )
    if training.processes > 1 or training.accelerate_config:
        return launch(job, on_step)
    return run_job(job, on_step)


def run_job(job: Job, on_step: Callable[[int, int], None]) -> Tuned:
    """Fine-tune in this process, or as one of the processes that were launched together."""
    from harness.models.transformers_backend import load_causal_lm

    begin(job.seed)
    recipe, folder = job.recipe, Path(job.folder)
    model, tokenizer = load_causal_lm(
        job.model_path,
        loaded_dtype(job.dtype, adapter=recipe.lora is not None),
        job.revision,
        attention=job.training.attention,
        place=False,
    )
    samples = job.samples
    encoded = [encode(tokenizer, s.messages, recipe.max_length) for s in samples]
    usable = [e for e in encoded if e.completion_length]
    if not usable:
        raise StageError(
            f"none of the {len(samples)} training samples fits into {recipe.max_length} tokens; raise sft.max_length"
        )

    def end_epoch(epoch: int) -> None:
        _save(trainer, tokenizer, job, epoch_name(job.output, epoch))

    kind = sharding(job.training)
    watch = callback(on_step, on_epoch=end_epoch if job.keep_epochs else None)
    trainer = make_trainer(job, model, tokenizer, usable, [watch])
    if kind and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise ConfigError(
            f"{job.training.accelerate_config} asks for {kind}, which accelerate does not apply here; use FSDP or "
            "DeepSpeed, or leave the configuration out"
        )
    parameters = trainer.model.num_parameters()
    require_moved(train(trainer, folder / SCRATCH), "the learning rate", trainer)
    _save(trainer, tokenizer, job, job.output)
    tokens = recipe.epochs * sum(len(e.ids) for e in usable)
    return Tuned(
        usage=Usage(
            role="target",
            model=job.output,
            prompt_tokens=tokens,
            completion_tokens=0,
            calls=len(usable) * recipe.epochs,
            seconds=0.0,
            flops=6.0 * parameters * tokens,
        ),
        steps=int(trainer.state.global_step),
        final_loss=last_epoch(trainer, "loss", recipe.epochs),
        truncated=sum(e.truncated > 0 for e in encoded),
        unusable=len(encoded) - len(usable),
        epoch_rates=_epoch_rates(trainer, recipe.epochs),
    )


def make_trainer(job: Job, model: Any, tokenizer: Any, rows: Sequence[Encoded], callbacks: Sequence[Any] = ()) -> Any:
    """TRL's trainer of a job, on a loaded model and the rows that it trains on."""
    from datasets import Dataset
    from trl import SFTTrainer

    class Trainer(FirstStepTrains, SFTTrainer):
        warmup_start = job.recipe.warmup_start

    data = {
        "input_ids": [list(e.ids) for e in rows],
        "completion_mask": [[0] * e.prompt_length + [1] * e.completion_length for e in rows],
    }
    router = getattr(model.config.get_text_config(), "router_aux_loss_coef", None)
    lora = job.recipe.lora
    arguments = _arguments(job, apart=_kept_apart(model, rows))
    if sharding(job.training) == "FSDP":
        _shard_on_processors(arguments)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(data),
        processing_class=tokenizer,
        peft_config=lora_config(lora, job.seed, model, "warmup.lora_modules") if lora else None,
        callbacks=list(callbacks),
    )
    if router is not None:
        # TRL writes the coefficient that it trains with, 0, into what would be published.
        model.config.get_text_config().router_aux_loss_coef = router
    return trainer


def _kept_apart(model: Any, rows: Sequence[Encoded]) -> bool:
    """Whether some of the rows cannot share a forward pass, because the model's RoPE depends on their lengths."""
    return len(list(by_side(rope_switch(model.config), [len(row.ids) for row in rows]))) > 1


def _arguments(job: Job, *, apart: bool) -> Any:
    """TRL's settings; the micro batch is the largest that divides a process's share of the optimizer step.

    Rows that are kept `apart` go one by one.
    """
    from trl import SFTConfig

    recipe, training = job.recipe, job.training
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.batch_size % world:
        raise ConfigError(
            f"a batch of {recipe.batch_size} samples cannot be divided over {world} processes; change "
            "runtime.training.processes, or the batch size"
        )
    share = recipe.batch_size // world
    micro = largest_divisor(share, 1 if apart else recipe.micro_batch)
    return SFTConfig(
        **common_arguments(
            Path(job.folder) / SCRATCH,
            job.seed,
            job.save_every,
            job.dtype,
            checkpointing=training.activation_checkpointing,
        ),
        learning_rate=recipe.learning_rate,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_length=None,
        completion_only_loss=True,
        packing=False,
        padding_free=training.packing,
    )


def _shard_on_processors(arguments: Any) -> None:
    """Have accelerate apply an FSDP configuration where there is no GPU.

    accelerate 1.15 turns to FSDP from its kinds of GPU alone and trains data-parallel on processors without a word;
    torch's FSDP2 works over gloo. Asking for the device has accelerate's state made, which is then corrected.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    if arguments.device.type == "cpu" and PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def _save(trainer: Any, tokenizer: Any, job: Job, output: str) -> None:
    """The model and, where asked for, Adam's moments."""

    def moments(folder: Path) -> None:
        if job.save_adam:
            save_adam_state(folder / "adam.safetensors", trainer.model, trainer.optimizer)

    save_output(trainer, tokenizer, Path(job.folder), output, moments)


def _epoch_rates(trainer: Any, epochs: int) -> tuple[float, ...]:
    """Mean learning rate of each epoch's steps, from the schedule itself: a resumed trainer has not seen them all."""
    schedule = trainer.lr_scheduler
    steps = int(trainer.state.max_steps) // epochs
    rates = [schedule.base_lrs[0] * schedule.lr_lambdas[0](step) for step in range(steps * epochs)]
    return tuple(sum(rates[k * steps : (k + 1) * steps]) / steps for k in range(epochs))
