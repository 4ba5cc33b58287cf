"""Registered names: signals, drivers, routes, methods, suites and raters, the project's own and anybody else's.

All register in the same entry-point groups. Reading them imports nothing; a class is imported when its name is used.
In a checkout the project's own entries are read from its `pyproject.toml`: what an editable installation noted of them
is as old as the installation. A plug-in that cannot be used is an error of the command that names it, and of no other.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.errors import ConfigError, suggest

SIGNALS, DRIVERS, ROUTES, METHODS, SUITES, RATERS = (
    f"harness.{kind}" for kind in ("signals", "drivers", "routes", "methods", "suites", "raters")
)
GROUPS = (SIGNALS, DRIVERS, ROUTES, METHODS, SUITES, RATERS)
"""The entry-point groups that are read."""

CLASSES = (SIGNALS, DRIVERS, ROUTES)
"""Those whose entries are classes with settings; methods, suites and raters are files."""

_RENAMED = {(DRIVERS, "grpo_rubric"): "grpo"}
"""What a name of an older version is called now."""

OWN = "harness"
"""The name of this project's own distribution."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One registration: its group and name, what it points at, and the package that brings it.

    It points at `module:attribute`, or, for methods, suites and raters, at `package:FILE`.
    """

    group: str
    name: str
    value: str
    package: str

    @property
    def kind(self) -> str:
        """The kind of what it registers, for messages: `signal`, `driver`, ..."""
        return kind_of(self.group)

    @property
    def source(self) -> str:
        """The package that it comes from, for messages."""
        return f"{self.value} of package {self.package}"


def kind_of(group: str) -> str:
    """The word for one member of a group: `signal` for `harness.signals`."""
    return group.removeprefix("harness.").removesuffix("s")


def names(group: str) -> list[str]:
    """The names that are registered in a group, in order of the alphabet."""
    return sorted(_entries()[group])


def find(group: str, name: str) -> Entry:
    """The registration of `name`.

    Raises `ConfigError` with the nearest name where there is none, and where two packages claim the name: which of them
    is meant would be a guess.
    """
    known = _entries()[group]
    if name not in known:
        if new := _RENAMED.get((group, name)):
            raise ConfigError(f"{kind_of(group)} '{name}' is called '{new}' now")
        raise ConfigError(f"there is no {kind_of(group)} '{name}'{suggest(name, known)}")
    first, *others = known[name]
    if others:
        both = " and by ".join(entry.source for entry in (first, *others))
        raise ConfigError(f"{first.kind} '{name}' is registered by {both}; uninstall one of them, or rename its entry")
    return first


def load(entry: Entry) -> Any:
    """The object that an entry points at. Raises `ConfigError` in one line where it cannot be imported."""
    try:
        return EntryPoint(entry.name, entry.value, entry.group).load()
    except (Exception, SystemExit) as error:
        raise _broken(entry, error) from error


def _broken(entry: Entry, error: BaseException) -> ConfigError:
    said = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
    return ConfigError(
        f"{entry.kind} '{entry.name}' ({entry.source}) cannot be imported: {said}; repair or uninstall the package"
    )


def foreign() -> list[Entry]:
    """The registrations of other packages."""
    known = _entries()
    every = [entry for group in GROUPS for same in known[group].values() for entry in same]
    return [entry for entry in every if entry.package.split()[0] != OWN]


def resource(entry: Entry) -> Path:
    """The file of an entry that names one: `package:FILE`, a file in the package's folder.

    Nothing of the package but its parents is imported. Raises `ConfigError` where there is no such file.
    """
    package, _, name = entry.value.partition(":")
    try:
        spec = find_spec(package)
    except (Exception, SystemExit) as error:
        raise _broken(entry, error) from error
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    for folder in folders:
        if name and (folder / name).is_file():
            return folder / name
    raise ConfigError(
        f"{entry.kind} '{entry.name}' ({entry.source}) is no file: its entry must name a package and a YAML file in "
        f"it, such as {package}:{entry.name}.yaml; repair or uninstall the package"
    )


def refresh() -> None:
    """Forget what was read: packages may have come or gone since."""
    _entries.cache_clear()


@cache
def _entries() -> Mapping[str, Mapping[str, tuple[Entry, ...]]]:
    """By group and name the registrations, the project's own first."""
    found: dict[str, dict[str, list[Entry]]] = {group: {} for group in GROUPS}
    own = _checkout()
    registered = [e for group in GROUPS for e in entry_points(group=group)]
    others = [e for e in registered if not (own and e.dist and e.dist.name == OWN)]
    foreign = [Entry(e.group, e.name, e.value, f"{e.dist.name} {e.dist.version}" if e.dist else "?") for e in others]
    for entry in [*own, *sorted(foreign, key=lambda e: (e.package.split()[0] != OWN, e.package, e.name))]:
        found[entry.group].setdefault(entry.name, []).append(entry)
    return MappingProxyType({g: {name: tuple(same) for name, same in known.items()} for g, known in found.items()})


def _checkout() -> list[Entry]:
    """The project's own entries by the `pyproject.toml` beside its packages; none where it is installed without one."""
    path = Path(__file__).parents[1] / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return []
    if project.get("name") != OWN:
        return []
    groups: Mapping[str, Mapping[str, str]] = project.get("entry-points", {})
    return [Entry(group, name, value, OWN) for group in GROUPS for name, value in groups.get(group, {}).items()]
