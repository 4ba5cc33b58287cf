"""A process that computes a slow stage, for tests that kill it or make another process wait for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.costs.records import Cost
from harness.costs.sizer import no_models
from harness.events import EventLog
from harness.runtime.execute import execute
from harness.shards import ShardOutput
from harness.stage import Stage, StageRun
from harness.types import Reject, Sample, Usage, stable_hash

ITEMS = 60
SHARD = 2


class Watcher:
    """Writes events to a file and ignores cost and progress."""

    def __init__(self, path: Path) -> None:
        self.log = EventLog(path)

    def event(self, kind: str, **fields: Any) -> None:
        self.log.add(kind, **fields)

    def spend(self, stage: str, signal: str, usage: Sequence[Usage]) -> None:
        pass

    def progress(self, label: str, done: int, total: int, note: str = "") -> None:
        pass


def slow_stage(delay: float = 0.01) -> Stage:
    """Sixty items, every seventh of them rejected, in shards of two; rows depend on the shard's seed."""

    def shard(items: Sequence[int], index: int, seed: int) -> ShardOutput:
        time.sleep(delay)
        rows = [
            Sample(
                id=stable_hash(seed, i),
                seed_ids=(f"seed{i}",),
                rubric_id=None,
                prompt_hash="",
                messages=(),
                raw=f"text {i} é " * 50,
                generator="worker",
                finish_reason="stop",
            )
            for i in items
            if i % 7
        ]
        rejects = [Reject(f"item{i}", "seventh", f"raw {i}") for i in items if i % 7 == 0]
        return ShardOutput(
            rows,
            rejects,
            [Usage(role="writer", model="m", prompt_tokens=10, completion_tokens=5, calls=1, seconds=0.5)],
            {"notes": [{"shard": index}]},
        )

    def work(run: StageRun) -> None:
        run.map_shards(list(range(ITEMS)), SHARD, shard)

    # Written out: as a script this file sees none of the tests' helpers.
    return Stage(
        name="slow",
        version=1,
        settings={"items": ITEMS, "shard": SHARD},
        inputs=(),
        work=work,
        kind="pairs",
        estimate=lambda estimator, before: Cost(rows=ITEMS, out=None),
        loads=no_models,
    )


def main(store: str, events: str, delay: str) -> None:
    """Compute the stage in `store`."""
    execute([slow_stage(float(delay))], Path(store), Watcher(Path(events)))


if __name__ == "__main__":
    main(*sys.argv[1:])
