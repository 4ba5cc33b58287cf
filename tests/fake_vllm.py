#!/usr/bin/env python3
"""Stands in for an interpreter with vLLM: takes its command line, answers on its port, has a worker process, and obeys.

`FAKE_VLLM` in the environment makes it fail: `fail` ends it at once with an error, `never` keeps it from getting ready,
`die` ends it as soon as `/die` is asked for. It writes what it was started with to `FAKE_VLLM_LOG`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def main() -> None:
    arguments = sys.argv[1:]
    port = int(arguments[arguments.index("--port") + 1])
    mode = os.environ.get("FAKE_VLLM", "")
    adapters: list[str] = []
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
    key = os.environ["VLLM_API_KEY"]

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
            self.reply(200, {"version": "fake", "adapters": adapters})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.headers.get("Authorization") != f"Bearer {key}":
                self.reply(401, {"error": "Unauthorized"})
            elif self.path == "/v1/unload_lora_adapter":
                adapters.remove(body["lora_name"])
                self.reply(200, "ok")
            elif body["lora_path"].endswith("bad"):
                self.reply(400, {"error": {"message": "no such adapter"}})
            else:
                adapters.append(body["lora_name"])
                self.reply(200, "ok")

        def log_message(self, *arguments: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


main()
