"""What goes wrong between us and a live Elasticsearch server: a clear line each, and nothing half-made is believed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest

from decontam import elastic_client
from decontam.backend import Phrases
from decontam.elastic import ElasticBackend
from decontam.elastic_client import Client, ElasticServer
from decontam.elastic_index import Index
from harness.errors import DiskFullError, HarnessError, PrerequisiteError, StageError
from support.elastic_nodes import Node
from support.small_corpus import SmallCorpus, make_phrases, pairs, stand_where
from support.tls_proxy import API_KEY, PASSWORD, USERNAME, tls_proxy

pytest.importorskip("elasticsearch")
pytestmark = pytest.mark.server

SIZE, SHARD = 3000, 500
WORDS = [f"w{i}" for i in range(40)]


def a_corpus(name: str) -> SmallCorpus:
    """3,000 short documents in six shards, others for every name."""
    rng = np.random.default_rng(len(name))
    return SmallCorpus([f"{name} {i} " + " ".join(rng.choice(WORDS, 12)) for i in range(SIZE)], SHARD)


def some_phrases(count: int = 1500) -> Phrases:
    """Enough phrases for two requests."""
    return make_phrases([(WORDS[i // 40], WORDS[i % 40]) for i in range(count)])


def connect(
    node: Node,
    *,
    scratch: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
    pauses: tuple[float, ...] = (0.05,),
) -> ElasticBackend:
    return ElasticBackend(Client(ElasticServer(node.url), pauses=pauses), scratch=scratch, progress=progress)


def expected(corpus: SmallCorpus, phrases: Phrases) -> list[tuple[int, int]]:
    return stand_where([text.split() for text in corpus.texts], phrases)


def line(error: pytest.ExceptionInfo[HarnessError]) -> str:
    """The message, which must be a line."""
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text and len(text) < 600
    return text


@pytest.fixture
def healthy(node: Node) -> Iterator[Node]:
    """A node that runs before the test and after it, whatever the test does to it."""
    yield node
    if node.process.poll() is not None:
        node.restart()


def test_server_that_dies_while_indexing(healthy: Node) -> None:
    corpus, phrases = a_corpus("dies while indexing"), some_phrases()
    seen: list[int] = []

    def kill(label: str, done: int, total: int) -> None:
        seen.append(done)
        if done == 3 * SHARD:
            healthy.stop(signal.SIGKILL)

    backend = connect(healthy, progress=kill)
    with pytest.raises(StageError) as error:
        list(backend.find(corpus, phrases))
    assert "stopped answering while indexing" in line(error) and "run again" in line(error)
    assert seen == [0, SHARD, 2 * SHARD, 3 * SHARD]

    healthy.restart()
    progress: list[tuple[str, int]] = []
    again = connect(healthy, pauses=(0.5,) * 20, progress=lambda label, done, total: progress.append((label, done)))
    assert pairs(again.find(corpus, phrases)) == expected(corpus, phrases)
    assert progress[0] == ("indexing text", 3 * SHARD), "what was written is not written again"


def test_server_that_dies_while_searching(healthy: Node, tmp_path: Path) -> None:
    corpus, phrases = a_corpus("dies while searching"), some_phrases()

    def kill(label: str, done: int, total: int) -> None:
        if label == "searching phrases":
            healthy.stop(signal.SIGKILL)

    with pytest.raises(StageError) as error:
        list(connect(healthy, scratch=tmp_path, progress=kill).find(corpus, phrases))
    assert "stopped answering while searching phrases" in line(error)

    healthy.restart()
    again = connect(healthy, scratch=tmp_path, pauses=(0.5,) * 20)
    asked: list[int] = []
    send = again.documents
    again.documents = lambda index, p, cap=None: (asked.append(len(p)), send(index, p, cap))[1]  # type: ignore[method-assign,func-returns-value]
    assert pairs(again.find(corpus, phrases)) == expected(corpus, phrases)
    assert asked == [500], "of two batches of phrases the first had been answered"
    assert not list(tmp_path.iterdir()), "what has been read is deleted"


def test_server_that_restarts_is_waited_for(healthy: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, phrases = a_corpus("restarts"), some_phrases()
    pauses: list[float] = []

    def stop(label: str, done: int, total: int) -> None:
        if label == "searching phrases" and not pauses:
            healthy.stop()

    def restart(seconds: float) -> None:
        if not pauses:
            healthy.restart()
        else:
            time.sleep(seconds)
        pauses.append(seconds)

    monkeypatch.setattr(elastic_client, "time", SimpleNamespace(sleep=restart))
    backend = connect(healthy, pauses=(0.5,) * 60, progress=stop)
    assert pairs(backend.find(corpus, phrases)) == expected(corpus, phrases)
    assert pauses, "the second request came while the server was down"


def test_index_deleted_while_indexing(node: Node) -> None:
    corpus, phrases = a_corpus("deleted while indexing"), some_phrases(200)
    helper = connect(node)
    index = Index(helper._client, corpus, "text")

    def delete(label: str, done: int, total: int) -> None:
        if done == 2 * SHARD:
            helper._client.api.indices.delete(index=index.name)

    with pytest.raises(StageError) as error:
        list(connect(node, progress=delete).find(corpus, phrases))
    assert "was deleted while indexing" in line(error) and "run again" in line(error)
    assert not helper._client.api.indices.exists(index=index.name), "writing must not create an index by guessing"
    assert pairs(helper.find(corpus, phrases)) == expected(corpus, phrases)


def test_index_deleted_while_searching(node: Node) -> None:
    corpus, phrases = a_corpus("deleted while searching"), some_phrases()
    helper = connect(node)
    index = Index(helper._client, corpus, "text")

    def delete(label: str, done: int, total: int) -> None:
        if label == "searching phrases":
            helper._client.api.indices.delete(index=index.name)

    with pytest.raises(StageError) as error:
        list(connect(node, progress=delete).find(corpus, phrases))
    assert "was deleted while searching phrases" in line(error)
    assert pairs(helper.find(corpus, phrases)) == expected(corpus, phrases)


def test_half_built_index_is_never_searched(node: Node) -> None:
    corpus = a_corpus("half built")
    backend = connect(node)
    index = Index(backend._client, corpus, "text")

    class Stop(Exception):
        pass

    def stop(label: str, done: int, total: int) -> None:
        if done == SHARD:
            raise Stop

    with pytest.raises(Stop):
        index.ensure(stop)
    api = backend._client.api
    assert api.indices.exists(index=index.name) and not api.indices.exists_alias(name=index.alias)
    phrases = some_phrases(100)
    assert pairs(backend.find(corpus, phrases)) == expected(corpus, phrases)
    assert api.indices.exists_alias(name=index.alias)


def test_whole_index_is_reused(node: Node) -> None:
    corpus, phrases = a_corpus("reused"), some_phrases(100)
    labels: list[str] = []
    backend = connect(node, progress=lambda label, done, total: labels.append(label))
    first = pairs(backend.find(corpus, phrases))
    assert "indexing text" in labels
    labels.clear()
    other = connect(node, progress=lambda label, done, total: labels.append(label))
    assert pairs(other.find(corpus, phrases)) == first
    assert "indexing text" not in labels


def test_index_that_someone_else_wrote_to(node: Node) -> None:
    corpus = a_corpus("written to")
    backend = connect(node)
    index = backend.prepare(corpus)
    backend._client.api.index(index=index.name, document={"n": SIZE, "text": "one more"}, refresh=True)
    with pytest.raises(StageError) as error:
        backend.prepare(corpus)
    assert f"holds {SIZE + 1} documents instead of {SIZE}" in line(error) and "delete it" in line(error)


def test_two_processes_build_one_index(node: Node) -> None:
    corpus, phrases = a_corpus("built twice"), some_phrases(100)
    results: list[list[tuple[int, int]]] = []
    threads = [Thread(target=lambda: results.append(pairs(connect(node).find(corpus, phrases)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected(corpus, phrases)] * 3


def test_server_whose_disk_is_full(node: Node) -> None:
    """The block that a server puts on its indices when its disk fills."""
    corpus = a_corpus("disk full")
    helper = connect(node)
    index = Index(helper._client, corpus, "text")

    def fill(label: str, done: int, total: int) -> None:
        if done == SHARD:
            helper._client.api.indices.put_settings(index=index.name, settings={"blocks.read_only_allow_delete": True})

    with pytest.raises(DiskFullError) as error:
        list(connect(node, progress=fill).find(corpus, some_phrases(10)))
    assert "the disk of Elasticsearch" in line(error)
    helper._client.api.indices.put_settings(index=index.name, settings={"blocks.read_only_allow_delete": None})
    assert pairs(helper.find(corpus, some_phrases(10))) == expected(corpus, some_phrases(10))


def test_client_9_against_server_8(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Client 9 asks for answers "compatible-with=9", which a server 8 refuses; a server 9 does not mind client 8."""
    from elasticsearch._sync.client import _base

    monkeypatch.setattr(_base, "_COMPAT_MIMETYPE_SUB", _base._COMPAT_MIMETYPE_SUB.replace("8", "9"))
    if node.version == "9":
        assert connect(node).name.startswith("elasticsearch 9.")
        return
    with pytest.raises(PrerequisiteError) as error:
        connect(node)
    assert "older than the installed client" in line(error) and "elasticsearch>=8.19,<9" in line(error)


@pytest.fixture
def proxied(node: Node, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment that leads to the node through TLS and basic auth."""
    with tls_proxy(node.port, tmp_path) as (url, certificate):
        yield {
            "HARNESS_ES_URL": url,
            "HARNESS_ES_CA": str(certificate),
            "HARNESS_ES_USERNAME": USERNAME,
            "HARNESS_ES_PASSWORD": PASSWORD,
        }


def refusal(environment: dict[str, str], without: str = "", **changed: str) -> str:
    """The line that connecting fails with."""
    environment = {k: v for k, v in environment.items() if k != without} | changed
    with pytest.raises(PrerequisiteError) as error:
        Client(ElasticServer.from_environment(environment))
    assert PASSWORD not in str(error.value) and "another" not in str(error.value)
    return line(error)


def test_tls_and_basic_auth(proxied: dict[str, str]) -> None:
    corpus, phrases = a_corpus("through a proxy"), some_phrases(100)
    by_key = {k: v for k, v in proxied.items() if "USER" not in k and "PASS" not in k} | {"HARNESS_ES_API_KEY": API_KEY}
    for environment in (proxied, by_key):
        backend = ElasticBackend(Client(ElasticServer.from_environment(environment)))
        assert pairs(backend.find(corpus, phrases)) == expected(corpus, phrases)


def test_untrusted_certificate(proxied: dict[str, str]) -> None:
    said = refusal(proxied, without="HARNESS_ES_CA")
    assert "is not trusted (self-signed certificate)" in said and "HARNESS_ES_CA" in said


def test_wrong_credentials(proxied: dict[str, str]) -> None:
    said = refusal(proxied, HARNESS_ES_PASSWORD="another")
    assert "refuses the credentials (HTTP 401); check HARNESS_ES_USERNAME and HARNESS_ES_PASSWORD" in said


def test_no_credentials(proxied: dict[str, str]) -> None:
    del proxied["HARNESS_ES_PASSWORD"]
    said = refusal(proxied, without="HARNESS_ES_USERNAME")
    assert "wants credentials (HTTP 401); set HARNESS_ES_API_KEY" in said


def test_http_address_of_a_tls_server(proxied: dict[str, str]) -> None:
    said = refusal(proxied, without="HARNESS_ES_CA", HARNESS_ES_URL=proxied["HARNESS_ES_URL"].replace("https", "http"))
    assert "nothing answers at http://" in said


def test_https_address_of_a_server_without_tls(node: Node, proxied: dict[str, str]) -> None:
    assert "does not speak TLS" in refusal(proxied, HARNESS_ES_URL=node.url.replace("http", "https"))
