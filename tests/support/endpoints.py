"""A client of an endpoint that takes seconds where others take minutes."""

from __future__ import annotations

from collections.abc import Callable

from harness.config_models import PriceConfig, ServiceConfig
from harness.models.backend import Sampling
from harness.models.endpoint.backend import EndpointBackend, Served
from harness.models.endpoint.calls import MemoryLog, Purse
from harness.models.endpoint.client import Endpoint
from support.faulty_server import FaultyServer

KEY = "sk-planted-0123456789abcdef"
QUICK = ServiceConfig(read_seconds=0.5, backoff_seconds=0.01, patience_seconds=5)
SAMPLING = Sampling(0.7, 1.0, 400)


def open_backend(
    server: FaultyServer,
    log: MemoryLog | None = None,
    *,
    service: ServiceConfig = QUICK,
    price: PriceConfig | None = None,
    max_usd: float | None = None,
    max_tokens: int | None = None,
    structured: bool = True,
    accept_length: bool = False,
    health: Callable[[], int] | None = None,
) -> EndpointBackend:
    log = log or MemoryLog()
    endpoint = Endpoint(
        server.url,
        role="generator",
        model="m",
        identity="test",
        key=KEY,
        service=service,
        log=log,
        purse=Purse(log, price, max_usd, max_tokens),
        health=health,
    )
    served = Served("m", 0.0, 8192, structured=structured, accept_length=accept_length)
    return EndpointBackend(served, lambda: (endpoint, "m"))
