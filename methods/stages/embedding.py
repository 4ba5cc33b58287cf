"""Texts that a stage embeds: in shards that whoever the run's engine is computes, committed as they come.

The shard is the unit of batching under every engine, since a model's vectors change in their last digits with the
texts that share a batch. Texts without a vector are cut, in order, into shards of `SHARD`; only the last is smaller, so
what a killed process left over is cut as it was. Vectors are found again by the text's hash: in the stage's side table
`vectors`, in `row_vectors` where rows brought theirs along, and in both tables of its inputs. What this gives up: the
disk that vectors take (1.5 kB for a text and 384 numbers).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.config import EmbedderConfig
from harness.errors import InputError
from harness.executor import InProcess, ShardWorker, Task, Work
from harness.models.embedder import Embedder, open_embedder
from harness.models.given_vectors import text_key
from harness.shards import ShardOutput, part_name, parts, read_metadata
from harness.stage import StageRun
from harness.types import Usage

SHARD = 512
"""Texts of a shard."""

VECTORS = "vectors"
ROW_VECTORS = "row_vectors"

_TABLES = (VECTORS, ROW_VECTORS)


@dataclass(frozen=True)
class EmbeddingWorker:
    """Embeds shards of texts wherever the embedder's model can be loaded."""

    config: EmbedderConfig

    def open(self) -> Work:
        """Set up the embedder; its model is loaded at the first text."""
        embedder = open_embedder(self.config)

        def shard(items: Sequence[str], index: int, seed: int) -> ShardOutput:
            before = embedder.truncated
            rows = [
                {"text": text_key(text), "vector": vector}
                for text, vector in zip(items, embedder.embed(items), strict=True)
            ]
            return ShardOutput(rows, usage=embedder.usage(), shortened=embedder.truncated - before)

        return shard


def embedding_worker(config: EmbedderConfig) -> ShardWorker:
    """The worker that embeds: for any process, where a model has to run.

    Hashing words costs less than sending their vectors, and an endpoint is a server, which is scaled by itself.
    """
    worker = EmbeddingWorker(config)
    return worker if config.kind == "sentence_transformers" else InProcess(worker.open())


def with_vectors(output: ShardOutput, texts: Iterable[str], embed: Work) -> ShardOutput:
    """A shard of rows, together with the vectors of their texts, which then are computed where the rows were."""
    found = embed([text for text in dict.fromkeys(texts) if text.strip()], 0, 0)
    return replace(output, tables={**output.tables, ROW_VECTORS: found.rows}, usage=[*output.usage, *found.usage])


def stage_embedder(run: StageRun, config: EmbedderConfig) -> Embedder:
    """The embedder that the settings name, for the texts of a stage."""
    # Given vectors are already stored and matched.
    return open_embedder(config) if config.kind == "vectors" else StageEmbedder(run, config)


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
    """A stored shard: float32 [texts, dimension], and how many of the texts were cut to fit the model."""

    vectors: NDArray[np.float32]
    cut: int


class StageEmbedder:
    """An `Embedder` whose vectors are the stage's shards. What they cost is in the shards' accounts."""

    def __init__(self, run: StageRun, config: EmbedderConfig) -> None:
        self._run, self._own = run, open_embedder(config)
        self._worker = embedding_worker(config)
        self._known: dict[str, tuple[_Part, int]] = {}
        self._read: set[Path] = set()
        self._used: set[_Part] = set()

    @property
    def name(self) -> str:
        """See `Embedder`."""
        return self._own.name

    @property
    def identity(self) -> str:
        """See `Embedder`."""
        return self._own.identity

    @property
    def truncated(self) -> int:
        """The number of texts that were cut in the shards that `embed` has used so far."""
        return sum(part.cut for part in self._used)

    def embed(self, texts: Sequence[str], ids: Sequence[str] | None = None) -> NDArray[np.float32]:
        """See `Embedder`; a text is embedded once in a stage."""
        keys = [text_key(text) if text.strip() else "" for text in texts]
        if set(keys) - self._known.keys() - {""}:
            self._find()
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key and key not in self._known}
        if missing:
            self._compute(list(missing.values()))
        if not self._known:
            return self._own.embed(texts)
        out = np.zeros((len(texts), next(iter(self._known.values()))[0].vectors.shape[1]), np.float32)
        for i, key in enumerate(keys):
            if key:
                part, row = self._known[key]
                out[i] = part.vectors[row]
                self._used.add(part)
        return out

    def usage(self) -> list[Usage]:
        """Nothing: the shards' accounts have it."""
        return []

    def _compute(self, texts: Sequence[str]) -> None:
        run, table = self._run, self._run.folder / VECTORS
        first = 1 + max((int(part.stem.rpartition("-")[2]) for part in parts(table)), default=-1)
        cuts = [texts[i : i + SHARD] for i in range(0, len(texts), SHARD)]
        # Nothing is drawn at random.
        tasks = (Task(cut, first + number, 0) for number, cut in enumerate(cuts))
        for done, computed in enumerate(run.compute(self._worker, tasks, ordered=False), 1):
            index = computed.task.index
            run.write(index, computed.output, computed.seconds, computed.place, table=VECTORS)
            self._take(table / part_name(index))
            run.observer.progress(f"{run.stage.name}: embedding", done, len(cuts))

    def _find(self) -> None:
        """Read shards that were not there before, or not looked at; of equal texts the first vector counts."""
        for folder in (*self._run.inputs.folders.values(), self._run.folder):
            for table in _TABLES:
                for part in parts(folder / table):
                    if part not in self._read:
                        self._take(part)

    def _take(self, path: Path) -> None:
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(path).read()
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a readable parquet file ({error}); delete it and resume") from None
        vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        part = _Part(vectors.reshape(len(table), -1), int(read_metadata(path).get("shortened", 0)))
        for row, key in enumerate(table["text"].to_pylist()):
            self._known.setdefault(key, (part, row))
        self._read.add(path)
