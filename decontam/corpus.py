"""The training side: rows of files, or texts in memory, as documents in shards.

A row gives several documents: every turn of a conversation is one, since a test item that is spread over two turns is
no copy. Each knows its part (`prompt` or `answer`), its row and its source. Files are read as a stream, once to check
and count them before anything is decided, and again for every pass: memory holds one shard and a few bytes a document.
A malformed line stops the check, since a training set that silently lost rows would still be trained on.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decontam.backend import Shard, Vectors
from decontam.tokens import clean
from harness.errors import InputError
from harness.models.embedder import Embedder
from harness.shards import replace_into
from harness.synthesis.tables import read_rows

SHARD = 2000
"""Documents of a shard."""

Part = Literal["prompt", "answer"]
PARTS: tuple[Part, ...] = ("prompt", "answer")
PROMPT_FIELDS = ("prompt", "question", "instruction", "query")
ANSWER_FIELDS = ("answer", "response", "output", "completion")
TEXT_FIELDS = ("clean_text", "text", "raw_text", "content")
"""Fields that are looked for, in this order, where none is named and there is no conversation."""
PREFERENCE_FIELDS = ("chosen", "rejected")
"""Answers of a preference pair; both are trained on, so both are read."""

_ANSWERING = ("assistant", "gpt", "model", "bot")
_ROLES = {"role", "from"}


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a row are read; None leaves it to the names above."""

    prompt: str | None = None
    answer: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One document of a row."""

    part: Part
    text: str


def pieces(row: Mapping[str, Any], fields: Fields, where: str) -> list[Piece]:
    """The documents of a row: turns of a conversation, else prompt and answer, else its text as a prompt.

    System turns are no training text of their own and are left out. Raises `InputError` where nothing is found.
    """
    if fields.prompt or fields.answer:
        named: list[tuple[Part, str]] = []
        if fields.prompt:
            named.append(("prompt", fields.prompt))
        if fields.answer:
            named.append(("answer", fields.answer))
        for _, wanted in named:
            if wanted not in row:
                raise InputError(f"{where} has no field '{wanted}' (fields present: {_present(row)}); name another")
        return [piece for part, name in named for piece in _documents(part, row[name], f"{where}: '{name}'")]
    for name in ("messages", "conversations", "conversation"):
        if row.get(name) is not None:
            return _turns(row[name], f"{where}: '{name}'")
    found: list[Piece] = []
    prompt = next((key for key in PROMPT_FIELDS if row.get(key) is not None), None)
    if prompt is not None:
        value = row[prompt]
        if prompt == "instruction" and isinstance(value, str) and isinstance(row.get("input"), str):
            value = f"{value}\n{row['input']}".strip()
        found += _documents("prompt", value, f"{where}: '{prompt}'")
    first = next((key for key in ANSWER_FIELDS if row.get(key) is not None), None)
    answers = [key for key in (first, *PREFERENCE_FIELDS) if key is not None and row.get(key) is not None]
    for key in answers:
        found += _documents("answer", row[key], f"{where}: '{key}'")
    if prompt is None and not answers:
        text_field = next((key for key in TEXT_FIELDS if row.get(key) is not None), None)
        if text_field is None:
            known = ", ".join((*PROMPT_FIELDS, *ANSWER_FIELDS, *PREFERENCE_FIELDS))
            raise InputError(
                f"{where} has no text: neither messages nor any of {known} or {', '.join(TEXT_FIELDS)} (fields "
                f"present: {_present(row)}); name them with --prompt-field and --answer-field"
            )
        found += _documents("prompt", row[text_field], f"{where}: '{text_field}'")
    return found


def _present(row: Mapping[str, Any]) -> str:
    return ", ".join(sorted(row))[:200] or "none"


def _documents(part: Part, value: Any, where: str) -> list[Piece]:
    """A field as documents: one for every turn where it holds turns (their roles say the part), else its text."""
    if isinstance(value, Sequence) and value and all(isinstance(v, Mapping) and _ROLES & v.keys() for v in value):
        return _turns(value, where)
    text = _text(value, where)
    return [Piece(part, text)] if text else []


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return str(value)
    # Parts of a message: what is no text (an image) says so by its type.
    if isinstance(value, Sequence) and all(isinstance(p, Mapping) and {"text", "type"} & p.keys() for p in value):
        return "\n".join(str(part["text"]) for part in value if isinstance(part.get("text"), str))
    if isinstance(value, Sequence) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    raise InputError(f"{where} is a {type(value).__name__}, where text is expected; name another field")


def _turns(value: Any, where: str) -> list[Piece]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(f"{where} is a {type(value).__name__}, where a list of turns is expected")
    found = []
    for number, turn in enumerate(value, 1):
        role = turn.get("role", turn.get("from")) if isinstance(turn, Mapping) else None
        if not isinstance(role, str) or not ("content" in turn or "value" in turn):
            raise InputError(f"{where}, turn {number}, has no role with content; correct the line")
        text = _text(turn.get("content", turn.get("value")), f"{where}, turn {number}")
        if role != "system" and text:
            found.append(Piece("answer" if role in _ANSWERING else "prompt", text))
    return found


class _Digest:
    def __init__(self, shard_size: int) -> None:
        self._hash = hashlib.sha256(f"shards of {shard_size}".encode())

    def add(self, text: str) -> None:
        data = text.encode()
        self._hash.update(len(data).to_bytes(8, "little"))
        self._hash.update(data)

    @property
    def hex(self) -> str:
        return self._hash.hexdigest()[:32]


class _TextCorpus(ABC):
    """What corpora without vectors share: a digest, and shards cut from a stream of texts."""

    _digest: str
    _shard_size: int

    @property
    def digest(self) -> str:
        """See `Corpus`."""
        return self._digest

    @property
    def vectors_digest(self) -> str | None:
        """None: see `EmbeddedCorpus`."""
        return None

    @property
    @abstractmethod
    def size(self) -> int:
        """Documents."""

    @property
    def shard_size(self) -> int:
        """Documents of a shard."""
        return self._shard_size

    @abstractmethod
    def _texts(self) -> Iterator[str]:
        """All documents, in order."""

    def shards(self, *, skip: Container[int] = (), vectors: bool = False) -> Iterator[Shard]:
        """See `Corpus`."""
        assert not vectors
        texts: list[str] = []
        index = 0
        for text in self._texts():
            texts.append(text)
            if len(texts) == self._shard_size:
                if index not in skip:
                    yield Shard(index, index * self._shard_size, texts)
                texts, index = [], index + 1
        if texts and index not in skip:
            yield Shard(index, index * self._shard_size, texts)


class MemoryCorpus(_TextCorpus):
    """Texts that are in memory already, such as a run's samples."""

    def __init__(self, texts: Iterable[str], shard_size: int = SHARD) -> None:
        self._held = [clean(text) for text in texts]
        self._shard_size = shard_size
        digest = _Digest(shard_size)
        for text in self._held:
            digest.add(text)
        self._digest = digest.hex

    @property
    def size(self) -> int:
        """Documents."""
        return len(self._held)

    def _texts(self) -> Iterator[str]:
        return iter(self._held)


class FileCorpus(_TextCorpus):
    """Rows of JSONL or parquet files. Reading all of them once checks every row.

    `row_of`, `part_of` (index into `PARTS`) and `source_of` (index into `sources`) lead from a document to where it
    came from; rows are numbered over all files, `rows_in` per file. `without_text` counts rows that gave no document.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        parts: Literal["prompt", "answer", "both"] = "both",
        fields: Fields | None = None,
        shard_size: int = SHARD,
    ) -> None:
        self.paths = tuple(paths)
        self._fields = fields or Fields()
        self._wanted: tuple[Part, ...] = PARTS if parts == "both" else (parts,)
        self._shard_size = shard_size
        self.sources: list[str] = []
        self.rows_in: list[int] = []
        self.without_text = 0
        self._count()

    def _count(self) -> None:
        digest = _Digest(self._shard_size)
        rows: list[NDArray[np.int32]] = []
        buffer: list[tuple[int, int, int]] = []
        known: dict[str, int] = {}
        number, sourced = -1, False
        for path in self.paths:
            before = number
            name = Path(path).name
            for _, row, found in self._rows(path):
                number += 1
                source = name
                if self._fields.source:
                    stated = row.get(self._fields.source)
                    sourced = sourced or stated is not None
                    source = f"{name}: {'not stated' if stated is None else stated}"
                index = known.setdefault(source, len(known))
                self.without_text += not found
                for piece in found:
                    digest.add(clean(piece.text))
                    buffer.append((number, PARTS.index(piece.part), index))
                if len(buffer) >= 100_000:
                    rows.append(np.array(buffer, np.int32))
                    buffer = []
            if number == before:
                raise InputError(f"{path} has no rows; give a file with training data")
            self.rows_in.append(number - before)
        if self._fields.source and not sourced:
            raise InputError(f"no row states its source in '{self._fields.source}'; correct --source-field")
        rows.append(np.array(buffer, np.int32).reshape(-1, 3))
        table = np.concatenate(rows)
        if not len(table):
            raise InputError(f"{', '.join(self.paths)}: no row has text to check; name its fields or another --parts")
        self.row_of: NDArray[np.int32] = table[:, 0].copy()
        self.part_of: NDArray[np.int8] = table[:, 1].astype(np.int8)
        self.source_of: NDArray[np.int32] = table[:, 2].copy()
        self.sources = list(known)
        self._digest = digest.hex

    def _rows(self, path: str) -> Iterator[tuple[int, Mapping[str, Any], list[Piece]]]:
        """Line number, row, and its documents of the wanted parts."""
        _, rows = read_rows(path)
        for line, row in rows:
            found = pieces(row, self._fields, f"{path}, line {line}")
            yield line, row, [piece for piece in found if piece.part in self._wanted]

    @property
    def size(self) -> int:
        """Documents."""
        return len(self.row_of)

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(self.rows_in)

    def _texts(self) -> Iterator[str]:
        for path in self.paths:
            for _, _, found in self._rows(path):
                yield from (clean(piece.text) for piece in found)


class EmbeddedCorpus:
    """A corpus with vectors: those of a shard are computed when they are first asked for, and kept in `folder`."""

    def __init__(self, corpus: MemoryCorpus | FileCorpus, embedder: Embedder, folder: Path | None = None) -> None:
        self._corpus, self._embedder, self._folder = corpus, embedder, folder
        both = f"{corpus.digest} {embedder.identity}"
        self._vectors_digest = hashlib.sha256(both.encode()).hexdigest()[:32]

    @property
    def digest(self) -> str:
        """See `Corpus`."""
        return self._corpus.digest

    @property
    def vectors_digest(self) -> str | None:
        """See `Corpus`."""
        return self._vectors_digest

    @property
    def size(self) -> int:
        """Documents."""
        return self._corpus.size

    @property
    def shard_size(self) -> int:
        """Documents of a shard."""
        return self._corpus.shard_size

    def shards(self, *, skip: Container[int] = (), vectors: bool = False) -> Iterator[Shard]:
        """See `Corpus`."""
        for shard in self._corpus.shards(skip=skip):
            yield Shard(shard.index, shard.first, shard.texts, self._vectors(shard)) if vectors else shard

    def _vectors(self, shard: Shard) -> Vectors:
        if self._folder is None:
            return self._embedder.embed(shard.texts)
        path = self._folder / f"vectors-{self._vectors_digest}-{shard.index:06d}.npy"
        if path.is_file():
            return np.asarray(np.load(path), np.float32)
        found = self._embedder.embed(shard.texts)

        def save(temporary: Path) -> None:
            with open(temporary, "wb") as stream:
                np.save(stream, found)

        replace_into(path, save)
        return found
