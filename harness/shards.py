"""Crash-safe tables: parquet shards and markers that are written under a temporary name and renamed into place.

One growing parquet file is unreadable after a kill, and even a small marker can be found empty; a rename is
all or nothing. A shard carries what it cost in its own metadata, so that a resumed stage adds up the same as one that
was never interrupted. What this gives up: power-loss durability of the last shard (no fsync of the folder).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import DiskFullError, InputError, StageError
from harness.types import Reject, Usage, from_row, to_row, well_formed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ShardOutput:
    """The output of one shard of work: rows of the main table, rows of side tables, rejects and cost.

    `kept` is given where the main table holds rejected rows too (rollouts). `shortened` counts incoming rows whose
    document was cut to fit a model's context, `mended` those whose JSON had single backslashes of LaTeX doubled.
    `notes` are facts that no row holds, such as those of a worker's preparation, which come with its first shard.
    """

    rows: Sequence[Any]
    rejects: Sequence[Reject] = ()
    usage: Sequence[Usage] = ()
    tables: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    rows_in: int | None = None
    kept: int | None = None
    shortened: int = 0
    mended: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished stage's account: what came in, what was kept, what was rejected and why, and what it cost."""

    rows_in: int
    kept: int
    rejected: Mapping[str, int]
    usage: Sequence[Usage]
    seconds: float
    notes: Mapping[str, Any] = field(default_factory=dict)
    shortened: int = 0
    mended: int = 0

    def line(self) -> str:
        """Rows in, kept, with a shortened document or mended JSON, and rejected by reason, for people."""
        line = f"{self.rows_in} in, {self.kept} kept"
        if self.shortened:
            line += f", document shortened to fit the model for {self.shortened}"
        if self.mended:
            line += f", LaTeX's single backslashes doubled in {self.mended}"
        reasons = ", ".join(f"{name} {count}" for name, count in sorted(self.rejected.items()))
        return line + (f", rejected: {reasons}" if reasons else "")


def replace_into(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    Raises `StageError` where the disk is full or the folder cannot be written; nothing half-written stays in place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_failure(path, error) from None
        raise


def write_failure(path: Path | str, error: Exception) -> StageError:
    """The error for a `path` that could not be written: a full disk or quota is told from everything else."""
    if is_disk_full(error):
        return DiskFullError(
            f"the disk is full while writing {path}; free some space, then resume: finished shards are kept"
        )
    return StageError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}; {write_advice(error)}")


_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check the folder's permissions, or name another folder"),
    errno.EROFS: "the disk takes no changes; name a folder on another",
    errno.ENAMETOOLONG: "give it a shorter name",
    **dict.fromkeys((errno.EEXIST, errno.ENOTEMPTY), "it is there already; name another folder"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR), "a file and a folder have the same name; name another folder"),
    errno.ENOENT: "a folder on its path is gone; make it, or name another",
    errno.EIO: "the disk fails; name a folder on another",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "too many files are open; raise the limit (ulimit -n)"),
}


def write_advice(error: Exception) -> str:
    """The advice about a refused write, by its error number: a full disk and a closed folder want different things."""
    number, text = getattr(error, "errno", None), str(error)
    # Copying a folder, and formats that write natively, give the system's message and no number.
    number = number or next((known for known in _ADVICE if os.strerror(known) in text), 0)
    return _ADVICE.get(errno.ENOSPC if is_disk_full(error) else number, "look at the folder, or name another")


def is_disk_full(error: BaseException) -> bool:
    """Whether a write was refused for want of space.

    Weight formats that write natively say so in text alone: safetensors by the system's message, torch's archive by
    finding itself at another position than it wrote to.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(error)
    return os.strerror(errno.ENOSPC) in text or ("inline_container" in text and "unexpected pos" in text)


@contextmanager
def _whole_characters(path: Path) -> Iterator[None]:
    """Turn a text that no file can hold into one line; such texts are refused where they come from."""
    try:
        yield
    except UnicodeEncodeError as error:
        about = " ".join(error.object[max(0, error.start - 40) : error.end].split())
        raise StageError(
            f"cannot write {path}: a text holds half a character (a lone surrogate) after '{well_formed(about)}'; take "
            "it out of the texts that this is made of, then resume"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""

    def write(temporary: Path) -> None:
        with _whole_characters(path):
            temporary.write_text(text, encoding="utf-8")

    replace_into(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_table(path: Path, rows: Iterable[Any], metadata: Mapping[str, Any] | None = None) -> None:
    """Write records or plain rows as one parquet file, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = [to_row(row) if is_dataclass(row) else dict(row) for row in rows]
    with _whole_characters(path):
        table = pa.Table.from_pylist(plain)
    if metadata is not None:
        table = table.replace_schema_metadata({b"harness": json.dumps(metadata).encode()})
    replace_into(path, lambda p: pq.write_table(table, p))


def part_name(index: int) -> str:
    """File name of shard `index`."""
    return f"part-{index:08d}.parquet"


def parts(folder: Path) -> list[Path]:
    """A table's shards, in order; temporary files of killed writers are not shards."""
    return sorted(folder.glob("part-*.parquet"))


def read_shards(folder: Path) -> list[dict[str, Any]]:
    """All rows of a table, shard by shard."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for part in parts(folder):
        try:
            rows.extend(pq.ParquetFile(part).read().to_pylist())
        except (OSError, ValueError) as error:
            raise InputError(f"{part} is not a readable parquet file ({error}); delete it and resume") from None
    return rows


def read_records(folder: Path, cls: type[T]) -> list[T]:
    """All rows of a table as records."""
    return [from_row(cls, row) for row in read_shards(folder)]


def read_metadata(part: Path) -> dict[str, Any]:
    """The account that a shard carries."""
    import pyarrow.parquet as pq

    raw = (pq.read_schema(part).metadata or {}).get(b"harness", b"{}")
    return dict(json.loads(raw))


def write_shard(folder: Path, index: int, output: ShardOutput, seconds: float) -> None:
    """Write side tables and rejects first and the main table last: its rename is what commits the shard."""
    for name, rows in {**output.tables, "rejects": output.rejects}.items():
        if rows:
            write_table(folder / name / part_name(index), rows)
    rejected: dict[str, int] = {}
    for reject in output.rejects:
        rejected[reject.reason] = rejected.get(reject.reason, 0) + 1
    rows_in = output.rows_in if output.rows_in is not None else len(output.rows) + len(output.rejects)
    account = {
        "rows_in": rows_in,
        "kept": len(output.rows) if output.kept is None else output.kept,
        "rejected": rejected,
        "usage": [asdict(u) for u in output.usage],
        "seconds": seconds,
        "shortened": output.shortened,
        "mended": output.mended,
        **({"notes": dict(output.notes)} if output.notes else {}),
    }
    write_table(folder / part_name(index), output.rows, account)


def merge_usage(usage: Iterable[Usage]) -> list[Usage]:
    """Add up usage by role and model."""
    total: dict[tuple[str, str], Usage] = {}
    for u in usage:
        old = total.get((u.role, u.model), Usage(u.role, u.model))
        total[u.role, u.model] = Usage(
            role=u.role,
            model=u.model,
            prompt_tokens=old.prompt_tokens + u.prompt_tokens,
            completion_tokens=old.completion_tokens + u.completion_tokens,
            calls=old.calls + u.calls,
            seconds=old.seconds + u.seconds,
            flops=old.flops + u.flops,
        )
    return list(total.values())


def summarise(folder: Path, notes: Mapping[str, Any] | None = None) -> Summary:
    """Add up the accounts of a table's shards."""
    accounts = [read_metadata(part) for part in parts(folder)]
    rejected: dict[str, int] = {}
    for account in accounts:
        for reason, count in account["rejected"].items():
            rejected[reason] = rejected.get(reason, 0) + count
    return Summary(
        rows_in=sum(a["rows_in"] for a in accounts),
        kept=sum(a["kept"] for a in accounts),
        rejected=rejected,
        usage=merge_usage(Usage(**u) for a in accounts for u in a["usage"]),
        seconds=sum(a["seconds"] for a in accounts),
        notes=dict(notes or {}),
        shortened=sum(a.get("shortened", 0) for a in accounts),
        mended=sum(a.get("mended", 0) for a in accounts),
    )


def summary_to_json(summary: Summary) -> dict[str, Any]:
    """A summary as the content of a `_DONE` marker."""
    return asdict(summary)


def summary_from_json(value: Mapping[str, Any]) -> Summary:
    """The inverse of `summary_to_json`."""
    return Summary(**{**value, "usage": [Usage(**u) for u in value["usage"]]})
