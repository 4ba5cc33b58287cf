"""Rows from JSONL, gzipped JSONL, parquet or a data set on the Hugging Face hub, one at a time.

The kind is decided by what exists on disk and by the name, never by guessing at content: a mistyped file name must
not turn into a search on the hub. Every error names the file and, where there is one, the line.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import InputError, PrerequisiteError

Row = tuple[int, Mapping[str, Any]]

_DATASET = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?::[\w.\[\]%-]+)?")
_FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".gz", ".parquet", ".csv", ".txt", ".tsv", ".zip")


def read_rows(source: str) -> tuple[str, Iterator[Row]]:
    """A short name of `source` (file name or data set) and its rows, each with its line or row number from 1.

    Raises `InputError` for a missing, unreadable, malformed or unsupported file, `PrerequisiteError` where a data set
    cannot be reached; for what comes to light only on reading, while the rows are taken.
    """
    path = Path(source)
    name = source.lower()
    if path.is_dir():
        raise InputError(f"{source} is a folder; name a JSONL or parquet file in it")
    if path.exists():
        if name.endswith(".parquet"):
            return path.name, _parquet(path)
        if name.endswith((".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")):
            return path.name, _jsonl(path)
        raise InputError(f"{source} is neither JSONL (.jsonl, .jsonl.gz) nor parquet (.parquet); convert or rename it")
    if name.endswith(_FILE_SUFFIXES) or not _DATASET.fullmatch(source):
        raise InputError(f"file {source} does not exist; check the path, or name a data set as org/name")
    return source, _dataset(source)


def _jsonl(path: Path) -> Iterator[Row]:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    number = 0
    try:
        with opener(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, _parse_line(path, number, line)
    except (OSError, EOFError, zlib.error) as error:
        says = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read after line {number} ({says}); check or replace it") from error


def _parse_line(path: Path, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {number}: byte {error.start + 1} is not UTF-8; re-encode the file") from error
    except (ValueError, RecursionError) as error:
        says = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(f"{path}, line {number}: not valid JSON ({says}); each line must be one object") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}, line {number}: a {type(value).__name__}, where each line must be one JSON object")
    return value


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
        f"check name, split and network, or give a local JSONL or parquet file"
    )
