"""Calibration: which runs it asks for, and what it makes of their records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.cli.lab import _arm
from harness.cli.main import main
from harness.errors import ConfigError, StageError
from harness.experiments import calibrate as module
from harness.experiments.calibrate import ARMS, calibrate, wanted
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.types import WorldId
from results.calibration import PROBABILITY, CalibrationRow
from support.made_runs import make_record

ASKED = {"static": 0.4, "grpo × oracle": 0.7, "grpo × random": 0.41}


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, int]]:
    """Calibration without its runs; returns the signal and world of each that it asks for."""
    calls: list[tuple[str | None, int]] = []
    monkeypatch.setattr(module, "_run", lambda arm, world, scale, runs, count: [calls.append((arm.signal, world))])

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

    def run(arm: Any, world: int, scale: str, runs: str, count: int) -> None:
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


def test_other_data_sets_are_drawn_from_the_first_runs_writer() -> None:
    first, *others = wanted(ARMS["grpo × oracle"], 7, "sharp", "r", 3)
    assert (first.config.driver.name, first.config.signal.name, first.config.seed) == ("grpo", "oracle", 7)
    for other in others:
        assert (other.config.driver.name, other.config.signal.chosen) == ("static", False)
        assert other.config.writer_from == first.name and other.argv[-4:-2] == ["--writer-from", first.name]
    assert len({w.name for w in (first, *others)}) == len({w.config.seed for w in (first, *others)}) == 3
    assert {w.config.lab and w.config.lab.id for w in (first, *others)} == {WorldId(7, 18)}


def test_an_arm_without_a_writer_is_run_anew_for_each_data_set() -> None:
    runs = wanted(ARMS["best_of_n × influence"], 7, "full", "r", 2)
    assert {(w.config.driver.name, w.config.signal.name) for w in runs} == {("best_of_n", "influence")}
    assert {w.config.writer_from for w in runs} == {None} and len({w.name for w in runs}) == 2
    assert runs[0].argv == [
        *("harness", "run", "--driver", "best_of_n", "--target", "nano", "--scale", "full", "--seed", "7"),
        *("--runs", "r", "--signal", "influence", "--set", "lab.world=7"),
    ]


def test_an_arms_scores_are_means_over_its_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {"a": 0.25, "b": 0.75}
    monkeypatch.setattr(module, "_useful_share", lambda record, runs: shares[record.run])
    records = []
    for name, score, p in (("a", [1, 0, 0, 0], 0.3), ("b", [1, 1, 0, 0], 0.4)):
        record = make_record(name, {"lab_asked": score, "lab_related": [1]}, {})
        columns = [replace(c, probability=p) for c in record.columns]
        records.append(replace(record, columns=columns))
    row = module._row("static", 3, records, "runs")
    assert row.columns == pytest.approx({"lab_asked": 0.375, PROBABILITY: 0.35, "lab_related": 1.0})
    assert row.useful_share == 0.5 and row.data_sets == 2
    assert row.seconds == pytest.approx(sum(c.seconds for c in records[0].counts))


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
