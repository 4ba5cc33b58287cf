"""The test side of a contamination check, by name: suites, single benchmarks, and a user's own files of items.

A suite's fields are those that it declares. Columns whose data are not on this machine are not silently left out: they
come back beside the items, with the reason. A file needs no declaration; its fields are named after a colon, or looked
for under usual names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decontam.fields import look_up, present
from decontam.items import TestItem
from decontam.tokens import clean
from evals.catalogue import list_suites, load_suite
from evals.data import contamination_items, field_text
from evals.read import DataContext
from evals.suite import Suite
from harness.errors import ConfigError, HarnessError, InputError
from harness.synthesis.seeds import is_given
from harness.synthesis.tables import read_rows

QUESTION_FIELDS = ("question", "prompt", "problem", "input", "instruction", "text")
ID_FIELDS = ("id", "question_id", "task_id", "pubid", "uuid")


@dataclass(frozen=True, slots=True)
class Missing:
    """A benchmark of a suite that could not be read, and why."""

    benchmark: str
    reason: str


@dataclass(frozen=True, slots=True)
class Against:
    """Test items, and what of the named suites is not among them."""

    items: tuple[TestItem, ...]
    missing: tuple[Missing, ...]


def load_against(names: Sequence[str], context: DataContext) -> Against:
    """Items of `names`: `SUITE`, `SUITE:BENCHMARK`, `FILE` or `FILE:FIELD[,FIELD]`; a suite may be a YAML file.

    A field may be a dotted path. A row that lacks it is an item without it, as one where it is empty.

    Raises `ConfigError` for an unknown name and `InputError` for a file that cannot be read. A benchmark that is named
    has to be there; of a whole suite, those that are not come back as missing.
    """
    items: list[TestItem] = []
    missing: list[Missing] = []
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"--against names {name} twice; name it once")
        seen.add(name)
        head, _, tail = name.partition(":")
        if head in list_suites() or head.endswith((".yaml", ".yml")):
            found, lost = _suite(load_suite(head), tail, context)
            items += found
            missing += lost
        else:
            items += _file(name)
    _refuse_repeats(items)
    if not items:
        raise InputError("; ".join(f"{m.benchmark}: {m.reason}" for m in missing) or "no test items were named")
    return Against(tuple(items), tuple(missing))


def _refuse_repeats(items: Sequence[TestItem]) -> None:
    """Two benchmarks of one name would be counted as one."""
    last: str | None = None
    done: set[str] = set()
    for item in items:
        if item.benchmark != last:
            if item.benchmark in done:
                raise ConfigError(f"two of the named test sets are called '{item.benchmark}'; check them one at a time")
            done.add(item.benchmark)
            last = item.benchmark


def _suite(suite: Suite, column: str, context: DataContext) -> tuple[list[TestItem], list[Missing]]:
    if column:
        return list(contamination_items(suite, context, [suite.benchmark(column).id])), []
    items: list[TestItem] = []
    missing: list[Missing] = []
    for benchmark in suite.benchmarks:
        try:
            items += contamination_items(suite, context, [benchmark.id])
        except HarnessError as error:
            missing.append(Missing(benchmark.id, str(error)))
    return items, missing


def _file(name: str) -> list[TestItem]:
    path, colon, listed = name, "", ""
    if not Path(name).exists():
        path, colon, listed = name.rpartition(":")
        if not colon:
            path = name
    if not Path(path).exists():
        raise ConfigError(
            f"--against {name}: there is no such suite ({', '.join(list_suites())}) and no such file; a benchmark of a "
            "suite is named SUITE:BENCHMARK, fields of a file FILE:FIELD,FIELD"
        )
    wanted = tuple(field.strip() for field in listed.split(",") if field.strip())
    label, rows = read_rows(path)
    items: list[TestItem] = []
    lacking = set(wanted)
    for line, row in rows:
        fields = wanted or _guess(row, f"{path}, line {line}")
        texts = []
        for field in fields:
            there, value = look_up(row, field)
            lacking -= {field} if there else set()
            texts.append(field_text(value))
        identifier = next((str(row[key]) for key in ID_FIELDS if is_given(row.get(key)) and row[key] != ""), str(line))
        items.append(TestItem(label, clean(identifier), tuple(texts)))
    if not items:
        raise InputError(f"{path} has no rows; give a file with test items")
    if lacking:
        named = next(name for name in wanted if name in lacking)
        raise InputError(f"no row of {path} has a field '{named}' (fields of the last: {present(row)}); name another")
    return items


def _guess(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    named = {str(name).strip().lower(): str(name) for name in row if is_given(row[name])}
    found = next((named[field] for field in QUESTION_FIELDS if field in named), None)
    if found is None:
        raise InputError(
            f"{where} has none of the fields {', '.join(QUESTION_FIELDS)} (fields present: {present(row)}); name the "
            "test text after a colon: FILE:FIELD,FIELD"
        )
    return (found,)
