"""Figures of results, drawn with matplotlib's file backend so that no display is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.shards import replace_into
from results.assessment import KINDS, Assessment
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


def plot_assessment(assessment: Assessment, path: Path) -> None:
    """Left, mean AUC by arm and kind; right, what an arm's highest tilt gave above even drawing, a dot a world."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = list(assessment.arms)
    tuned = bool(assessment.subsets)
    figure = Figure(figsize=(11.5 if tuned else 7, 1.6 + 0.36 * len(arms)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if tuned else 1, squeeze=False, width_ratios=[1, 1] if tuned else None)[0]
    means = [[a.auc[k].mean.mean if k in a.auc else float("nan") for k in KINDS] for a in arms]
    axes[0].imshow(means, vmin=0, vmax=1, cmap="PuOr", aspect="auto")
    for y, row in enumerate(means):
        for x, value in enumerate(row):
            if value == value:
                colour = "white" if abs(value - 0.5) > 0.35 else "black"
                axes[0].text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes[0].set_xticks(range(len(KINDS)), KINDS)
    axes[0].set_yticks(range(len(arms)), [a.arm for a in arms])
    axes[0].tick_params(length=0)
    axes[0].set_title("AUC of useful pairs against each kind", fontsize=10)
    axes[0].spines[:].set_visible(False)
    if tuned:
        _plot_gains(axes[1], assessment)
    replace_into(path, lambda p: figure.savefig(p, dpi=120, format="png"))


def _plot_gains(axes: Any, assessment: Assessment) -> None:
    even = {s.world: s.accuracy for s in assessment.subsets if not s.arm}
    highest = max(s.tilt for s in assessment.subsets)
    axes.axvline(0, color="0.5", linewidth=1)
    for y, arm in enumerate(assessment.arms):
        drawn = [s for s in assessment.subsets if s.arm == arm.arm and s.tilt == highest and s.world in even]
        points = [100 * (s.accuracy - even[s.world]) for s in drawn]
        label = "one world" if y == 0 else None
        axes.plot(points, [y] * len(points), "o", color="0.3", markersize=3, zorder=3, label=label)
        if arm.gain is None:
            continue
        d = arm.gain.mean
        if d.low is not None and d.high is not None:
            axes.plot([100 * d.low, 100 * d.high], [y, y], color="C0", linewidth=2, alpha=0.6)
        axes.plot([100 * d.mean], [y], "D", color="C0", markersize=6, label="mean, 95 % interval" if y == 0 else None)
    axes.set_ylim(len(assessment.arms) - 0.5, -0.5)
    axes.set_yticks(range(len(assessment.arms)), [""] * len(assessment.arms))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("points of accuracy", labelpad=1)
    axes.set_title(f"fine-tuned on pairs of tilt {highest:g}, above evenly drawn pairs", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncol=2, frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
