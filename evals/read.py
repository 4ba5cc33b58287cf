"""Rows of a declared source: a file (`harness.synthesis.tables`), a hub data set, or the lab's generator.

The first source that is there is used, files before the hub, so that a machine without a network works from
local copies. A file is looked for beside the suite's YAML, then in the data folder and its `eval/`. Malformed
input stops with its line number: a test set that silently lost items would still print a score.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.suite import Rows, Source
from harness.errors import InputError, PrerequisiteError
from harness.synthesis.tables import find_tables, read_table
from harness.types import WorldId

DATA_VARIABLE = "HARNESS_DATA"


@dataclass(frozen=True, slots=True)
class DataContext:
    """The places that data come from. `data_folder` None means the folder named by the variable HARNESS_DATA, if any.

    `world`, `test_items` and `validation_items` describe the lab; `limit` keeps the first items of every
    benchmark (after the count has been checked).
    """

    data_folder: Path | None = None
    world: WorldId = field(default_factory=WorldId)
    test_items: int = 90
    validation_items: int = 60
    limit: int | None = None

    def folder(self) -> Path | None:
        """The data folder in force; `InputError` if the variable names something that is no folder."""
        if self.data_folder is not None:
            return self.data_folder
        named = os.environ.get(DATA_VARIABLE)
        if not named:
            return None
        if not Path(named).is_dir():
            raise InputError(f"{DATA_VARIABLE} is {named}, which is not a folder; set it to a folder of local copies.")
        return Path(named)


@dataclass(frozen=True, slots=True)
class Raw:
    """One row as read, and where it stood (`file.jsonl line 3`)."""

    values: Mapping[str, Any]
    where: str


def find_source(rows: Rows, what: str, context: DataContext, suite_folder: Path) -> tuple[Source, Path | None]:
    """The first usable source of `rows` and its file, if it is one; `InputError` if only missing files are declared."""
    folder = context.folder()
    places = [suite_folder, *([folder, folder / "eval"] if folder else [])]
    for source in rows.sources:
        if source.file is None:
            return source, None
        for place in places:
            if (place / source.file).exists():
                return source, place / source.file
    names = " or ".join(s.label for s in rows.sources)
    raise InputError(
        f"{what}: {names} is neither in {' nor in '.join(map(str, places))}; put it there, or set {DATA_VARIABLE} to "
        "the folder that holds it."
    )


def read_source(source: Source, path: Path | None, what: str, context: DataContext, count: int) -> Iterator[Raw]:
    """The rows of one source, in order. `count` is how many the lab is asked for."""
    if path is not None:
        yield from read_file(path)
    elif source.lab is not None:
        yield from _read_lab(source.lab, context, count)
    else:
        yield from _read_hub(source, what)


def read_file(path: Path) -> Iterator[Raw]:
    """Rows of a file or a saved data set; `InputError` with file and line for what cannot be read."""
    for number, row in read_table(find_tables((str(path),))[0])[1]:
        yield Raw(row, f"{path} line {number}")


def _read_lab(column: str, context: DataContext, count: int) -> Iterator[Raw]:
    from harness.lab.world import World

    world = World.of(context.world)
    items = world.validation_items(count) if column == "validation" else world.test_items(column, count)
    for item in items:
        yield Raw(dataclasses.asdict(item), f"lab world {context.world}, {column} {item.id}")


def _hub_resolves(endpoint: str) -> bool:
    """Whether the hub's name resolves; taken as given behind a proxy, which resolves names itself."""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(endpoint).hostname, 443)
    except OSError:
        return False
    return True


def _read_hub(source: Source, what: str) -> Iterator[Raw]:
    import datasets
    import huggingface_hub.constants as hub_settings

    assert source.hub is not None
    if not _hub_resolves(hub_settings.ENDPOINT):
        # Both libraries would retry for half a minute; offline they answer at once, from their cache if it is there.
        hub_settings.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        table = datasets.load_dataset(source.hub, source.config, split=source.split, revision=source.revision)
    # Offline, gated, renamed and interrupted all end here, each as another class of another package.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PrerequisiteError(
            f"{what}: the hub data set {source.hub} cannot be had ({reason[0][:160]}); either give this machine access "
            f"to the Hugging Face hub, or put a local copy into a folder and name that folder in {DATA_VARIABLE}."
        ) from None
    for number, row in enumerate(table):
        yield Raw(row, f"{source.label} row {number}")
