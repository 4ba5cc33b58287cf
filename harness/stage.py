"""A stage: a step of a run whose output is stored once under a hash of everything that changes its rows.

The identity covers the stage's own settings, its inputs' identities and a version integer raised by hand; the
git commit is recorded elsewhere and not hashed, so that an unrelated edit does not recompute a week of work.
A shard is the unit of batching and of resuming: its random seed derives from its index, so scores and samples
do not depend on where an earlier process died.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

from harness.executor import Computed, Executor, InProcess, LocalExecutor, ShardWorker, Task, Work
from harness.models.endpoint.calls import CallLog
from harness.shards import (
    ShardOutput,
    Summary,
    merge_usage,
    part_name,
    parts,
    read_metadata,
    read_records,
    summarise,
    summary_from_json,
    summary_to_json,
    write_json,
    write_shard,
)
from harness.types import Json, Usage, derive_seed, stable_hash

if TYPE_CHECKING:
    from harness.costs.estimator import Estimator
    from harness.costs.records import Before, Cost, Load
    from harness.costs.sizer import Sizer

T = TypeVar("T")

DONE = "_DONE"
SCRATCH = "trainer"
"""Folder of a stage's checkpoints. It goes after the stage's marker is in place, not before: a kill between the two
would cost the whole stage."""


class Observer(Protocol):
    """The observer of a stage's work: the run's event log, its ledger and its progress display."""

    def event(self, kind: str, **fields: Any) -> None:
        """Append an event."""

    def spend(self, stage: str, signal: str, usage: Sequence[Usage]) -> None:
        """Record cost."""

    def progress(self, label: str, done: int, total: int, note: str = "") -> None:
        """Show how far a stage is."""

    def call_log(self, stage: str, signal: str) -> CallLog:
        """The log of a stage's calls to endpoints."""


Kind: TypeAlias = Literal[
    "seeds",
    "pairs",
    "gated",
    "chosen",
    "dataset",
    "scores",
    "checkpoints",
    "policy",
    "model",
    "guide_answers",
    "base_answers",
    "tuned_answers",
    "student_model",
    "student_base_answers",
    "student_tuned_answers",
    "measurement",
]
"""What a stage leaves, by which others find it: documents and validation items, pairs, pairs that passed the gate, the
seeds that a round of a loop writes after, what is trained on, scores of pairs, warm-up checkpoints of the target, a
trained drafting model, the fine-tuned target, and answers of a target to validation items, to the tests before it is
fine-tuned, and after; the same of other students. A `measurement` is read by whoever laid its stage out, by name."""

WEIGHTS: tuple[Kind, ...] = ("checkpoints", "policy", "model", "student_model")
"""Kinds that are trained weights."""


@dataclass(frozen=True)
class Stage:
    """A step of a run. `settings` are the configuration fields that change its rows; `work` does it.

    It says of itself what it leaves (`kind`), what it would cost (`estimate`, from the run's facts and the estimates of
    the stages before it; None where that is not known in advance), what it holds in memory (`loads`) and why so many
    documents would be too few for it (`lacks`; empty where they may do), so that plans, checks and outputs know no
    stage by its name. `round` is that of a loop (0: of none), `student` the role of another student that it is about.
    Two stages with equal `name`, `version`, `settings` and input identities are the same stage.
    """

    name: str
    version: int
    settings: Mapping[str, Json]
    inputs: tuple[Stage, ...]
    work: Callable[[StageRun], Mapping[str, Any] | None] = field(compare=False, repr=False)
    kind: Kind = field(compare=False, kw_only=True)
    estimate: Callable[[Estimator, Before], Cost | None] = field(compare=False, repr=False, kw_only=True)
    loads: Callable[[Sizer], Load] = field(compare=False, repr=False, kw_only=True)
    lacks: Callable[[int], str] = field(default=lambda documents: "", compare=False, repr=False, kw_only=True)
    signal: str = ""
    round: int = field(default=0, compare=False, kw_only=True)
    student: str = field(default="", compare=False, kw_only=True)

    @cached_property
    def identity(self) -> str:
        """Hash of name, version, settings and input identities."""
        return stable_hash(self.name, self.version, self.settings, [s.identity for s in self.inputs])

    @property
    def folder_name(self) -> str:
        """Name of its folder in the store."""
        return f"{self.name}-{self.identity}"


def ordered(stages: Sequence[Stage]) -> list[Stage]:
    """All stages that `stages` need, each once, inputs before users."""
    seen: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.identity not in seen:
            for needed in stage.inputs:
                visit(needed)
            seen[stage.identity] = stage

    for stage in stages:
        visit(stage)
    return list(seen.values())


def store_of(runs: str | Path) -> Path:
    """The stage store that the runs of a folder share."""
    return Path(runs) / ".stages"


def stage_folder(store: Path, stage: Stage) -> Path:
    """The folder of a stage's output."""
    return store / stage.folder_name


def read_summary(folder: Path) -> Summary | None:
    """A finished stage's account, or None while it is not finished."""
    marker = folder / DONE
    if not marker.exists():
        return None
    return summary_from_json(json.loads(marker.read_text(encoding="utf-8")))


def discard_scratch(folder: Path) -> None:
    """Delete the checkpoints of a finished stage."""
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)


@dataclass(frozen=True)
class StageInputs:
    """A stage's inputs, by name, for whoever reads them on another machine: folders, and rows as records."""

    folders: Mapping[str, Path]

    def input(self, name: str) -> Path:
        """Folder of the input stage called `name`."""
        if name not in self.folders:
            raise KeyError(f"the stage has no input {name}")
        return self.folders[name]

    def records(self, name: str, cls: type[T], table: str = "") -> list[T]:
        """Rows of an input's main table, or of its side table `table`, as records."""
        folder = self.input(name)
        return read_records(folder / table if table else folder, cls)


class StageRun:
    """The argument of a stage's `work`: its folder, its inputs, its random seed, and helpers that survive a kill."""

    def __init__(self, stage: Stage, store: Path, observer: Observer, executor: Executor | None = None) -> None:
        self.stage = stage
        self.store = store
        self.folder = stage_folder(store, stage)
        self.observer = observer
        self.executor: Executor = executor or LocalExecutor()
        self.seed = derive_seed(stage.identity)
        self._started = time.perf_counter()
        self._summary: Summary | None = None

    @property
    def inputs(self) -> StageInputs:
        """The stage's inputs, in a form that can be sent to a worker."""
        return StageInputs({stage.name: stage_folder(self.store, stage).absolute() for stage in self.stage.inputs})

    def input(self, name: str) -> Path:
        """Folder of the input stage called `name`."""
        return self.inputs.input(name)

    def records(self, name: str, cls: type[T], table: str = "") -> list[T]:
        """Rows of an input's main table, or of its side table `table`, as records."""
        return self.inputs.records(name, cls, table)

    def spend(self, usage: Sequence[Usage]) -> None:
        """Record cost in the run's ledger (the stage's own account comes from its shards)."""
        self.observer.spend(self.stage.name, self.stage.signal, usage)

    @property
    def call_log(self) -> CallLog:
        """The log of this stage's calls to endpoints."""
        return self.observer.call_log(self.stage.name, self.stage.signal)

    def event(self, kind: str, **fields: Any) -> None:
        """Append an event of this stage."""
        self.observer.event(kind, stage=self.stage.name, **fields)

    def write(self, index: int, output: ShardOutput, seconds: float, place: str = "here", table: str = "") -> None:
        """Commit shard `index`, computed at `place`, and record what it cost.

        With `table` it is a shard of a side table that is cut otherwise than the main table.
        """
        write_shard(self.folder / table, index, output, seconds)
        self.spend(output.usage)
        facts = {"kept": len(output.rows), "rejected": len(output.rejects), "seconds": round(seconds, 3)}
        where = {} if place == "here" else {"place": place}
        self.event(f"{table}_shard" if table else "shard", index=index, **facts, **where)
        if output.notes:
            self.event("worker_ready", index=index, facts=dict(output.notes), **where)

    def shard_done(self, index: int) -> bool:
        """Whether shard `index` was committed, by this process or an earlier one."""
        return (self.folder / part_name(index)).exists()

    def map_shards(self, items: Sequence[Any], size: int, work: ShardWorker | Work, label: str = "") -> None:
        """Cut `items` into shards of `size` and compute every one that is not yet committed.

        A `ShardWorker` may be carried out anywhere, a plain function `work(items, index, seed)` only here.
        """
        count = max(1, -(-len(items) // size))
        done = [index for index in range(count) if self.shard_done(index)]
        kept = sum(int(read_metadata(self.folder / part_name(index))["kept"]) for index in done)
        finished = len(done)
        tasks = (
            Task(items[index * size : (index + 1) * size], index, derive_seed(self.seed, index))
            for index in sorted(set(range(count)) - set(done))
        )
        for computed in self.compute(work, tasks, ordered=False):
            self.write(computed.task.index, computed.output, computed.seconds, computed.place)
            kept += len(computed.output.rows)
            finished += 1
            self.observer.progress(label or self.stage.name, finished, count, f"{kept} kept")
        if len(done) == count:
            self.observer.progress(label or self.stage.name, finished, count, f"{kept} kept")

    def compute(self, work: ShardWorker | Work, tasks: Iterable[Task], *, ordered: bool) -> Generator[Computed]:
        """Shards computed by whoever the run's engine is, not yet written."""
        worker = work if isinstance(work, ShardWorker) else InProcess(work)
        return self.executor.map(worker, tasks, ordered=ordered)

    def shard_notes(self) -> Mapping[str, Any]:
        """The first notes among the committed shards; empty where there are none."""
        found = (read_metadata(part).get("notes") for part in parts(self.folder))
        return next((notes for notes in found if notes), {})

    def finish(self, summary: Summary) -> None:
        """Set the account that the marker will hold, for stages that do not write shards."""
        self._summary = summary

    def commit(self, notes: Mapping[str, Any] | None) -> Summary:
        """Write the `_DONE` marker; called once, by whoever executes the stage."""
        # Models that were loaded for its shards make room for the next stage.
        self.executor.rest()
        summary = self._summary
        if summary is None:
            summary = summarise(self.folder, notes)
            # Side tables in shards of their own have accounts of their own; others have none.
            beside = [Usage(**u) for part in self.folder.glob("*/part-*") for u in read_metadata(part).get("usage", ())]
            summary = replace(summary, usage=merge_usage([*summary.usage, *beside]))
        if not summary.seconds:
            summary = replace(summary, seconds=time.perf_counter() - self._started)
        write_json(self.folder / DONE, summary_to_json(summary))
        discard_scratch(self.folder)
        return summary
