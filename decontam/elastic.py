"""The engine on an Elasticsearch server: the same answers as the embedded one, by the server's own index.

For a corpus that is indexed once and checked often, or for results that have to come from the tool that published
results came from. Documents are analysed by the server; phrases arrive as tokens and are searched as they are, as exact
phrases and not by rank, many in one request; vectors are compared with all others, not through a graph. A server
returns at most 10,000 hits of one search: a phrase with more goes on behind its last document (hits are ordered by
document number, and a finished index never changes), and a query vector with more is asked again over ranges of
10,000 documents.

What it costs: about a millisecond a phrase on two cores, all of it the server's. What it gives up: scripts, ranking,
approximate search, and every setting of an index that could change an answer.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decontam.backend import Corpus, Floats, Ints, Neighbours, Phrases, Postings, Vectors
from decontam.elastic_client import Client, ElasticServer
from decontam.elastic_index import Index, IndexKind
from decontam.elastic_pairs import CosinePairs
from harness.screen import ProgressCallback, no_progress
from harness.types import stable_hash

PAGE = 10_000
"""Hits of one search at most, and candidates of one vector search: the server's limits, unless someone raised them."""

_PHRASES = 1000
_FIRST_PAGE = 100
_HITS = 100_000  # of one response, which is held in memory: some 30 MB
_VECTORS = 10
_BARE = {"_source": False, "stored_fields": "_none_", "track_total_hits": False}
_SLACK = 1e-5
"""Below the floor of cosines that is sent to the server: it compares in single precision, and we compare again."""


class ElasticBackend:
    """`decontam.backend.Backend` on a server. `scratch` keeps answers that were not yet read, so that a killed search
    goes on where it was; without it they lie in a temporary folder and go with the object."""

    def __init__(
        self, client: Client, *, scratch: Path | None = None, progress: ProgressCallback = no_progress
    ) -> None:
        """Use `client`; see `open_elastic` for one from the environment."""
        self._client = client
        self._temporary = tempfile.TemporaryDirectory(prefix="harness-decontam-")
        self._scratch = scratch if scratch is not None else Path(self._temporary.name)
        self._progress = progress

    @property
    def name(self) -> str:
        """Engine, version and address of the server."""
        return f"elasticsearch {self._client.version} at {self._client.server.url}"

    def find(
        self, corpus: Corpus, phrases: Phrases, *, cap: int | None = None, skip: Container[int] = ()
    ) -> Iterator[Postings]:
        """The places of `phrases`, one answer per shard; see `decontam.backend.Backend.find`."""
        index = self.prepare(corpus)
        pairs = self._pairs(index, (cap,), phrases.ids, phrases.starts, "\n".join(phrases.vocabulary))
        batches = _ranges(len(phrases), _PHRASES)
        for number, (first, last) in enumerate(batches):
            if not pairs.has(number):
                found = self.documents(index, [phrases.words(p) for p in range(first, last)], cap)
                query = np.repeat(np.arange(first, last), [len(documents) for documents in found])
                pairs.write(number, np.array([n for documents in found for n in documents], np.int64), query)
            self._progress("searching phrases", last, len(phrases))
        for shard in corpus.shards(skip=skip):
            stand = pairs.slice(len(batches), shard.first, shard.first + len(shard.texts))
            yield Postings(shard, stand["document"], stand["query"])
        pairs.delete()

    def nearest(
        self, corpus: Corpus, queries: Vectors, *, floor: float, top: int | None = None, skip: Container[int] = ()
    ) -> Iterator[Neighbours]:
        """Documents near `queries`, one answer per shard; see `decontam.backend.Backend.nearest`."""
        # The zero vector of a text without content has no direction and is near nothing; servers refuse it.
        asked = np.flatnonzero(queries.any(axis=1))
        index = self.prepare(corpus, "vectors", queries.shape[1]) if len(asked) else None
        pairs = self._pairs(index, (floor, top), queries)
        batches = _ranges(len(asked), _VECTORS)
        for number, (first, last) in enumerate(batches):
            if index is not None and not pairs.has(number):
                document, query, cosine = self._neighbours(index, corpus.size, queries[asked[first:last]], floor, top)
                pairs.write(number, document, asked[first + query], cosine)
            self._progress("searching vectors", last, len(asked))
        for shard in corpus.shards(skip=skip):
            near = pairs.slice(len(batches), shard.first, shard.first + len(shard.texts))
            yield Neighbours(shard, near["document"], near["query"], near["cosine"])
        pairs.delete()

    def close(self) -> None:
        """Close connections and drop the temporary folder; the server's indices stay."""
        self._client.close()
        self._temporary.cleanup()

    def prepare(self, corpus: Corpus, kind: IndexKind = "text", dimensions: int | None = None) -> Index:
        """The corpus's index on the server, built where it is not there yet."""
        index = Index(self._client, corpus, kind, dimensions)
        index.ensure(self._progress)
        return index

    def _pairs(self, index: Index | None, rules: tuple[float | None, ...], *asked: NDArray[Any] | str) -> CosinePairs:
        """The files of one question: the same corpus, rules and queries find what an earlier process left."""
        digest = hashlib.sha256()
        for part in asked:
            digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
        return CosinePairs(self._scratch / stable_hash(index.name if index else None, list(rules), digest.hexdigest()))

    def documents(self, index: Index, phrases: Sequence[tuple[str, ...]], cap: int | None = None) -> list[list[int]]:
        """The documents of each phrase in order, all of them or the first `cap`."""
        found: list[list[int]] = [[] for _ in phrases]
        open_, page = list(range(len(phrases))), _FIRST_PAGE
        while open_:
            still: list[int] = []
            for first, last in _ranges(len(open_), _HITS // page):
                asked = open_[first:last]
                sizes = [page if cap is None else min(page, cap - len(found[p])) for p in asked]
                bodies = [_phrase_search(phrases[p], size, found[p][-1:]) for p, size in zip(asked, sizes, strict=True)]
                answers = self._client.msearch("searching phrases", index.alias, bodies)
                for p, hits in zip(asked, answers, strict=True):
                    found[p].extend(int(hit["sort"][0]) for hit in hits)
                    if len(hits) == page and len(found[p]) != cap:
                        still.append(p)
            open_, page = still, PAGE
        return found

    def _neighbours(
        self, index: Index, size: int, queries: Vectors, floor: float, top: int | None
    ) -> tuple[Ints, Ints, Floats]:
        """Documents, queries (numbered from 0) and cosines of all pairs that are asked for."""
        wanted = size if top is None else min(top, size)
        count = min(wanted, PAGE)
        bodies = [_vector_search(query, count, floor, top) for query in queries] if count else []
        answers = self._client.msearch("searching vectors", index.alias, bodies) if bodies else []
        for number, hits in enumerate(answers):
            if len(hits) == PAGE < wanted:  # there may be more: ask range by range, each of which fits
                answers[number] = []
                for first, last in _ranges(size, PAGE):
                    body = _vector_search(queries[number], last - first, floor, top, (first, last))
                    answers[number] += self._client.msearch("searching vectors", index.alias, [body])[0]
        query = np.repeat(np.arange(len(answers)), [len(hits) for hits in answers])
        document = np.array([hit["sort"][1] for hits in answers for hit in hits], np.int64)
        # The server's score of cosine similarity is (1 + cosine) / 2.
        cosine = 2.0 * np.array([hit["sort"][0] for hits in answers for hit in hits], np.float64) - 1.0
        near = cosine >= floor
        return document[near], query[near], cosine[near]


def _ranges(total: int, size: int) -> list[tuple[int, int]]:
    """(0, size), (size, 2 size), … up to `total`."""
    return [(first, min(first + size, total)) for first in range(0, total, size)]


def _phrase_search(words: Sequence[str], size: int, after: Sequence[int] = ()) -> dict[str, Any]:
    """A search for the first `size` documents, behind document `after`, in which `words` stand in a row.

    The query analyzer `whitespace` takes the tokens as they are; analysed by `standard` again, a few would change.
    """
    phrase = {"match_phrase": {"text": {"query": " ".join(words), "analyzer": "whitespace", "slop": 0}}}
    body = {"query": {"constant_score": {"filter": phrase}}, "sort": ["n"], "size": size, **_BARE}
    return {**body, "search_after": list(after)} if after else body


def _vector_search(
    query: Vectors, count: int, floor: float, top: int | None, within: tuple[int, int] | None = None
) -> dict[str, Any]:
    """A search for the `count` documents nearest to `query` (d,), of those numbered `within`."""
    knn: dict[str, Any] = {"field": "vector", "query_vector": query.tolist(), "k": count, "num_candidates": count}
    if top is None and floor - _SLACK > -1.0:
        knn["similarity"] = floor - _SLACK
    if within is not None:
        knn["filter"] = {"range": {"n": {"gte": within[0], "lt": within[1]}}}
    return {"knn": knn, "sort": ["_score", "n"], "size": count, **_BARE}


def open_elastic(
    environment: Mapping[str, str], *, scratch: Path | None = None, progress: ProgressCallback = no_progress
) -> ElasticBackend:
    """The engine on the server that the environment names; see `decontam.elastic_client` for the variables.

    Raises `ConfigError` where they contradict each other and `PrerequisiteError` where the server, its certificate or
    the credentials are not what is needed.
    """
    return ElasticBackend(Client(ElasticServer.from_environment(environment)), scratch=scratch, progress=progress)


@dataclass(frozen=True, slots=True)
class SingleRequests:
    """The time of `timed` of `phrases` phrases with a request each, in seconds, after the index was built."""

    phrases: int
    timed: int
    seconds: float

    @property
    def extrapolated_seconds(self) -> float:
        """The time of all phrases at that pace. An extrapolation, to be labelled as one."""
        return self.seconds * self.phrases / self.timed if self.timed else 0.0


def time_single_requests(
    backend: ElasticBackend, corpus: Corpus, phrases: Phrases, *, fraction: float = 0.05, seed: int = 0
) -> SingleRequests:
    """Time the check as tools do it that send one HTTP request per n-gram, on a random `fraction` of the phrases.

    The request is the one that `find` sends many of at a time: exact, first page of hits, further pages where there are
    more, and without the documents' text in the answer, which such tools fetch as well; so the time is a lower bound of
    theirs.
    """
    index = backend.prepare(corpus)
    count = max(1, round(fraction * len(phrases))) if len(phrases) else 0
    chosen = np.sort(np.random.default_rng(seed).choice(len(phrases), count, replace=False))
    started = time.perf_counter()
    for phrase in chosen:
        backend.documents(index, [phrases.words(int(phrase))])
    return SingleRequests(len(phrases), count, time.perf_counter() - started)
