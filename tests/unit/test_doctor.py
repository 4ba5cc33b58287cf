"""The doctor: what it sees of a machine, and what it refuses before a run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from harness.checks import doctor, prerequisites
from harness.checks.findings import Problem
from harness.checks.needs import loads
from harness.cli import main as cli
from harness.config import RunConfig
from harness.errors import InputError, PrerequisiteError
from harness.estimate import gigabytes
from harness.resolve import machine
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run

SMI = "0, GPU-aa11, NVIDIA H200, 143771, 143000\n1, GPU-bb22, NVIDIA H200, 143771, 2000\n"
BANNER = "| NVIDIA-SMI 570.1   Driver Version: 570.1.2    CUDA Version: 12.8 |"


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "HARNESS_DATA"):
        monkeypatch.delenv(name, raising=False)


def _with_gpus(monkeypatch: pytest.MonkeyPatch, text: str | None, cuda: str | None = "12.8") -> None:
    monkeypatch.setattr(machine, "_nvidia_smi", lambda *arguments: (text if arguments else BANNER) if text else None)
    monkeypatch.setattr(machine, "torch_cuda", lambda: cuda)


def _config(tmp_path: Path, **options: Any) -> RunConfig:
    sets = {"runtime.runs": str(tmp_path / "runs"), **options.pop("sets", {})}
    return resolve_run(**{"method": "optimsyn", "target": "qwen3-8b", "sets": sets, **options}).config


def _cache_model(tmp_path: Path, model_id: str, *, complete: bool = True) -> None:
    store = tmp_path / "hf" / "hub" / f"models--{model_id.replace('/', '--')}"
    snapshot = store / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    for number in (1, 2) if complete else (1,):
        (snapshot / f"model-{number}.safetensors").write_text("")


def test_gpus_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_gpus(monkeypatch, SMI)
    first, second = machine.gpus()
    assert (first.name, first.total, second.free) == ("NVIDIA H200", 143771 << 20, 2000 << 20)
    assert machine.driver() == machine.NvidiaDriver("570.1.2", "12.8")


@pytest.mark.parametrize(
    ("visible", "indices"), [("1,0", [1, 0]), ("", []), ("0,7,1", [0]), ("GPU-bb", [1]), ("-1", [])]
)
def test_visible_devices_as_cuda_reads_them(visible: str, indices: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    _with_gpus(monkeypatch, SMI)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.index for gpu in machine.gpus()] == indices


def test_no_driver_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine.gpus() == ()
    assert machine.driver() is None


def test_the_build_of_torch_is_read_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    assert machine.torch_cuda() == torch.version.cuda
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "version.py").write_text("from typing import Optional\ncuda: Optional[str] = '12.8'\nhip = None\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom harness.resolve.machine import torch_cuda\n"
    code += "print(torch_cuda(), 'torch' in sys.modules)"
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "12.8 False"


def test_this_installation_is_fine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_gpus(monkeypatch, None, cuda=None)
    assert cli.main(["doctor", "--runs", str(tmp_path / "runs")]) == 0
    text = capsys.readouterr().out
    for part in ("torch ", "own packages", "memory", "lab cache", "empty; built on first use", "no problem found"):
        assert part in text


def test_problems_are_marked_and_exit_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_gpus(monkeypatch, SMI, cuda=None)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "no-such-folder"))
    assert cli.main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert {f["name"] for f in report["findings"] if f["problem"]} == {"torch build", "data folder"}
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "! torch build" in text and "-> the GPU cannot be used by a CPU build" in text
    assert "2 problems, marked with !" in text


def test_a_driver_older_than_torch_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_gpus(monkeypatch, SMI, cuda="13.0")
    assert [f.name for f in doctor.examine().problems] == ["torch build"]


@pytest.mark.parametrize(
    ("version", "problem"),
    [("5.19.0", ""), ("5.23.1", ""), ("5.24.0", "outside"), ("5.2.0", "outside"), (None, "pip install")],
)
def test_packages_against_their_range(version: str | None, problem: str) -> None:
    finding = doctor.package_finding(Requirement("transformers>=5.19,<5.24"), version)
    assert (problem in finding.problem) if problem else finding.problem == ""


def test_local_versions_count_as_their_release() -> None:
    assert doctor.package_finding(Requirement("torch>=2.13"), "2.13.0+cpu").problem == ""


def test_a_package_that_shadows_ours_is_a_problem(tmp_path: Path) -> None:
    import sys

    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "__init__.py").write_text("")
    code = "import harness.checks.doctor as d, sys\n"
    code += f"sys.path.insert(0, {str(tmp_path)!r})\nprint([f.value for f in d.examine().problems])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"results is {tmp_path / 'results'}" in done.stdout


def _problems(config: RunConfig) -> list[Problem]:
    return prerequisites.check_prerequisites(config, assemble(config).stages)


def test_weights_count_only_when_complete(tmp_path: Path) -> None:
    _cache_model(tmp_path, "Qwen/Qwen3-8B")
    _cache_model(tmp_path, "Qwen/Qwen3-4B", complete=False)
    assert machine.cached_model("Qwen/Qwen3-8B") is not None
    assert machine.cached_model("Qwen/Qwen3-4B") is None
    assert machine.cached_model("Qwen/Qwen3-8B", "other-revision") is None


def test_a_lab_run_lacks_nothing(tmp_path: Path) -> None:
    assert _problems(_config(tmp_path, target="nano")) == []


def test_a_large_run_says_all_that_it_needs_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _with_gpus(monkeypatch, None)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "--method", "optimsyn", "--target", "qwen3-8b"]) == 2
    said = capsys.readouterr().err
    assert "weights of the target, Qwen/Qwen3-8B-Base: 16.4 GB needed" in said
    assert "weights of the writer, Qwen/Qwen3-8B: 16.4 GB needed" in said
    assert "Qwen3-235B-A22B-Instruct-2507: 470 GB needed" in said
    assert "hf download Qwen/Qwen3-8B-Base" in said
    config = _config(tmp_path)
    peak = max(load.bytes for load in loads(config, assemble(config).stages))
    assert peak > 500e9
    assert f"GPU memory: {gigabytes(peak)} on one GPU in GRPO" in said and "no GPU here" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_large_enough_satisfies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B"):
        _cache_model(tmp_path, model)
    monkeypatch.setattr(machine, "disk_free", lambda path: 10**13)
    sets = {"models.generator.id": "Qwen/Qwen3-8B", "synthesis.shard_size": 16}
    static = _config(tmp_path, method="static", sets=sets)
    _with_gpus(monkeypatch, SMI)
    assert _problems(static) == []
    _with_gpus(monkeypatch, "0, GPU-aa, NVIDIA T4, 15360, 15000\n")
    (problem,) = _problems(static)
    assert problem.what == "GPU memory" and "NVIDIA T4 with 15.7 GB free" in problem.have
    _with_gpus(monkeypatch, SMI, cuda=None)
    (problem,) = _problems(static)
    assert "CPU build of torch" in problem.have


def test_small_models_are_checked_against_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B-Base"):
        _cache_model(tmp_path, model)
    sets: dict[str, Any] = {f"models.{role}.id": "Qwen/Qwen3-0.6B" for role in ("target", "writer", "generator")}
    monkeypatch.setattr(machine, "memory", lambda: (64 << 30, 64 << 30))
    (problem,) = _problems(_config(tmp_path, method="static", sets=sets))
    assert "lower synthesis.shard_size" in problem.fix
    config = _config(tmp_path, method="static", sets=sets | {"synthesis.shard_size": 16})
    assert _problems(config) == []
    monkeypatch.setattr(machine, "memory", lambda: (8 << 30, 1 << 30))
    (problem,) = _problems(config)
    assert problem.what == "memory" and problem.have == "1.1 GB free"


def test_disk_and_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path, target="nano")
    monkeypatch.setattr(machine, "disk_free", lambda path: 1000)
    monkeypatch.setattr(machine, "writable", lambda path: False)
    problems = _problems(config)
    assert [p.what.split()[0] for p in problems] == ["runs", "disk"]
    with pytest.raises(PrerequisiteError, match="nothing was started"):
        prerequisites.require_prerequisites(config, assemble(config).stages)


def test_a_model_folder_without_weights(tmp_path: Path) -> None:
    config = _config(tmp_path, target="nano", sets={"models.writer.id": str(tmp_path / "no-model")})
    (problem,) = _problems(config)
    assert "weights of the writer" in problem.what and problem.fix == "correct the path"


def test_offline_data_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path)
    named = [p for p in _problems(config) if p.what.startswith("data of")]
    assert named == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    named = [p for p in _problems(config) if p.what.startswith("data of")]
    assert "epfl-llm/guidelines" in {p.need for p in named}
    (tmp_path / "hf" / "hub" / "datasets--epfl-llm--guidelines").mkdir(parents=True)
    named = [p for p in _problems(config) if p.what.startswith("data of")]
    assert "epfl-llm/guidelines" not in {p.need for p in named}


def test_a_seed_file_that_is_not_there(tmp_path: Path) -> None:
    config = _config(tmp_path, seeds=str(tmp_path / "no.jsonl"))
    with pytest.raises(InputError, match="does not exist"):
        _problems(config)
