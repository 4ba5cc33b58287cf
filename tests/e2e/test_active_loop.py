"""A loop of rounds in the lab, killed in its second round and resumed: it is the one that nothing interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from support.commands import Harness, events, finished, rows, run_folders, stage_folder

ROUNDS = 2
LOOP = (
    *("--driver", "active_loop", "--signal", "self_loss", "--route", "question", "--target", "nano"),
    *("--scale", "smoke", "--seed", "3", "--budget", "12", "--set", f"driver.rounds={ROUNDS}"),
    *("--set", "synthesis.shard_size=5", "--set", "lab.seeds=24", "--set", "lab.test_items=10"),
)
"""Shards of 5 seeds, so that scoring has several."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupted."""
    base = tmp_path_factory.mktemp("whole")
    finished(["run", *LOOP, "--runs", str(base / "runs"), "--quiet"], base)
    return run_folders(base / "runs")[0]


@pytest.fixture(scope="module")
def killed(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed before the third shard of its second round's scores was in place, and resumed."""
    base = tmp_path_factory.mktemp("killed")
    trap = ("score_seeds_2-[0-9a-f]+/part-00000002", 1)
    died = Harness(["run", *LOOP, "--runs", str(base / "runs"), "--quiet"], base, trap).wait()
    assert (died.status, died.err) == (-9, "")
    (folder,) = run_folders(base / "runs")
    assert len(rows(stage_folder(folder, "score_seeds_2"))) == 10
    assert "score_seeds_2" in finished(["show", folder.name, "--runs", str(base / "runs")], base).out
    finished(["resume", folder.name, "--runs", str(base / "runs"), "--quiet"], base)
    return folder


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "record.json").read_text(encoding="utf-8"))
    return found


def test_a_resumed_loop_is_the_one_that_nothing_interrupted(whole: Path, killed: Path) -> None:
    assert killed.name == whole.name
    for file in ("dataset.jsonl", "seeds.parquet"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes()
    one, other = record(whole), record(killed)
    assert one["columns"] == other["columns"] and one["inheritance"] == other["inheritance"]
    for mine, theirs in zip(one["rounds"], other["rounds"], strict=True):
        assert {**mine, "seconds": 0.0} == {**theirs, "seconds": 0.0}


def test_what_was_there_is_used(killed: Path) -> None:
    reused = {e["stage"] for e in events(killed) if e["event"] == "stage_reused"}
    assert {"score_seeds_1", "finetune_1", "evaluate_1"} <= reused
    started = [e["stage"] for e in events(killed) if e["event"] == "stage_started"]
    assert started.count("score_seeds_2") == 2 and started.count("score_seeds_1") == 1


def test_rounds_add_up(whole: Path) -> None:
    found = record(whole)
    assert [r["samples"] for r in found["rounds"]] == [6, 12] and [r["seeds"] for r in found["rounds"]] == [6, 6]
    assert found["rounds"][-1]["scores"] == {c["column"]: c["score"] for c in found["columns"]}
    assert found["inheritance"]["pairs"] == 12
    data = rows(stage_folder(whole, "dataset_2"))
    assert [row["round"] for row in data] == [1] * 6 + [2] * 6
    first = rows(stage_folder(whole, "dataset_1"))
    assert [row["id"] for row in data[:6]] == [row["id"] for row in first]
    assert len({row["id"] for row in data}) == 12


def test_pairs_are_made_after_the_best_scored_seeds_of_their_round(whole: Path) -> None:
    table = pq.ParquetFile(whole / "seeds.parquet").read().to_pylist()
    data = rows(stage_folder(whole, "dataset_2"))
    for number in range(1, ROUNDS + 1):
        scores = {row["item_id"]: row["value"] for row in rows(stage_folder(whole, f"score_seeds_{number}"))}
        best = sorted(scores, key=lambda key: -scores[key])[:6]
        mine = [row for row in table if row["round"] == number]
        assert [row["seed_id"] for row in mine] == best
        assert sum(row["pairs"] for row in mine) == 6
        parents = {json.loads(row["seed_ids"])[0] for row in data if row["round"] == number}
        assert parents <= set(best)


def test_the_second_round_reads_the_student_of_the_first(whole: Path) -> None:
    scored = [rows(stage_folder(whole, f"score_seeds_{number}")) for number in range(1, ROUNDS + 1)]
    (base,), (student,) = ({row["target_rev"] for row in found} for found in scored)
    assert student == stage_folder(whole, "finetune_1").name != base
    before, after = ({row["item_id"]: row["value"] for row in found} for found in scored)
    assert before.keys() == after.keys() and before != after


def test_the_screens_show_the_rounds(whole: Path, tmp_path: Path) -> None:
    shown = finished(["show", str(whole)], tmp_path).out
    assert "Round by round" in shown and "Rank correlation of pairs' scores with those of their seeds" in shown
    plan = finished(["plan", *LOOP, "--runs", str(whole.parent)], tmp_path).out
    assert "score_seeds_2" in plan and "evaluate_2" in plan
    assert finished(["compare", str(whole), str(whole)], tmp_path).out


def test_a_student_that_goes_on_learns_the_new_pairs_alone_and_says_so(whole: Path, tmp_path: Path) -> None:
    runs = whole.parent
    finished(["run", *LOOP, "--set", "driver.start=student", "--runs", str(runs), "--quiet"], tmp_path)
    (other,) = set(run_folders(runs)) - {whole}
    new = {e["stage"] for e in events(other) if e["event"] == "stage_started"}
    assert new == {"finetune_2", "evaluate_2"}
    found = record(other)
    assert next(c["rows_in"] for c in found["counts"] if c["stage"] == "finetune_2") == 6
    assert [flag for flag in found["validity_flags"] if flag.startswith("variant: each round's student")]
    assert (other / "dataset.jsonl").read_bytes() == (whole / "dataset.jsonl").read_bytes()
