"""The embedded engine and live Elasticsearch nodes on real documents and real test items: the same answers.

Documents are paragraphs of medical pages, books and abstracts, some with test items planted: whole, re-wrapped, in
capitals, in full width, with soft hyphens or entities, and cut to a part. Items are of four benchmarks, one with two
fields and one with texts of four tokens.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analyze import record

from decontam.check import ContaminationCheck, run_check
from decontam.corpus import EmbeddedCorpus, MemoryCorpus
from decontam.elastic import ElasticBackend, time_single_requests
from decontam.elastic_client import Client, ElasticServer
from decontam.embedded import EmbeddedBackend
from decontam.items import TestItem
from decontam.tokens import token_texts
from decontam.verdict import KINDS, Verdicts, decide
from harness.config import DecontamConfig, EmbedderConfig
from harness.models.embedder import open_embedder
from support.elastic_nodes import Node
from support.minilm import minilm

pytest.importorskip("elasticsearch")
pytestmark = pytest.mark.server

BENCHMARKS = (
    ("mmlu_pro", "mmlu_pro_test", ("question",), 30),
    ("medqa", "medqa_us_4opt_test", ("question",), 20),
    ("drop", "drop_val_1000", ("passage", "question"), 3),
    ("game24", "game24", ("puzzle",), 8),
)
DOCUMENTS = ("nih_medquad_docs", "standardebooks_hss", "pubmed_ncbi_disease")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


@pytest.fixture(scope="module")
def items(test_data: Path) -> list[TestItem]:
    """61 items, spread over each benchmark."""
    found = []
    for name, file, fields, count in BENCHMARKS:
        every = list(rows(test_data / "eval" / f"{file}.jsonl.gz"))
        for number in range(0, len(every), max(1, len(every) // count))[:count]:
            found.append(TestItem(name, str(number), tuple(str(every[number][field]) for field in fields)))
    return found


@pytest.fixture(scope="module")
def texts(test_data: Path, items: list[TestItem]) -> list[str]:
    """3,000 documents, every fiftieth with an item in it."""
    rng = random.Random(0)
    found: list[str] = []
    for name in DOCUMENTS:
        pages = (row["text"] for row in rows(test_data / "seeds" / f"{name}.jsonl.gz"))
        found += islice((p for page in pages for p in page.split("\n\n") if len(p) > 80), 1000)
    rng.shuffle(found)
    for number in range(0, len(found), 50):
        item = rng.choice(items).text
        kept = item.split()
        wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in item)
        hidden = "&nbsp;".join(f"{word[:2]}\u00ad{word[2:]}" for word in kept)
        cut = " ".join(kept[: len(kept) * 2 // 3])
        planted = rng.choice((item, "\n".join(kept), item.upper(), wide, hidden, cut))
        found[number] = f"{found[number][:60]}\n{planted}\n{found[number]}"
    return found


@pytest.fixture(scope="module")
def corpus(texts: list[str]) -> MemoryCorpus:
    return MemoryCorpus(texts, shard_size=700)


@pytest.fixture
def server(node: Node) -> Iterator[ElasticBackend]:
    backend = ElasticBackend(Client(ElasticServer(node.url)))
    yield backend
    backend.close()


class Remembered:
    """A sentence-embedding model that is run once for a text, though several tests ask."""

    def __init__(self) -> None:
        self._model = open_embedder(EmbedderConfig(id=str(minilm())))
        self._known: dict[str, np.ndarray[Any, Any]] = {}
        self.name, self.identity, self.truncated = self._model.name, self._model.identity, 0

    def embed(self, texts: Sequence[str], ids: Sequence[str] | None = None) -> Any:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._model.embed(new), strict=True))
        return np.stack([self._known[text] for text in texts])

    def usage(self) -> list[Any]:
        return self._model.usage()


@pytest.fixture(scope="module")
def embedder() -> Remembered:
    return Remembered()


def verdicts(backend: Any, corpus: Any, items: list[TestItem], embedder: Any = None, **settings: Any) -> Verdicts:
    check = ContaminationCheck(items, DecontamConfig(**settings), backend, embedder)
    return decide(check, run_check(check, corpus), corpus.size)


def count(found: Verdicts) -> dict[str, int]:
    """Hits by kind."""
    return {kind: int(np.sum(found.pairs.hit & (found.pairs.kind == i))) for i, kind in enumerate(KINDS)}


def assert_same_words(ours: Verdicts, theirs: Verdicts) -> None:
    for name in ("document", "item", "kind", "hit", "removes"):
        assert np.array_equal(getattr(ours.pairs, name), getattr(theirs.pairs, name)), name
    assert np.max(np.abs(ours.pairs.score - theirs.pairs.score), initial=0.0) < 1e-12
    assert np.array_equal(ours.removed, theirs.removed)
    assert np.array_equal(ours.frequency, theirs.frequency)
    assert np.array_equal(ours.evidence, theirs.evidence)


def test_text_and_ngram_verdicts(server: ElasticBackend, corpus: MemoryCorpus, items: list[TestItem]) -> None:
    ours, theirs = (verdicts(b, corpus, items, modes=("text", "ngram")) for b in (EmbeddedBackend(), server))
    assert_same_words(ours, theirs)
    hits = count(ours)
    # 60 places hold an item, a quarter of them a part of one; some of the items are short or stand in several places.
    assert hits["text"] > 30 and hits["ngram"] > 40 and 30 < ours.removed.sum() < 300


def test_text_and_ngram_verdicts_by_other_rules(
    server: ElasticBackend, corpus: MemoryCorpus, items: list[TestItem]
) -> None:
    rules = {"ngram_size": 3, "common_share": None, "remove_short": True, "min_tokens": 1, "thresholds": (0.05, 0.5)}
    ours, theirs = (verdicts(b, corpus, items[::3], **rules) for b in (EmbeddedBackend(), server))
    assert_same_words(ours, theirs)
    assert count(ours)["ngram"] > 20


def test_verdicts_by_the_rules_of_open_instruct(
    server: ElasticBackend, corpus: MemoryCorpus, items: list[TestItem]
) -> None:
    """With a cap that many n-grams reach: of each n-gram the first ten documents count."""
    pytest.importorskip("spacy")
    rules = {"compat": "open-instruct", "search_size": 10}
    ours, theirs = (verdicts(b, corpus, items[::2], **rules) for b in (EmbeddedBackend(), server))
    assert_same_words(ours, theirs)
    assert count(ours)["ngram"] > 10
    uncapped = verdicts(EmbeddedBackend(), corpus, items[::2], compat="open-instruct", search_size=100_000)
    assert uncapped.frequency.max() > ours.frequency.max() == 10


@pytest.mark.parametrize("compat", ["none", "open-instruct"])
def test_embedding_verdicts(
    server: ElasticBackend, texts: list[str], items: list[TestItem], embedder: Remembered, compat: str
) -> None:
    """With a sentence-embedding model, half of the documents with an item; a threshold that finds dozens of pairs."""
    if compat == "open-instruct":
        pytest.importorskip("spacy")
    part = EmbeddedCorpus(MemoryCorpus([text[:300] for text in texts[::25]], 50), embedder)
    rules = {"modes": ("embedding",), "embedding_threshold": 0.55, "compat": compat}
    if compat == "open-instruct":
        rules["embedding_threshold"] = 0.775  # in the server's unit: the same
    ours, theirs = (verdicts(b, part, items, embedder, **rules) for b in (EmbeddedBackend(), server))
    mine, other = (
        {(d, i): s for d, i, s in zip(found.document, found.item, found.score, strict=True)}
        for found in (ours.pairs, theirs.pairs)
    )
    assert len(mine) > 30 and count(ours)["embedding"] > 10
    assert mine.keys() == other.keys()
    assert max(abs(score - other[pair]) for pair, score in mine.items()) < 1e-5
    assert np.array_equal(ours.removed, theirs.removed) and ours.removed.any()


def test_recorded_analysis_is_what_this_node_says(node: Node) -> None:
    """Every seventh recorded string; the file is made by the same function."""
    with gzip.open(record.FILE, "rt", encoding="utf-8") as lines:
        recorded = [json.loads(line) for line in lines][1:]
    for row in recorded[::7]:
        assert record.analyze(node.url, row["text"]) == (row["tokens"], row["spans"]), ascii(row["text"])


def test_tokens_of_real_texts(node: Node, texts: list[str], items: list[TestItem]) -> None:
    for text in (*texts[::20], *(item.text for item in items)):
        assert token_texts(text) == record.analyze(node.url, text)[0], text[:80]


def test_single_requests_are_slower(server: ElasticBackend, corpus: MemoryCorpus, items: list[TestItem]) -> None:
    check = ContaminationCheck(items[:20], DecontamConfig(modes=("ngram",)), server, None)
    timing = time_single_requests(server, corpus, check.side.question.phrases, fraction=0.05)
    assert timing.timed == round(0.05 * timing.phrases) and timing.extrapolated_seconds > timing.seconds > 0
