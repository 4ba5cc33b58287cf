"""The training check: what it asks of a run's models, that it ends a run in one line, and that it is paid once."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.checks import training_check
from harness.checks.training_check import check_models, policy_of, target_of
from harness.cli.main import main
from harness.config import RunConfig
from harness.errors import ConfigError, StageError
from harness.planning.lora_lines import lora_lines
from harness.resolve.layers import resolve_run
from harness.runtime.progress import Progress
from harness.runtime.run import RunFolder, RunObserver, _check_models
from harness.training.layouts import check_layout
from harness.training.recipe import LoraSettings
from harness.training.target_check import check_adapter
from support.tiny import ENDLESS, make_architecture, make_tiny_model

PACKED = {"runtime.training.packing": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_model(folder / "qwen3")
    for kind in ("bloom", "mixtral"):
        make_architecture(kind, folder / kind)
    return folder


def config(model: Path, **sets: Any) -> RunConfig:
    dotted = {"models.target.id": str(model), "warmup.lora_modules": "attention", "warmup.lora_rank": 4, **sets}
    return resolve_run(method="optimsyn", driver="best_of_n", target="nano", sets=dotted).config


def test_every_part_is_checked_and_stands_in_the_manifest(models: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", config(models / "qwen3", **PACKED))
    run.path.mkdir()
    (run.path / "run.json").write_text("{}")
    events: list[dict[str, Any]] = []
    observer: Any = SimpleNamespace(event=lambda kind, **fields: events.append({"kind": kind, **fields}))
    assembly: Any = SimpleNamespace(plan=SimpleNamespace(world=None))
    _check_models(run, assembly, observer)
    rows = json.loads((run.path / "run.json").read_text())["training_check"]
    assert {
        *("same tokens", "stop token", "right equals plain", "packed equals plain", "LoRA layers", "float32 master"),
    } <= {r["name"] for r in rows}
    assert {row["role"] for row in rows} == {"target"} and "failed" not in {row["status"] for row in rows}
    assert events[0]["kind"] == "training_checked"


def test_what_a_reader_should_know_of_a_template_is_said_before_any_stage(tmp_path: Path) -> None:
    """Through the observer of real runs: a notice that belongs to no stage."""
    make_tiny_model(tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text(ENDLESS, encoding="utf-8")
    run = RunFolder(tmp_path / "run", config(tmp_path / "model"))
    run.path.mkdir()
    (run.path / "run.json").write_text("{}")
    screen = io.StringIO()
    observer = RunObserver(run.path, Progress(screen))
    try:
        _check_models(run, SimpleNamespace(plan=SimpleNamespace(world=None)), observer)  # type: ignore[arg-type]
    finally:
        observer.close()
    assert "target: the template writes" in screen.getvalue() and "teaches the model to stop" in screen.getvalue()


def test_it_is_computed_once_for_a_model_and_its_settings(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(models / "qwen3")
    first = check_models(wanted, None, tmp_path)
    calls = []
    monkeypatch.setattr(training_check, "check_target", lambda *arguments: calls.append(arguments) or [])
    assert check_models(wanted, None, tmp_path) == first and not calls
    check_models(config(models / "qwen3", **PACKED), None, tmp_path)
    check_models(config(models / "bloom"), None, tmp_path)
    assert len(calls) == 2
    next((tmp_path / training_check.FOLDER).glob("*.json")).write_text("{")
    check_models(wanted, None, tmp_path)
    check_models(config(models / "qwen3", **PACKED), None, tmp_path)
    check_models(config(models / "bloom"), None, tmp_path)
    assert len(calls) == 3


def test_a_failed_check_ends_the_run_in_one_line_that_names_the_setting(models: Path, tmp_path: Path) -> None:
    said = r"failed the check 'packed equals plain'.*runtime\.training\.packing=false"
    for _ in range(2):
        with pytest.raises(StageError, match=said):
            check_models(config(models / "bloom", **PACKED), None, tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_experts_that_influence_cannot_see_are_refused_before_any_work(models: Path, tmp_path: Path) -> None:
    experts = {"warmup.lora_modules": "all-linear", "warmup.lora_dropout": 0}
    with pytest.raises(StageError, match=r"hooks cannot see\. Set warmup\.lora_modules=attention"):
        check_models(config(models / "mixtral", signal="influence", **experts), None, tmp_path)
    with pytest.raises(ConfigError, match="q_porj matches nothing"):
        check_models(config(models / "qwen3", **{"warmup.lora_modules": ["q_porj"]}), None, tmp_path)


def test_layers_that_a_model_never_calls_are_found() -> None:
    check = check_adapter(make_architecture("mamba"), LoraSettings(4, 8, 0.0, ("in_proj", "dt_proj")), "x", hooked=True)
    assert check.status == "failed" and "dt_proj" in check.detail and "2 of 4 layers are never called" in check.detail


def test_what_is_asked_follows_the_settings(models: Path) -> None:
    asked = target_of(config(models / "qwen3", **PACKED, **{"runtime.scoring.layout": "left"}))
    assert [layout for layout, _ in asked.layouts] == ["right", "packed", "left"]
    assert asked.adapter is not None and asked.hooked and asked.recipe is not None and asked.recipe.lora is None
    static = resolve_run(method="static", target="nano", sets={}).config
    assert target_of(static).adapter is None and policy_of(static) is None
    trained = resolve_run(method="optimsyn", target="nano", sets={"driver.tune": "lora"}).config
    policy = policy_of(trained)
    assert policy is not None and policy[0] == "writer"
    assert policy[1].setting == "driver.lora_modules" and policy[1].layouts[0][0] == "left"


def test_the_plan_shows_layers_and_parameters(models: Path) -> None:
    """By arithmetic for Qwen3, from the model's own modules for Bloom: 4 of (32 + 96) and (32 + 32) in two layers."""
    (qwen,) = lora_lines(config(models / "qwen3"))
    assert qwen == ("warm-up", "LoRA rank 4 on q_proj, k_proj, v_proj, o_proj: 2,048 parameters")
    (bloom,) = lora_lines(config(models / "bloom", **{"sft.tune": "full"}))
    assert bloom == ("warm-up", "LoRA rank 4 on query_key_value, dense: 1,536 parameters")
    with pytest.raises(ConfigError, match=r"lora_modules does not fit BloomForCausalLM: q_proj matches nothing"):
        lora_lines(config(models / "bloom", **{"warmup.lora_modules": ["q_proj"]}))


@pytest.mark.parametrize(("model", "status", "said"), [("qwen3", 0, "passed"), ("bloom", 1, "packing=false")])
def test_doctor_checks_a_target(
    model: str, status: int, said: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--target", str(models / model), "--set", "runtime.training.packing=true"]) == status
    line = next(line for line in capsys.readouterr().out.splitlines() if "packed equals plain" in line)
    assert said in line


def test_a_layout_is_judged_by_its_own_type() -> None:
    narrow = check_layout(make_architecture("llama").bfloat16(), "packed", "")
    wide = check_layout(make_architecture("llama"), "packed", "")
    assert narrow.limit is not None and wide.limit is not None and narrow.limit > 100 * wide.limit
