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
import yaml

from harness.config_runtime import TrainingConfig
from harness.errors import ConfigError, StageError
from harness.training.launch import job_from_json, job_to_json, launch_command
from harness.training.recipe import Job, LoraSettings, Recipe, Tuned
from harness.training.sft import finetune
from harness.types import Message, Sample
from support.commands import events, finished, run_folders, stage_folder
from support.tiny import make_tiny_model

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
        launch_command(missing, home / "job.json")


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


def accelerate_config(home: Path, kind: str, **more: Any) -> str:
    """An accelerate configuration of two processes on this machine's processors."""
    sharded = {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_state_dict_type": "FULL_STATE_DICT",
        "fsdp_reshard_after_forward": True,
    }
    fields = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": kind,
        "mixed_precision": "no",
        "num_machines": 1,
        "num_processes": 2,
        "use_cpu": True,
        **({"fsdp_config": sharded} if kind == "FSDP" else {}),
        **more,
    }
    path = home / f"{kind}-{len(more)}.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return str(path)


def test_what_accelerate_is_told(home: Path) -> None:
    job = Job("m", (), RECIPE, 1, "f", "o", "float32", None, 2, False, False, TrainingConfig())

    def told(**settings: Any) -> list[str]:
        return launch_command(replace(job, training=TrainingConfig(**settings)), home / "job.json")

    # For processors accelerate would start one process and say nothing.
    assert "--multi_gpu" in told(accelerate_config=accelerate_config(home, "MULTI_CPU"))
    by_mpi = accelerate_config(home, "MULTI_CPU", mpirun_config={"mpirun_hostfile": "hosts"}, main_process_port=29511)
    assert not {"--multi_gpu", "--main_process_port"} & set(told(accelerate_config=by_mpi))
    more = told(accelerate_config=accelerate_config(home, "MULTI_GPU"), processes=4)
    assert more[more.index("--num_processes") + 1] == "4"
    # The model's own type holds, also against a configuration that says another.
    assert more[more.index("--mixed_precision") + 1] == "no"
    narrow = launch_command(
        replace(job, dtype="bfloat16", training=TrainingConfig(accelerate_config=by_mpi)), home / "j"
    )
    assert narrow[narrow.index("--mixed_precision") + 1] == "bf16"
    (home / "no.yaml").write_text("[1, 2", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1 is not valid YAML"):
        told(accelerate_config=str(home / "no.yaml"))
    (home / "no.yaml").write_text("num_processes: 2", encoding="utf-8")
    with pytest.raises(ConfigError, match="no distributed_type"):
        told(accelerate_config=str(home / "no.yaml"))


LONG = replace(RECIPE, epochs=12, learning_rate=1e-3)
_CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {unit!r}]
import test_training_modes as t
from harness.config_runtime import TrainingConfig
from harness.training.sft import finetune
home = Path({home!r})
finetune(home / "model", t.samples(), t.{recipe}, seed=3, folder=home / {folder!r}, output="out", save_every={every},
         training=TrainingConfig(**{settings!r}),
         on_step=lambda step, total: time.sleep({pause}) if step >= 2 else None)
"""


def killed(home: Path, folder: str, step: int, recipe: str, pause: float, **settings: Any) -> None:
    """Fine-tune in a process of its own, which is killed once the checkpoint of `step` is complete."""
    unit = Path(__file__).parent
    code = _CHILD.format(
        tests=str(unit.parent), unit=str(unit), home=str(home), folder=folder, recipe=recipe,
        every=step if settings else 1, pause=pause, settings=settings,
    )  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(unit.parents[1]), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL)
    mark = home / folder / "trainer" / f"checkpoint-{step}" / "_DONE"
    deadline = time.monotonic() + 300
    while not mark.exists():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (home / folder / "out").exists()


def resumed(home: Path, folder: str, recipe: Recipe, **settings: Any) -> tuple[Tuned, dict[str, Any], list[int]]:
    """Finish what was killed; also the steps that were reported."""
    from safetensors.torch import load_file

    steps: list[int] = []
    tuned = finetune(
        home / "model", samples(), recipe, seed=3, folder=home / folder, output="out", save_every=2,
        training=TrainingConfig(**settings), on_step=lambda step, total: steps.append(step),
    )  # fmt: skip
    return tuned, {p.name: load_file(p) for p in sorted((home / folder / "out").glob("*.safetensors"))}, steps


def test_a_kill_in_mid_epoch_changes_nothing(home: Path) -> None:
    """Killed after two of three steps of the first epoch, resumed from the checkpoint: the same weights to the bit."""
    killed(home, "killed", 2, "RECIPE", 0.5)
    tuned, after, steps = resumed(home, "killed", RECIPE)
    plain, before = tune(home, "whole")
    assert steps[0] >= 3 and steps[-1] == 6
    assert tuned.final_loss == plain.final_loss
    assert_close(before, after, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MULTI_CPU", "FSDP"])
def test_what_accelerate_launches_trains_as_one_and_survives_a_kill(
    home: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of one process but for rounding; killed and resumed, the same to the bit as without the kill."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    settings = {"accelerate_config": accelerate_config(home, kind)}
    plain, one = tune(home, f"{kind}-one", LONG)
    tuned, two = tune(home, f"{kind}-two", LONG, **settings)
    checkpoint = home / f"{kind}-two" / "trainer" / "checkpoint-36"
    assert (checkpoint / "rng_state_1.pth").exists(), "two processes trained"
    assert (checkpoint / "pytorch_model_fsdp.bin").exists() == (kind == "FSDP"), "sharded where it was asked for"
    assert tuned.final_loss == pytest.approx(plain.final_loss, rel=1e-4)
    assert (tuned.steps, tuned.usage) == (plain.steps, plain.usage)
    if kind == "FSDP":
        # FSDP gathers tied weights under both names.
        saved = two["model.safetensors"]
        assert (saved.pop("lm_head.weight") == saved["model.embed_tokens.weight"]).all()
    assert_close(one, two, 2e-3)

    killed(home, f"{kind}-killed", 4, "LONG", 0.0, **settings)
    again, three, steps = resumed(home, f"{kind}-killed", LONG, **settings)
    three["model.safetensors"].pop("lm_head.weight", None)
    assert 5 <= steps[0] < 36 and steps[-1] == 36
    assert again.final_loss == tuned.final_loss
    assert_close(two, three, 0.0)


def test_a_training_that_keeps_moments_is_not_sharded(home: Path) -> None:
    recipe = replace(RECIPE, lora=LORA)
    _, before = tune(home, "moments", recipe)
    _, after = tune(home, "moments-fsdp", recipe, accelerate_config=accelerate_config(home, "FSDP"))
    assert "adam.safetensors" in after and not (home / "moments-fsdp" / "trainer" / "job.json").exists()
    assert_close(before, after, 0.0)


@pytest.mark.slow
def test_influence_steers_a_run_whose_fine_tuning_is_sharded(
    lab: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warm-up in one process, which the run says; scores from its moments; fine-tuning under FSDP, by accelerate.

    A trainer that is asked for FSDP and is not under it ends the run.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    base = home / "run"
    done = finished(
        [
            *("run", "--method", "static", "--driver", "best_of_n", "--signal", "influence", "--target", "nano"),
            *("--scale", "smoke", "--budget", "16", "--set", "runtime.threads=1"),
            *("--set", f"runtime.training.accelerate_config={accelerate_config(home, 'FSDP')}"),
        ],
        base,
    )
    assert "warmup: trains in one process, since FSDP would divide Adam's moments; FSDP is for finetune" in done.err
    (folder,) = run_folders(base / "runs")
    assert (stage_folder(folder, "warmup") / "adapter" / "adam.safetensors").exists()
    assert any((folder / "model").glob("*.safetensors"))
    notices = [e for e in events(folder) if e["event"] == "notice"]
    assert [e["stage"] for e in notices] == ["warmup"]
