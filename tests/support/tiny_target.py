"""A tiny target after a short warm-up, and pairs to score with it, for tests of signals."""

from __future__ import annotations

from pathlib import Path

from harness.training.recipe import LoraSettings, Recipe
from harness.training.sft import finetune
from harness.types import Message, Sample
from methods.signals.base import TargetState, WarmCheckpoint
from support.tiny import make_tiny_model

LENGTH = 96


def pair(number: int, question: str, answer: str, seed: str = "d") -> Sample:
    """A sample of one question and answer."""
    turns = (Message("user", question), Message("assistant", answer))
    return Sample(
        id=f"s{number}",
        seed_ids=(seed,),
        rubric_id=None,
        prompt_hash="",
        messages=turns,
        raw="",
        generator="",
        finish_reason="",
    )


PAIRS = [pair(i, f"is the answer {'one of ' * (i % 3)}{i}?", "yes " * (1 + i % 4) + str(i)) for i in range(12)]
TOO_LONG = pair(99, "the question " * 60, "yes")


def warm_target(folder: Path) -> TargetState:
    """A tiny model with a LoRA adapter trained on `PAIRS`."""
    model = make_tiny_model(folder / "target")
    recipe = Recipe(
        learning_rate=5e-3,
        epochs=2,
        batch_size=4,
        micro_batch=4,
        schedule="constant",
        warmup_ratio=0.0,
        weight_decay=0.0,
        adam_beta2=0.999,
        max_length=LENGTH,
        lora=LoraSettings(4, 8, 0.1, ("q_proj", "v_proj")),
    )
    finetune(model, PAIRS, recipe, seed=1, folder=folder, output="adapter", save_adam=True)
    adapter = folder / "adapter"
    return TargetState(model, "rev", LENGTH, checkpoints=(WarmCheckpoint(adapter, adapter / "adam.safetensors"),))
