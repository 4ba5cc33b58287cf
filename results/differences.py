"""The differences of runs: every setting, origin, version and input in which they differ, as rows for a table.

Settings are those that a run was created with, resolved (`run.json`). Left out on purpose, and said so: the section
`runtime`, which changes no row (folders, threads, batch sizes of scoring, servers), the ports of local servers, dates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.record import RunRecord
from harness.types import stable_hash
from results.runs import Run
from results.text import shorten

NOT_COMPARED = "Not compared: settings under runtime (where and how fast, which changes no row), ports, dates."

RECORDED: Mapping[str, Callable[[RunRecord], object]] = {
    "method": lambda r: r.method,
    "driver": lambda r: r.driver,
    "signal": lambda r: r.signal,
    "target": lambda r: r.target,
    "suite": lambda r: r.suite,
    "scale": lambda r: r.scale,
    "lab world": lambda r: r.lab_world,
    "data seed": lambda r: r.synth_seed,
    "tuning seed": lambda r: r.sft_seed,
    "budget": lambda r: f"{r.budget:g} {r.match}",
    "reads validation": lambda r: reading(r),
    "made from": lambda r: ", ".join(f"{o.what}: {o.run}" for o in r.upstream) or None,
}
"""What every record says, by the name that the table shows."""

_SAID = (
    *("method", "driver", "signal", "target", "scale", "lab.world"),
    *("seed", "synth_seed", "sft_seed", "budget", "match"),
)
"""Settings that the record's rows show already."""

_OF_SOURCES = ("seeds.", "guide.", "suite", "lab.", "seed", "synth_seed", "models.target.", "models.embedder.")
"""Settings that documents and validation items follow from."""

_WIDTH = 32


def reading(record: RunRecord) -> str:
    """Whether labelled validation items guided the run: by its own signal, by what it is made from, or not."""
    before = [o for o in record.upstream if o.reads_validation]
    itself = record.reads_validation if record.reads_itself is None else record.reads_itself
    if before:
        return "yes, and before" if itself else "before: " + ", ".join(dict.fromkeys(o.what for o in before))
    if itself:
        return "yes"
    return "not known" if any(o.reads_validation is None for o in record.upstream) else "no"


def recorded_rows(records: Sequence[RunRecord | None]) -> tuple[list[str], list[list[str]]]:
    """The settings that complete runs share, as words, and rows of differences, by run; empty where not complete."""
    shared, rows = [], []
    for name, read in RECORDED.items():
        values = [str(value) if (value := read(r)) is not None else "none" for r in records if r is not None]
        if len(set(values)) > 1:
            told = iter(_told_apart(values))
            rows.append([name, *["" if r is None else next(told) for r in records]])
        elif values[0] != "none":
            shared.append(f"{name} {values[0]}")
    return shared, rows


def setting_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Rows of all settings in which the runs differ and that their records do not show, then of versions and inputs."""
    settings = [_flat(run.manifest.get("settings", {})) for run in runs]
    # An incomplete run has no record that would say them.
    said = _SAID if all(run.record for run in runs) else ()
    rows = [[key, *_cells(values)] for key, values in _differing(settings).items() if key not in said]
    rows += [[f"version of {key}", *_cells(v)] for key, v in _differing([_versions(run) for run in runs]).items()]
    rows += [[key, *_cells(values)] for key, values in _differing([_inputs(run) for run in runs]).items()]
    return rows + _other_content(runs, set(_differing(settings)))


def equal_settings(runs: Sequence[Run]) -> tuple[int, int]:
    """The number of settings that are the same in all runs, and of those known of all."""
    settings = [_flat(run.manifest.get("settings", {})) for run in runs]
    known = set.intersection(*map(set, settings))
    return len(known - _differing(settings).keys()), len(known)


def _other_content(runs: Sequence[Run], differing: set[str]) -> list[list[str]]:
    """A row where equal settings name files whose content has changed, or stages of another version."""
    stages = [run.manifest.get("stages", {}) for run in runs]
    names = [name for name in stages[0] if all(name in own for own in stages) and len({s[name] for s in stages}) > 1]
    by_sources = "sources" in names and not any(key.startswith(_OF_SOURCES) for key in differing)
    if not by_sources and (differing or not names):
        return []
    name = "sources" if by_sources else names[0]
    return [[f"content of stage {name}", *_cells([str(own[name]).rpartition("-")[2][:8] for own in stages])]]


def _differing(values: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """By key, the values of all runs where any two differ; a key that a run has not is missing there."""
    keys = dict.fromkeys(key for own in values for key in own)
    found = {key: [own.get(key, _MISSING) if own else _MISSING for own in values] for key in keys}
    return {key: row for key, row in found.items() if len({stable_hash(_plain(v)) for v in row}) > 1}


_MISSING = "(not set)"


def _plain(value: Any) -> Any:
    """A value by which runs are told apart: 1 and 1.0 are one number, `true` is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return value


def _versions(run: Run) -> dict[str, Any]:
    dirty = " with uncommitted changes" if run.manifest.get("git_dirty") else ""
    code = {"harness": str(run.manifest["git_commit"])[:12] + dirty} if run.manifest.get("git_commit") else {}
    return {**code, **dict(run.manifest.get("versions", {}))}


def _inputs(run: Run) -> dict[str, Any]:
    """Content that settings name: weights by role, prompts; and the processor or GPU, whose rounding is its own."""
    models = run.manifest.get("models", {})
    hardware = run.manifest.get("hardware", {})
    machine = ", ".join(hardware.get("gpus", ())) or hardware.get("processor")
    found = {f"weights of {role}": identity for role, identity in models.items() if identity}
    found |= {"prompts": run.manifest["prompts"]} if run.manifest.get("prompts") else {}
    return found | ({"computed on": machine} if machine else {})


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _cells(values: Sequence[Any]) -> list[str]:
    return _told_apart([_shown(value) for value in values])


def _shown(value: Any) -> str:
    if value is None or value == [] or value == {} or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _told_apart(values: Sequence[str]) -> list[str]:
    """Values cut to a column's width; those that would then look alike get a mark of their own."""
    short = [shorten(value, _WIDTH) for value in values]
    alike = {cut for cut in short if len({v for v, s in zip(values, short, strict=True) if s == cut}) > 1}
    return [f"{s} #{stable_hash(v, length=6)}" if s in alike else s for v, s in zip(values, short, strict=True)]
