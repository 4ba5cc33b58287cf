"""A small server that answers the requests of our Elasticsearch engine from memory, and misbehaves on demand.

It knows what the engine relies on and no more: aliases, bulk writing through one, counting, phrase searches ordered by
document number with pages, and vector searches. Texts are cut at blanks. A fault is an answer that is given instead of
the right one, to the first request whose path contains a string; requests are recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np


@dataclass
class Fault:
    """`status` with `body` (JSON, or bytes as they are) in place of the next `times` answers to `path`."""

    path: str
    status: int
    body: Any = None
    times: int = 1
    product: bool = True


@dataclass
class Fake:
    """The state of the server, for tests to look at and to change."""

    url: str = ""
    version: str = "8.19.0"
    indices: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    mappings: dict[str, Any] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def paths(self, part: str) -> list[str]:
        """Method and path of the requests so far whose path contains `part`."""
        return [f"{method} {path}" for method, path, _ in self.requests if part in path]

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """Status and body of the right answer."""
        name, _, action = path.strip("/").partition("/")
        if path == "/":
            return 200, {"version": {"number": self.version}, "tagline": "You Know, for Search"}
        if name == "_alias":
            return (200 if action in self.aliases else 404), {}
        if name == "_aliases":
            for change in body["actions"]:
                for verb, what in change.items():
                    if verb == "add":
                        self.aliases[what["alias"]] = what["index"]
                    else:
                        self.aliases.pop(what["alias"], None)
            return 200, {"acknowledged": True}
        if name == "_bulk":
            return 200, self._bulk(body, query)
        index = self.aliases.get(name, name)
        if method == "PUT" and not action:
            self.indices[index] = {}
            self.mappings[index] = body["mappings"]
            self.aliases.update({alias: index for alias in body["aliases"]})
            return 200, {"acknowledged": True}
        if index not in self.indices:
            error = _error("index_not_found_exception", f"no such index [{name}]", 404)
            return (200, {"responses": [error] * (len(body) // 2)}) if action == "_msearch" else (404, error)
        documents = self.indices[index]
        if action == "_count":
            return 200, {"count": len(documents)}
        if action == "_msearch":
            return 200, {"responses": [{"status": 200, **_search(documents, b)} for b in body[1::2]]}
        if action == "_search":
            size = body["aggs"]["shards"]["histogram"]["interval"]
            keys = [d["n"] // size * size for d in documents.values()]
            buckets = [{"key": float(k), "doc_count": keys.count(k)} for k in sorted(set(keys))]
            return 200, {"aggregations": {"shards": {"buckets": buckets}}}
        return 200, {}

    def _bulk(self, lines: list[Any], query: dict[str, list[str]]) -> dict[str, Any]:
        items = []
        for action, source in zip(lines[::2], lines[1::2], strict=True):
            name = action["index"]["_index"]
            if name not in self.aliases and query.get("require_alias") == ["true"]:
                items.append({"index": _error("index_not_found_exception", f"[{name}] is not an alias", 404)})
                continue
            self.indices[self.aliases[name]][action["index"]["_id"]] = source
            items.append({"index": {"status": 201}})
        return {"errors": any("error" in item["index"] for item in items), "items": items}


def _error(kind: str, reason: str, status: int) -> dict[str, Any]:
    cause = {"type": kind, "reason": reason}
    return {"error": {**cause, "root_cause": [cause]}, "status": status}


def _search(documents: dict[str, dict[str, Any]], body: dict[str, Any]) -> dict[str, Any]:
    if "knn" in body:
        return _nearest(documents, body)
    words = body["query"]["constant_score"]["filter"]["match_phrase"]["text"]["query"].split(" ")
    after = body.get("search_after", [-1])[0]
    hits = sorted(
        d["n"]
        for d in documents.values()
        if d["n"] > after and f" {' '.join(words)} " in f" {' '.join(d['text'].split())} "
    )
    return {"hits": {"hits": [{"sort": [n]} for n in hits[: body["size"]]]}}


def _nearest(documents: dict[str, dict[str, Any]], body: dict[str, Any]) -> dict[str, Any]:
    knn = body["knn"]
    within = knn.get("filter", {}).get("range", {}).get("n", {"gte": 0, "lt": len(documents)})
    scored = []
    for document in documents.values():
        if "vector" in document and within["gte"] <= document["n"] < within["lt"]:
            cosine = float(np.dot(document["vector"], knn["query_vector"]))
            if cosine >= knn.get("similarity", -2.0):
                scored.append([(1 + cosine) / 2, document["n"]])
    scored.sort(key=lambda pair: (-pair[0], pair[1]))
    return {"hits": {"hits": [{"sort": pair} for pair in scored[: knn["k"]]]}}


@contextmanager
def fake_elastic() -> Iterator[Fake]:
    """A running fake on loopback."""
    fake = Fake()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet; apart, each answer waits 40 ms for an acknowledgement

        def _handle(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            parts = urlsplit(self.path)
            lines = parts.path.endswith(("_bulk", "_msearch"))
            body = [json.loads(line) for line in raw.splitlines()] if lines else json.loads(raw) if raw else None
            fake.requests.append((self.command, parts.path, body))
            fake.headers.append({name.lower(): value for name, value in self.headers.items()})
            fault = next((f for f in fake.faults if f.path in parts.path and f.times > 0), None)
            if fault is not None:
                fault.times -= 1
                status, answer = fault.status, fault.body
            else:
                status, answer = fake.answer(self.command, parts.path, parse_qs(parts.query), body)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(answer, bytes) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            if fault is None or fault.product:
                self.send_header("X-Elastic-Product", "Elasticsearch")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
