"""Rows of files and data sets, one at a time, with their places.

JSON (an object per line, an array, an object of objects), CSV and parquet, compressed or not; data sets that
`datasets` saved; data sets of the Hugging Face hub. What a source is, is decided by what exists on disk and by its
name: a mistyped file name must not turn into a search on the hub. Every error names the file and, where there is one,
the line. Rows are read in one way by everything that reads them: plans, runs, contamination checks and suites.
"""

from __future__ import annotations

import csv
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.errors import InputError, PrerequisiteError
from harness.synthesis.compression import DAMAGE, SUFFIXES, create, open_plain, plain_name
from harness.synthesis.json_rows import damaged, open_json, refuse_encoding
from harness.types import file_hash, stable_hash

Row = tuple[int, Mapping[str, Any]]

JSON_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines", ".json")
CSV_DELIMITERS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
KINDS = "JSON (.jsonl, .ndjson, .json), CSV (.csv, .tsv), each also as .gz, .bz2, .xz or .zst, or parquet (.parquet)"
"""What can be read, in words."""

_TABLES = (*JSON_SUFFIXES, *CSV_DELIMITERS, ".parquet")
_FILE_SUFFIXES = (*_TABLES, *SUFFIXES, ".txt", ".zip", ".tar", ".arrow")
_DATASET = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?::[\w.\[\]%-]+)?")
_SPLIT = re.compile(r"(?:^|[-_./])(train|test|validation|valid|val|dev|eval)(?=[-_./])")
_LONGEST_CELL = 2**31 - 1


def find_tables(sources: Sequence[str]) -> tuple[str, ...]:
    """The files and data sets that `sources` name, in order: globs and folders are replaced by the files they hold.

    Raises `InputError` for what cannot be a source, and for a folder or glob that leaves open which files are meant.
    """
    found = [table for source in sources for table in _find(source)]
    twice = next((table for table in found if found.count(table) > 1), None) if len(set(found)) < len(found) else None
    if twice is not None:
        raise InputError(f"{twice} is named twice; name it once")
    return tuple(found)


def is_pattern(source: str) -> bool:
    """Whether `source` is a pattern of file names."""
    return glob.has_magic(source) and not _DATASET.fullmatch(source)


def _find(source: str) -> list[str]:
    path = Path(source)
    if path.is_dir():
        return [source] if _is_saved(path) else _in_folder(path)
    if path.exists():
        if not _is_table(path):
            raise InputError(f"{source} is none of {KINDS}; convert or rename it")
        return [source]
    if is_pattern(source):
        matches = sorted(glob.glob(source, recursive=True))
        if not matches:
            raise InputError(f"no file matches {source}; check the pattern")
        return [table for match in matches for table in _find(match)]
    if source.lower().endswith(_FILE_SUFFIXES) or not _DATASET.fullmatch(source):
        raise InputError(f"file {source} does not exist; check the path, or name a data set as org/name")
    return [source]


def _is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a data set here."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _is_table(path: Path) -> bool:
    return plain_name(path.name).endswith(_TABLES)


def _in_folder(folder: Path) -> list[str]:
    """The files of a folder and of those in it: of one kind, and not of several splits."""
    inside = sorted(p for p in folder.rglob("*") if p.is_file() and _is_table(p))
    files = [p for p in inside if not any(part.startswith((".", "_")) for part in p.relative_to(folder).parts)]
    if not files:
        raise InputError(f"{folder} is a folder without data files ({KINDS}); name another")
    kinds = sorted({Path(plain_name(p.name)).suffix for p in files})
    splits = sorted({name for p in files if (name := _split(p.relative_to(folder)))})
    several = kinds if len(kinds) > 1 else splits if len(splits) > 1 else []
    if several:
        raise InputError(
            f"{folder} holds files of {' and '.join(several)}; name those that are meant, such as "
            f"'{files[0].parent}/{'*' + kinds[0] if len(kinds) > 1 else splits[0] + '*'}'"
        )
    return [str(p) for p in files]


def _split(relative: Path) -> str:
    found = _SPLIT.findall(str(relative).lower())
    return str(found[-1]) if found else ""


def read_rows(source: str) -> tuple[str, Iterator[Row]]:
    """A short name of one table (file name or data set) and its rows, each with its line or row number from 1.

    Raises `InputError` for a missing, unreadable, malformed or unsupported file, `PrerequisiteError` where a data set
    cannot be reached; for what comes to light only on reading, while the rows are taken.
    """
    tables = find_tables((source,))
    if len(tables) > 1:
        raise InputError(f"{source} names {len(tables)} files, such as {tables[0]}; name one")
    return read_table(tables[0])


def read_table(table: str) -> tuple[str, Iterator[Row]]:
    """As `read_rows`, of a table that `find_tables` found."""
    path = Path(table)
    if path.is_dir():
        return path.name, _saved(path)
    if not path.exists():
        return table, _dataset(table)
    name = plain_name(path.name)
    if name.endswith(".parquet"):
        return path.name, _parquet(path)
    if name.endswith(tuple(CSV_DELIMITERS)):
        return path.name, ((number, row) for number, row, _ in _csv(path))
    return path.name, ((row.number, row.value) for row in open_json(path).rows())


def read_all(sources: Sequence[str]) -> Iterator[tuple[str, Iterator[Row]]]:
    """Every table of `sources` in order, as `read_rows` gives one."""
    for table in find_tables(sources):
        yield read_table(table)


def fingerprint(sources: Sequence[str]) -> str | list[str]:
    """Hashes of what the tables of `sources` hold, in order: one as such; a data set of the hub is its name."""
    found = []
    for table in find_tables(sources):
        path = Path(table)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            found.append(stable_hash([[str(p.relative_to(path)), file_hash(p)] for p in files]))
        else:
            found.append(file_hash(path) if path.exists() else table)
    return found[0] if len(found) == 1 else found


def copy_rows(table: str, wanted: Sequence[bool], target: Path) -> None:
    """Write the rows of a file for which `wanted` is true to `target`, byte by byte and in the file's own form.

    Parquet is written by row groups of its own schema; a data set, which has no bytes, as JSONL.
    """
    path = Path(table)
    if path.is_file() and plain_name(path.name).endswith(".parquet"):
        _copy_parquet(path, wanted, target)
        return
    before, between, after = _frame(path)
    with ExitStack() as stack:
        stream = create(target, path.name if path.is_file() else ".jsonl", stack)
        stream.write(before)
        first = True
        for raw, keep in zip(_raw(table), wanted, strict=True):
            if keep:
                stream.write(raw if first else between + raw)
                first = False
        stream.write(after)


def _frame(path: Path) -> tuple[bytes, bytes, bytes]:
    if not path.is_file():
        return b"", b"", b""
    if plain_name(path.name).endswith(tuple(CSV_DELIMITERS)):
        return next(_records(path))[2], b"", b""
    return open_json(path).frame


def _raw(table: str) -> Iterator[bytes]:
    """The rows of a file as their bytes, whole lines where the file has lines, or of a data set as lines of JSON."""
    import json

    path = Path(table)
    if not path.is_file():
        for _, row in read_table(table)[1]:
            yield json.dumps(row, default=str).encode() + b"\n"
    elif plain_name(path.name).endswith(tuple(CSV_DELIMITERS)):
        for _, _, raw in _csv(path):
            yield raw if raw.endswith(b"\n") else raw + b"\n"
    else:
        yield from open_json(path).raw()


def _csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any], bytes]]:
    """Line, row and bytes of every record below the header; an empty cell is "" as in the file."""
    records = _records(path)
    try:
        _, names, _ = next(records)
    except StopIteration:
        return
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: two columns are called '{twice}'; rename one")
    for number, cells, raw in records:
        if len(cells) != len(names):
            raise InputError(
                f"{path}, line {number}: {len(cells)} cells where the header has {len(names)}; check its quotes"
            )
        yield number, dict(zip(names, cells, strict=True)), raw


def _records(path: Path) -> Iterator[tuple[int, list[str], bytes]]:
    """Line (where it begins), cells and bytes of every record that is not blank, the header first."""
    csv.field_size_limit(_LONGEST_CELL)
    taken: list[bytes] = []

    def lines() -> Iterator[str]:
        with open_plain(path) as stream:
            refuse_encoding(path, stream.read(4))
        with open_plain(path) as stream:
            for number, line in enumerate(stream, 1):
                taken.append(line)
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")

    delimiter = CSV_DELIMITERS[Path(plain_name(path.name)).suffix]
    done = 0
    try:
        for cells in csv.reader(lines(), delimiter=delimiter, strict=True):
            number, raw = done + 1, b"".join(taken)
            done += len(taken)
            taken.clear()
            if cells:
                yield number, cells, raw
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {done + len(taken)}: byte {error.start + 1} is not UTF-8; re-encode the file"
        ) from error
    except csv.Error as error:
        raise InputError(f"{path}, line {done + 1}: not valid CSV ({error}); correct it") from error
    except DAMAGE as error:
        raise damaged(path, done, error) from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        says = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as parquet ({says}); check or replace it") from error


def _copy_parquet(path: Path, wanted: Sequence[bool], target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as source, pq.ParquetWriter(target, source.schema_arrow) as sink:
        before = 0
        for batch in source.iter_batches(batch_size=1024):
            sink.write_batch(batch.filter(pa.array(wanted[before : before + len(batch)], pa.bool_())))
            before += len(batch)


def _saved(folder: Path) -> Iterator[Row]:
    """A data set that `datasets` saved, batch by batch and without decoding images or sounds."""
    import pyarrow
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(folder))
        if isinstance(found, DatasetDict):
            if len(found) != 1:
                raise InputError(
                    f"{folder} holds the splits {', '.join(found)}; name one, such as {folder}/{next(iter(found))}"
                )
            found = next(iter(found.values()))
        number = 0
        for batch in found.with_format("arrow").iter(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (OSError, ValueError, TypeError, KeyError, pyarrow.ArrowException) as error:
        says = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{folder} cannot be read as a saved data set ({says}); check or replace it") from error


def _dataset(source: str) -> Iterator[Row]:
    try:
        from datasets import load_dataset
        from huggingface_hub import HfApi, constants
    except ImportError as error:
        raise PrerequisiteError(f"reading the data set {source} needs the package 'datasets'; install it") from error
    name, _, split = source.partition(":")
    number = 0
    # The library lets many kinds of errors through (its own, the hub client's, the HTTP client's); all of them mean
    # the same to the user, and nothing but the library runs inside this block.
    try:
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(name, timeout=20)  # says at once what `load_dataset` retries for half a minute
        rows = iter(load_dataset(name, split=split or "train", streaming=True))
    except Exception as error:
        raise _unreachable(source, error) from error
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise _unreachable(source, error) from error
        number += 1
        yield number, row


def _unreachable(source: str, error: Exception) -> PrerequisiteError:
    says = " ".join(str(error).split())[:200] or "no reason given"
    return PrerequisiteError(
        f"data set {source} cannot be read from the Hugging Face hub ({type(error).__name__}: {says}); "
        f"check name, split and network, or give a local file"
    )
