"""The training side: rows of files, or texts in memory, as documents in shards.

A row gives several documents (`decontam.fields`): every turn of a conversation is one, since a test item that is spread
over two turns is no copy. Each knows its part (`prompt` or `answer`), its row and its source. Files are read as a
stream, once to check and count them before anything is decided, and again for every pass: memory holds one shard and a
few bytes a document. A malformed line stops the check, since a training set that silently lost rows would still be
trained on; a row without text is counted.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decontam.backend import Shard, Vectors
from decontam.fields import PARTS, Fields, FieldUse, Part, Piece, RowText, Uses, read_row
from decontam.tokens import clean
from decontam.vectors import stored_vectors
from harness.errors import InputError
from harness.models.embedder import Embedder
from harness.screen import ProgressCallback, no_progress
from harness.synthesis.tables import find_tables, read_table

SHARD = 2000
"""Documents of a shard."""
_NOT_STATED = "not stated"


class _Digest:
    """A digest of texts in their order, and of the shards that they are cut into."""

    def __init__(self, shard_size: int) -> None:
        self._hash = hashlib.sha256(f"shards of {shard_size}".encode())

    def add(self, text: str) -> None:
        """Take in one more text, with its length, so that no two lists of texts run together."""
        data = text.encode()
        self._hash.update(len(data).to_bytes(8, "little"))
        self._hash.update(data)

    @property
    def hex(self) -> str:
        """The first 128 bits of the digest, as 32 hexadecimal digits."""
        return self._hash.hexdigest()[:32]


class _TextCorpus(ABC):
    """The base of corpora without vectors: a digest, and shards cut from a stream of texts."""

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
    """Rows of files and data sets (`harness.synthesis.tables`). Reading all of them once checks every row.

    `row_of`, `part_of` (index into `PARTS`) and `source_of` (index into `sources`) lead from a document to where it
    came from; rows are numbered over all tables of `paths`, `rows_in` per table. `without_text` counts rows that gave
    no document; `fields` says what became of every field.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        parts: Literal["prompt", "answer", "both"] = "both",
        fields: Fields | None = None,
        shard_size: int = SHARD,
    ) -> None:
        self.paths = find_tables(paths)
        self._named = fields or Fields()
        self._wanted: tuple[Part, ...] = PARTS if parts == "both" else (parts,)
        self._shard_size = shard_size
        self.sources: list[str] = []
        self.rows_in: list[int] = []
        self.without_text = 0
        self.fields: tuple[FieldUse, ...] = ()
        self._count()

    def _count(self) -> None:
        digest = _Digest(self._shard_size)
        table: list[NDArray[np.int32]] = []
        buffer: list[tuple[int, int, int]] = []
        known: dict[str, int] = {}
        uses = Uses()
        number = -1
        for path in self.paths:
            before, silent, name = number, True, Path(path).name
            for row, text, found in self._rows(path):
                number += 1
                silent = silent and text.silent
                uses.count(text, found)
                index = known.setdefault(self._source(name, row), len(known))
                self.without_text += not found
                for piece in found:
                    digest.add(clean(piece.text))
                    buffer.append((number, PARTS.index(piece.part), index))
                if len(buffer) >= 100_000:
                    table.append(np.array(buffer, np.int32))
                    buffer = []
            if number == before:
                raise InputError(f"{path} has no rows; give a file with training data")
            if silent:
                raise InputError(f"no row of {path} has text to check; give a file with training data")
            self.rows_in.append(number - before)
        table.append(np.array(buffer, np.int32).reshape(-1, 3))
        self._refuse_idle(known, uses, sum(map(len, table)))
        of = np.concatenate(table)
        self.row_of: NDArray[np.int32] = of[:, 0].copy()
        self.part_of: NDArray[np.int8] = of[:, 1].astype(np.int8)
        self.source_of: NDArray[np.int32] = of[:, 2].copy()
        self.sources, self.fields = list(known), uses.table()
        self._digest = digest.hex

    def _source(self, name: str, row: Mapping[str, Any]) -> str:
        if not self._named.source:
            return name
        stated = row.get(self._named.source)
        return clean(f"{name}: {_NOT_STATED if stated is None else stated}")

    def _refuse_idle(self, sources: Mapping[str, int], uses: Uses, documents: int) -> None:
        """Refuse names of fields that no row has, and files of which nothing would be checked."""
        if self._named.source and all(name.endswith(f": {_NOT_STATED}") for name in sources):
            raise InputError(f"no row states its source in '{self._named.source}'; correct --source-field")
        for name in uses.missing(self._named) if self._wanted == PARTS else ():
            raise InputError(f"no row has text in the field '{name}'; correct --prompt-field or --answer-field")
        if not documents:
            raise InputError(f"{', '.join(self.paths)}: no row has text to check; name its fields or another --parts")

    def _rows(self, path: str) -> Iterator[tuple[Mapping[str, Any], RowText, list[Piece]]]:
        """Row, its text, and its documents of the wanted parts."""
        for line, row in read_table(path)[1]:
            text = read_row(row, self._named, f"{path}, line {line}")
            yield row, text, [piece for piece in text.documents() if piece.part in self._wanted]

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
    """A corpus with vectors: those of a shard are computed when they are first asked for, and kept in `folder`.

    `progress` is told how many documents have theirs; it gets label, done, all.
    """

    def __init__(
        self,
        corpus: MemoryCorpus | FileCorpus,
        embedder: Embedder,
        folder: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        self._corpus, self._embedder, self._folder, self._progress = corpus, embedder, folder, progress
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
        return stored_vectors(
            self._embedder,
            shard.texts,
            None,
            self._folder,
            f"vectors-{self._vectors_digest}-{shard.index:06d}",
            lambda done: self._progress("embedding texts", shard.first + done, self.size),
        )
