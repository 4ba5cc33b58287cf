"""Shards on a Ray cluster: actors that each load the models once, and this process, which writes what they return.

Ray does all of the scheduling: where workers go, and what happens when one is lost. A worker that dies is started again
(elsewhere, if its node is gone) and its shard with it, up to `RETRIES` times; shards that were written stay. No more
shards are under way than workers have hands for, so that results do not pile up. Given up: sharing of loaded models
between stages and between kinds of work, and workers that see other files than this process: model folders must be on a
shared file system or come from the hub, and the same version of this package must be installed on every node.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import harness
from harness.config_runtime import RayConfig
from harness.errors import HarnessError, PrerequisiteError, StageError
from harness.executor import Computed, InProcess, LocalExecutor, ShardWorker, Task
from harness.shards import ShardOutput

RETRIES = 3
"""How often one worker, and one shard, are tried again."""


class _Worker:
    """Runs in a process of its own on some node."""

    def __init__(self, worker: ShardWorker, version: str, threads: int | None) -> None:
        self._worker, self._version, self._threads, self._work = worker, version, threads, None

    def shard(self, task: Task) -> tuple[ShardOutput, float, str]:
        """Compute one shard."""
        if self._work is None:
            self._prepare()
            self._work = self._worker.open()  # type: ignore[assignment]
        started = time.perf_counter()
        output = self._work(task.items, task.index, task.seed)  # type: ignore[misc]
        return output, time.perf_counter() - started, f"{os.uname().nodename}:{os.getpid()}"

    def _prepare(self) -> None:
        if self._version != harness.__version__:
            raise PrerequisiteError(
                f"node {os.uname().nodename} has harness {harness.__version__}, the run {self._version}; install the "
                "same version on every node"
            )
        from harness.training.trainer import quiet_libraries

        quiet_libraries()
        if self._threads:
            import torch

            torch.set_num_threads(self._threads)


class RayExecutor:
    """`Executor` over actors of a Ray cluster; connects at the first shard and stops what it started.

    Actors stay for an equal worker until `rest`. There is one set of them: work that comes up while they are at other
    work is done in this process, since the cluster may have no room for a second set.
    """

    def __init__(self, settings: RayConfig, threads: int | None) -> None:
        self._settings, self._threads = settings, threads
        self._ray: Any = None
        self._own = False
        self._here = LocalExecutor()
        self._worker: ShardWorker | None = None
        self._actors: list[Any] = []
        self._busy = False

    def _connect(self) -> Any:
        if self._ray is not None:
            return self._ray
        try:
            import ray
        except ImportError:
            raise PrerequisiteError("engine ray needs Ray: pip install 'harness[ray]'") from None
        s = self._settings
        needed = s.workers * s.cpus_per_worker
        if not ray.is_initialized():
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
            if s.address:
                options["address"] = s.address
            else:
                options.update(num_cpus=max(1, int(needed + 0.999)), include_dashboard=False)
            try:
                ray.init(**options)
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = f"the Ray cluster at {s.address}" if s.address else "a local Ray"
                raise PrerequisiteError(
                    f"cannot reach {where} ({str(error).splitlines()[0]}); start it, or correct runtime.ray.address"
                ) from None
            self._own = True
        self._ray = ray
        have = ray.cluster_resources()
        for name, amount in (("CPU", needed), ("GPU", s.workers * s.gpus_per_worker)):
            if amount > have.get(name, 0.0):
                self.close()
                raise PrerequisiteError(
                    f"{s.workers} workers take {amount:g} {name} in all and the Ray cluster has "
                    f"{have.get(name, 0.0):g}; lower runtime.ray.workers, or add nodes"
                )
        return ray

    def map(self, worker: ShardWorker, tasks: Iterable[Task], *, ordered: bool) -> Generator[Computed]:
        """Results of `tasks` from `workers` actors."""
        if isinstance(worker, InProcess) or self._busy:
            yield from self._here.map(worker, tasks, ordered=ordered)
            return
        pending = iter(tasks)
        first = next(pending, None)
        if first is None:
            return
        ray = self._connect()
        actors = self._staff(ray, worker)
        self._busy, finished = True, False
        try:
            yield from _pump(ray, actors, first, pending, ordered)
            finished = True
        finally:
            self._busy = False
            if not finished:
                self._dismiss()

    def _staff(self, ray: Any, worker: ShardWorker) -> list[Any]:
        """The actors that carry out `worker`."""
        if self._worker is None or self._worker != worker:
            self._dismiss()
            s = self._settings
            kind = ray.remote(
                num_cpus=s.cpus_per_worker, num_gpus=s.gpus_per_worker, max_restarts=RETRIES, max_task_retries=RETRIES
            )(_Worker)
            self._actors = [kind.remote(worker, harness.__version__, self._threads) for _ in range(s.workers)]
            self._worker = worker
        return self._actors

    def _dismiss(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._worker, self._actors = None, []

    def rest(self) -> None:
        """End the actors, with what they have loaded and are at."""
        self._dismiss()
        self._here.rest()

    def close(self) -> None:
        """Leave the cluster; a local one that was started here ends."""
        self.rest()
        if self._own and self._ray is not None:
            self._ray.shutdown()
        self._ray, self._own = None, False


def _pump(ray: Any, actors: list[Any], first: Task, pending: Iterator[Task], ordered: bool) -> Generator[Computed]:
    """Keep every actor busy with one shard and hand results on."""
    idle = list(actors)
    running: dict[Any, tuple[Task, Any]] = {}
    ready: dict[int, Computed] = {}
    order: list[int] = []
    queue: Task | None = first
    while queue is not None or order:
        # Before results are handed on, so that workers do not wait for whoever writes them. With an order to keep,
        # results that wait for an earlier one count as work under way.
        while queue is not None and idle and len(order) < 2 * len(actors):
            actor = idle.pop()
            running[actor.shard.remote(queue)] = (queue, actor)
            order.append(queue.index)
            queue = next(pending, None)
        for index in _deliverable(order, ready, ordered):
            order.remove(index)
            yield ready.pop(index)
        if not running:
            continue
        done, _ = ray.wait(list(running), num_returns=1)
        for reference in done:
            task, actor = running.pop(reference)
            output, seconds, place = _result(ray, reference)
            idle.append(actor)
            ready[task.index] = Computed(task, output, seconds, place)


def _deliverable(order: list[int], ready: dict[int, Computed], ordered: bool) -> list[int]:
    """Indices of results that can be handed on: the finished head of the order, or all."""
    if not ordered:
        return list(ready)
    return list(itertools.takewhile(ready.__contains__, order))


def _result(ray: Any, reference: Any) -> tuple[ShardOutput, float, str]:
    """A shard's result; a designed error of the worker is raised as it is, a lost worker as `StageError`."""
    from ray.exceptions import RayActorError, RayTaskError

    try:
        result: tuple[ShardOutput, float, str] = ray.get(reference)
        return result
    except RayTaskError as error:
        if isinstance(error.cause, HarnessError):
            raise error.cause from None
        raise
    except RayActorError as error:
        text = str(error)
        lines = [line for line in text.splitlines() if line.strip()]
        if "creation task" in text:
            raise StageError(
                f"a Ray worker could not be started ({lines[-1].strip()}); install the same version of harness, with "
                "its packages, on every node"
            ) from None
        raise StageError(
            f"a Ray worker was lost {RETRIES + 1} times ({lines[0].strip()}); finished shards are kept: look for "
            "exhausted memory on its node, then resume"
        ) from None
