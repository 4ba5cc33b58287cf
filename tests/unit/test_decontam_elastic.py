"""The Elasticsearch engine against a fake server: what it asks, how it pages, and how it takes a wrong answer."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decontam import elastic, elastic_index
from decontam.check import ContaminationCheck, run_check
from decontam.corpus import MemoryCorpus
from decontam.elastic import ElasticBackend, time_single_requests
from decontam.elastic_client import Client, ElasticServer
from decontam.elastic_index import Index
from decontam.embedded import EmbeddedBackend
from decontam.items import TestItem
from decontam.verdict import decide
from harness.config import DecontamConfig
from harness.errors import ConfigError, DiskFullError, HarnessError, PrerequisiteError, StageError
from support.fake_elastic import Fake, Fault, fake_elastic
from support.small_corpus import SmallCorpus, make_phrases, near, pairs, stand_where

pytest.importorskip("elasticsearch")

TEXTS = [f"a b c{i % 7} d e{i % 3} a b" for i in range(57)] + ["", "z"]
TOKENS = [text.split() for text in TEXTS]
PHRASES = make_phrases([("a", "b"), ("b", "c3"), ("c3", "d", "e1"), ("z",), ("d",), ("b", "a")])


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_elastic() as server:
        yield server


def backend(fake: Fake, **options: Any) -> ElasticBackend:
    return ElasticBackend(Client(ElasticServer(fake.url), pauses=(0.0, 0.0)), **options)


def corpus_with_vectors(count: int = 45, width: int = 8) -> SmallCorpus:
    vectors = np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return SmallCorpus([f"text {i}" for i in range(count)], 10, vectors)


def error_of(fake: Fake, *faults: Fault) -> str:
    """The line that a search ends with when the server answers so."""
    fake.faults += faults
    with pytest.raises(HarnessError) as error:
        list(backend(fake).find(SmallCorpus(TEXTS, 10), PHRASES))
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return f"{type(error.value).__name__}: {error.value}"


def refused(kind: str, reason: str) -> dict[str, Any]:
    cause = {"type": kind, "reason": reason}
    return {"error": {**cause, "root_cause": [cause]}}


def test_answers_are_per_shard_and_complete(fake: Fake) -> None:
    corpus = SmallCorpus(TEXTS, 10)
    answers = list(backend(fake).find(corpus, PHRASES))
    assert [answer.shard.index for answer in answers] == [0, 1, 2, 3, 4, 5]
    assert pairs(answers) == stand_where(TOKENS, PHRASES)
    for answer in answers:
        last = answer.shard.first + len(answer.shard.texts)
        assert np.all((answer.document >= answer.shard.first) & (answer.document < last))


def test_skipped_shards_are_left_out(fake: Fake) -> None:
    answers = list(backend(fake).find(SmallCorpus(TEXTS, 10), PHRASES, skip={0, 4}))
    assert [answer.shard.index for answer in answers] == [1, 2, 3, 5]


def test_hits_beyond_a_page_are_fetched(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "_FIRST_PAGE", 3)
    monkeypatch.setattr(elastic, "PAGE", 7)
    engine = backend(fake)
    expected = stand_where(TOKENS, PHRASES)
    assert pairs(engine.find(SmallCorpus(TEXTS, 10), PHRASES)) == expected
    assert len(fake.paths("_msearch")) > 1
    for cap in (1, 3, 4, 10, 17):
        capped = stand_where(TOKENS, PHRASES, cap)
        assert pairs(engine.find(SmallCorpus(TEXTS, 10), PHRASES, cap=cap)) == capped


def test_phrases_are_sent_as_tokens_and_texts_are_analysed_by_name(fake: Fake) -> None:
    list(backend(fake).find(SmallCorpus(TEXTS, 10), PHRASES))
    (mapping,) = fake.mappings.values()
    assert mapping["properties"]["text"]["analyzer"] == "standard" and mapping["dynamic"] == "strict"
    searches = next(body for _, path, body in fake.requests if path.endswith("_msearch"))
    assert searches[0] == {"allow_partial_search_results": False}
    phrase = searches[1]["query"]["constant_score"]["filter"]["match_phrase"]["text"]
    assert phrase == {"query": "a b", "analyzer": "whitespace", "slop": 0}


def test_texts_are_indexed_as_they_are_compared(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = SmallCorpus(["\uff21&nbsp;b c\u00ad3", "cafe\u0301", "plain Text"], 10)
    engine = backend(fake)
    assert pairs(engine.find(corpus, make_phrases([("a", "b", "c3"), ("caf\u00e9",)]))) == [(0, 0), (1, 1)]
    (documents,) = fake.indices.values()
    assert [d["text"] for d in documents.values()] == ["a b c3", "caf\u00e9", "plain Text"]
    name = Index(engine._client, corpus, "text").name
    monkeypatch.setattr(elastic_index, "PLAIN", elastic_index.PLAIN + 1)
    assert Index(engine._client, corpus, "text").name != name, "an index of other spellings is not reused"


def test_verdicts_are_those_of_the_other_engine(fake: Fake) -> None:
    """Leaks that were copied and changed, and a phrase that stands in unrelated texts."""
    stock, leak = "plays an important part in", "which sea captain first charted the northern ice strait"
    items = [
        TestItem("b", "1", (leak, "cook", "ross")),
        TestItem("b", "2", (f"why is it that salt {stock} old harbour towns",)),
    ]
    texts = [f"row{i} {leak if i % 2 else leak.replace('sea', 'old')} or so{i}" for i in range(30)]
    texts += [f"w{i} v{i} {stock} x{i} y{i} \uff5a{i}" for i in range(40)]
    found = []
    for engine in (EmbeddedBackend(), backend(fake)):
        check = ContaminationCheck(items, DecontamConfig(), engine)
        found.append(decide(check, run_check(check, MemoryCorpus(texts, 16)), len(texts)))
    ours, theirs = found
    assert np.array_equal(ours.evidence, theirs.evidence) and ours.evidence.max() == 39
    for part in ("document", "item", "kind", "score", "hit", "removes"):
        assert np.array_equal(getattr(ours.pairs, part), getattr(theirs.pairs, part)), part
    assert ours.removed.tolist() == [True] * 30 + [False] * 40


def test_empty_corpus_and_no_phrases(fake: Fake) -> None:
    assert pairs(backend(fake).find(SmallCorpus([], 10), PHRASES)) == []
    assert len(list(backend(fake).find(SmallCorpus(TEXTS, 10), make_phrases([])))) == 6


@pytest.mark.parametrize(("floor", "top"), [(0.3, None), (-1.0, None), (0.9999, None), (-1.0, 5), (-1.0, 40)])
@pytest.mark.parametrize("page", [10_000, 12])
def test_vectors(fake: Fake, monkeypatch: pytest.MonkeyPatch, floor: float, top: int | None, page: int) -> None:
    monkeypatch.setattr(elastic, "PAGE", page)
    corpus = corpus_with_vectors()
    assert corpus.vectors is not None
    queries = corpus.vectors[:23]
    found = near(backend(fake).nearest(corpus, queries, floor=floor, top=top))
    cosine = corpus.vectors.astype(float) @ queries.T.astype(float)
    if top is None:
        # The duplicate of a query has cosine 1 but for rounding, so no floor here is close to any pair's cosine.
        assert set(found) == {(d, q) for d, q in np.argwhere(cosine >= floor).tolist()}
    else:
        for q in range(len(queries)):
            assert set(np.argsort(-cosine[:, q])[:top].tolist()) <= {d for d, other in found if other == q}
    assert all(abs(c - cosine[pair]) < 1e-6 for pair, c in found.items())


def test_vectors_are_compared_exactly(fake: Fake) -> None:
    corpus = corpus_with_vectors()
    list(backend(fake).nearest(corpus, np.ones((1, 8), np.float32) / np.sqrt(8, dtype=np.float32), floor=0.5))
    (mapping,) = fake.mappings.values()
    assert mapping["properties"]["vector"]["index_options"] == {"type": "flat"}
    assert mapping["properties"]["vector"]["similarity"] == "cosine"


def test_zero_vector_is_near_nothing(fake: Fake) -> None:
    vectors = np.eye(3, 4, dtype=np.float32)
    vectors[1] = 0
    corpus = SmallCorpus(["a", "", "c"], 10, vectors)
    queries = np.zeros((3, 4), np.float32)
    queries[1, 0] = 1
    assert set(near(backend(fake).nearest(corpus, queries, floor=-1.0))) == {(0, 1), (2, 1)}
    answers = list(backend(fake).nearest(corpus, queries[:1], floor=-1.0))
    assert [len(answer.document) for answer in answers] == [0]


def test_index_is_named_by_what_decides_an_answer(fake: Fake) -> None:
    client = backend(fake)._client
    names = {
        Index(client, SmallCorpus(TEXTS, 10), "text").name,
        Index(client, SmallCorpus(TEXTS, 11), "text").name,
        Index(client, SmallCorpus([*TEXTS[:-1], "y"], 10), "text").name,
        Index(client, corpus_with_vectors(), "vectors", 8).name,
    }
    assert len(names) == 4
    assert Index(client, SmallCorpus(list(TEXTS), 10), "text").name in names


def test_too_many_dimensions(fake: Fake) -> None:
    with pytest.raises(ConfigError, match="5000 dimensions and Elasticsearch holds 4096"):
        Index(backend(fake)._client, corpus_with_vectors(), "vectors", 5000)


def test_passing_failures_are_waited_out(fake: Fake) -> None:
    fake.faults = [
        Fault("_msearch", 429, refused("es_rejected_execution_exception", "queue full")),
        Fault("_msearch", 503, b"<html>503</html>", product=False),
        Fault("_bulk", 502, b"<html>bad gateway</html>", times=2, product=False),
        Fault("_count", 503, refused("no_shard_available_action_exception", "starting")),
    ]
    assert pairs(backend(fake).find(SmallCorpus(TEXTS, 10), PHRASES)) == stand_where(TOKENS, PHRASES)


@pytest.mark.parametrize(
    "incomplete",
    [
        {"responses": [{"status": 200, "timed_out": True}] * len(PHRASES)},
        {"responses": [{"status": 200, "_shards": {"failed": 1}}] * len(PHRASES)},
        {"responses": [{"status": 429, **refused("circuit_breaking_exception", "too large")}] * len(PHRASES)},
    ],
)
def test_incomplete_answer_is_none(fake: Fake, incomplete: dict[str, Any]) -> None:
    said = error_of(fake, Fault("_msearch", 200, incomplete, times=9))
    assert "is overloaded or restarting" in said and "while searching phrases" in said


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (Fault("_msearch", 200, {"responses": []}), "StageError", "gave 0 answers to 6 searches"),
        (Fault("_msearch", 200, b"<html>hello</html>"), "StageError", "cannot be read while searching phrases"),
        (Fault("_msearch", 413, b"<html>413</html>"), "StageError", "while searching phrases (HTTP 413"),
        (Fault("_bulk", 413, b"<html>413</html>"), "StageError", "refused a request while indexing (HTTP 413"),
        (Fault("_bulk", 403, refused("security_exception", "no")), "PrerequisiteError", "needs the privileges"),
        (
            Fault("_bulk", 403, refused("cluster_block_exception", "disk usage exceeded flood-stage watermark")),
            "DiskFullError",
            "the disk of Elasticsearch",
        ),
        (Fault("_bulk", 400, refused("x_exception", "line\nbreak")), "StageError", "HTTP 400 x_exception: line break"),
        (Fault("/", 401, refused("security_exception", "missing")), "PrerequisiteError", "wants credentials"),
        (Fault("/", 200, {"version": {"number": "3.1.0"}}, product=False), "PrerequisiteError", "not Elasticsearch 8"),
        (Fault("/", 200, {"version": {"number": "7.17.9"}}), "PrerequisiteError", "versions 8 and 9 are supported"),
        (Fault("/", 200, {"hello": 1}), "StageError", "cannot be read while connecting"),
        (
            Fault("/", 400, refused("media_type_header_exception", "Accept version must be either version 8 or 7")),
            "PrerequisiteError",
            "older than the installed client supports",
        ),
    ],
)
def test_refusals_are_one_clear_line(fake: Fake, fault: Fault, kind: str, says: str) -> None:
    said = error_of(fake, fault)
    assert said.startswith(f"{kind}: ") and says in said


def test_document_that_the_server_refuses(fake: Fake) -> None:
    item = {"index": {"status": 400, "error": {"type": "document_parsing_exception", "reason": "bad document"}}}
    said = error_of(fake, Fault("_bulk", 200, {"errors": True, "items": [item]}))
    assert "refused a request while indexing (HTTP 400 document_parsing_exception: bad document)" in said


def test_index_that_lost_documents_is_not_finished(fake: Fake) -> None:
    said = error_of(fake, Fault("_count", 200, {"count": 58}))
    assert "holds 58 documents after 59 were sent" in said
    assert not any(alias.endswith("-complete") for alias in fake.aliases)


def test_nobody_there() -> None:
    with pytest.raises(PrerequisiteError, match=r"nothing answers at http://127.0.0.1:9 .*embedded backend"):
        Client(ElasticServer("http://127.0.0.1:9"))


def test_server_that_is_too_slow(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ElasticBackend(Client(ElasticServer(fake.url), pauses=(), timeout=0.2))
    right = fake.answer

    def slow(method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if path.endswith("_msearch"):
            time.sleep(0.6)
        return right(method, path, query, body)

    monkeypatch.setattr(fake, "answer", slow)
    with pytest.raises(StageError, match="did not answer within"):
        list(engine.find(SmallCorpus(TEXTS, 10), PHRASES))


def test_full_local_disk(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(DiskFullError, match="the disk is full while writing"):
            list(backend(fake, scratch=tmp_path).find(SmallCorpus(TEXTS, 10), PHRASES))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert pairs(backend(fake, scratch=tmp_path).find(SmallCorpus(TEXTS, 10), PHRASES))


def test_answers_of_a_killed_search_are_kept(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "_PHRASES", 2)
    corpus = SmallCorpus(TEXTS, 10)

    class Killed(Exception):
        pass

    def kill(label: str, done: int, total: int) -> None:
        if label == "searching phrases" and done == 4:
            raise Killed

    with pytest.raises(Killed):
        list(backend(fake, scratch=tmp_path, progress=kill).find(corpus, PHRASES))
    asked = len(fake.paths("_msearch"))
    assert pairs(backend(fake, scratch=tmp_path).find(corpus, PHRASES)) == stand_where(TOKENS, PHRASES)
    assert len(fake.paths("_msearch")) == asked + 1
    assert not list(tmp_path.iterdir())


def test_other_questions_do_not_take_kept_answers(fake: Fake, tmp_path: Path) -> None:
    corpus = SmallCorpus(TEXTS, 10)
    answers = backend(fake, scratch=tmp_path).find(corpus, PHRASES)
    next(answers)
    other = make_phrases([("a", "b"), ("b", "c4"), ("c3", "d", "e1"), ("z",), ("d",), ("b", "a")])
    assert pairs(backend(fake, scratch=tmp_path).find(corpus, other)) == stand_where(TOKENS, other)
    assert pairs(backend(fake, scratch=tmp_path).find(corpus, PHRASES, cap=2)) == stand_where(TOKENS, PHRASES, 2)


def test_single_requests_are_timed_on_a_part(fake: Fake) -> None:
    engine, corpus = backend(fake), SmallCorpus(TEXTS, 10)
    phrases = make_phrases([(f"c{i}",) for i in range(100)])
    engine.prepare(corpus)
    before = len(fake.requests)
    timing = time_single_requests(engine, corpus, phrases, fraction=0.05)
    assert (timing.phrases, timing.timed) == (100, 5)
    assert timing.extrapolated_seconds == pytest.approx(20 * timing.seconds)
    assert len([path for path in fake.paths("_msearch")]) == 5
    assert len(fake.requests) - before == 5 + 2, "an alias and a count, then a request per phrase"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "HARNESS_ES_URL is not set"),
        ({"HARNESS_ES_URL": "localhost:9200"}, "write scheme, host and port"),
        ({"HARNESS_ES_URL": "http://localhost"}, "write scheme, host and port"),
        ({"HARNESS_ES_URL": "http://localhost:notaport"}, "write scheme, host and port"),
        ({"HARNESS_ES_URL": "https://me:secret@localhost:9200"}, "use HARNESS_ES_USERNAME and HARNESS_ES_PASSWORD"),
        ({"HARNESS_ES_URL": "http://h:1", "HARNESS_ES_USERNAME": "me"}, "go together"),
        (
            {"HARNESS_ES_URL": "http://h:1", "HARNESS_ES_API_KEY": "secret", "HARNESS_ES_USERNAME": "me"},
            "are both set; unset one",
        ),
        ({"HARNESS_ES_URL": "http://h:1", "HARNESS_ES_API_KEY": "sécret"}, "no API key has"),
        ({"HARNESS_ES_URL": "http://h:1", "HARNESS_ES_API_KEY": "secret\nkey"}, "no API key has"),
        ({"HARNESS_ES_URL": "https://h:1", "HARNESS_ES_CA": "/nowhere.pem"}, "which is no file"),
        ({"HARNESS_ES_URL": "https://h:1", "HARNESS_ES_CA": __file__}, "which holds no PEM certificate"),
    ],
)
def test_environment_that_contradicts_itself(environment: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        ElasticServer.from_environment(environment)
    assert says in str(error.value) and "secret" not in str(error.value)


def test_credentials_are_sent_and_never_shown(fake: Fake) -> None:
    by_key = ElasticServer.from_environment({"HARNESS_ES_URL": fake.url, "HARNESS_ES_API_KEY": "c2VjcmV0"})
    by_name = ElasticServer.from_environment(
        {"HARNESS_ES_URL": fake.url + "/", "HARNESS_ES_USERNAME": "me", "HARNESS_ES_PASSWORD": "secret"}
    )
    names = [ElasticBackend(Client(server)).name for server in (by_key, by_name)]
    assert [headers.get("authorization") for headers in fake.headers] == ["ApiKey c2VjcmV0", "Basic bWU6c2VjcmV0"]
    assert names == [f"elasticsearch 8.19.0 at {fake.url}"] * 2
    assert "c2VjcmV0" not in repr(by_key) and "secret" not in repr(by_name)
