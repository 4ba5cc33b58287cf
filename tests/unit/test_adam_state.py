"""Adam's moments: what is read back is the trainer's own, by name, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import StageError
from harness.training.adam_state import AdamState, load_adam_state, save_adam_state
from support import influence_reference as reference


def _trained(steps: int = 3, **changes: Any) -> tuple[Any, torch.optim.Optimizer]:
    model = reference.lora_model("llama", **changes)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    # Groups in another order than the model's: a position would name the wrong parameter.
    optimizer = torch.optim.AdamW([{"params": [p for _, p in named[::-1]]}], lr=1e-2, betas=(0.8, 0.95))
    for item in reference.items(steps, seed=4):
        optimizer.zero_grad()
        reference.loss_of(model, item).backward()
        optimizer.step()
    return model, optimizer


def _matrices(model: Any) -> dict[str, Any]:
    return {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".lora_" in n}


def _load(path: Path, model: Any) -> AdamState:
    return load_adam_state(path, _matrices(model), path.parent)


def test_moments_come_back_by_name(tmp_path: Path) -> None:
    model, optimizer = _trained()
    save_adam_state(tmp_path / "adam.safetensors", model, optimizer)
    state = _load(tmp_path / "adam.safetensors", model)
    assert (state.step, state.beta1, state.beta2) == (3, 0.8, 0.95)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert set(state.first) == set(state.second) == set(named)
    for name, parameter in named.items():
        assert torch.equal(state.first[name], optimizer.state[parameter]["exp_avg"])
        assert torch.equal(state.second[name], optimizer.state[parameter]["exp_avg_sq"])
        assert state.first[name].abs().sum() > 0


def test_moments_of_another_adapter_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "adam.safetensors"
    save_adam_state(path, *_trained())
    with pytest.raises(StageError, match=r"shape \(4, 32\), the adapter's have \(8, 32\)"):
        _load(path, reference.lora_model("llama", r=8))
    with pytest.raises(StageError, match=r"holds no Adam moments for .*k_proj"):
        _load(path, reference.lora_model("llama", target_modules=["q_proj", "k_proj", "v_proj"]))
    with pytest.raises(StageError, match="4 more parameters than the adapter"):
        _load(path, reference.lora_model("llama", target_modules=["q_proj"]))
    with pytest.raises(StageError, match="no Adam moments at"):
        _load(tmp_path / "none.safetensors", reference.lora_model("llama"))


def test_an_optimizer_without_a_step_is_refused(tmp_path: Path) -> None:
    model, optimizer = _trained(steps=0)
    with pytest.raises(StageError, match="did it take a step"):
        save_adam_state(tmp_path / "adam.safetensors", model, optimizer)
    assert not list(tmp_path.iterdir())
