"""Calibration: which runs it asks for, and what it makes of their records."""

from __future__ import annotations

from typing import Any

import pytest

from harness.cli.lab import _arm
from harness.cli.main import main
from harness.errors import ConfigError, StageError
from harness.experiments import calibrate as module
from harness.experiments.calibrate import ARMS, calibrate
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from results.calibration import CalibrationRow

ASKED = {"static": 0.4, "grpo × oracle": 0.7, "grpo × random": 0.41}


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, int]]:
    """Calibration without its runs; returns the signal and world of each that it asks for."""
    calls: list[tuple[str | None, int]] = []
    monkeypatch.setattr(module, "_run", lambda arm, world, scale, runs: calls.append((arm.signal, world)))

    def row(name: str, world: int, record: Any, runs: str) -> CalibrationRow:
        return CalibrationRow(name, world, {"lab_asked": ASKED[name] + world / 1000}, 0.5, 1.0)

    monkeypatch.setattr(module, "_row", row)
    monkeypatch.setattr(module, "_learning", lambda work, records, runs: "")
    return calls


def test_static_is_always_there_and_an_arm_may_have_its_own_worlds(asked_for: list[tuple[str | None, int]]) -> None:
    arms = dict(map(_arm, ["grpo × oracle", "grpo × random@1-2"]))
    text = calibrate([1, 2, 3], arms=arms)
    assert sorted(asked_for, key=str) == sorted(
        [(None, 1), (None, 2), (None, 3), ("oracle", 1), ("oracle", 2), ("oracle", 3), ("random", 1), ("random", 2)],
        key=str,
    )
    (line,) = [line for line in text.splitlines() if line.startswith("| grpo × random ")][:1]
    assert line.split("|")[2].strip() == "2"


@pytest.mark.parametrize("cross", [" × ", "×", " x ", " X ", "*", "  ×"])
def test_any_cross_names_an_arm(asked_for: list[tuple[str | None, int]], cross: str) -> None:
    calibrate([1], arms=dict([_arm(f"grpo{cross}oracle@1")]))
    assert sorted(asked_for, key=str) == [("oracle", 1), (None, 1)]


def test_an_unknown_arm_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'grpo × oracle'"):
        calibrate([1], arms={"grpo × oracel": None})


def test_the_first_failing_run_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def run(arm: Any, world: int, scale: str, runs: str) -> None:
        started.append(world)
        raise StageError("this run failed")

    monkeypatch.setattr(module, "_run", run)
    with pytest.raises(StageError, match="this run failed"):
        calibrate(range(100), arms={"static": None})
    assert len(started) < 100


def test_all_arms_name_drivers_and_signals_that_exist() -> None:
    from harness import plugins

    signals = (None, *plugins.names(plugins.SIGNALS))
    assert all(arm.driver in plugins.names(plugins.DRIVERS) and arm.signal in signals for arm in ARMS.values())


def test_jobs_are_a_number_from_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "calibrate", "--worlds", "0", "--jobs", "0"]) == 2
    assert "--jobs 0: give a number from 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ARMS)
def test_arms_without_a_method_are_the_committed_ones(name: str) -> None:
    """Stage by stage what method `optimsyn` lays out under the arm's driver and signal, as it was calibrated."""
    arm = ARMS[name]
    common = {"driver": arm.driver, "signal": arm.signal, "target": "nano"}
    own = assemble(resolve_run(**common, sets=dict(arm.sets)).config).stages
    under = assemble(resolve_run(method="optimsyn", **common).config).stages
    assert [stage.identity for stage in own] == [stage.identity for stage in under]
