"""Scoring, killed and interrupted: it goes on at the next unscored shard, and the scores are the same to the bit.

Before that the warm-up is killed, which keeps every epoch: the signal averages over three checkpoints.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.stage import read_summary
from support.commands import Done, Harness, events, finished, rows, run_folders, stage_folder

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Scored:
    """A run whose warm-up was killed and whose scoring was stopped twice, one that nothing stopped, and what the
    interrupt printed."""

    stopped: Path
    whole: Path
    interrupted: Done


BUDGET = 12
SHARD = 4
"""Best-of-n leaves a valid pair for each of `BUDGET` documents at least, so scoring has three shards or more."""


@pytest.fixture(scope="module")
def scored(lab: None, settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Scored:
    base = tmp_path_factory.mktemp("scored")
    method = ("--method", "optimsyn", "--driver", "best_of_n")
    epochs = ("--set", "warmup.keep=epochs", "--set", "warmup.epochs=3", "--set", "warmup.batch_size=2")
    sizes = ("--budget", str(BUDGET), "--set", "driver.n=3", "--set", f"synthesis.shard_size={SHARD}")
    arm = (*method, *settings, *epochs, *sizes, "--quiet")
    finished(["run", *arm, "--runs", str(base / "whole")], base)
    (whole,) = run_folders(base / "whole")
    # Its length follows from how many pairs the lab's models write, so it is the machine's own.
    last = read_summary(stage_folder(whole, "warmup")).notes["steps"]
    runs = base / "stopped"
    in_warmup = (f"warmup-[0-9a-f]+/trainer/checkpoint-{last}/_DONE", 1)
    assert Harness(["run", *arm, "--runs", str(runs)], base, in_warmup).wait().status == -9
    (folder,) = run_folders(runs)
    again = ["resume", folder.name, "--runs", str(runs), "--quiet"]
    assert Harness(again, base, ("score-[0-9a-f]+/part-00000001", 1)).wait().status == -9
    process = Harness(again, base)
    process.until(lambda: 1 in _scored_shards(folder))
    interrupted = process.kill(signal.SIGINT)
    finished(again, base)
    return Scored(folder, whole, interrupted)


def _scored_shards(folder: Path) -> list[int]:
    return [e["index"] for e in events(folder) if e["event"] == "shard" and e["stage"] == "score"]


def test_an_interrupt_says_how_to_go_on(scored: Scored) -> None:
    assert scored.interrupted.status == 130
    assert "harness resume" in scored.interrupted.err and "Traceback" not in scored.interrupted.err


def test_every_epoch_of_the_killed_warm_up_is_that_of_the_uninterrupted_one(scored: Scored) -> None:
    from safetensors.torch import load_file

    mine, theirs = (stage_folder(folder, "warmup") for folder in (scored.stopped, scored.whole))
    kept = json.loads((theirs / "checkpoints.json").read_text(encoding="utf-8"))
    assert list(kept) == ["adapter-epoch-1", "adapter-epoch-2", "adapter"]
    assert json.loads((mine / "checkpoints.json").read_text(encoding="utf-8")) == kept
    for name in kept:
        for file in ("adapter_model.safetensors", "adam.safetensors"):
            left, right = load_file(mine / name / file), load_file(theirs / name / file)
            assert left.keys() == right.keys()
            assert all(bool((left[key] == right[key]).all()) for key in right)


def test_the_scores_are_those_of_an_uninterrupted_run(scored: Scored) -> None:
    mine, theirs = (rows(stage_folder(folder, "score")) for folder in (scored.stopped, scored.whole))
    pairs = rows(stage_folder(scored.whole, "decontaminate"))
    assert [row["item_id"] for row in theirs] == [pair["id"] for pair in pairs]
    assert len(theirs) > 2 * SHARD and any(row["value"] is not None for row in theirs)
    assert mine == theirs


def test_every_shard_was_scored_once(scored: Scored) -> None:
    found = _scored_shards(scored.stopped)
    assert found == list(range(-(-len(rows(stage_folder(scored.stopped, "score"))) // SHARD))) and len(found) >= 3


def test_every_process_prepared_the_signal_once(scored: Scored) -> None:
    ready = [e for e in events(scored.stopped) if e["event"] == "worker_ready" and e["stage"] == "score"]
    assert len(ready) == len({e["pid"] for e in ready}) == 3
    assert all(e["facts"] == ready[0]["facts"] for e in ready)


def test_the_manifest_holds_the_self_check_and_the_diagnostics(scored: Scored) -> None:
    manifests = [json.loads((f / "run.json").read_text(encoding="utf-8")) for f in (scored.stopped, scored.whole)]
    mine, theirs = (m["signals"]["score"] for m in manifests)
    assert mine == theirs
    assert {c["status"] for c in mine["checks"]} == {"passed"}
    diagnostics = {fact["name"]: fact["value"] for fact in mine["diagnostics"]}
    assert diagnostics["scored"] + diagnostics["unscorable"] == len(rows(stage_folder(scored.stopped, "score")))
    assert -1.0 <= diagnostics["halves_agreement"] <= 1.0


def test_show_says_how_far_the_signal_can_be_believed(scored: Scored) -> None:
    out = finished(["show", str(scored.whole)], scored.whole.parent).out
    assert "Signal influence in stage score" in out and "length of the mean unit validation gradient: 0." in out
