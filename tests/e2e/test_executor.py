"""Shards on Ray are those of one process: scores to the bit, also after kills; errors stay one line."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.config_runtime import RayConfig
from harness.errors import PrerequisiteError, StageError
from harness.executor import InProcess, LocalExecutor, ShardWorker, Task, Work
from harness.shards import ShardOutput, read_records
from harness.stage import StageRun
from harness.training.recipe import LoraSettings, Recipe
from harness.training.sft import finetune
from harness.types import Message, Sample, Score
from methods.signals.base import Archive, SignalContext, TargetState, ValidationExample, WarmCheckpoint
from support.plain_stage import plain_stage
from support.ray_runs import SilentObserver, executor
from support.tiny import make_tiny_model

pytest.importorskip("ray", reason="needs the extra ray")


@pytest.fixture(autouse=True, scope="module")
def importable() -> Iterator[None]:
    """Workers import this file's classes by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{Path(__file__).parents[1]}")
        yield


def samples(count: int) -> list[Sample]:
    """Pairs of different lengths."""
    return [
        Sample(
            f"s{i}", ("d",), None, "p",
            (Message("user", f"what {i} " * (1 + i % 3)), Message("assistant", f"answer {i} " * (1 + i % 5))),
            "", "g", "stop",
        )
        for i in range(count)
    ]  # fmt: skip


@dataclass(frozen=True)
class Scoring:
    """Influence scores of shards on one thread; `marks` gets a file for every shard that was begun."""

    context: SignalContext
    target: TargetState
    marks: Path

    def open(self) -> Work:
        """Prepare the signal."""
        import torch

        from methods.signals.influence.settings import InfluenceSettings
        from methods.signals.influence.signal import InfluenceSignal

        torch.set_num_threads(1)
        influence = InfluenceSignal(InfluenceSettings())
        influence.prepare(self.context, self.target)

        def shard(items: Sequence[Any], index: int, seed: int) -> ShardOutput:
            (self.marks / f"{index}-{os.getpid()}-{time.monotonic_ns()}").touch()
            time.sleep(0.3)
            return ShardOutput(influence.score(items, Archive()))

        return shard


class Unable:
    """A worker that cannot be set up."""

    def open(self) -> Work:
        """Always a designed error."""
        raise PrerequisiteError("no weights here; put them there")


class Fatal:
    """A worker whose process dies at every shard."""

    def open(self) -> Work:
        """Work that ends its process."""
        return lambda items, index, seed: os._exit(1)


@pytest.fixture(scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> Scoring:
    """A warmed-up tiny target and a validation set."""
    home = tmp_path_factory.mktemp("executor")
    model = make_tiny_model(home / "model")
    recipe = Recipe(1e-3, 1, 4, 4, "linear", 0.0, 0.0, 0.999, 256, LoraSettings(4, 8, 0.0, ("q_proj", "v_proj")))
    finetune(model, samples(8), recipe, seed=0, folder=home, output="adapter", save_adam=True)
    adapter = home / "adapter"
    target = TargetState(model, "r", 256, checkpoints=(WarmCheckpoint(adapter, adapter / "adam.safetensors"),))
    guide = [ValidationExample(f"v{i}", s.messages) for i, s in enumerate(samples(3))]
    marks = home / "marks"
    marks.mkdir()
    return Scoring(SignalContext(0, guide, batch_size=4), target, marks)


def stage_run(store: Path, executor: Any) -> StageRun:
    """An execution of a stage that scores."""
    stage = plain_stage("score", 1, {}, (), lambda run: None)
    return StageRun(stage, store, SilentObserver(), executor)


def test_a_killed_worker_changes_no_score(scoring: Scoring, tmp_path: Path) -> None:
    pool = samples(24)
    local = stage_run(tmp_path / "local", LocalExecutor())
    local.map_shards(pool, 3, scoring)
    expected = read_records(local.folder, Score)
    assert len(expected) == 24 and all(s.value is not None for s in expected)
    for mark in scoring.marks.iterdir():
        mark.unlink()

    ray = executor()
    run = stage_run(tmp_path / "ray", ray)
    killed: list[int] = []

    class Killing(SilentObserver):
        """Kills the worker of the first finished shard while it is at its next one."""

        def progress(self, label: str, done: int, total: int, note: str = "") -> None:
            if killed:
                return
            pid = int(run_places[-1].rpartition(":")[2])
            deadline = time.monotonic() + 60
            before = sum(m.name.split("-")[1] == str(pid) for m in scoring.marks.iterdir())
            while before < 2 and time.monotonic() < deadline:
                before = sum(m.name.split("-")[1] == str(pid) for m in scoring.marks.iterdir())
                time.sleep(0.02)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        def event(self, kind: str, **fields: Any) -> None:
            if kind == "shard":
                run_places.append(fields["place"])

    run_places: list[str] = []
    run.observer = Killing()
    try:
        run.map_shards(pool, 3, scoring)
    finally:
        ray.close()
    assert killed and len(set(run_places)) >= 3, "the killed worker was replaced"
    begun = [m.name.split("-")[0] for m in scoring.marks.iterdir()]
    assert len(begun) > len(set(begun)) == 8, "the shard under way was begun again"
    # Scores carry no place or time, so equality is equality of all their digits.
    assert read_records(run.folder, Score) == expected


def test_finished_shards_are_not_computed_again(scoring: Scoring, tmp_path: Path) -> None:
    pool = samples(6)
    first = stage_run(tmp_path, LocalExecutor())
    first.map_shards(pool[:3], 3, scoring)
    for mark in scoring.marks.iterdir():
        mark.unlink()
    ray = executor(1)
    try:
        stage_run(tmp_path, ray).map_shards(pool, 3, scoring)
    finally:
        ray.close()
    assert {m.name.split("-")[0] for m in scoring.marks.iterdir()} == {"1"}


def test_order_is_kept_where_it_is_asked_for_and_more_is_dropped() -> None:
    ray = executor()
    drawn: list[int] = []

    def tasks() -> Any:
        for i in range(100):
            drawn.append(i)
            yield Task((i,), i, i)

    try:
        results = ray.map(_Sleeping(), tasks(), ordered=True)
        seen = [next(results).task.index for _ in range(5)]
        results.close()
    finally:
        ray.close()
    assert seen == [0, 1, 2, 3, 4]
    assert len(drawn) < 15, "shards far beyond the last one that was wanted were begun"


class _Sleeping:
    """Even shards take longer than odd ones."""

    def open(self) -> Work:
        """Sleep, then nothing."""

        def shard(items: Sequence[Any], index: int, seed: int) -> ShardOutput:
            time.sleep(0.2 if index % 2 == 0 else 0.01)
            return ShardOutput([])

        return shard


def test_actors_stay_for_their_work_and_other_work_waits_for_none() -> None:
    """What an actor loaded serves the next shards too; work that comes up meanwhile is done here, not waited for."""
    ray = executor()
    try:
        first = {done.place for done in ray.map(_Where(), [Task((), i, i) for i in range(4)], ordered=False)}
        results = ray.map(_Where(), [Task((), i, i) for i in range(4)], ordered=False)
        again = {next(results).place}
        (other,) = ray.map(_Sleeping(), [Task((), 1, 1)], ordered=False)
        again |= {done.place for done in results}
        ray.rest()
        (later,) = ray.map(_Where(), [Task((), 0, 0)], ordered=False)
    finally:
        ray.close()
    assert again <= first and "here" not in first
    assert other.place == "here"
    assert later.place not in first


@dataclass(frozen=True)
class _Where:
    """Does nothing; all of its kind are equal."""

    def open(self) -> Work:
        """Nothing to load."""
        return lambda items, index, seed: ShardOutput([])


def test_work_that_holds_connections_stays_here() -> None:
    ray = executor()
    here = InProcess(lambda items, index, seed: ShardOutput([], rows_in=os.getpid()))
    (done,) = ray.map(here, [Task((), 0, 0)], ordered=False)
    assert done.output.rows_in == os.getpid()
    assert isinstance(here, ShardWorker)


@pytest.mark.parametrize(
    ("worker", "error", "text"),
    [(Unable(), PrerequisiteError, "no weights here"), (Fatal(), StageError, "finished shards are kept")],
)
def test_errors_of_workers_are_one_line(
    worker: Any, error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import ray_executor

    # Every retry starts a process.
    monkeypatch.setattr(ray_executor, "RETRIES", 1)
    ray = executor(1)
    try:
        with pytest.raises(error, match=text):
            list(ray.map(worker, [Task((), 0, 0)], ordered=False))
    finally:
        ray.close()


def test_a_cluster_that_is_too_small_is_refused() -> None:
    from harness.ray_executor import RayExecutor

    ray = RayExecutor(RayConfig(workers=1, gpus_per_worker=64), threads=1)
    with pytest.raises(PrerequisiteError, match="64 GPU in all"):
        list(ray.map(_Sleeping(), [Task((), 0, 0)], ordered=False))
