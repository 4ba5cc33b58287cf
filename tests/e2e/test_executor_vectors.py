"""Vectors of shards on Ray are those of one process, to the bit, also after kills; a damaged shard is one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.config import EmbedderConfig
from harness.executor import LocalExecutor
from harness.shards import ShardOutput
from harness.stage import StageRun
from support.commands import finished, rows, run_folders, stage_folder
from support.minilm import minilm
from support.plain_stage import plain_stage
from support.ray_runs import SilentObserver, executor

pytest.importorskip("ray", reason="needs the extra ray")

TEXTS = [f"{'the court held that ' * (1 + i % 9)} claim {i} was {'barred' if i % 2 else 'open'}" for i in range(44)]
"""Of different lengths, so that a batch pads them."""
CUT = 8

_EMBED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {unit!r}]
import test_executor_vectors as t
t.embedding(t.Path({store!r}), t.LocalExecutor(), t.KillingObserver({after}))
"""


class Watching(SilentObserver):
    """Keeps where shards of vectors were computed."""

    def __init__(self) -> None:
        self.places: dict[int, str] = {}

    def event(self, kind: str, **fields: Any) -> None:
        """Note a committed shard."""
        if kind == "vectors_shard":
            self.places[fields["index"]] = fields.get("place", "here")


class KillingObserver(Watching):
    """Ends the process, as a kill would, once `after` shards of vectors are committed."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def event(self, kind: str, **fields: Any) -> None:
        """Count."""
        super().event(kind, **fields)
        if len(self.places) == self._after:
            os.kill(os.getpid(), signal.SIGKILL)


def embedding(store: Path, how: Any, observer: Watching, texts: Sequence[str] = TEXTS) -> Any:
    """Vectors of `texts` by a real model, as a stage gets them; and the stage's account."""
    import torch

    from methods.stages import embedding as module

    torch.set_num_threads(1)
    module.SHARD = CUT
    run = StageRun(plain_stage("sources", 1, {}, (), lambda run: None), store, observer, how)
    embedder = module.stage_embedder(run, EmbedderConfig(id=str(minilm())))
    vectors = embedder.embed([*texts[: len(texts) // 2], " "]), embedder.embed(texts)
    run.write(0, ShardOutput([], rows_in=len(texts)), 0.0)
    return *vectors, run.commit({})


def test_vectors_are_the_same_under_every_engine_and_after_a_kill(tmp_path: Path) -> None:
    half, whole, account = embedding(tmp_path / "local", LocalExecutor(), seen := Watching())
    assert whole.shape == (44, 384) and abs(float((whole[0] ** 2).sum()) - 1) < 1e-5
    assert (half[:22] == whole[:22]).all() and not half[22].any()
    # 22 texts are shards of 8, 8 and 6; of all 44, the other 22.
    assert set(seen.places.values()) == {"here"} and len(seen.places) == 6
    (usage,) = account.usage
    assert (usage.role, usage.calls) == ("embedder", 44)

    ray = executor()
    try:
        _, elsewhere, of_ray = embedding(tmp_path / "ray", ray, seen := Watching())
    finally:
        ray.close()
    assert len(seen.places) == 6 and "here" not in seen.places.values()
    assert (elsewhere == whole).all()
    assert (of_ray.usage[0].prompt_tokens, of_ray.usage[0].calls) == (usage.prompt_tokens, 44)

    here = Path(__file__).parent
    store = tmp_path / "killed"
    code = _EMBED.format(tests=str(here.parent), unit=str(here), store=str(store), after=4)
    child = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(here.parents[1])})
    assert child.returncode == -signal.SIGKILL
    ray = executor()
    try:
        _, resumed, both = embedding(store, ray, seen := Watching())
    finally:
        ray.close()
    assert sorted(seen.places) == [4, 5], "only what was not committed is embedded"
    assert (resumed == whole).all()
    assert both.usage[0].calls == 44, "what the killed process spent counts"


def test_a_damaged_shard_of_vectors_is_one_line(tmp_path: Path) -> None:
    from harness.errors import InputError

    embedding(tmp_path, LocalExecutor(), Watching(), TEXTS[:4])
    (part,) = (tmp_path).glob("*/vectors/part-00000000.parquet")
    part.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="delete it and resume"):
        embedding(tmp_path, LocalExecutor(), Watching(), TEXTS[:4])


def test_a_run_that_compares_embeddings_is_the_same_on_ray(lab: None, tmp_path: Path) -> None:
    """The gate's vectors come from workers: test items as shards, pairs with the shard that holds them."""
    options = [
        *("run", "--method", "static", "--target", "nano", "--scale", "smoke", "--budget", "30", "--quiet"),
        *("--set", "synthesis.shard_size=12", "--set", "lab.seeds=40", "--set", "runtime.threads=1"),
        *("--set", "decontam.modes=[embedding]", "--set", "decontam.embedding_threshold=0.6"),
        *("--set", f"models.embedder.id={minilm()}"),
    ]
    found = {}
    for engine in ("local", "ray"):
        base = tmp_path / engine
        base.mkdir()
        finished([*options, "--engine", engine], base)
        (folder,) = run_folders(base / "runs")
        stage = {name: stage_folder(folder, name) for name in ("sources", "regenerate", "decontaminate")}
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
        shards = [e for e in events if e["event"] == "vectors_shard"]
        assert shards and {e["stage"] for e in shards} <= {"sources", "regenerate", "decontaminate"}
        assert all(("place" in e) == (engine == "ray") for e in shards)
        found[engine] = (
            rows(stage["decontaminate"]),
            rows(stage["decontaminate"] / "evidence"),
            (folder / "dataset.jsonl").read_bytes(),
            [part.read_bytes() for part in sorted((stage["regenerate"] / "row_vectors").glob("part-*"))],
        )
    assert found["ray"] == found["local"]
    # The pairs' vectors came with the pairs, and decontamination finds them.
    assert found["local"][3] and not (stage["decontaminate"] / "vectors").exists()
    assert found["local"][1], "something was near a test item, so vectors were looked at"
