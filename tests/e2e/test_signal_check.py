"""`doctor --signal influence`: the self-check of a target before any run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli.main import main
from support.tiny import make_tiny_model

SHORT = ["--set", "models.target.max_length=16"]
FOREIGN = ["--set", "warmup.lora_modules=[c_attn]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("target"))


def doctor(model: Path, *more: str) -> list[str]:
    options = ["--signal", "influence", "--target", "nano", "--set", f"models.target.id={model}"]
    return ["doctor", *options, "--set", "warmup.lora_rank=4", *more]


def test_every_check_is_printed_and_passes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(doctor(model)) == 0
    out = capsys.readouterr().out
    for name in ("hook coverage", "hooks against autograd", "alone against batched", "compute type vs float32"):
        assert any(line.strip().startswith(name) and "passed" in line for line in out.splitlines())


def test_every_signal_that_reads_the_target_is_checked(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, check, *more in (
        ("loss", "right equals plain"),
        ("local_influence", "hooks against autograd"),
        ("gradient_norm", "hooks against autograd"),
        ("gradient_norm", "gradients not zero", "--set", "signal.upstream=true"),
        ("badge", "logits are the head's own"),
    ):
        assert main(doctor(model, "--signal", name, *more)) == 0
        assert any(line.strip().startswith(check) and "passed" in line for line in capsys.readouterr().out.splitlines())


def test_half_precision_is_compared_with_float32(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(doctor(model, "--set", "models.target.dtype=bfloat16", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    check = next(c for c in found["checks"] if c["name"] == "compute type vs float32")
    assert found["ok"] and 1e-4 < check["measured"] < check["limit"]


def test_a_failing_check_is_an_exit_status(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from methods.signals.target import selfcheck

    monkeypatch.setitem(selfcheck.LIMITS, selfcheck.torch.float32, -1.0)
    assert main(doctor(model)) == 1
    assert "failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--signal", "random", "--target", "nano"], "has no self-check"),
        (["--signal", "influence"], "give both"),
        (
            ["--signal", "influence", "--target", "nano", "--set", "models.target.id=MODEL", *SHORT],
            "models.target.max_length=16 cuts the answers",
        ),
        (
            ["--signal", "influence", "--target", "nano", "--set", "models.target.id=MODEL", *FOREIGN],
            "warmup.lora_modules does not fit",
        ),
        (["--signal", "influence", "--target", "nano", "--set", "models.target.id=/nowhere"], "weights of the target"),
    ],
)
def test_what_cannot_be_checked_gets_one_line(
    arguments: list[str], said: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *(a.replace("=MODEL", f"={model}") for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
