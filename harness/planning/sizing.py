"""The totals of a plan: tokens by model, device hours by class and whether it fits, dollars, the detectable effect.

Hours are for the whole plan on one class of device: operations over a share of its peak plus moved bytes over a share
of its bandwidth (`harness.devices` has both, with their source). They leave out start-up, evaluation by a judge and
waiting; a plan that needs several devices is counted as if it divided evenly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.costs.records import Cost, Load
from harness.devices import DEVICES, device

if TYPE_CHECKING:
    from evals.suite import Suite
    from harness.config import RunConfig
    from harness.planning.speed import MachineSpeed
    from harness.stage import Kind

RUN_SD, LAB_RUN_SD = 1.4, 8.9
"""Standard deviation between runs of one arm, in points. Real targets: assumed, no such runs have been made. Lab: the
arm `static` on the asked column over eight worlds of scale `full` (`results/records/lab-calibration`)."""

ACCURACY, CORRELATION = 0.5, 0.5
"""Assumed accuracy (the one with the largest variance), and correlation of two arms' answers to one item."""


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """One class of device: hours for what is to do (None: a size is unknown), and devices that the largest part takes.

    `per_device` is that part's memory divided over them, in bytes.
    """

    name: str
    hours: float | None
    devices: int
    per_device: int
    fits_one: bool


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest true difference between two arms, in points, that a test at 5 % finds with a power of 80 %."""

    points: float | None
    replicates: int
    items: int
    columns: int
    run_sd: float


@dataclass(frozen=True, slots=True)
class Published:
    """A published figure, and this plan's for the same work, both in `unit`."""

    what: str
    theirs: float
    here: float | None
    basis: str
    unit: str = "device hours"


def tokens_by_model(costs: Sequence[Cost]) -> dict[str, tuple[int, int]]:
    """Tokens in and out by role."""
    total: dict[str, tuple[int, int]] = {}
    for cost in costs:
        for role, (tokens_in, tokens_out) in cost.models.items():
            old = total.get(role, (0, 0))
            total[role] = (old[0] + tokens_in, old[1] + tokens_out)
    return total


def dollars(costs: Sequence[Cost]) -> float | None:
    """The price that endpoints charge for `costs`; None where a price is not known. Devices have no price here."""
    known = [cost.usd for cost in costs if cost.models]
    return None if any(usd is None for usd in known) else sum(usd for usd in known if usd is not None)


def device_lines(
    costs: Sequence[Cost | None], loads: Sequence[Load], here: MachineSpeed | None = None
) -> tuple[DeviceLine, ...]:
    """Hours and memory by class of device; first of this machine, where it was measured."""
    peak = max((load.bytes for load in loads), default=0)
    known = all(cost is not None and cost.seconds is not None for cost in costs)
    compute = sum(cost.compute for cost in costs if cost)
    moved = sum(cost.moved for cost in costs if cost)
    lines = []
    for kind in [*([here.device] if here else []), *DEVICES]:
        count = kind.needed(peak)
        hours = kind.seconds(compute, moved) / 3600 if known else None
        lines.append(
            DeviceLine(name=kind.name, hours=hours, devices=count, per_device=peak // count, fits_one=count == 1)
        )
    return tuple(lines)


def detectable(config: RunConfig, suite: Suite, guided: Sequence[str], replicates: int) -> Detectable:
    """The smallest detectable difference of two arms in the mean over measured, unguided columns.

    Two arms of R runs each, tested with Student's t on 2R - 2 degrees of freedom. The variance of their difference is
    2 s²/R between runs (s: `RUN_SD`) plus the items', which more runs do not average away: the mean over C columns has
    (1/C²) Σ 2 p (1 - p)(1 - r) / n_c (Miller 2024, arXiv 2411.00640, §4.2, paired items with correlation r). The
    difference is that whose noncentral t exceeds the critical value with probability 0.8 (Cohen 1988, ch. 2).
    """
    lab = config.suite == "lab"
    limit = config.eval.limit
    counts = []
    for benchmark in suite.benchmarks:
        if benchmark.scorer != "lm_eval" or (benchmark.id in guided and not lab):
            continue
        count = benchmark.rows.expected_count or (config.lab.test_items if config.lab else 0)
        counts.append(min(count, limit or count))
    counts = [n for n in counts if n]
    sd = LAB_RUN_SD if lab else RUN_SD
    if replicates < 2 or not counts:
        return Detectable(points=None, replicates=replicates, items=sum(counts), columns=len(counts), run_sd=sd)
    items = sum(2 * ACCURACY * (1 - ACCURACY) * (1 - CORRELATION) / n for n in counts) / len(counts) ** 2
    error = (2 * sd**2 / replicates + 1e4 * items) ** 0.5
    return Detectable(
        points=error * _noncentral(2 * replicates - 2),
        replicates=replicates,
        items=sum(counts),
        columns=len(counts),
        run_sd=sd,
    )


def _noncentral(df: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The noncentrality at which a two-sided t test of level `alpha` has the power; its other tail is left out."""
    # scipy.stats has the same functions, and takes most of a second to import.
    from scipy.special import nctdtrinc, stdtrit

    return float(nctdtrinc(df, 1 - power, stdtrit(df, 1 - alpha / 2)))


def published(entries: Sequence[Mapping[str, Any]], costs: Mapping[Kind | str, Cost]) -> list[Published]:
    """The method's published costs beside this plan's.

    Device hours of a kind of stage are brought to the same number of samples; seconds of a row are those of a named
    stage. `costs` has both kinds and names.
    """
    found = []
    for entry in entries:
        if "seconds" in entry:
            found.append(_a_row(entry, costs.get(entry["stage"])))
            continue
        kind, theirs = device(entry["device"]), float(entry["devices"]) * float(entry["hours"])
        cost = costs.get(entry["kind"])
        here, basis = None, "not estimated here"
        if cost is not None and cost.rows and cost.seconds is not None:
            samples = cost.rows / cost.group
            here = kind.seconds(cost.compute, cost.moved) / 3600 * entry["samples"] / samples
            basis = (
                f"this plan's {entry['kind']} of {samples:,.0f} documents, brought to {entry['samples']:,}; models "
                "that a server elsewhere answers for are left out, and so is all waiting"
            )
        what = f"{entry['what']}: {entry['devices']} x {kind.name} for {entry['hours']} h"
        found.append(Published(what, theirs, here, basis))
    return found


def _a_row(entry: Mapping[str, Any], cost: Cost | None) -> Published:
    """A published time of one row, on hardware that its source does not compare with any."""
    here = cost.seconds / cost.rows if cost is not None and cost.rows and cost.seconds is not None else None
    return Published(
        what=entry["what"],
        theirs=float(entry["seconds"]),
        here=here,
        basis=f"this plan's time of stage {entry['stage']} over its rows",
        unit="seconds a row",
    )
