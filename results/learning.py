"""The picture of a GRPO stage: raw score, reward, validity, and question types where rubrics name them, by step.

The raw score stands beside the reward because the reward is rescaled at every step and cannot show progress.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NEEDED = frozenset({"step", "value", "withheld", "reward", "reason", "question_type"})
"""Columns of the rollouts that the picture is of."""


def plot_learning(rows: Sequence[Mapping[str, Any]], signal: str, path: Path) -> None:
    """Write the plot of rollout rows (`step`, `value`, `withheld`, `reward`, `reason`, `question_type`) to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd

    table = pd.DataFrame(rows)
    table["valid"] = (table["reason"] == "").astype(float)
    steps = table.groupby("step")
    # Routes without rubrics, and rubrics of small models, name no type of question.
    typed = bool((table["question_type"] != "").any())
    figure, axes = plt.subplots(1, 2 + typed, figsize=(13 if typed else 9, 3.6), layout="constrained")
    _line(axes[0], steps["value"].mean(), f"mean raw {signal}", "C0")
    if table["withheld"].notna().any():
        _line(axes[0], steps["withheld"].mean(), "on withheld validation items", "C1")
    axes[0].set_title(f"raw {signal} of valid pairs")
    _line(axes[1], steps["reward"].mean(), "mean reward", "C2")
    _line(axes[1], steps["valid"].mean(), "share of valid pairs", "C3")
    axes[1].set_title("reward (rescaled every step) and validity")
    for axis in axes[:2]:
        axis.legend(fontsize=8, loc="best")
    if typed:
        _types(axes[2], table)
    for axis in axes:
        axis.set_xlabel("rollout batch")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _types(axis: Any, table: Any) -> None:
    types = table.assign(question_type=table["question_type"].replace("", "none"))
    mix = types.groupby(["step", "question_type"]).size().unstack(fill_value=0)
    mix = mix.div(mix.sum(axis=1), axis=0)
    axis.stackplot(mix.index, mix.T.to_numpy(), labels=list(mix.columns), alpha=0.8)
    axis.set_title("question types")
    axis.set_ylim(0, 1)
    # The areas fill the axes, so their names stand beside them, in the order in which they are stacked.
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True, frameon=False)


def _line(axis: Any, series: Any, label: str, colour: str) -> None:
    axis.plot(series.index, series.to_numpy(), color=colour, alpha=0.35, linewidth=1)
    smooth = series.rolling(max(1, len(series) // 8), min_periods=1).mean()
    axis.plot(series.index, smooth.to_numpy(), color=colour, linewidth=2, label=label)
