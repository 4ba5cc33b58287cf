"""A plan as text in 100 columns: what it means, stages and cost, memory, deviations, settings, what is missing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from harness import plugins
from harness.config import RunConfig
from harness.costs.estimator import SURVIVE
from harness.costs.lengths import lengths
from harness.devices import BANDWIDTH_SHARE, COMPUTE_SHARE, REFERENCE
from harness.estimate import gigabytes
from harness.planning.plan import PlanReport, ResolvedSetting
from harness.resolve.registry import find_method
from harness.screen import WIDTH, rough_duration


def render_plan(plan: PlanReport) -> str:
    """The whole plan."""
    sections = (
        _head(plan),
        _stages(plan),
        _memory(plan),
        _devices(plan),
        _detectable(plan),
        _deviations(plan),
        _settings(plan),
        _missing(plan),
    )
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _pairing(c: RunConfig) -> str:
    """Driver and signal, by the method's name where they are its own; one without a method is called by its driver."""
    pairing = f"{c.driver.name} x {c.signal.name}"
    if c.method not in plugins.names(plugins.METHODS):
        return pairing
    method = find_method(c.method)
    if (method.driver, method.signal) != (c.driver.name, c.signal.name):
        return f"{pairing}, other settings of method {c.method}"
    return pairing if c.method == c.driver.name else f"{c.method} = {pairing}"


def _head(plan: PlanReport) -> list[str]:
    c = plan.config
    preset = f", preset {c.preset}" if c.preset else ""
    scale = f", scale {c.scale}" if c.scale else ""
    lines = [f"{_pairing(c)}{preset}; target {c.target}{scale}", ""]
    for name, value in plan.meaning:
        lines += textwrap.wrap(value, WIDTH, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14)
    if plan.problems:
        lines.append(f"  {'missing':<12}{len(plan.problems)} things that this run needs; they are listed at the end")
    return lines


def _stages(plan: PlanReport) -> list[str]:
    rows = [("", "stage", "rows", "kept", "tokens in", "out", "FLOPs", "time", "")]
    total = [0, 0, 0.0, 0.0]
    known = True
    for line in plan.stages:
        cost = line.cost
        mark = "=" if line.stored else " "
        if cost is None:
            known = known and line.stored
            rows.append((mark, line.name, "?", "?", "?", "?", "?", "?", "depends on what is not known in advance"))
            continue
        if not line.stored:
            total = [total[0] + cost.tokens_in, total[1] + cost.tokens_out, total[2] + cost.flops, total[3]]
            known = known and cost.seconds is not None
            total[3] += cost.seconds or 0.0
        rows.append(
            (
                mark,
                line.name,
                short_count(cost.rows),
                short_count(cost.out),
                short_count(cost.tokens_in),
                short_count(cost.tokens_out),
                f"{cost.flops:.1e}" if cost.flops else "-",
                rough_duration(cost.seconds) if cost.seconds is not None else "?",
                cost.note,
            )
        )
    at_least = "" if known else ">= "
    rows.append(
        (
            "",
            "to do",
            "",
            "",
            short_count(int(total[0])),
            short_count(int(total[1])),
            f"{total[2]:.1e}" if total[2] else "-",
            at_least + rough_duration(total[3]),
            "",
        )
    )
    widths = [max(len(row[i]) for row in rows) for i in range(8)]
    lines = ["Stages (estimates; nothing is run)"]
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in zip(row[2:8], widths[2:], strict=True)]
        left = "  " + " ".join(cells[:2]) + "  " + "  ".join(cells[2:])
        lines.append(_fit(left, row[8]))
    if any(line.stored for line in plan.stages):
        lines.append("  = is in the store already and is reused")
    return [*lines, *_basis(plan)]


def _fit(left: str, note: str) -> str:
    room = WIDTH - len(left) - 2
    if len(note) > room:
        note = note[: max(0, room - 4)].rstrip(" ,") + " ..."
    return f"{left}  {note}".rstrip()


def _basis(plan: PlanReport) -> list[str]:
    lab = plan.config.models.target.id.startswith("lab:")
    sizes = lengths(plan.config)
    time = "time from rough rates of two short runs on one processor core"
    if plan.here:
        time = f"time is on this machine, {plan.here.basis}"
    elif not lab:
        device = f"one {REFERENCE.name} ({REFERENCE.peak / 1e12:.0f} TFLOP/s, {REFERENCE.bandwidth / 1e12:.2f} TB/s)"
        shares = f"{COMPUTE_SHARE:.0%} of its peak, and in decoding {BANDWIDTH_SHARE:.0%} of its bandwidth"
        time = f"time is on {device} at {shares}, which are assumptions and were not measured"
        models = plan.config.models
        if any(models.of(role).base_url for role in plan.config.route_roles):
            time += "; that of endpoints, and waiting for them, is left out"
    route: Any = plan.config.route.plugin
    calls = [f"{call.role} {call.prompt:,} to {call.completion:,}" for call in route.calls(sizes)]
    asked = f", from prompt to output of the {', '.join(calls)}" if calls else ""
    text = (
        f"Basis, in tokens: a document of {sizes.document}, a pair of {sizes.pair}{asked}; "
        f"{SURVIVE:.0%} of draws assumed to survive the checks; {time}."
    )
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _memory(plan: PlanReport) -> list[str]:
    if not plan.loads:
        return []
    peak = max(plan.loads, key=lambda load: load.bytes)
    lines = [f"Memory for models (most: {gigabytes(peak.bytes)} in {peak.name}; all of one line is loaded together)"]
    for load in plan.loads:
        detail = " + ".join(f"{p.role} {p.what} {gigabytes(p.bytes)}" for p in load.parts)
        if plan.here and load.bytes > plan.here.device.memory:
            detail += f": MORE than the {gigabytes(plan.here.device.memory)} of this machine"
        head = f"  {load.name:<12} {gigabytes(load.bytes):>8}  "
        lines += textwrap.wrap(detail, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return lines


def _devices(plan: PlanReport) -> list[str]:
    """Tokens by model, then hours and memory by class of device; for the lab's tiny models only the tokens."""
    rows = [f"{role} {short_count(t[0])} in, {short_count(t[1])} out" for role, t in plan.tokens.items()]
    usd = "not known (a model at an endpoint has no price in the settings)" if plan.usd is None else f"{plan.usd:,.2f}"
    lines = ["What that adds up to"]
    lines += textwrap.wrap(f"tokens: {'; '.join(rows)}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    lines.append(f"  endpoints, in dollars: {usd}; an hour of a device has no price here")
    if not plan.config.models.target.id.startswith("lab:"):
        lines.append(f"  {'device':<13}{'device hours':>13}{'devices':>9}{'memory on each':>16}")
        for d in plan.devices:
            hours = "?" if d.hours is None else f"{d.hours:,.1f}" if d.hours >= 0.05 else "<0.1"
            note = "" if d.fits_one else "  the largest part does not fit on one"
            lines.append(f"  {d.name:<13}{hours:>13}{d.devices:>9}{gigabytes(d.per_device):>16}{note}")
        for text in _divided(plan):
            lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    for p in plan.published:
        theirs, here = (f"{x:,.0f}" if x and x >= 100 else f"{x:.2g}" for x in (p.theirs, p.here or 0.0))
        here = "not estimated" if p.here is None else here
        text = f"published: {p.what}, {theirs} {p.unit}; here {here} ({p.basis})"
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return lines


def _divided(plan: PlanReport) -> list[str]:
    """The loads that do not fit on one device of the reference class, each with the scheme that divides it."""
    found: dict[tuple[str, str], str] = {}
    for load in plan.loads:
        for part in load.parts:
            devices = REFERENCE.needed(part.bytes)
            if devices == 1:
                continue
            size = f"{gigabytes(part.bytes)}: {devices} x {REFERENCE.name}"
            found[part.role, part.what] = f"{part.role} {part.what} ({load.name}), {size}, {part.divided}"
    return [*found.values(), f"every other part fits on one {REFERENCE.name} by itself"] if found else []


def _detectable(plan: PlanReport) -> list[str]:
    d = plan.detectable
    lines = [f"What {d.replicates} runs of each arm could show"]
    if d.points is None:
        text = "nothing: a difference between arms needs at least two runs of each, and a suite of known size"
    else:
        source = "measured on lab worlds of six classes" if plan.config.suite == "lab" else "assumed, not measured"
        text = (
            f"a difference of {d.points:.1f} points in the mean of {d.columns} unguided columns ({d.items:,} items) is "
            f"found in 80 % of cases at a level of 5 %, for one comparison; runs of an arm differ by a standard "
            f"deviation of {d.run_sd} points ({source})"
        )
    return [*lines, *textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")]


def _deviations(plan: PlanReport) -> list[str]:
    if not plan.deviations and not plan.notes:
        return []
    lines = ["Where this run leaves the paper or its released code"]
    if plan.deviations:
        rows = [("setting", "here", "paper", "code", "set by")]
        rows += [(d.key, _cell(d.here), _cell(d.paper), _cell(d.code), d.layer) for d in plan.deviations]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        notes = ["", *[d.note for d in plan.deviations]]
        for row, note in zip(rows, notes, strict=True):
            lines.append("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            lines += textwrap.wrap(note, WIDTH, initial_indent="      ", subsequent_indent="      ")
    for note in plan.notes:
        lines += textwrap.wrap(note, WIDTH, initial_indent="  * ", subsequent_indent="    ")
    return lines


def _settings(plan: PlanReport) -> list[str]:
    lines = ["Settings, by the layer that set them (override any with --set KEY=VALUE)"]
    sections: dict[str, list[ResolvedSetting]] = {}
    for setting in plan.settings:
        sections.setdefault(setting.key.split(".")[0] if "." in setting.key else "run", []).append(setting)
    for section, settings in sections.items():
        lines.append(f"  {section}")
        layers: dict[str, list[str]] = {}
        for s in settings:
            layers.setdefault(s.layer, []).append(f"{s.key.removeprefix(section + '.')}={show(s.value)}")
        for layer, values in layers.items():
            # A setting stays on one line: its spaces are hidden from the wrapping.
            text = "  ".join(value.replace(" ", "\0").replace("-", "\1") for value in values)
            head = f"    {layer + ':':<24}"
            wrapped = textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * 28)
            lines += [line.replace("\0", " ").replace("\1", "-") for line in wrapped]
    return lines


def _missing(plan: PlanReport) -> list[str]:
    if not plan.problems:
        return ["Nothing is missing: this machine can start the run."]
    lines = ["Missing on this machine (the run would stop at once, at the first of these)"]
    for problem in plan.problems:
        lines += textwrap.wrap(str(problem), WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return lines


def _cell(value: Any) -> str:
    """A value in a narrow column: a hub id loses its owner, and what is still too long its end."""
    text = show(value)
    name = text.split("/")[-1]
    return name if len(name) <= 18 else name[:15] + "..."


def show(value: Any) -> str:
    """A setting's value, as one would write it; `-` for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(show(v) for v in value)
    return str(value) if value != "" else "''"


def short_count(value: int | None) -> str:
    """A number in few characters; `-` for none or nothing."""
    if not value:
        return "-"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,}"
