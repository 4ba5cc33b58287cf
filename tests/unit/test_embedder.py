"""Every kind of embedder: unit rows, identity, and one clear line where something is missing or down."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from harness.config import EmbedderConfig
from harness.errors import InputError, PrerequisiteError, StageError
from harness.models.embedder import KEY_VARIABLE, EndpointEmbedder, embedder_identity, open_embedder
from harness.models.given_vectors import text_key
from support.minilm import minilm

TEXTS = ["Aspirin lowers fever in adults.", "In adults fever is lowered by aspirin.", "The court dismissed the appeal."]


def lengths(rows: Any) -> list[float]:
    return [float(n) for n in np.linalg.norm(rows, axis=1)]


def test_lexical_rows_are_unit_and_close_where_words_are_shared() -> None:
    embedder = open_embedder(EmbedderConfig())
    rows = embedder.embed([*TEXTS, "  ", "?!"])
    assert rows.dtype == np.float32 and rows.shape == (5, 2048)
    assert lengths(rows) == pytest.approx([1, 1, 1, 0, 0], abs=1e-6)
    assert rows[0] @ rows[1] > 0.2 > abs(float(rows[0] @ rows[2])) + 0.1
    assert embedder.usage() == []
    assert embedder.embed([]).shape == (0, 2048)


def test_lexical_vectors_are_the_same_in_another_process_and_batch() -> None:
    code = (
        "from harness.config import EmbedderConfig; from harness.models.embedder import open_embedder; import sys;"
        "sys.stdout.buffer.write(open_embedder(EmbedderConfig()).embed(sys.argv[1:]).tobytes())"
    )
    env = {"PYTHONHASHSEED": "7", "PATH": "/usr/bin:/bin"}
    other = subprocess.run([sys.executable, "-c", code, *TEXTS], capture_output=True, check=True, env=env).stdout
    embedder = open_embedder(EmbedderConfig())
    assert embedder.embed(TEXTS).tobytes() == other
    assert np.concatenate([embedder.embed([t]) for t in TEXTS]).tobytes() == other


def test_lexical_counts_are_damped_by_their_logarithm() -> None:
    embedder = open_embedder(EmbedderConfig(dimension=65536))
    once, often = embedder.embed(["fever", "fever " * 8 + "cough"])
    # "fever" 8 times, "fever fever" 7 times, "cough" and "fever cough" once.
    weights = [1 + np.log(8), 1 + np.log(7), 1.0, 1.0]
    assert float(once @ often) == pytest.approx(weights[0] / np.linalg.norm(weights), abs=1e-6)


def test_settings_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="runs no model"):
        EmbedderConfig(prompt="query: ")
    with pytest.raises(ValidationError, match="whose model id has to name"):
        EmbedderConfig(url="http://localhost:1/v1")
    assert EmbedderConfig(id="BAAI/bge-small-en").kind == "sentence_transformers"
    assert EmbedderConfig(id="BAAI/bge-small-en", url="http://localhost:1/v1").kind == "endpoint"
    assert EmbedderConfig(id="a/b.parquet").kind == "vectors"


# Given vectors


def _given(folder: Path, form: str, keys: list[str], rows: Any) -> Path:
    path = folder / f"given.{form}"
    if form == "npy":
        np.save(path, rows)
    elif form == "safetensors":
        save_file({"vectors": rows}, path)
    else:
        pq.write_table(pa.table({"sha256": keys, "vector": [row.tolist() for row in rows]}), path)
        return path
    path.with_suffix(".keys").write_text("\n".join(keys) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["npy", "safetensors", "parquet"])
def test_given_vectors_are_found_by_text_and_normalised(tmp_path: Path, form: str) -> None:
    raw = np.array([[3, 4], [0, 2], [5, 0]], dtype=np.float32)
    path = _given(tmp_path, form, [text_key(t) for t in TEXTS], raw)
    embedder = open_embedder(EmbedderConfig(id=str(path)))
    rows = embedder.embed([TEXTS[2], TEXTS[0], ""])
    assert rows.tolist() == [[1, 0], pytest.approx([0.6, 0.8]), [0, 0]]
    with pytest.raises(InputError, match=r"no vector for 1 of 2 texts, first 'unknown'"):
        embedder.embed([TEXTS[0], "unknown"])
    with pytest.raises(StageError, match="of 2 numbers, expected are 3"):
        open_embedder(EmbedderConfig(id=str(path), dimension=3)).embed(TEXTS)


def test_given_vectors_are_found_by_row_id(tmp_path: Path) -> None:
    rows = np.eye(3, dtype=np.float32)
    embedder = open_embedder(EmbedderConfig(id=str(_given(tmp_path, "npy", ["a", "b", "c"], rows))))
    assert embedder.embed(TEXTS, ids=["c", "a", "b"]).tolist() == rows[[2, 0, 1]].tolist()
    with pytest.raises(InputError, match="no vector for 3 of 3"):
        embedder.embed(TEXTS)
    table = pa.table({"id": ["a", "b"], "text": ["x", "y"], "vector": [[1.0, 0.0], [0.0, 1.0]]})
    pq.write_table(table, tmp_path / "t.parquet")
    both = open_embedder(EmbedderConfig(id=str(tmp_path / "t.parquet")))
    assert both.embed(["y", "z"], ids=["?", "a"]).tolist() == [[0, 1], [1, 0]]


def test_a_faulty_file_of_vectors_is_named(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            open_embedder(EmbedderConfig(id=str(tmp_path / name)))

    refused("absent.npy", "no file")
    np.save(tmp_path / "a.npy", np.eye(2, dtype=np.float32))
    refused("a.npy", r"needs .*a\.keys beside it")
    (tmp_path / "a.keys").write_text("x\n")
    refused("a.npy", r"shape \(2, 2\), which does not fit the 1 keys")
    save_file({"other": np.eye(2, dtype=np.float32)}, tmp_path / "b.safetensors")
    refused("b.safetensors", "no tensor 'vectors', only other")
    pq.write_table(pa.table({"vector": [[1.0]]}), tmp_path / "c.parquet")
    refused("c.parquet", "one of 'text', 'sha256' and 'id'")
    pq.write_table(pa.table({"id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}), tmp_path / "d.parquet")
    refused("d.parquet", "unequal length")
    (tmp_path / "e.parquet").write_bytes(b"no parquet")
    refused("e.parquet", "cannot be read as vectors")


# An endpoint


class _Server(ThreadingHTTPServer):
    """Answers with `replies` in turn (a status, or None for vectors), and keeps what it was asked."""

    replies: list[Any]
    asked: list[dict[str, Any]]
    keys: list[str | None]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, **body})
        self.server.keys.append(self.headers["Authorization"])
        reply = self.server.replies.pop(0) if self.server.replies else None
        if isinstance(reply, int):
            self.send_error(reply, "no")
            return
        if reply is None:
            rows = [
                {"index": i, "embedding": [float(len(t)), 1.0], "object": "embedding"}
                for i, t in enumerate(body["input"])
            ]
            reply = {"data": rows[::-1], "usage": {"prompt_tokens": 7}}
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def served(*replies: Any) -> Iterator[tuple[_Server, str]]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.replies, server.asked, server.keys = list(replies), [], []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EndpointEmbedder, "BACKOFF", 0.0)


def test_an_endpoint_is_asked_in_batches_and_accounted_for(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret\n")
    with served(503, 429) as (server, url):
        embedder = open_embedder(EmbedderConfig(id="m", url=url, batch_size=2, prompt="q: "))
        rows = embedder.embed(["a", "", "bbb", "cc"])
    assert [call["input"] for call in server.asked[2:]] == [["q: a", "q: bbb"], ["q: cc"]]
    assert {(call["path"], call["model"]) for call in server.asked} == {("/v1/embeddings", "m")}
    assert set(server.keys) == {"Bearer secret"}
    expected = np.array([[4, 1], [0, 0], [6, 1], [5, 1]]) / np.sqrt([[17], [1], [37], [26]])
    assert np.allclose(rows, expected, atol=1e-6)
    (usage,) = embedder.usage()
    assert (usage.role, usage.model, usage.prompt_tokens, usage.calls) == ("embedder", "m", 14, 2)
    assert "secret" not in embedder.identity and embedder.usage() == []


def _fails(message: str, *replies: Any, dimension: int | None = None) -> None:
    with served(*replies) as (_, url):
        embedder = open_embedder(EmbedderConfig(id="m", url=url, dimension=dimension, timeout=5))
        with pytest.raises(StageError, match=message) as caught:
            embedder.embed(["a", "b"])
    assert "\n" not in str(caught.value)


def test_what_an_endpoint_can_get_wrong_is_one_line(at_once: None) -> None:
    _fails("refuses the key .status 401.; set HARNESS_EMBEDDER_KEY", 401)
    _fails("answers with status 404 for model 'm'", 404)
    _fails("answers with status 503", *[503] * 6)
    _fails("error 400 for model 'm': x", {"error": {"code": 400, "message": "x"}})
    for formless in ({}, [[1.0], [2.0]], {"data": None}, {"data": [[1.0], [2.0]]}):
        _fails("form of the OpenAI embeddings API", formless)
    _fails("1 vectors for 2 texts", {"data": [{"index": 0, "embedding": [1.0]}]})
    _fails("not finite", {"data": [{"index": i, "embedding": [float("nan")]} for i in (0, 1)]})
    _fails("of 2 numbers, expected are 3", dimension=3)
    with served() as (_, url):
        pass
    with pytest.raises(StageError, match="does not answer"):
        open_embedder(EmbedderConfig(id="m", url=url)).embed(["a"])
    with pytest.raises(InputError, match="must begin with http"):
        open_embedder(EmbedderConfig(id="m", url="localhost:80"))


def _reply(*vectors: Any, **usage: Any) -> dict[str, Any]:
    return {"data": [{"index": i, "embedding": v} for i, v in enumerate(vectors)], "usage": usage}


def _base64(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


TWO_ROWS: list[dict[str, Any]] = [
    _reply([3.0, 4.0], [1, 0]),
    _reply(_base64(3, 4), _base64(1, 0)),
    _reply([[3.0, 4.0]], [[1.0, 0.0]]),
    {"data": _reply([3.0, 4.0], [1.0, 0.0])["data"][::-1]},
    {"data": [{"embedding": [3.0, 4.0]}, {"embedding": [1.0, 0.0]}], "usage": None},
    {"data": [{"index": None, "embedding": [3.0, 4.0]}, {"embedding": [1.0, 0.0]}]},
    {"data": [{"index": 1.0, "embedding": [1.0, 0.0]}, {"index": 0.0, "embedding": [3.0, 4.0]}]},
]


@pytest.mark.parametrize("reply", TWO_ROWS)
def test_vectors_are_read_in_every_form_and_in_the_order_of_the_texts(at_once: None, reply: Any) -> None:
    with served(reply) as (_, url):
        embedder = open_embedder(EmbedderConfig(id="m", url=url))
        assert np.allclose(embedder.embed(["a", "b"]), [[0.6, 0.8], [1, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("says", "vectors"),
    [
        ("a vector a token", ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]])),
        ("no vector for a text", ([1.0], None)),
        ("no vector for a text", ([1.0], [])),
        ("no vector for a text", ("", [1.0])),
        ("no vector for a text", ({"values": [1.0]}, [1.0])),
        ("something else than numbers", ([None, None], [1.0, 2.0])),
        ("something else than numbers", (["1.0"], ["2.0"])),
        ("something else than numbers", ([True], [False])),
        ("no base64 of float32", ("no base64!", [1.0])),
        ("no base64 of float32", (base64.b64encode(b"12345").decode(), [1.0])),
        ("of unequal length", ([1.0], [1.0, 2.0])),
        ("not finite", ([float("inf")], [1.0])),
        ("3 vectors for 2 texts", ([1.0], [1.0], [1.0])),
    ],
)
def test_vectors_that_are_none_are_one_line(at_once: None, says: str, vectors: Any) -> None:
    _fails(says, _reply(*vectors))


def test_vectors_at_places_that_no_text_has_are_one_line(at_once: None) -> None:
    for places in ((0, 0), (1, 2), (0, None), ("a", "b"), (True, False), (0.5, 1)):
        rows = [{"index": place, "embedding": [1.0]} for place in places]
        _fails("not the places of the texts", {"data": rows})


def test_vectors_of_other_length_in_a_later_batch_are_one_line(at_once: None) -> None:
    with served(_reply([1.0, 2.0]), _reply([1.0])) as (_, url):
        embedder = open_embedder(EmbedderConfig(id="m", url=url, batch_size=1))
        with pytest.raises(StageError, match="vectors of 1 and 2 numbers"):
            embedder.embed(["a", "b"])


@pytest.mark.parametrize("code", [429, 503])
def test_an_error_within_a_success_is_tried_again(at_once: None, code: int) -> None:
    wrapped = {"error": {"message": "later", "code": code}}
    with served(wrapped, wrapped) as (server, url):
        assert len(open_embedder(EmbedderConfig(id="m", url=url)).embed(["a", "b"])) == 2
        assert len(server.asked) == 3
    _fails(f"error {code} for model 'm': later", *[wrapped] * 6)


@pytest.mark.parametrize("said", [0, -3, None, "many", True])
def test_tokens_that_an_endpoint_does_not_say_are_estimated(at_once: None, said: Any) -> None:
    with served(_reply([1.0], [1.0], prompt_tokens=said)) as (_, url):
        embedder = open_embedder(EmbedderConfig(id="m", url=url))
        embedder.embed(["four letters and more", "b"])
    assert embedder.usage()[0].prompt_tokens == 7


# sentence-transformers


def test_minilm_sees_meaning_where_words_differ() -> None:
    embedder = open_embedder(EmbedderConfig(id=str(minilm()), batch_size=2))
    rows = embedder.embed([*TEXTS, "", "word " * 600])
    assert rows.dtype == np.float32 and rows.shape == (5, 384)
    assert lengths(rows) == pytest.approx([1, 1, 1, 0, 1], abs=1e-5)
    assert rows[0] @ rows[1] > 0.9 and rows[0] @ rows[2] < 0.2
    assert embedder.truncated == 1
    (usage,) = embedder.usage()
    assert usage.calls == 4 and 256 < usage.prompt_tokens < 320
    # 22.7 million parameters, two operations each.
    assert usage.flops / usage.prompt_tokens == pytest.approx(2 * 22.7e6, rel=0.01)
    assert np.allclose(embedder.embed(TEXTS[1:2]), rows[1:2], atol=1e-5)
    prompted = open_embedder(EmbedderConfig(id=str(minilm()), prompt="query: ")).embed(TEXTS[:1])
    assert 0.5 < float((prompted @ rows[0])[0]) < 0.999


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minilm()
    with pytest.raises(InputError, match="no folder"):
        open_embedder(EmbedderConfig(id=str(tmp_path / "absent")))
    with pytest.raises(InputError, match=r"no modules\.json"):
        open_embedder(EmbedderConfig(id=str(tmp_path)))
    absent = open_embedder(EmbedderConfig(id="nobody/no-such-embedder"))
    with pytest.raises(PrerequisiteError, match="'nobody/no-such-embedder' cannot be loaded") as caught:
        absent.embed(["a"])
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("harness.models.embedder.find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'harness\[embed\]'"):
        open_embedder(EmbedderConfig(id="nobody/no-such-embedder"))


# Identity


def test_identity_follows_what_decides_the_vectors(tmp_path: Path) -> None:
    def identity(**settings: Any) -> str:
        return embedder_identity(EmbedderConfig(**settings))

    assert identity() == "lexical-1:2048" != identity(dimension=64)
    assert identity(id="a/b", revision="r") == "a/b@r:float32" != identity(id="a/b", revision="r", prompt="q")
    assert identity(id="m", url="http://x/v1") == identity(id="m", url="http://y/v1", batch_size=1)
    assert identity(id="m", url="http://x/v1") != identity(id="m", url="http://x/v1", revision="2")
    path = _given(tmp_path, "npy", ["a", "b"], np.eye(2, dtype=np.float32))
    before = identity(id=str(path))
    path.with_suffix(".keys").write_text("b\na\n")
    assert identity(id=str(path)) != before
    folder = tmp_path / "model" / "1_Pooling"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    one = identity(id=str(folder.parent))
    (folder / "config.json").write_text('{"pooling_mode": "cls"}')
    assert identity(id=str(folder.parent)) != one and one.startswith("files:")
