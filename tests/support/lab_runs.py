"""Small runs in the lab, carried out in this process, and what their stages hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.events import read_events
from harness.record import RunRecord
from harness.resolve.assemble import Assembly, assemble
from harness.resolve.layers import resolve_run
from harness.runtime.run import carry_out, create_run
from harness.shards import read_records
from harness.stage import stage_folder, store_of
from harness.types import Sample, Score


@dataclass(frozen=True)
class Finished:
    """A finished run with what its stages hold."""

    folder: Path
    config: RunConfig
    record: RunRecord
    assembly: Assembly

    def stage(self, name: str) -> Path:
        """Folder of a stage."""
        stage = self.assembly.stage(name)
        assert stage is not None, name
        return stage_folder(store_of(self.folder.parent), stage)

    def samples(self, stage: str = "dataset") -> list[Sample]:
        """A stage's samples."""
        return read_records(self.stage(stage), Sample)

    def scores(self) -> dict[str, float | None]:
        """Scores after regeneration, by sample."""
        return {s.item_id: s.value for s in read_records(self.stage("score"), Score)}

    def reused(self) -> set[str]:
        """Names of the stages that were there already."""
        return {e["stage"] for e in read_events(self.folder / "events.jsonl") if e["event"] == "stage_reused"}

    def tokens(self, role: str, *stages: str) -> int:
        """Tokens of a role in some stages."""
        cost = [c for c in self.record.cost if c.role == role and c.stage in stages]
        return sum(c.prompt_tokens + c.completion_tokens for c in cost)


class Bench:
    """Carries runs out in one folder."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs

    def run(self, **options: Any) -> Finished:
        sets = {"runtime.runs": str(self.runs), "synthesis.shard_size": 24, **options.pop("sets", {})}
        run = create_run(resolve_run(target="nano", scale="smoke", sets=sets, **options), ["test"])
        record = carry_out(run, quiet=True)
        return Finished(run.path, run.config, record, assemble(run.config))
