#!/usr/bin/env python3
"""Stands in for an interpreter with vLLM: takes its command line, answers on its port, has a worker process, and obeys.

`FAKE_VLLM` in the environment makes it fail: `fail` ends it at once with an error, `never` keeps it from getting ready.
`/die` ends it at once; `/ill` makes it answer as vLLM does between the death of its engine and its own; `/deaf` makes
it close its port and stay, as vLLM does when its dead engine owes a load. Adapters are taken, refused and listed with
vLLM's statuses and words. It writes what it was started with to `FAKE_VLLM_LOG`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def answering(adapters: dict[str, str], key: str) -> type[BaseHTTPRequestHandler]:
    """The handler of requests, which keeps what it was given in `adapters`."""
    ill: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status: int, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            if self.path == "/die":
                os._exit(1)
            elif self.path == "/deaf":
                threading.Thread(target=self.server.shutdown).start()
            elif self.path == "/ill":
                ill.append(self.path)
            if self.path == "/v1/models":
                self.reply(200, {"data": [{"id": "base"}, *({"id": n, "root": p} for n, p in adapters.items())]})
            else:
                dead = self.path == "/health" and ill
                self.reply(503 if dead else 200, {"version": "fake", "adapters": list(adapters)})

        def refuse(self, status: int, message: str) -> None:
            self.reply(status, {"error": {"message": message, "code": status}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = body["lora_name"]
            if self.headers.get("Authorization") != f"Bearer {key}":
                self.refuse(401, "Unauthorized")
            elif ill:
                self.refuse(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")
            elif self.path == "/v1/unload_lora_adapter":
                if adapters.pop(name, None) is None:
                    self.refuse(404, f"The lora adapter '{name}' cannot be found.")
                else:
                    self.reply(200, f"Success: LoRA adapter '{name}' removed successfully.")
            elif name in adapters:
                self.refuse(400, f"The lora adapter '{name}' has already been loaded.")
            elif body["lora_path"].endswith("bad"):
                self.refuse(404, "No adapter found for " + body["lora_path"])
            elif body["lora_path"].endswith("rank"):
                self.refuse(500, "LoRA rank 64 is greater than max_lora_rank 8.")
            else:
                adapters[name] = body["lora_path"]
                self.reply(200, f"Success: LoRA adapter '{name}' added successfully.")

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


def main() -> None:
    arguments = sys.argv[1:]
    port = int(arguments[arguments.index("--port") + 1])
    mode = os.environ.get("FAKE_VLLM", "")
    if mode == "fail":
        print("(APIServer pid=1) ERROR 11-24 06:00:00 [core.py:1] ValueError: no such dtype")
        sys.exit(1)
    # A worker that would outlive its parent if nobody ended the group.
    worker = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(600)  # worker of {port}"])
    with open(os.environ["FAKE_VLLM_LOG"], "a", encoding="utf-8") as log:
        started = {"pid": os.getpid(), "worker": worker.pid, "arguments": arguments}
        log.write(json.dumps({**started, "kv": os.environ.get("VLLM_CPU_KVCACHE_SPACE")}) + "\n")
    if mode == "never":
        time.sleep(600)
    server = ThreadingHTTPServer(("127.0.0.1", port), answering({}, os.environ["VLLM_API_KEY"]))
    server.serve_forever()
    server.server_close()
    time.sleep(600)


main()
