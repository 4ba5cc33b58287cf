"""The three learners on small made data, each one call; and how far training moved a model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.training import sft
from harness.training.dpo import DpoRecipe, Preference, train_preferences
from harness.training.grpo import PolicyPrompt, train_policy
from harness.training.grpo_config import GrpoConfig
from harness.training.recipe import LoraSettings, Recipe
from harness.training.rollouts import Decoding, Drawn
from harness.types import Message, Sample

WORDS = ("the", "answer", "to", "the", "question", "is", "one", "of", "the", "choices", "yes", "no", "maybe")
RECIPE = Recipe(
    learning_rate=1e-6,
    epochs=2,
    batch_size=8,
    micro_batch=8,
    schedule="constant",
    warmup_ratio=0.0,
    weight_decay=0.0,
    adam_beta2=0.999,
    max_length=256,
)
ADAPTER = LoraSettings(4, 8, 0.0, ("q_proj", "v_proj"))


def samples(count: int = 16) -> list[Sample]:
    """Pairs of several lengths."""
    turns = [(" ".join(WORDS[i % 5 :][:4]), " ".join(WORDS[i % 7 :])) for i in range(count)]
    return [
        Sample(
            id=f"s{i}",
            seed_ids=("d",),
            rubric_id=None,
            prompt_hash="p",
            messages=(Message("user", q), Message("assistant", a)),
            raw="",
            generator="g",
            finish_reason="stop",
        )
        for i, (q, a) in enumerate(turns)
    ]


class Given:
    """A server that gives completions of its own, the same in every run."""

    constrained = False

    def load(self, adapter: Path) -> str:
        return adapter.name

    def sample(
        self, name: str, prompts: Sequence[tuple[Sequence[int], int]], decoding: Decoding, seed: int
    ) -> list[list[Drawn]]:
        draw = random.Random(name)
        lengths = [[draw.randint(1, decoding.max_tokens) for _ in range(count)] for _, count in prompts]
        return [[Drawn(tuple(draw.randint(3, 250) for _ in range(n)), (0.0,) * n) for n in sizes] for sizes in lengths]


def grpo(model: Path, folder: Path, dtype: str, **changes: Any) -> tuple[Path, list[dict[str, float]]]:
    """A policy trained on given completions, rewarded by their length, and what was logged."""
    settings: dict[str, Any] = {"prompts_per_step": 4, "group_size": 3, "micro_batch": 12, "steps": 3, "max_tokens": 12}
    config = GrpoConfig(**{**settings, "rollouts": "server", "max_logprob_gap": 1e9, "temperature": 1.0, **changes})
    logs: list[dict[str, float]] = []
    train_policy(
        model,
        [PolicyPrompt(str(i), (Message("user", " ".join(WORDS[i:])),)) for i in range(4)],
        config,
        lambda batch: [float(r.completion_tokens % 5) for r in batch.rollouts],
        seed=1,
        folder=folder,
        dtype=dtype,
        revision=None,
        checkpoint_every=10,
        before_mark=lambda step: None,
        on_step=lambda step, total: None,
        on_log=lambda step, entry: logs.append(dict(entry)),
        sampler=Given(),
    )
    return folder / "policy", [entry for entry in logs if "grad_norm" in entry]


def tune(model: Path, folder: Path, dtype: str, **changes: Any) -> Path:
    recipe = replace(RECIPE, **changes)
    sft.finetune(model, samples(), recipe, seed=1, folder=folder, output="out", dtype=dtype)
    return folder / "out"


def prefer(model: Path, folder: Path, dtype: str, **changes: Any) -> Path:
    pairs = [Preference((Message("user", f"is it {w}"),), f"yes {w}", f"no {w}") for w in WORDS]
    recipe = replace(DpoRecipe(batch_size=4, micro_batch=2, schedule="constant", warmup_ratio=0.0), **changes)
    train_preferences(model, pairs, recipe, seed=1, folder=folder, dtype=dtype)
    return folder / "policy"


LEARNERS = {
    "sft": tune,
    "dpo": prefer,
    "grpo": lambda model, folder, dtype, **changes: grpo(model, folder, dtype, **changes)[0],
}


def change(base: Path, tuned: Path) -> tuple[Any, float]:
    """What training added to the weights (float64, one vector), and the share of them that moved."""
    import torch
    from safetensors.torch import load_file

    before, after = load_file(base / "model.safetensors"), load_file(tuned / "model.safetensors")
    assert {t.dtype for t in after.values()} == {torch.float32}
    moved = torch.cat([(after[name].double() - before[name].double()).flatten() for name in sorted(before)])
    return moved, float((moved != 0).double().mean())


def agreement(one: Any, other: Any) -> tuple[float, float]:
    """Ratio of lengths and cosine of two changes."""
    return float(other.norm() / one.norm()), float(one @ other / one.norm() / other.norm())
