"""An event loop in a thread of its own, so that blocking code can use an asynchronous client.

Stages are plain blocking code, and a trainer or a notebook may have a loop already; a separate thread suits them all.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """An event loop in a thread, so that blocking code, with or without a loop of its own, can use the client."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="harness-endpoints", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`. An interrupt cancels it and is raised once it has ended."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():
                # Let cancelled calls enter the account before whoever is interrupted closes it.
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0.2), self._loop).result(5)
            raise


@cache
def background() -> Background:
    """The process's loop thread, started at first use."""
    return Background()
