"""Contamination checks timed: n-gram mode of the embedded engine, beside one request per n-gram to a server.

The comparison does the same work in the same run: the same documents, the same distinct n-grams, exact answers. The
server is asked about a random share of the n-grams, one request each, as tools do it that keep their documents there;
all of them are an extrapolation, and are called so. Then the check runs over corpora of growing size, made up as they
stream past, which shows what a document costs and that memory does not grow with their number. Loading (files or
making up texts) is not counted.
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from decontam.backend import Shard
from decontam.check import ContaminationCheck, run_check
from decontam.corpus import SHARD, MemoryCorpus
from decontam.embedded import EmbeddedBackend
from decontam.items import TestItem
from decontam.tokens import TokenIds
from decontam.verdict import decide
from harness.config import DecontamConfig
from harness.types import derive_seed, stable_hash

SHARE = 0.05
_VOCABULARY = 60_000


@dataclass(frozen=True, slots=True)
class Size:
    """Documents checked: seconds for items and documents, and this process's peak memory so far."""

    documents: int
    seconds: float
    peak_mb: float

    @property
    def microseconds(self) -> float:
        """Per document."""
        return 1e6 * self.seconds / self.documents


@dataclass(frozen=True, slots=True)
class ServerPace:
    """One request per n-gram: how many were timed, and what all would take at that pace (extrapolated)."""

    name: str
    timed: int
    of: int
    seconds: float
    extrapolated: float


@dataclass(frozen=True, slots=True)
class DecontamBench:
    """The measured times. `prepare` and `check` are of the main comparison, in seconds; `where` names its texts."""

    where: str
    documents: int
    tokens: int
    items: int
    ngrams: int
    prepare: float
    check: float
    removed: int
    server: ServerPace | None
    sizes: tuple[Size, ...]

    @property
    def ratio(self) -> float | None:
        """The factor by which the requests take longer than preparing and checking."""
        return self.server.extrapolated / (self.prepare + self.check) if self.server else None


class MadeCorpus:
    """Documents of made-up words with natural frequencies (Zipf), the same for the same seed, made as they are read.

    `making` is the time that reading took so far, in seconds.
    """

    def __init__(self, size: int, words: int = 190, seed: int = 0) -> None:
        self._size, self._words, self._seed = size, words, seed
        self.making = 0.0

    @cached_property
    def vocabulary(self) -> list[str]:
        """Distinct words of one to four syllables."""
        rng = random.Random(derive_seed("vocabulary", self._seed))
        syllables = [a + b + c for a in "bdfgklmnprstv" for b in "aeiou" for c in ("", "n", "s", "r")]
        found: dict[str, None] = {}
        while len(found) < _VOCABULARY:
            found["".join(rng.choice(syllables) for _ in range(rng.randint(1, 4)))] = None
        return list(found)

    @property
    def digest(self) -> str:
        """See `Corpus`."""
        return stable_hash("made", self._size, self._words, self._seed, length=32)

    @property
    def vectors_digest(self) -> str | None:
        """None."""
        return None

    @property
    def size(self) -> int:
        """Documents."""
        return self._size

    @property
    def shard_size(self) -> int:
        """Documents of a shard."""
        return SHARD

    def texts(self, count: int, *parts: int | str) -> list[str]:
        """`count` texts, drawn by `parts`."""
        rng = np.random.default_rng(derive_seed("texts", self._seed, *parts))
        lengths = rng.integers(self._words // 2, self._words * 3 // 2, count)
        drawn = rng.zipf(1.15, int(lengths.sum() * 1.6))
        drawn = drawn[drawn <= _VOCABULARY][: lengths.sum()] - 1
        bounds = np.minimum(np.cumsum(lengths), len(drawn))
        vocabulary = self.vocabulary
        cut = np.split(drawn, bounds[:-1])
        return [" ".join([vocabulary[i] for i in part]) + "." for part in cut]

    def shards(self, *, skip: Container[int] = (), vectors: bool = False) -> Iterator[Shard]:
        """See `Corpus`."""
        assert not vectors
        for index, first in enumerate(range(0, self._size, SHARD)):
            if index not in skip:
                started = time.perf_counter()
                shard = Shard(index, first, self.texts(min(SHARD, self._size - first), index))
                self.making += time.perf_counter() - started
                yield shard


def load_paragraphs(paths: Sequence[str], documents: int) -> list[str]:
    """Texts of files, in order, until there are `documents`; long ones are cut into pieces of 200 words."""
    from decontam.fields import Fields, read_row
    from harness.synthesis.tables import read_all

    texts: list[str] = []
    for name, rows in read_all(paths):
        for line, row in rows:
            for piece in read_row(row, Fields(), f"{name}, line {line}").documents():
                parts = piece.text.split()
                texts += [" ".join(parts[i : i + 200]) for i in range(0, len(parts), 200)]
            if len(texts) >= documents:
                return texts[:documents]
    return texts


def bench_decontam(
    *, train: Sequence[str], items: Sequence[TestItem], documents: int, count: int, sizes: Sequence[int], seed: int = 0
) -> DecontamBench:
    """Compare and scale. Without `train` or `items`, texts and items are made up. The server is HARNESS_ES_URL's."""
    settings = DecontamConfig(modes=("ngram",))
    made = MadeCorpus(documents, seed=seed)
    texts = load_paragraphs(train, documents) if train else [t for s in made.shards() for t in s.texts]
    asked = list(items) or [TestItem("made", str(i), (t,)) for i, t in enumerate(made.texts(count, "items"))]
    random.Random(derive_seed("bench items", seed)).shuffle(asked)
    asked = asked[:count]
    corpus = MemoryCorpus(texts)
    started = time.perf_counter()
    check = ContaminationCheck(asked, settings, EmbeddedBackend())
    ngrams = check.line.grams
    prepared = time.perf_counter()
    verdicts = decide(check, run_check(check, corpus), corpus.size)
    done = time.perf_counter()
    counted = TokenIds({}).of(texts)[0]
    server = _time_server(corpus, check) if os.environ.get("HARNESS_ES_URL") else None
    return DecontamBench(
        where=", ".join(train) if train else "made-up texts",
        documents=corpus.size,
        tokens=len(counted) - corpus.size - 1,
        items=len(asked),
        ngrams=ngrams,
        prepare=prepared - started,
        check=done - prepared,
        removed=int(verdicts.removed.sum()),
        server=server,
        sizes=tuple(_time_size(size, asked, settings, seed) for size in sizes),
    )


def _time_server(corpus: MemoryCorpus, check: ContaminationCheck) -> ServerPace:
    from decontam.backend import Phrases
    from decontam.elastic import open_elastic, time_single_requests

    phrases = check.side.question.phrases
    # The same distinct n-grams, without whole fields.
    end = check.line.grams
    grams = Phrases(phrases.vocabulary, phrases.ids[: phrases.starts[end]], phrases.starts[: end + 1])
    backend = open_elastic(os.environ)
    try:
        timed = time_single_requests(backend, corpus, grams, fraction=SHARE)
        return ServerPace(
            name=backend.name,
            timed=timed.timed,
            of=timed.phrases,
            seconds=timed.seconds,
            extrapolated=timed.extrapolated_seconds,
        )
    finally:
        backend.close()


def _time_size(documents: int, items: Sequence[TestItem], settings: DecontamConfig, seed: int) -> Size:
    corpus = MadeCorpus(documents, seed=seed)
    assert corpus.vocabulary
    started = time.perf_counter()
    check = ContaminationCheck(items, settings, EmbeddedBackend())
    decide(check, run_check(check, corpus), corpus.size)
    seconds = time.perf_counter() - started - corpus.making
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Size(documents, seconds, peak)


def render_decontam(result: DecontamBench) -> str:
    """The result as a screen of text."""
    total = result.prepare + result.check
    lines = [
        f"n-gram mode, {result.documents:,} documents ({result.tokens / 1e6:.1f} M tokens, {result.where}),",
        f"{result.items:,} items with {result.ngrams:,} distinct n-grams; one process, after loading:",
        f"  embedded engine           {total:8.1f} s   (items {result.prepare:.1f}, documents {result.check:.1f}; "
        f"{result.removed:,} documents found)",
    ]
    if result.server:
        s = result.server
        lines += [
            f"  one request per n-gram    {s.extrapolated:8.1f} s   extrapolated: {s.timed:,} of {s.of:,} took "
            f"{s.seconds:.1f} s ({s.name}, indexing not counted)",
            f"  ratio                     {result.ratio or 0:8.0f} x",
        ]
    else:
        lines.append("  one request per n-gram    not measured: HARNESS_ES_URL names no server")
    if result.sizes:
        lines += ["", "made-up documents of 190 words, streamed:", "   documents   seconds   µs each   peak MB"]
        lines += [
            f"  {size.documents:>10,} {size.seconds:>9.1f} {size.microseconds:>9.0f} {size.peak_mb:>9.0f}"
            for size in result.sizes
        ]
    return "\n".join(lines)
