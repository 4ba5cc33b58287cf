"""Suites by name or path: what is installed, what cannot be used, and a declaration read from its YAML file.

Unknown keys are refused with the nearest known one, and contradictions before anything is computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evals.check import check_suite
from evals.suite import Benchmark, Rows, Source, Suite, Template, ValidationSet
from harness import plugins
from harness.errors import ConfigError, HarnessError, InputError, suggest
from harness.types import LARGEST


def list_suites() -> list[str]:
    """The names of the suites that are installed, sorted; of those whose file is not there, too."""
    return plugins.names(plugins.SUITES)


def unusable_suites() -> list[str]:
    """One line for each suite that is installed and cannot be used."""
    faults = []
    for name in list_suites():
        try:
            load_suite(name)
        except HarnessError as error:
            faults.append(str(error))
    return faults


def load_suite(name_or_path: str | Path) -> Suite:
    """Load an installed suite by name, or a user's by the path of its YAML file.

    Raises `ConfigError` for an unknown name or a malformed declaration, `InputError` for an unreadable file.
    """
    text = str(name_or_path)
    if text in list_suites():
        path = plugins.resource(plugins.find(plugins.SUITES, text))
    elif text.endswith((".yaml", ".yml")):
        path = Path(text)
    else:
        raise ConfigError(
            f"There is no suite '{text}'{suggest(text, list_suites())} (a suite of your own is named by the path of "
            "its .yaml file)"
        )
    return _parse(_read_yaml(path), path)


def _read_yaml(path: Path) -> Any:
    from harness.yaml_text import read_yaml

    if not path.exists():
        raise InputError(f"The suite file {path} does not exist.")
    return read_yaml(path, "the suite file")


def _parse(raw: Any, path: Path) -> Suite:
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(raw, dict):
        raise ConfigError(f"The suite file {path} must be a mapping with 'name', 'description' and 'benchmarks'.")
    if "folder" in raw:
        raise ConfigError(f"{path}: 'folder' is not a key of a suite; files are looked up beside the YAML.")
    for where, value in _uncountable(raw):
        raise ConfigError(f"{path}: '{where}': expected a whole number from 0 to {LARGEST}, got {str(value).lower()}")
    try:
        suite = TypeAdapter(Suite).validate_python(raw)
    except ValidationError as error:
        # A misspelt key is also a missing one; the misspelling is what helps.
        problems = sorted(error.errors(), key=lambda problem: problem["type"] not in _UNKNOWN_KEY)
        raise ConfigError(f"{path}: {_explain(problems[0])}") from None
    suite = dataclasses.replace(suite, folder=path.resolve().parent)
    check_suite(suite, path)
    return suite


_COUNTS = {
    f.name
    for kind in (Rows, Template, Benchmark, ValidationSet)
    for f in dataclasses.fields(kind)
    if str(f.type).startswith("int")
}
"""Keys whose values are whole numbers, whatever they stand in."""


def _uncountable(raw: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Keys that should hold a count, and hold less than none, more than there can be, or `true`, which is 1."""
    for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ():
        at = f"{where}{key}"
        if key in _COUNTS and isinstance(value, int) and (isinstance(value, bool) or not 0 <= value <= LARGEST):
            yield at, value
        yield from _uncountable(value, f"{at}.")


_UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")
_TYPE_AT: dict[str, type[Any]] = {
    "benchmarks": Benchmark,
    "rows": Rows,
    "pool": Rows,
    "sources": Source,
    "template": Template,
    "validation": ValidationSet,
    "training": ValidationSet,
}


def _explain(problem: Any) -> str:
    """One sentence for the first thing that pydantic found wrong."""
    loc = [str(part) for part in problem["loc"]]
    where = ".".join(loc)
    if problem["type"] in _UNKNOWN_KEY:
        owner = next((_TYPE_AT[part] for part in reversed(loc[:-1]) if part in _TYPE_AT), Suite)
        known = [f.name for f in dataclasses.fields(owner) if f.name != "folder"]
        return f"unknown key '{where}'{suggest(loc[-1], known)}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"'{where}' is missing"
    return f"'{where}': {problem['msg']}"
