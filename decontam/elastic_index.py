"""An index of a corpus on the server: named by its content, built once, resumed when half built, reused when whole.

The name holds a hash of the documents and of everything that decides an answer (mapping, analyzer, settings), so an
index that exists under it answers rightly or is not finished. Which of the two is told by aliases, because swapping one
for the other is the server's only atomic step: a fresh index is created together with `NAME-building`, documents are
written through that alias alone, and when every document is counted it is replaced by `NAME-complete`, through which
all searches go. So a half-built index is never searched, and one that is deleted in mid-run is missed at once instead
of being created anew, empty and with a guessed mapping.

One shard and no replicas, sorted by document number: the first hits of a phrase are the first documents, and a search
stops when it has enough of them. What this gives up: spreading one corpus over the nodes of a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from decontam.backend import Corpus, Shard
from decontam.elastic_client import Client, SearchFailed
from decontam.tokens import PLAIN
from harness.errors import ConfigError, StageError
from harness.screen import ProgressCallback
from harness.types import stable_hash

PREFIX = "harness-decontam"
MAX_DIMENSIONS = 4096
"""What `dense_vector` holds at most."""

_BULK_DOCUMENTS = 1000
_BULK_BYTES = 8 * 1024 * 1024

IndexKind = Literal["text", "vectors"]


def mapping(kind: IndexKind, dimensions: int | None) -> dict[str, Any]:
    """The index's mapping. Nothing is left to a default that differs between versions or can be guessed from data.

    Text: analyzer `standard` by name, positions, no norms (nothing is ranked). Vectors: `flat`, so that a search
    compares with every vector; by default servers quantise (`int8_hnsw` from 8.14, `bbq_hnsw` from 9.1 at 384
    dimensions and more), and answers become approximate.
    """
    properties: dict[str, Any] = {"n": {"type": "long"}}
    if kind == "text":
        properties["text"] = {"type": "text", "analyzer": "standard", "index_options": "positions", "norms": False}
    else:
        properties["vector"] = {
            "type": "dense_vector",
            "element_type": "float",
            "dims": dimensions,
            "index": True,
            "similarity": "cosine",
            "index_options": {"type": "flat"},
        }
    return {"dynamic": "strict", "_source": {"enabled": False}, "properties": properties}


SETTINGS: dict[str, Any] = {
    "number_of_shards": 1,
    "number_of_replicas": 0,
    "refresh_interval": "-1",
    "sort.field": "n",
    "sort.order": "asc",
}


class Index:
    """One corpus on the server. `alias` is what is searched, once `ensure` has returned."""

    def __init__(self, client: Client, corpus: Corpus, kind: IndexKind, dimensions: int | None = None) -> None:
        """Name the index; nothing is asked or written yet."""
        if dimensions is not None and dimensions > MAX_DIMENSIONS:
            raise ConfigError(
                f"these vectors have {dimensions} dimensions and Elasticsearch holds {MAX_DIMENSIONS}; "
                "use the embedded backend or a smaller embedder"
            )
        self._client = client
        self._corpus = corpus
        self._kind: IndexKind = kind
        self._mapping = mapping(kind, dimensions)
        digest = corpus.digest if kind == "text" else corpus.vectors_digest
        if digest is None:
            raise ConfigError("this corpus has no vectors; name an embedder")
        way = PLAIN if kind == "text" else None
        self.name = f"{PREFIX}-{kind}-{stable_hash(digest, corpus.size, self._mapping, SETTINGS, way)}"
        self._building = f"{self.name}-building"
        self.alias = f"{self.name}-complete"

    def ensure(self, progress: ProgressCallback) -> None:
        """Build what is not there. Raises `StageError` where the server fails; a later call goes on from there."""
        if not self._is_complete():
            self._create()
            try:
                self._fill(progress)
            except StageError:
                if not self._was_built_meanwhile():
                    raise
            self._finish()
        held = self._count(self.alias)
        if held != self._corpus.size:
            raise StageError(
                f"the index {self.name} at {self._client.server.url} holds {held} documents instead of "
                f"{self._corpus.size}: something else wrote to it; delete it and run again"
            )

    def _is_complete(self) -> bool:
        api = self._client.api
        return bool(self._client.call("looking for the index", lambda: api.indices.exists_alias(name=self.alias)))

    def _was_built_meanwhile(self) -> bool:
        """Whether another process finished this very index, which is why ours can no longer write to it."""
        try:
            return bool(self._client.api.indices.exists_alias(name=self.alias))
        except Exception:  # whatever it is, the failure that led here is the one to tell of
            return False

    def _create(self) -> None:
        api = self._client.api
        if self._client.call("looking for the index", lambda: bool(api.indices.exists(index=self.name))):
            return

        def create() -> None:
            import elasticsearch

            try:
                api.indices.create(
                    index=self.name,
                    settings=SETTINGS,
                    mappings={**self._mapping, "_meta": {"documents": self._corpus.size, "of": "harness decontam"}},
                    aliases={self._building: {}},
                )
            except elasticsearch.BadRequestError as error:
                if error.error != "resource_already_exists_exception":  # another process was faster
                    raise

        self._client.call("creating the index", create)

    def _fill(self, progress: ProgressCallback) -> None:
        """Write every shard of the corpus that is not wholly there, in order."""
        size, corpus = self._corpus.shard_size, self._corpus
        whole = {
            index for index, count in self._shard_counts().items() if count == min(size, corpus.size - index * size)
        }
        done = sum(min(size, corpus.size - index * size) for index in whole)
        progress(f"indexing {self._kind}", done, corpus.size)
        for shard in corpus.shards(skip=whole, vectors=self._kind == "vectors"):
            self._client.call("indexing", lambda shard=shard: self._write(shard))  # type: ignore[misc]
            done += len(shard.texts)
            progress(f"indexing {self._kind}", done, corpus.size)

    def _shard_counts(self) -> dict[int, int]:
        """Documents by shard that an earlier attempt left."""
        size = self._corpus.shard_size

        def count() -> dict[int, int]:
            api = self._client.api
            api.indices.refresh(index=self.name)
            histogram = {"histogram": {"field": "n", "interval": size, "min_doc_count": 1}}
            answer = api.search(index=self.name, size=0, aggs={"shards": histogram}, allow_partial_search_results=False)
            return {int(b["key"]) // size: b["doc_count"] for b in answer["aggregations"]["shards"]["buckets"]}

        return self._client.call("counting what is indexed", count)

    def _write(self, shard: Shard) -> None:
        """Send one shard. Documents are named by number, so sending one twice changes nothing."""
        from elasticsearch import helpers

        outcomes = helpers.streaming_bulk(
            self._client.api,
            self._actions(shard),
            chunk_size=_BULK_DOCUMENTS,
            max_chunk_bytes=_BULK_BYTES,
            raise_on_error=False,
            require_alias=True,
        )
        for fine, outcome in outcomes:
            if not fine:
                detail = next(iter(outcome.values()))
                error = detail.get("error")
                raise SearchFailed(
                    int(detail.get("status", 500)), error if isinstance(error, dict) else {"reason": str(error)}
                )

    def _actions(self, shard: Shard) -> Iterator[dict[str, Any]]:
        texts = shard.plain if self._kind == "text" else shard.texts
        for offset, text in enumerate(texts):
            number = shard.first + offset
            action: dict[str, Any] = {"_index": self._building, "_id": str(number), "n": number}
            if self._kind == "text":
                action["text"] = text
            else:
                if shard.vectors is None:
                    raise StageError("the corpus gave no vectors for indexing")
                vector = shard.vectors[offset]
                # An empty text may have the zero vector: it has no direction, is near nothing, and is refused.
                if np.any(vector):
                    action["vector"] = vector.tolist()
            yield action

    def _count(self, name: str) -> int:
        api = self._client.api
        return self._client.call("counting what is indexed", lambda: int(api.count(index=name)["count"]))

    def _finish(self) -> None:
        """Make everything searchable and on disk, count it, and only then call the index complete."""
        api = self._client.api

        def settle() -> None:
            api.indices.refresh(index=self.name)
            api.indices.flush(index=self.name)

        self._client.call("finishing the index", settle)
        held = self._count(self.name)
        if held != self._corpus.size:
            raise StageError(
                f"the index {self.name} at {self._client.server.url} holds {held} documents after {self._corpus.size} "
                "were sent; delete it and run again"
            )
        actions = [
            {"add": {"index": self.name, "alias": self.alias}},
            {"remove": {"index": self.name, "alias": self._building, "must_exist": False}},
        ]
        self._client.call("finishing the index", lambda: api.indices.update_aliases(actions=actions))
