"""The first optimizer step has a rate, others keep transformers' rates, and a training that moves nothing fails."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import StageError
from harness.training.schedule import rising
from harness.training.sft import finetune
from support.learners import ADAPTER, RECIPE, change, prefer, samples, tune
from support.tiny import make_tiny_model

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.5, 0.97])
@pytest.mark.parametrize("total", [1, 2, 3, 40])
def test_the_first_step_has_a_rate_and_others_keep_theirs(name: str, ratio: float, total: int) -> None:
    import torch
    from transformers import get_scheduler

    warmup = math.ceil(total * ratio)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    plain = get_scheduler(name, optimizer, warmup, total).lr_lambdas[0]
    own = rising(plain, warmup, total, "half_step")
    assert 0 < own(0) <= 1
    assert [own(step) for step in range(1, total)] == [plain(step) for step in range(1, total)]
    if warmup > 1 and name != "constant":
        assert own(0) == pytest.approx(own(1) / 2)
    from_zero = rising(plain, warmup, total, "zero")
    if any(plain(step) for step in range(total)):
        assert from_zero is plain
    else:
        assert from_zero(0) > 0


@pytest.mark.parametrize("start", ["half_step", "zero"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_a_fine_tuning_of_one_step_moves_the_model(schedule: str, start: str, tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "model")
    one = {"epochs": 1, "batch_size": 16, "warmup_ratio": 0.03, "warmup_start": start, "learning_rate": 1e-4}
    _, moved = change(base, tune(base, tmp_path, "float32", schedule=schedule, **one))
    assert moved > 0.9


def test_one_step_of_an_adapter_and_of_dpo_move_it_too(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base = make_tiny_model(tmp_path / "model")
    one = {"epochs": 1, "batch_size": 16, "warmup_ratio": 0.03, "schedule": "linear"}
    adapter = load_file(tune(base, tmp_path, "float32", lora=ADAPTER, **one) / "adapter_model.safetensors")
    assert all(t.abs().max() > 0 for name, t in adapter.items() if "lora_B" in name)
    assert (
        change(base, prefer(base, tmp_path / "dpo", "float32", batch_size=13, warmup_ratio=0.1, schedule="linear"))[1]
        > 0.9
    )


def test_the_rates_of_a_run_are_those_of_its_schedule(tmp_path: Path) -> None:
    """Two steps of warm-up in four: .25, .5, 1, .5 of the peak; from zero 0, .5, 1, .5."""
    base = make_tiny_model(tmp_path / "model")
    for start, mean in (("half_step", 2.25 / 4), ("zero", 2.0 / 4)):
        recipe = replace(RECIPE, epochs=1, batch_size=4, schedule="linear", warmup_ratio=0.5, warmup_start=start)
        tuned = finetune(base, samples(), recipe, seed=1, folder=tmp_path / start, output="out")
        assert tuned.epoch_rates == pytest.approx((mean * 1e-6,))


def test_a_training_that_moves_nothing_is_an_error(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "model")
    with pytest.raises(StageError, match=r"4 training steps at learning rates up to 1e-60 moved no weight"):
        tune(base, tmp_path, "float32", learning_rate=1e-60)
    assert not (tmp_path / "out").exists()
