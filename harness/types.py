"""The nouns that cross every boundary: frozen records, one row each on disk.

Ids hash content *and* origin, so two rollouts that happen to be equal stay two samples; `content_hash` is the
separate hash that finds duplicates. `Score.value is None` means "not measured" from end to end and is never 0.
Nested fields are stored as JSON strings in parquet, so that a table can be read without this package.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from harness.errors import InputError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
ScoreStatus = Literal["ok", "unscorable", "failed"]

LARGEST = 2**53
"""Whole numbers up to here survive JSON and float64, and no count of anything is larger."""

RUBRIC_PARTS = (
    "Prompt-related",
    "Response-related",
    "Prompt-Response alignment",
    "Technical/trainability aspects",
)
"""The four keys of a rubric (OptimSyn, arXiv 2604.00536, Fig. 13)."""

QUESTION_TYPES = ("multiple choice", "fill-in-the-blank", "short answer", "essay")
"""The question types that a rubric chooses from (OptimSyn, Fig. 13)."""


_SURROGATE = re.compile("[\ud800-\udfff]")


def stable_hash(*parts: Json, length: int = 16) -> str:
    """Hex digest of the canonical JSON of `parts`; equal on every machine and Python, also for half a character."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def well_formed(text: str, escape: str = "\\") -> str:
    """`text` with every half of a surrogate pair written out as `\\ud83d`, since nothing can be written with it.

    Models, servers and JSON's escapes give such halves, of emoji that were cut. `escape` is put before the letter u.
    """
    return _SURROGATE.sub(lambda match: f"{escape}u{ord(match[0]):04x}", text)


LARGE = 1 << 26
"""Bytes of a file from which its hash is remembered within a process."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex (first 16 characters).

    A large file is read once in a process for as long as its size, time of change and inode stay as they are.
    """
    try:
        stat = os.stat(path)
        if stat.st_size < LARGE:
            return _content_hash(path)
        return _remembered_hash(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from None


def _content_hash(path: Path | str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1024)
def _remembered_hash(path: str, size: int, changed: int, inode: int) -> str:
    return _content_hash(path)


def derive_seed(*parts: Json) -> int:
    """A 31-bit seed for a random generator, derived from `parts` by hashing."""
    return int(stable_hash(*parts, length=8), 16) & 0x7FFFFFFF


SMALL_WORLD = 6
"""Classes of things in the lab's smaller worlds."""


class WorldId(NamedTuple):
    """The address of a planted world of the lab: its number, and how many classes its things have."""

    number: int = 0
    classes: int = SMALL_WORLD

    @property
    def key(self) -> Json:
        """The address in hashes: the number alone for the smaller worlds, which came first."""
        return self.number if self.classes == SMALL_WORLD else [self.number, self.classes]

    def __str__(self) -> str:
        return str(self.number) if self.classes == SMALL_WORLD else f"{self.number}x{self.classes}"


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


def chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The plain-dictionary form that chat templates and trainers take."""
    return [{"role": m.role, "content": m.content} for m in messages]


def conversation_text(messages: Sequence[Message]) -> str:
    """The turns of user and assistant, line by line; a system message is the same for all and says nothing."""
    return "\n".join(m.content for m in messages if m.role != "system")


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of one batch of calls: tokens, calls, wall seconds, and floating-point operations (0: unknown).

    FLOPs follow the usual estimate, 2 per parameter and token forward, 6 forward and backward.
    """

    role: str
    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0


@dataclass(frozen=True, slots=True)
class Seed:
    """A source item: a document (`text`) or a conversation (`messages`).

    `keys` are identifiers shared with benchmarks (for example `{"pmid": "123"}`), by which overlaps are dropped.
    """

    id: str
    text: str | None
    messages: tuple[Message, ...] | None = None
    domain: str = ""
    source: str = ""
    licence: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rubric:
    """A writer's rubric for one seed: `text` as written, `parts` as parsed (`RUBRIC_PARTS`)."""

    id: str
    seed_id: str
    text: str
    parts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One synthetic conversation with its origin. `raw` is the generator's unparsed output.

    `round` counts a closed loop's rounds (0 without one), `rollout` the draws of one prompt.
    """

    id: str
    seed_ids: tuple[str, ...]
    rubric_id: str | None
    prompt_hash: str
    messages: tuple[Message, ...]
    raw: str
    generator: str
    finish_reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    round: int = 0
    rollout: int = 0

    @property
    def question(self) -> str:
        """The last user turn (empty when there is none)."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def answer(self) -> str:
        """The last assistant turn (empty when there is none)."""
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), "")

    @property
    def content_hash(self) -> str:
        """Hash of question and answer alone, for duplicate detection."""
        return stable_hash(self.question, self.answer)


@dataclass(frozen=True, slots=True)
class Score:
    """The score that a signal gives an item; `value` is None unless `status == "ok"`, and a finite number otherwise.

    Raises `InputError` for NaN and infinity, which means and comparisons would take without a word.
    """

    item_id: str
    signal: str
    value: float | None
    status: ScoreStatus = "ok"
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    target_rev: str = ""

    @classmethod
    def unscorable(cls, item_id: str, signal: str, reason: str, target_rev: str = "") -> Score:
        """The score of an item that cannot be measured: no value, and the reason."""
        return cls(item_id, signal, None, status="unscorable", reason=reason, target_rev=target_rev)

    def __post_init__(self) -> None:
        """Refuse a value that is no number, of the reward's items and of the withheld ones."""
        for name, value in (("score", self.value), ("withheld score", self.parts.get("withheld"))):
            if value is not None and not math.isfinite(value):
                raise InputError(
                    f"signal '{self.signal}' gives item {self.item_id} the {name} {value}, which is no finite number; "
                    "an item that cannot be measured has none (status unscorable)"
                )


@dataclass(frozen=True, slots=True)
class Reject:
    """An item that did not survive a stage: `reason` is a short code, `raw` what it looked like."""

    item_id: str
    reason: str
    raw: str
    detail: str = ""


_NESTED = ("messages", "keys", "parts", "seed_ids")


def to_row(record: Any) -> dict[str, Any]:
    """A record as a flat row: nested fields become JSON strings."""
    row: dict[str, Any] = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if f.name == "messages" and value is not None:
            value = json.dumps(chat(value), ensure_ascii=False)
        elif f.name in _NESTED and value is not None:
            value = json.dumps(value if isinstance(value, Mapping) else list(value), ensure_ascii=False)
        row[f.name] = value
    return row


def from_row(cls: type[Any], row: Mapping[str, Any]) -> Any:
    """The inverse of `to_row`; columns that the record does not have are ignored."""
    values: dict[str, Any] = {}
    for f in fields(cls):
        value = row[f.name]
        if f.name in _NESTED and value is not None:
            value = json.loads(value)
            if f.name == "messages":
                value = tuple(Message(**m) for m in value)
            elif f.name == "seed_ids":
                value = tuple(value)
        values[f.name] = value
    return cls(**values)
