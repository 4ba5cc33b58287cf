"""Ways of training that must not change what is learned: packing, checkpointing, processes, a kill in mid-epoch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tiny_model

from harness.config import TrainingConfig
from harness.errors import ConfigError, StageError
from harness.training.launch import command, job_from_json, job_to_json
from harness.training.sft import Job, LoraSettings, Recipe, Tuned, finetune
from harness.types import Message, Sample

RECIPE = Recipe(1e-2, 2, 4, 4, "linear", 0.0, 0.0, 0.999, 256)
LORA = LoraSettings(4, 8, 0.0, ("q_proj", "v_proj"))


def samples(count: int = 12) -> list[Sample]:
    """Pairs of different lengths."""
    return [
        Sample(
            f"s{i}", ("d",), None, "p",
            (Message("user", "what " * (1 + i % 5)), Message("assistant", "answer " * (1 + i % 7))), "", "g", "stop",
        )
        for i in range(count)
    ]  # fmt: skip


def tune(home: Path, folder: str, recipe: Recipe = RECIPE, **settings: Any) -> tuple[Tuned, dict[str, Any]]:
    """Fine-tune the tiny model and return what it says and the weights that it left."""
    from safetensors.torch import load_file

    adam = recipe.lora is not None
    tuned = finetune(
        home / "model", samples(), recipe, seed=3, folder=home / folder, output="out", save_every=2, save_adam=adam,
        training=TrainingConfig(**settings),
    )  # fmt: skip
    return tuned, {str(p.name): load_file(p) for p in sorted((home / folder / "out").glob("*.safetensors"))}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model."""
    folder = tmp_path_factory.mktemp("training")
    make_tiny_model(folder / "model")
    return folder


def assert_close(a: dict[str, Any], b: dict[str, Any], tolerance: float) -> None:
    """The same tensors in the same files, but for rounding; and not merely the untrained ones."""
    assert a.keys() == b.keys() and a
    for name in a:
        assert a[name].keys() == b[name].keys()
        for key, value in a[name].items():
            worst = float((value - b[name][key]).abs().max())
            assert worst <= tolerance, f"{name} {key}: {worst}"


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("how", [{"packing": True}, {"activation_checkpointing": True}], ids=lambda h: next(iter(h)))
def test_it_changes_rounding_alone(home: Path, how: dict[str, Any], lora: LoraSettings | None) -> None:
    recipe = replace(RECIPE, lora=lora)
    name = f"{next(iter(how))}-{'lora' if lora else 'full'}"
    plain, before = tune(home, f"{name}-plain", recipe)
    other, after = tune(home, f"{name}-other", recipe, **how)
    assert plain.final_loss == pytest.approx(other.final_loss, rel=1e-4)
    assert plain.steps == other.steps == 6
    assert plain.usage.prompt_tokens == other.usage.prompt_tokens
    assert_close(before, after, 2e-3)


def test_packed_samples_do_not_see_each_other(home: Path) -> None:
    """The losses of a packed row are those of its samples alone, token by token."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(home / "model", attn_implementation="sdpa").eval()
    rows = [torch.arange(5, 25), torch.arange(60, 72), torch.arange(30, 61)]
    packed = torch.cat(rows)[None]
    positions = torch.cat([torch.arange(len(r)) for r in rows])[None]
    with torch.no_grad():
        # With a cache transformers would not look for packed rows; trainers run without one.
        together = model(input_ids=packed, position_ids=positions, use_cache=False).logits[0]
        alone = torch.cat([model(input_ids=r[None], use_cache=False).logits[0] for r in rows])
        mixed = model(input_ids=packed, use_cache=False).logits[0]
    assert float((together - alone).abs().max()) < 1e-5
    assert float((mixed - alone).abs().max()) > 1e-3


def test_a_job_survives_the_way_to_a_worker(home: Path) -> None:
    recipe = replace(RECIPE, lora=LORA)
    job = Job("m", tuple(samples(2)), recipe, 1, "f", "o", "float32", None, 2, True, False, TrainingConfig())
    assert job_from_json(job_to_json(job)) == job
    missing = replace(job, training=TrainingConfig(accelerate_config=str(home / "none.yaml")))
    with pytest.raises(ConfigError, match="accelerate config --config_file"):
        command(missing, home / "job.json")


def test_two_processes_train_as_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = replace(RECIPE, lora=LORA)
    plain, before = tune(home, "one", recipe)
    seen: list[tuple[int, int]] = []
    from safetensors.torch import load_file

    two = finetune(
        home / "model", samples(), recipe, seed=3, folder=home / "two", output="out", save_adam=True,
        training=TrainingConfig(processes=2), on_step=lambda step, total: seen.append((step, total)),
    )  # fmt: skip
    after = {p.name: load_file(p) for p in sorted((home / "two" / "out").glob("*.safetensors"))}
    assert (two.steps, two.usage.prompt_tokens) == (plain.steps, plain.usage.prompt_tokens)
    assert two.final_loss == pytest.approx(plain.final_loss, rel=1e-4)
    assert_close(before, after, 2e-3)
    assert seen[-1] == (6, 6)


def test_a_worker_s_error_is_one_line(home: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be divided over 2 processes"):
        tune(home, "odd", replace(RECIPE, batch_size=3), processes=2)
    with pytest.raises(StageError, match=r"raise sft\.max_length"):
        tune(home, "short", replace(RECIPE, max_length=8))


_CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {unit!r}]
import test_training_modes as t
from harness.training.sft import finetune
home = Path({home!r})
finetune(home / "model", t.samples(), t.RECIPE, seed=3, folder=home / "killed", output="out", save_every=1,
         on_step=lambda step, total: time.sleep(0.5) if step >= 2 else None)
"""


def test_a_kill_in_mid_epoch_changes_nothing(home: Path) -> None:
    """Killed after two of three steps of the first epoch, resumed from the checkpoint: the same weights to the bit."""
    unit = Path(__file__).parent
    code = _CHILD.format(tests=str(unit.parent), unit=str(unit), home=str(home))
    env = {**os.environ, "PYTHONPATH": str(unit.parents[1])}
    child = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL)
    mark = home / "killed" / "trainer" / "checkpoint-2" / "_DONE"
    deadline = time.monotonic() + 300
    while not mark.exists():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (home / "killed" / "out").exists()
    steps: list[int] = []
    resumed = finetune(
        home / "model", samples(), RECIPE, seed=3, folder=home / "killed", output="out",
        on_step=lambda step, total: steps.append(step),
    )  # fmt: skip
    plain, before = tune(home, "whole")
    from safetensors.torch import load_file

    after = {p.name: load_file(p) for p in sorted((home / "killed" / "out").glob("*.safetensors"))}
    assert steps[0] >= 3 and steps[-1] == 6
    assert resumed.final_loss == plain.final_loss
    assert_close(before, after, 0.0)
