"""Executors of a stage's shards: this process, or workers elsewhere. The results are the same, shard by shard.

A shard is the unit of batching and its seed follows from its index, so where it is computed changes nothing. Whoever
computes, only the stage's own process writes: a shard that was not handed back is not there, and is computed again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from harness.shards import ShardOutput

Work: TypeAlias = Callable[[Sequence[Any], int, int], ShardOutput]
"""Computes one shard from its items, its index and its seed."""


@runtime_checkable
class ShardWorker(Protocol):
    """The set-up of a computation of shards on any machine. It is pickled, so it holds settings and no models."""

    def open(self) -> Work:
        """Load what is needed; called once in every worker."""


@dataclass(frozen=True, slots=True)
class Task:
    """One shard to compute."""

    items: Sequence[Any]
    index: int
    seed: int


@dataclass(frozen=True, slots=True)
class Computed:
    """A shard's output, the seconds it took where it was computed, and a name for that place."""

    task: Task
    output: ShardOutput
    seconds: float
    place: str = "here"


class Executor(Protocol):
    """Computes shards. Results come in the order of the tasks with `ordered`, else as they are ready."""

    def map(self, worker: ShardWorker, tasks: Iterable[Task], *, ordered: bool) -> Generator[Computed]:
        """Results of `tasks`, which are drawn as they can be taken on; closing the iterator drops those under way.

        What an equal worker has loaded is used again, until `rest`.
        """

    def rest(self) -> None:
        """Let go of everything that is loaded; called after every stage."""

    def close(self) -> None:
        """End the workers."""


class LocalExecutor:
    """One shard after the other, in this process."""

    def __init__(self) -> None:
        self._open: list[tuple[ShardWorker, Work]] = []

    def map(self, worker: ShardWorker, tasks: Iterable[Task], *, ordered: bool) -> Generator[Computed]:
        """Results in the order of the tasks."""
        work = next((work for known, work in self._open if known == worker), None)
        for task in tasks:
            started = time.perf_counter()
            # Set up at the first shard, so that a finished stage loads nothing.
            if work is None:
                work = worker.open()
                self._open.append((worker, work))
            output = work(task.items, task.index, task.seed)
            yield Computed(task, output, time.perf_counter() - started)

    def rest(self) -> None:
        """Forget the workers' models."""
        self._open.clear()

    def close(self) -> None:
        """Forget the workers' models."""
        self.rest()


@dataclass(frozen=True)
class InProcess:
    """Work that stays in this process under every executor: it holds open connections or counts what is spent."""

    work: Work

    def open(self) -> Work:
        """The work itself."""
        return self.work
