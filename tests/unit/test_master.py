"""Training in bfloat16 keeps float32 weights: its change is float32's in length and direction, for every learner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import make_architecture, make_tiny_model

from harness.config import GrpoConfig
from harness.errors import StageError
from harness.training import sft
from harness.training.dpo import DpoRecipe, Preference, train_preferences
from harness.training.grpo import PolicyPrompt, train_policy
from harness.training.master_check import MASTER, MOMENTS, check_master
from harness.training.recipe import LoraSettings, Recipe
from harness.training.rollouts import Decoding, Drawn
from harness.types import Message, Sample

WORDS = ("the", "answer", "to", "the", "question", "is", "one", "of", "the", "choices", "yes", "no", "maybe")
RECIPE = Recipe(1e-6, 2, 8, 8, "constant", 0.0, 0.0, 0.999, 256)
ADAPTER = LoraSettings(4, 8, 0.0, ("q_proj", "v_proj"))


def samples(count: int = 16) -> list[Sample]:
    """Pairs of several lengths."""
    turns = [(" ".join(WORDS[i % 5 :][:4]), " ".join(WORDS[i % 7 :])) for i in range(count)]
    return [
        Sample(f"s{i}", ("d",), None, "p", (Message("user", q), Message("assistant", a)), "", "g", "stop")
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
        import random

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


@pytest.mark.parametrize("rate", [1e-6, 1e-5])
@pytest.mark.parametrize("learner", sorted(LEARNERS))
def test_a_bfloat16_run_changes_the_model_as_a_float32_run_does(learner: str, rate: float, tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "model")
    runs = {d: LEARNERS[learner](base, tmp_path / d, d, learning_rate=rate) for d in ("float32", "bfloat16")}
    (wide, all_moved), (narrow, moved) = (change(base, runs[d]) for d in ("float32", "bfloat16"))
    ratio, cosine = agreement(wide, narrow)
    assert ratio == pytest.approx(1.0, abs=0.05) and cosine > 0.95
    assert moved > all_moved - 0.01 > 0.9
    # Computed in bfloat16 it is not float32's to the last digit.
    assert not wide.equal(narrow)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "qwen3_moe"])
def test_other_architectures_move_too(kind: str, tmp_path: Path) -> None:
    """From weights that lie in bfloat16, as published ones do."""
    import torch

    make_architecture(kind, tmp_path / "plain").to(torch.bfloat16).save_pretrained(tmp_path / "model")
    for file in (tmp_path / "plain").glob("tokenizer*"):
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model" / "chat_template.jinja").write_bytes((tmp_path / "plain" / "chat_template.jinja").read_bytes())
    runs = {d: tune(tmp_path / "model", tmp_path / d, d) for d in ("float32", "bfloat16")}
    wide, narrow = (change(tmp_path / "model", runs[d])[0] for d in ("float32", "bfloat16"))
    ratio, cosine = agreement(wide, narrow)
    assert ratio == pytest.approx(1.0, abs=0.05) and cosine > 0.95


def test_an_adapter_is_float32_on_a_bfloat16_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from safetensors.torch import load_file

    base = make_tiny_model(tmp_path / "model")
    found = watch(monkeypatch)
    moved = load_file(tune(base, tmp_path, "bfloat16", lora=ADAPTER) / "adapter_model.safetensors")
    assert {t.dtype for t in moved.values()} == {torch.float32}
    assert all(t.abs().max() > 0 for name, t in moved.items() if "lora_B" in name)
    assert [c.status for c in found[0]] == ["passed", "passed"] and "in float32, computed in bfloat16" in found[0][
        0
    ].detail


def test_a_merged_policy_keeps_what_its_adapter_learned(tmp_path: Path) -> None:
    """In bfloat16 the sum of base and adapter would be the base again, for all but a few weights."""
    import torch
    from safetensors.torch import load_file

    make_tiny_model(tmp_path / "model")
    policy, _ = grpo(
        tmp_path / "model", tmp_path, "bfloat16", tune="lora", lora_rank=4, lora_alpha=8, learning_rate=1e-5
    )
    adapter = load_file(policy / "adapter" / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"].double() for x in "AB")
    before, after = (load_file(p / "model.safetensors")[f"{name}.weight"] for p in (tmp_path / "model", policy))
    expected = before.to(torch.bfloat16).double() + 2.0 * b @ a
    assert (after.double() - expected).abs().max() < 1e-7 < (b @ a).abs().max()
    assert json.loads((policy / "config.json").read_text())["dtype"] == "float32"


def watch(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """What the check finds in trainings to come."""
    from harness.training import trainer

    found: list[list[Any]] = []

    def check(own: Any) -> list[Any]:
        found.append(check_master(own))
        return found[-1]

    monkeypatch.setattr(trainer, "check_master", check)
    return found


@pytest.mark.parametrize("learner", sorted(LEARNERS))
def test_every_training_is_checked_at_its_start(learner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch)
    LEARNERS[learner](make_tiny_model(tmp_path / "model"), tmp_path, "bfloat16")
    (checks,) = found
    assert [(c.name, c.status, c.measured) for c in checks] == [(MASTER, "passed", 0.0), (MOMENTS, "passed", 0.0)]


def test_bfloat16_weights_are_refused_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "loaded_dtype", lambda dtype, adapter: dtype)
    steps: list[int] = []
    base = make_tiny_model(tmp_path / "model")
    with pytest.raises(StageError, match=r"float32 master.*bfloat16.*train an adapter"):
        sft.finetune(
            base, samples(), RECIPE, seed=1, folder=tmp_path, output="out", dtype="bfloat16",
            on_step=lambda step, total: steps.append(step),
        )  # fmt: skip
    assert not steps and not (tmp_path / "out").exists()


def test_moments_are_read_where_there_are_any() -> None:
    import torch

    def found(dtype: Any, *, stepped: bool) -> tuple[str, float | None]:
        model = torch.nn.Linear(4, 2).to(dtype)
        optimizer = torch.optim.AdamW(model.parameters())
        if stepped:
            model(torch.ones(1, 4, dtype=dtype)).sum().backward()
            optimizer.step()
        own = SimpleNamespace(
            is_deepspeed_enabled=False, model_wrapped=model, optimizer=optimizer, args=SimpleNamespace(bf16=False)
        )
        moments = check_master(own)[1]
        return moments.status, moments.measured

    for stepped in (False, True):
        assert found(torch.float32, stepped=stepped) == ("passed", 0.0)
        assert found(torch.bfloat16, stepped=stepped) == ("failed", 1.0)
