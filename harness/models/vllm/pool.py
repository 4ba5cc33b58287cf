"""The servers of this process: equal weights are served once, and all end with the run.

A writer and a generator that share their base weights share a server, and a server stays up from stage to stage.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.config_models import VllmConfig
from harness.models.vllm.command import Weights
from harness.models.vllm.server import VllmServer

_servers: dict[Weights, VllmServer] = {}
_lock = threading.Lock()


def serve(
    weights: Weights, config: VllmConfig, log_folder: Path, notify: Callable[..., None] | None = None
) -> VllmServer:
    """The server of `weights`, started at first use. One that takes adapters serves also those who need none."""
    with _lock:
        for running, server in _servers.items():
            if replace(running, lora_rank=None) == replace(weights, lora_rank=None) and (running.lora_rank or 0) >= (
                weights.lora_rank or 0
            ):
                server.check()
                return server
        server = VllmServer(weights, config, log_folder, notify)
        _servers[weights] = server
        try:
            server.start()
        except BaseException:
            del _servers[weights]
            raise
        return server


def stop_all() -> None:
    """End all servers of this process."""
    with _lock:
        for server in _servers.values():
            server.stop()
        _servers.clear()


atexit.register(stop_all)
