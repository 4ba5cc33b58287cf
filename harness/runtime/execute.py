"""Execution of stages: what is done is reused, what another process is doing is waited for, the rest is computed.

Stages live in one store that all runs of a `runs` folder share. A stage is finished when its marker is in place;
everything before that can be thrown away by a kill, shard by shard.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import HarnessError
from harness.executor import Executor
from harness.lock import hold
from harness.shards import Summary, is_disk_full, write_failure
from harness.stage import Observer, Stage, StageRun, discard_scratch, ordered, read_summary, stage_folder


def execute(
    stages: Sequence[Stage], store: Path, observer: Observer, executor: Executor | None = None
) -> Mapping[str, Summary]:
    """Bring `stages` and all that they need into the store; returns the account of each by identity.

    `executor` computes their shards (this process by default).
    """
    summaries: dict[str, Summary] = {}
    for stage in ordered(stages):
        summary = read_summary(stage_folder(store, stage))
        if summary is None:
            summary = _compute(stage, store, observer, executor)
        else:
            discard_scratch(stage_folder(store, stage))
            observer.event("stage_reused", stage=stage.name, identity=stage.identity)
        summaries[stage.identity] = summary
    return summaries


def _compute(stage: Stage, store: Path, observer: Observer, executor: Executor | None) -> Summary:
    folder = stage_folder(store, stage)

    def wait(holder: str) -> None:
        observer.event("stage_waiting", stage=stage.name, identity=stage.identity, holder=holder)
        observer.progress(f"{stage.name} (waiting for {holder})", 0, 1)

    with hold(store / f"{stage.folder_name}.lock", f"stage {stage.name}", wait=wait):
        summary = read_summary(folder)
        if summary is not None:
            observer.event("stage_reused", stage=stage.name, identity=stage.identity)
            return summary
        folder.mkdir(parents=True, exist_ok=True)
        for stale in list(folder.rglob(".*.tmp")):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        run = StageRun(stage, store, observer, executor)
        observer.event("stage_started", stage=stage.name, identity=stage.identity)
        try:
            notes = stage.work(run)
        except Exception as error:
            # Libraries that save models write on their own; only a full disk is recognised, all else is a defect.
            if isinstance(error, HarnessError) or not is_disk_full(error):
                raise
            raise write_failure(folder, error) from None
        summary = run.commit(notes)
        observer.event(
            "stage_done",
            stage=stage.name,
            identity=stage.identity,
            rows_in=summary.rows_in,
            kept=summary.kept,
            rejected=dict(summary.rejected),
            shortened=summary.shortened,
            mended=summary.mended,
            seconds=round(summary.seconds, 3),
        )
        return summary
