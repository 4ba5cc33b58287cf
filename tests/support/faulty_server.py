"""A server of the OpenAI chat API that answers like a good model, and fails in the ways that servers fail.

It knows rubrics from pairs by the prompt, and answers from what it is sent alone, so equal requests get equal answers.
`faults` says what happens to an attempt of a request, which is numbered by a prompt that ends in "short answer about
N", or else by its arrival. The server counts every attempt and what it would have billed, for a test to compare with
the account.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RUBRIC = {
    "Prompt-related": "A short answer question on one finding.",
    "Response-related": "One sentence.",
    "Prompt-Response alignment": "The answer answers it.",
    "Technical/trainability aspects": "Plain text.",
}


@dataclass
class FaultyServer:
    """`faults(number, attempt)` is the fault of an attempt ('' for none): `number` counts distinct requests.

    `odd` names faults of the answer itself: each makes a status and a body of the good answer, which the server then
    does not count as billed.
    """

    faults: Callable[[int, int], str] = lambda number, attempt: ""
    slow_seconds: float = 2.0
    retry_after: str = "0.3"
    message: str = "no"
    odd: Mapping[str, Callable[[dict[str, Any]], tuple[int, Any]]] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    log: list[tuple[float, int, int, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    seconds: float = 0.0

    def __enter__(self) -> FaultyServer:
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner.handle(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def statuses(self) -> list[str]:
        """The faults of all attempts, in order."""
        return [fault for _, _, _, fault in self.log]

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        """One attempt."""
        raw = http.rfile.read(int(http.headers["Content-Length"]))
        body = json.loads(raw)
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            digest = hashlib.sha256(raw).hexdigest()
            named = re.search(r"short answer about (\d+)$", body["messages"][-1]["content"])
            number = self.seen.setdefault(digest, int(named[1]) if named else len(self.seen))
            attempt = self.attempts[digest]
            self.attempts[digest] += 1
            fault = self.faults(number, attempt)
            self.log.append((time.monotonic(), number, attempt, fault))
            self.bodies.append(body)
            self.keys.add(http.headers.get("Authorization", ""))
        try:
            if self.seconds:
                time.sleep(self.seconds)
            self._answer(http, body, fault)
        except OSError:
            pass
        finally:
            with self._lock:
                self.in_flight -= 1

    def _answer(self, http: BaseHTTPRequestHandler, body: dict[str, Any], fault: str) -> None:
        if fault == "reset":
            # Linger of zero seconds: the kernel sends RST instead of FIN.
            http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            http.connection.close()
            http.close_connection = True
            return
        if fault.isdigit() or fault == "429-after":
            headers = {"Retry-After": self.retry_after} if fault == "429-after" else {}
            status = 429 if fault == "429-after" else int(fault)
            # Some services repeat the key that they refuse.
            message = f"{self.message}, {http.headers.get('Authorization', '')}"
            _send(http, status, json.dumps({"error": {"message": message}}).encode(), headers)
            return
        if fault == "slow":
            time.sleep(self.slow_seconds)
        text = answer_to(body)
        finish = "stop"
        if fault == "wrong_schema":
            text = json.dumps({"verdict": "I would rather not"})
        if fault == "length":
            text, finish = text[: len(text) // 2], "length"
        usage = {"prompt_tokens": len(json.dumps(body["messages"])) // 4, "completion_tokens": len(text) // 4}
        choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]
        if fault in self.odd:
            status, value = self.odd[fault]({"choices": choices, "usage": usage})
            _send(http, status, value if isinstance(value, bytes) else json.dumps(value).encode(), {})
            return
        with self._lock:
            self.prompt_tokens += usage["prompt_tokens"]
            self.completion_tokens += usage["completion_tokens"]
        answer = json.dumps({"choices": [] if fault == "no_choices" else choices, "usage": usage}).encode()
        if fault == "invalid_json":
            answer = b"<html>proxy error</html>"
        _send(http, 200, answer, {}, cut=fault == "truncated")


def _send(http: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], cut: bool = False) -> None:
    http.send_response(status)
    for name, value in headers.items():
        http.send_header(name, value)
    http.send_header("Content-Type", "application/json")
    http.send_header("Content-Length", str(len(body)))
    http.end_headers()
    http.wfile.write(body[: len(body) // 2] if cut else body)
    if cut:
        http.wfile.flush()
        http.close_connection = True


def answer_to(body: dict[str, Any]) -> str:
    """A rubric for the writer's prompt, a pair about a number of its own for the generator's."""
    text = "\n".join(m["content"] for m in body["messages"])
    if "short answer" not in text or "question type" in text:
        return json.dumps(RUBRIC)
    mark = int(hashlib.sha256(json.dumps(body).encode()).hexdigest()[:8], 16)
    question = f"Which value did the study numbered {mark} report for the main outcome?"
    turns = [("system", "You are a helpful assistant."), ("user", question), ("assistant", f"It was {mark % 9973}.")]
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


def scripted(*faults: Sequence[str]) -> Callable[[int, int], str]:
    """Request number i has the faults `faults[i]`, one an attempt, and then none; later requests have none."""

    def fault(number: int, attempt: int) -> str:
        own = faults[number] if number < len(faults) else ()
        return own[attempt] if attempt < len(own) else ""

    return fault
