"""The files that experiments on the lab leave: a table, its values, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from harness.shards import write_json, write_text
from results.assessment import Assessment, render_assessment
from results.calibration import Calibration, CalibrationRow
from results.plots import plot_assessment, plot_calibration


def write_assessment(assessment: Assessment, folder: Path) -> list[Path]:
    """Write `signals.md`, `signals.json` (tables, rankings and subsets) and `signals.png`; returns their paths."""
    paths = [folder / f"signals.{kind}" for kind in ("md", "json", "png")]
    write_text(paths[0], render_assessment(assessment))
    write_json(paths[1], assessment.to_json())
    plot_assessment(assessment, paths[2])
    return paths


def write_calibration(calibration: Calibration, rows: Sequence[CalibrationRow], folder: Path) -> list[Path]:
    """Write `calibration.md`, `calibration.json` (table and single runs) and `calibration.png`; returns their paths."""
    paths = [folder / f"calibration.{kind}" for kind in ("md", "json", "png")]
    write_text(paths[0], calibration.markdown())
    write_json(paths[1], {**calibration.to_json(), "runs": [asdict(row) for row in rows]})
    plot_calibration(calibration, rows, paths[2])
    return paths
