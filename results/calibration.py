"""Does the bench tell a good signal from a bad one? Arms of known worth in several lab worlds, as one table.

An arm is run once in every world, and arms are compared within worlds: worlds differ far more from each other than arms
do. The unit is the run, so the interval carries everything that a new world and a new seed would change. Gives up:
intervals are per arm and unadjusted (Holm-adjusted p-values stand beside them), and "covers zero" is no proof of
equality: the width of the interval says what could have been seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from harness.errors import InputError
from results.statistics import SKEW_NOTE, Difference, holm, mean_sd, paired_difference
from results.text import markdown_table, percent, whole_ranges

Expectation = Literal["above", "below", "equal"]
"""Where an arm's interval should lie: above zero, below zero, or covering it."""


PRIMARY, PROBABILITY = "lab_asked", "p of lab_asked"
"""The column that expectations are of, and the mean probability of the right choice in it."""


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """One arm in one world: accuracies in [0, 1] by column, the share of useful pairs (None: unknown), a run's seconds.

    The numbers are means over `data_sets` data sets, which were drawn from one writer where the arm trains one.
    """

    arm: str
    world: int
    columns: Mapping[str, float]
    useful_share: float | None
    seconds: float
    data_sets: int = 1


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """An arm over its worlds: mean and standard deviation by column, and of the share of useful pairs."""

    arm: str
    worlds: Sequence[int]
    columns: Mapping[str, tuple[float, float | None]]
    useful_share: tuple[float, float | None] | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """All arms, their differences to the reference by column, and what was expected of them in the primary column.

    `holm_p` adjusts the p-values of the primary column over all arms. `data_sets` are those of every arm in a world.
    """

    reference: str
    primary: str
    columns: Sequence[str]
    arms: Sequence[ArmSummary]
    differences: Mapping[str, Mapping[str, Difference]]
    holm_p: Mapping[str, float]
    expected: Mapping[str, Expectation] = field(default_factory=dict)
    data_sets: int = 1

    def met(self, arm: str) -> bool | None:
        """Whether an arm's interval lies where it should; None where nothing was expected or there is no interval."""
        difference = self.differences.get(arm, {}).get(self.primary)
        if arm not in self.expected or difference is None or difference.low is None:
            return None
        side = {"above": difference.mean > 0, "below": difference.mean < 0, "equal": True}[self.expected[arm]]
        return side and difference.excludes_zero == (self.expected[arm] != "equal")

    def to_json(self) -> dict[str, Any]:
        """The table as plain values."""
        return {**asdict(self), "met": {arm: self.met(arm) for arm in self.expected}}

    def markdown(self) -> str:
        """The table as Markdown: accuracies, then differences to the reference."""
        return render_calibration(self)


def calibration_table(
    rows: Sequence[CalibrationRow],
    *,
    reference: str = "static",
    primary: str = PRIMARY,
    expected: Mapping[str, Expectation] | None = None,
) -> Calibration:
    """Summarise runs of several arms in several worlds, paired by world against `reference`.

    Raises `InputError` for a number that is not finite, an arm that ran twice in a world, a missing reference arm or
    primary column, and an arm that shares no world with the reference.
    """
    by_arm: dict[str, dict[int, CalibrationRow]] = {}
    for row in rows:
        measured = {**row.columns, "useful share": row.useful_share, "seconds": row.seconds}
        for name, value in measured.items():
            if value is not None and not math.isfinite(value):
                where = f"the run of arm '{row.arm}' in world {row.world}"
                raise InputError(f"{where} has {value} as '{name}', which is no finite number; run it again")
        worlds = by_arm.setdefault(row.arm, {})
        if row.world in worlds:
            raise InputError(f"arm '{row.arm}' has two runs in world {row.world}; give one run per arm and world")
        if primary not in row.columns:
            raise InputError(f"the run of arm '{row.arm}' in world {row.world} has no column '{primary}'")
        worlds[row.world] = row
    if reference not in by_arm:
        raise InputError(f"no run of the reference arm '{reference}'; run it in the same worlds")
    columns = list(dict.fromkeys(name for row in rows for name in row.columns))
    columns.sort(key=lambda name: (name != primary, name != PROBABILITY))
    base = by_arm[reference]
    differences: dict[str, dict[str, Difference]] = {}
    for arm, runs in by_arm.items():
        if arm == reference:
            continue
        if not runs.keys() & base.keys():
            raise InputError(f"arm '{arm}' shares no world with '{reference}'; run both in the same worlds")
        pairs = {c: (_values(runs, c), _values(base, c)) for c in columns}
        differences[arm] = {c: paired_difference(a, b) for c, (a, b) in pairs.items() if a.keys() & b.keys()}
    p_values = {arm: d[primary].p for arm, d in differences.items()}
    adjusted = holm({arm: p for arm, p in p_values.items() if p is not None})
    summaries = [_summarise(arm, runs, columns) for arm, runs in by_arm.items()]
    return Calibration(
        reference=reference,
        primary=primary,
        columns=columns,
        arms=summaries,
        differences=differences,
        holm_p=adjusted,
        expected=dict(expected or {}),
        data_sets=max(row.data_sets for row in rows),
    )


def _values(runs: Mapping[int, CalibrationRow], column: str) -> dict[int, float]:
    return {world: row.columns[column] for world, row in runs.items() if column in row.columns}


def _summarise(arm: str, runs: Mapping[int, CalibrationRow], columns: Sequence[str]) -> ArmSummary:
    shares = [row.useful_share for row in runs.values() if row.useful_share is not None]
    return ArmSummary(
        arm=arm,
        worlds=sorted(runs),
        columns={c: mean_sd(list(values.values())) for c in columns if (values := _values(runs, c))},
        useful_share=mean_sd(shares) if shares else None,
        seconds=sum(row.seconds for row in runs.values()) / len(runs),
    )


def render_calibration(calibration: Calibration) -> str:
    """Two Markdown tables and how to read them; accuracies and differences in percentage points."""
    c = calibration
    worlds = sorted({world for arm in c.arms for world in arm.worlds})
    lines = [
        f"Accuracy in percent, mean ± standard deviation over runs (one run per world; worlds {whole_ranges(worlds)}).",
        *_means_of(c),
        "",
        *markdown_table(
            ["arm", "runs", *c.columns, "useful pairs", "seconds a run"],
            [
                [
                    arm.arm,
                    str(len(arm.worlds)),
                    *[_mean_sd(arm.columns.get(column)) for column in c.columns],
                    _mean_sd(arm.useful_share),
                    f"{arm.seconds:.0f}",
                ]
                for arm in c.arms
            ],
        ),
        "",
        f"Difference to {c.reference} in points, paired by world, with Student's 95 % interval (runs as units).",
        "",
        *markdown_table(
            ["arm", "pairs", *c.columns, "p (Holm)", "expected", "met"],
            [_difference_row(c, arm.arm) for arm in c.arms if arm.arm in c.differences],
        ),
        "",
        f"Expectations and p-values are for {c.primary}. Intervals are per arm and unadjusted. An interval that",
        "covers zero does not prove equality; its width says how large a difference could have gone unseen.",
        *SKEW_NOTE,
    ]
    return "\n".join(lines) + "\n"


def _means_of(c: Calibration) -> list[str]:
    """What the numbers are means of, and what is beside accuracies."""
    lines = []
    if PROBABILITY in c.columns:
        lines += [f"`{PROBABILITY}`: the mean probability of the right choice among the choices, in percent."]
    if c.data_sets > 1:
        lines += [
            f"Every number of a run is a mean over {c.data_sets} data sets, drawn from one writer where the arm trains",
            "one, each with a fine-tuning of its own; seconds are those of the whole run with the first of them.",
        ]
    return ["", *lines] if lines else []


def _difference_row(c: Calibration, arm: str) -> list[str]:
    differences = c.differences[arm]
    met = c.met(arm)
    p = c.holm_p.get(arm)
    return [
        arm,
        str(differences[c.primary].n),
        *[_interval(differences.get(column)) for column in c.columns],
        "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        c.expected.get(arm, ""),
        "" if met is None else "yes" if met else "no",
    ]


def _mean_sd(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return ""
    return percent(*value)


def _interval(d: Difference | None) -> str:
    if d is None:
        return ""
    mean = percent(d.mean, signed=True)
    if d.low is None or d.high is None:
        return mean
    return f"{mean} [{percent(d.low, signed=True)}, {percent(d.high, signed=True)}]{' skewed' if d.skewed else ''}"
