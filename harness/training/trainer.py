"""The parts that all trainers share: arguments, checkpoints that survive a kill, progress, and determinism.

The trainers are TRL's. A checkpoint counts only once a marker has been renamed into it, since a killed process can
leave a half-written one; a resumed trainer continues from the newest that counts. What a trainer needs stored together
with its checkpoint (rollouts) is written by `before_mark`, between the checkpoint and its marker.

A model's `dtype` is the type that it is computed in. Weights that are trained are float32 whatever it is, and so are
Adam's moments: under bfloat16 autocast casts of them are multiplied, and steps are added to the weights themselves.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, StageError
from harness.models.access import ADAPTER
from harness.models.rope import rope_switch
from harness.models.tokenizers import declare_stop, fit_padding, save_beside
from harness.shards import write_json
from harness.training.checks import require
from harness.training.master_check import check_master, weights_checksum

MARK = "_DONE"


def checkpoint_step(path: Path) -> int:
    """The optimizer step of `checkpoint-N`."""
    return int(path.name.rpartition("-")[2])


def checkpoints_in(folder: Path) -> list[Path]:
    """The folders `checkpoint-N`, by rising N; others, such as `checkpoint-best`, are copies or not a trainer's."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-[0-9]+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=checkpoint_step)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; incomplete ones are deleted."""
    complete = []
    for path in checkpoints_in(folder):
        if (path / MARK).exists():
            complete.append(path)
        else:
            shutil.rmtree(path)
    return max(complete, key=checkpoint_step, default=None)


def begin(seed: int) -> None:
    """Before a trainer's model is loaded: seeded draws, and libraries that keep still."""
    import torch

    from harness.models.attention import share_keys

    quiet_libraries()
    share_keys()
    torch.manual_seed(seed)


def quiet_libraries() -> None:
    """Training libraries report through our events and progress, not by their own lines."""
    import warnings

    import datasets
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("trl", "trl.trainer.grpo_trainer", "accelerate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(trl|transformers|torch|peft|accelerate)\..*")


def loaded_dtype(dtype: str, *, adapter: bool) -> str:
    """The type to load a model in that is trained in `dtype`: float32, or under an adapter, which is float32, `dtype`.

    A step of 1e-6 is lost on a bfloat16 weight above 5e-4, whose neighbours are 2^-8 of it apart.
    """
    return dtype if adapter else "float32"


def model_arguments(dtype: str, revision: str | None, attention: str | None, *, adapter: bool) -> dict[str, Any]:
    """The arguments with which TRL loads a model that it is given by path."""
    implementation = {"attn_implementation": attention} if attention else {}
    return {"dtype": loaded_dtype(dtype, adapter=adapter), "revision": revision or "main", **implementation}


def settle_tokens(trainer: Any, tokenizer: Any) -> Any:
    """Have the trainer's model stop where its template closes a turn, and pad with a token it has; returns it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    declare_stop(model, tokenizer)
    fit_padding(model, tokenizer)
    return model


def require_one_side(model_path: Path | str, revision: str | None, longest: int, because: str, setting: str) -> None:
    """Raise `ConfigError` where RoPE that depends on length would mix two sets of frequencies in one forward pass.

    `longest` is the most tokens of a sequence, `because` begins with the trainer's name, `setting` bounds the tokens.
    """
    from transformers import AutoConfig

    switch = rope_switch(AutoConfig.from_pretrained(model_path, revision=revision))
    if switch is not None and longest > switch.boundary:
        raise ConfigError(
            f"the model's RoPE ({switch.kind}) takes other frequencies beyond {switch.boundary} tokens, and {because}: "
            f"sequences of up to {longest} tokens would change each other's; set {setting} to at most {switch.boundary}"
        )


def common_arguments(
    folder: Path, seed: int, save_steps: int, dtype: str, *, checkpointing: bool = False
) -> dict[str, Any]:
    """Arguments that all our trainers pass. `checkpointing`: keep layer inputs only, compute activations again.

    A mixture's load-balancing loss is left out: it is of a micro batch, so that results would depend on its size.
    """
    import torch

    return {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "save_total_limit": 2,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": dtype == "bfloat16",
        "fp16": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "gradient_checkpointing": checkpointing,
        "router_aux_loss_coef": 0.0,
    }


def callback(
    on_step: Callable[[int, int], None],
    before_mark: Callable[[int], None] | None = None,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> Any:
    """A trainer callback: reports steps and logged values, and marks checkpoints once they are complete.

    `on_epoch(k)` comes after the last step of epoch k, but not after the last step of all. It comes before a checkpoint
    of that step can count, so that a resumed trainer either has had it or repeats it.
    """
    from accelerate import PartialState
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            on_step(state.global_step, state.max_steps)
            steps = state.max_steps // args.num_train_epochs
            if on_epoch is not None and state.global_step % steps == 0 and state.global_step < state.max_steps:
                on_epoch(int(state.global_step // steps))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if on_log is not None and logs is not None:
                on_log(state.global_step, {k: float(v) for k, v in logs.items() if isinstance(v, int | float)})

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # Other processes write their random states, and perhaps their shards, by themselves.
            PartialState().wait_for_everyone()
            if not state.is_world_process_zero:
                return
            if before_mark is not None:
                before_mark(state.global_step)
            write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / MARK, {"step": state.global_step})

    return Watch()


def train(trainer: Any, folder: Path) -> bool:
    """Train from the newest complete checkpoint, or from the start; returns whether any weight has moved.

    Raises `StageError` before the first step where the weights or moments would not be float32.
    """
    from transformers import PrinterCallback, TrainerCallback

    before: list[tuple[int, ...]] = []

    class Begin(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            require(check_master(trainer), "the training")
            before.append(weights_checksum(trainer))

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Begin)
    with trainer.args.main_process_first(desc="checkpoint"):
        checkpoint = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # What a resumed trainer began from is a checkpoint that had moved already.
    return checkpoint is not None or before[0] != weights_checksum(trainer)


def require_moved(moved: bool, setting: str, trainer: Any) -> None:
    """Raise `StageError` where training changed nothing: what would be published is the base under another name."""
    if not moved:
        rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
        raise StageError(
            f"{trainer.state.global_step} training steps at learning rates up to {max(rates, default=0.0):g} moved no "
            f"weight at all: the result would be the base model. Raise {setting}, or look at the loss of the rows"
        )


def last_epoch(trainer: Any, name: str, epochs: int) -> float:
    """Mean of a logged value over the last epoch's steps; NaN where it was never logged.

    The trainer's history, unlike a list of our own, is whole after a resume.
    """
    values = [float(entry[name]) for entry in trainer.state.log_history if name in entry]
    last = values[-max(1, len(values) // epochs) :]
    return sum(last) / len(last) if last else float("nan")


def save_output(
    trainer: Any, tokenizer: Any, folder: Path, name: str, beside: Callable[[Path], None] = lambda folder: None
) -> None:
    """The model or its adapter, its tokenizer and where it stops in `folder/name`, with what `beside` adds to it.

    Of many processes the first one writes.
    """
    temporary = folder / f".{name}.tmp"
    if trainer.is_world_process_zero():
        shutil.rmtree(temporary, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(temporary))
    if trainer.is_world_process_zero():
        save_beside(trainer.accelerator.unwrap_model(trainer.model), tokenizer, temporary)
        beside(temporary)
        publish(temporary, folder / name)
    trainer.accelerator.wait_for_everyone()


def save_policy(trainer: Any, tokenizer: Any, folder: Path, *, merge: bool) -> None:
    """The trained policy in `folder/policy`; with `merge` its adapter is merged, and beside it for a server."""
    if not merge:
        save_output(trainer, tokenizer, folder, "policy")
        return
    temporary = folder / ".policy.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(temporary / ADAPTER)
    model.generation_config.save_pretrained(temporary / ADAPTER)
    # A sum in bfloat16 would round most of the adapter away; the processor has room for the base in float32.
    model.to("cpu").float().merge_and_unload().save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    publish(temporary, folder / "policy")


def publish(temporary: Path, final: Path) -> None:
    """Move a finished model folder into place."""
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
