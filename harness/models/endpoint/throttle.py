"""The number of calls that may be in flight, and the end of calling: an adaptive limit and a circuit breaker.

The limit follows AIMD, as TCP does (Chiu and Jain 1989): one more call in flight for every limit's worth of successes,
half as many when the server says that it is full. A hosted service says so with 429 or 503; a vLLM server never does,
it queues, so its queue is read and a long one counts as full. Both parts are plain state machines that are told the
time, so that they can be tested without waiting.
"""

from __future__ import annotations

import asyncio

START = 8
"""Calls in flight before anything is known of the server."""
COOLDOWN = 1.0
"""Seconds after a halving in which further refusals are taken for the same event."""


class Throttle:
    """An adaptive bound on calls in flight, between 1 and `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(START, most))
        self.in_flight = 0
        self._halved = float("-inf")
        self._changed = asyncio.Condition()

    async def acquire(self) -> None:
        """Wait until one more call may be in flight."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.in_flight < int(self.limit))
            self.in_flight += 1

    async def release(self) -> None:
        """A call has come back, with whatever result."""
        async with self._changed:
            self.in_flight -= 1
            self._changed.notify_all()

    def success(self) -> None:
        """A call was answered: one more in flight per `limit` answers."""
        self.limit = min(float(self.most), self.limit + 1.0 / self.limit)

    def full(self, now: float) -> None:
        """The server is full: half as many, once per cooldown."""
        if now - self._halved >= COOLDOWN:
            self._halved = now
            self.limit = max(1.0, self.limit / 2)

    def queue(self, waiting: float, now: float) -> None:
        """The server's own queue: more waiting than half of what is in flight means that it is full."""
        if waiting > max(2.0, self.in_flight / 2):
            self.full(now)


class Breaker:
    """Opens after `threshold` failures in a row: then one call at a time tries, at growing intervals.

    `down_since` is when the row began; any answer closes the breaker again.
    """

    def __init__(self, threshold: int = 8, first_wait: float = 1.0, longest_wait: float = 30.0) -> None:
        self.threshold, self.first_wait, self.longest_wait = threshold, first_wait, longest_wait
        self.failures = 0
        self.down_since: float | None = None
        self.last_success = float("-inf")
        self._next_try = 0.0

    @property
    def open(self) -> bool:
        """Whether calls are held back."""
        return self.failures >= self.threshold

    def success(self, now: float) -> None:
        """The service answered."""
        self.failures, self.down_since, self.last_success = 0, None, now

    def failure(self, now: float) -> None:
        """The service failed: refused the connection, broke off, timed out, or answered with a server error."""
        if self.down_since is None:
            self.down_since = now
        self.failures += 1
        if self.open:
            wait = self.first_wait * 2.0 ** min(self.failures - self.threshold, 16)
            self._next_try = now + min(self.longest_wait, wait)

    def wait(self, now: float) -> float:
        """Seconds until a call may go out: 0 lets it go. While open, a call that goes sets the next one's time."""
        if not self.open:
            return 0.0
        if now >= self._next_try:
            self._next_try = now + self.longest_wait
            return 0.0
        return self._next_try - now

    def down_for(self, now: float) -> float:
        """Seconds since the first failure of the current row."""
        return 0.0 if self.down_since is None else now - self.down_since


def waiting_requests(metrics: str) -> float:
    """Requests in a vLLM server's queue, from its Prometheus page; 0 where the page does not say."""
    for line in metrics.splitlines():
        if line.startswith("vllm:num_requests_waiting{") or line.startswith("vllm:num_requests_waiting "):
            try:
                return float(line.rpartition(" ")[2])
            except ValueError:
                return 0.0
    return 0.0
