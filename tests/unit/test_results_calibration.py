"""The calibration table: pairing by world, expectations, and the files that it leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import InputError
from results.calibration import PROBABILITY, CalibrationRow, calibration_table
from results.lab_files import write_calibration

STATIC = {100: 0.40, 101: 0.60, 102: 0.50, 103: 0.70, 104: 0.30}


def arm(name: str, shifts: list[float], useful: float | None = None) -> list[CalibrationRow]:
    return [
        CalibrationRow(name, world, {"retained": 0.9, "lab_asked": value + shift}, useful, 60.0)
        for (world, value), shift in zip(STATIC.items(), shifts, strict=False)
    ]


ROWS = [
    *arm("static", [0.0] * 5, 0.25),
    *arm("oracle", [0.2, 0.22, 0.18, 0.2, 0.2], 0.8),
    *arm("anti_oracle", [-0.1, -0.12, -0.08, -0.1, -0.1]),
    *arm("random", [0.01, -0.02, 0.02, -0.01, 0.0]),
]


def test_the_probability_stands_beside_accuracy_with_what_is_averaged() -> None:
    rows = [replace(r, columns={**r.columns, PROBABILITY: r.columns["lab_asked"] / 2}, data_sets=4) for r in ROWS]
    table = calibration_table(rows)
    assert list(table.columns)[:2] == ["lab_asked", PROBABILITY]
    assert table.differences["oracle"][PROBABILITY].mean == pytest.approx(0.1)
    assert "4 data sets" in table.markdown() and "data sets" not in calibration_table(ROWS).markdown()


def test_differences_are_paired_by_world() -> None:
    table = calibration_table(
        ROWS, expected={"oracle": "above", "anti_oracle": "below", "random": "equal", "static": "equal"}
    )
    oracle = table.differences["oracle"]["lab_asked"]
    # Differences .2, .22, .18, .2, .2: sd sqrt(.0002), t(4) = 2.776445.
    assert oracle.mean == pytest.approx(0.2)
    assert oracle.high == pytest.approx(0.2 + 2.776445 * (0.0002 / 5) ** 0.5, abs=1e-6)
    assert [table.met(a) for a in ("oracle", "anti_oracle", "random", "static")] == [True, True, True, None]
    assert table.columns[0] == "lab_asked"
    # The spread over worlds (sd .158) would have hidden all of it without pairing.
    assert table.arms[0].columns["lab_asked"] == (pytest.approx(0.5), pytest.approx(0.158114, abs=1e-5))


def test_expectations_that_fail_are_said_to_fail() -> None:
    table = calibration_table(ROWS, expected={"oracle": "below", "anti_oracle": "equal", "random": "above"})
    assert [table.met(a) for a in ("oracle", "anti_oracle", "random")] == [False, False, False]
    assert " below " in table.markdown() and "| no " in table.markdown()


def test_missing_worlds_pair_what_is_shared() -> None:
    rows = [*ROWS[:5], *arm("oracle", [0.2, 0.3])]
    table = calibration_table(rows)
    assert table.differences["oracle"]["lab_asked"].n == 2
    one = calibration_table([*ROWS[:5], *arm("oracle", [0.2])], expected={"oracle": "above"})
    assert one.met("oracle") is None and "+20.0 " in one.markdown()


def test_bad_rows_are_refused() -> None:
    with pytest.raises(InputError, match="two runs in world 100"):
        calibration_table([*ROWS, ROWS[0]])
    with pytest.raises(InputError, match="reference arm 'static'"):
        calibration_table(ROWS[5:])
    with pytest.raises(InputError, match="no column 'x'"):
        calibration_table(ROWS, primary="x")
    with pytest.raises(InputError, match="shares no world"):
        calibration_table([*ROWS[:5], CalibrationRow("oracle", 7, {"lab_asked": 1.0}, None, 1.0)])


def test_files(tmp_path: Path) -> None:
    table = calibration_table(ROWS, expected={"oracle": "above"})
    markdown, values, plot = write_calibration(table, ROWS, tmp_path / "results")
    text = markdown.read_text()
    assert "worlds 100-104" in text and "| oracle " in text and "+20.0 [+18.2, +21.8]" in text
    loaded = json.loads(values.read_text())
    assert loaded["met"] == {"oracle": True} and len(loaded["runs"]) == len(ROWS)
    assert plot.read_bytes().startswith(b"\x89PNG")
