"""The registry of what there is to run, by name: methods, drivers, signals and targets, read from their declarations.

Nothing heavy is imported, so that listings and `--help` are quick; a name that does not exist is answered with the
nearest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import plugins
from harness.errors import ConfigError, HarnessError, suggest

_TARGETS = Path(__file__).parents[1] / "targets"


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """A named pairing of driver and signal with its published defaults; a nameless one has no folder."""

    name: str
    summary: str
    driver: str
    signal: str
    preset: str | None
    presets: tuple[str, ...]
    folder: Path | None
    settings: Mapping[str, Any]
    route: str = "rubric"


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """A target with its suite, its sizes (`scales`), and what changes inside and outside the lab.

    `replicates` is how many runs of each arm a comparison on it is planned with.
    """

    name: str
    summary: str
    suite: str
    default_scale: str
    scales: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    lab: Mapping[str, Any] | None
    rehearsal: Mapping[str, Any] | None
    replicates: int = 3


def methods() -> dict[str, MethodInfo]:
    """All methods by name, without those whose declaration cannot be used."""
    return {name: info for name, info in _methods().items() if isinstance(info, MethodInfo)}


def unusable_methods() -> list[str]:
    """One line for each method that is installed and cannot be used."""
    return [str(fault) for fault in _methods().values() if isinstance(fault, HarnessError)]


def find_method(name: str) -> MethodInfo:
    """The method called `name`. Raises `ConfigError` with the nearest name, or with what is wrong with it."""
    entry = plugins.find(plugins.METHODS, name)
    path = plugins.resource(entry)
    value = _read(path)
    known = {"summary": str, "driver": str, "signal": str, "settings": dict}
    for key, kind in known.items():
        if not isinstance(value, dict) or not isinstance(value.get(key), kind):
            raise ConfigError(f"method '{name}' ({entry.source}) must set '{key}' in {path}; repair the package")
    presets = tuple(sorted(p.stem for p in path.parent.glob("presets/*.yaml")))
    return MethodInfo(
        name=name,
        summary=value["summary"],
        driver=value["driver"],
        signal=value["signal"],
        preset=value.get("preset"),
        presets=presets,
        folder=path.parent,
        settings=value["settings"],
        route=value.get("route", "rubric"),
    )


def _methods() -> dict[str, MethodInfo | HarnessError]:
    found: dict[str, MethodInfo | HarnessError] = {}
    for name in plugins.names(plugins.METHODS):
        try:
            found[name] = find_method(name)
        except HarnessError as error:
            found[name] = error
    return found


def targets() -> dict[str, TargetInfo]:
    """The targets that come with all their settings, called tracks: the files of `harness/targets/`."""
    found = {}
    for path in sorted(_TARGETS.glob("*.yaml")):
        value = _read(path)
        found[path.stem] = TargetInfo(
            name=path.stem,
            summary=value["summary"],
            suite=value["suite"],
            default_scale=value["default_scale"],
            scales=value["scales"],
            settings=value["settings"],
            lab=value.get("lab"),
            rehearsal=value.get("rehearsal"),
            replicates=value["replicates"],
        )
    return found


def lookup(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """`known[name]`, or a `ConfigError` with the nearest known name."""
    if name not in known:
        raise ConfigError(f"there is no {kind} '{name}'{suggest(name, known)}")
    return known[name]


def preset_settings(method: MethodInfo, name: str) -> Mapping[str, Any]:
    """The settings of a method's preset."""
    if method.folder is None or name not in method.presets:
        raise ConfigError(f"method '{method.name}' has no preset '{name}'{suggest(name, method.presets)}")
    return _read(method.folder / "presets" / f"{name}.yaml")


def _read(path: Path) -> dict[str, Any]:
    from harness.yaml_text import read_yaml

    value: dict[str, Any] = read_yaml(path, "the declaration")
    return value
