"""Figures of results, drawn with matplotlib's file backend so that no display is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.shards import replace_into

if TYPE_CHECKING:
    from results.calibration import Calibration, CalibrationRow


def plot_calibration(calibration: Calibration, rows: Sequence[CalibrationRow], path: Path) -> None:
    """Each arm's difference to the reference in the primary column: a dot a world, the mean and its 95 % interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    primary = calibration.primary
    reference = {row.world: row.columns[primary] for row in rows if row.arm == calibration.reference}
    arms = sorted(calibration.differences, key=lambda arm: calibration.differences[arm][primary].mean)
    figure = Figure(figsize=(7.5, 1.4 + 0.42 * len(arms)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axvline(0, color="0.5", linewidth=1)
    for y, arm in enumerate(arms):
        points = [r for r in rows if r.arm == arm and r.world in reference]
        values = [100 * (r.columns[primary] - reference[r.world]) for r in points]
        axes.plot(
            values, [y] * len(values), "o", color="0.45", markersize=4, zorder=3, label="one world" if y == 0 else None
        )
        d = calibration.differences[arm][primary]
        if d.low is not None and d.high is not None:
            axes.plot([100 * d.low, 100 * d.high], [y, y], color="C0", linewidth=2)
        label = "mean, 95 % interval" if y == 0 else None
        axes.plot([100 * d.mean], [y], "D", color="C0", markersize=6, label=label)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(-0.6, len(arms) - 0.4)
    axes.set_xlabel(f"{primary}: points above {calibration.reference}, same world")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    replace_into(path, lambda p: figure.savefig(p, dpi=120, format="png"))
