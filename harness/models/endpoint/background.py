"""An event loop in a thread of its own, so that blocking code can use an asynchronous client.

Stages are plain blocking code, and a trainer or a notebook may have a loop already; a separate thread suits them all.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future, wait
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE = 5.0
"""Seconds that cancelled work may take to end."""


class Background:
    """An event loop in a thread, so that blocking code, with or without a loop of its own, can use the client."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="harness-endpoints", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`. An interrupt cancels it and is raised once it has ended."""
        ended: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(lambda task: _hand_on(task, ended))

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:
                work.close()
                ended.cancel()

        try:
            self._loop.call_soon_threadsafe(begin)
            return ended.result()
        except BaseException:
            # An interrupt may come before the work was handed over, and any time after.
            if not ended.done():
                # Cancelled calls enter the account before whoever is interrupted closes it.
                self._loop.call_soon_threadsafe(cancel)
                wait([ended], PATIENCE)
            raise


def _hand_on(task: asyncio.Task[T], ended: Future[T]) -> None:
    """Give a finished task's result, or its error, to the thread that waits for it."""
    if task.cancelled():
        ended.set_exception(CancelledError())
    elif (error := task.exception()) is not None:
        ended.set_exception(error)
    else:
        ended.set_result(task.result())


@cache
def background() -> Background:
    """The process's loop thread, started at first use."""
    return Background()
