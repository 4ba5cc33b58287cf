"""Training in bfloat16 keeps float32 weights: its change is float32's in length and direction, for every learner."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import StageError
from harness.training import sft
from harness.training.master_check import MASTER, MOMENTS, check_master
from support.learners import ADAPTER, LEARNERS, RECIPE, agreement, change, grpo, samples, tune
from support.tiny import make_architecture, make_tiny_model


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
