"""Processes side by side: shared stages are computed once, a second writer is refused, an interrupt is no damage."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.commands import Done, Harness, events, finished, harness, rows, run_folders, stage_folder

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Pair:
    """Two runs of one folder that ran at the same time, and what a second writer of the first was told."""

    trained: Path
    chosen: Path
    pid: int
    second: Done
    again: Done


@pytest.fixture(scope="module")
def pair(lab: None, optimsyn: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """`grpo` and `best_of_n` with one signal: sources, initial, warm-up and the base's evaluation are shared."""
    base = tmp_path_factory.mktemp("pair")
    runs = base / "runs"
    arguments = ["run", *optimsyn, "--runs", str(runs), "--quiet"]
    # The other driver has no setting of the first one's training.
    own = [place for place, word in enumerate(arguments) if word.startswith("driver.")]
    others = [word for place, word in enumerate(arguments) if place not in own and place + 1 not in own]
    trained = Harness(arguments, base / "trained")

    def seen(driver: str, kind: str, stage: str) -> Path | None:
        for folder in run_folders(runs):
            mine = (".best_of_n" in folder.name) == (driver == "best_of_n")
            if mine and any(e["event"] == kind and e["stage"] == stage for e in events(folder)):
                return folder
        return None

    trained.until(lambda: seen("grpo", "stage_started", "initial") is not None)
    # A stopped process keeps its locks, so what the others do meanwhile does not hang on who is quicker.
    trained.process.send_signal(signal.SIGSTOP)
    try:
        mine = seen("grpo", "stage_started", "initial")
        assert mine is not None
        chosen = Harness([*others, "--driver", "best_of_n"], base / "chosen")
        second = harness(["resume", str(mine), "--quiet"], base)
        again = harness(arguments, base)
        chosen.until(lambda: seen("best_of_n", "stage_waiting", "initial") is not None)
    finally:
        trained.process.send_signal(signal.SIGCONT)
    statuses = [trained.wait(), chosen.wait()]
    assert [s.status for s in statuses] == [0, 0], statuses
    other = seen("best_of_n", "stage_waiting", "initial")
    assert other is not None
    return Pair(mine, other, trained.process.pid, second, again)


def test_a_second_process_on_a_run_is_told_who_holds_it(pair: Pair) -> None:
    for refused in (pair.second, pair.again):
        assert refused.status == 2
        assert refused.out == ""
        assert len(refused.err.splitlines()) == 1
        assert f"process {pair.pid} on host {socket.gethostname()}" in refused.err
        assert pair.trained.name in refused.err


def test_shared_stages_are_computed_once(pair: Pair) -> None:
    by_run = [events(pair.trained), events(pair.chosen)]
    started = Counter(e["identity"] for found in by_run for e in found if e["event"] == "stage_started")
    assert set(started.values()) == {1}
    stages = [json.loads((f / "run.json").read_text())["stages"] for f in (pair.trained, pair.chosen)]
    shared = {name for name in stages[0] if stages[0][name] == stages[1].get(name)}
    assert shared == {"sources", "initial", "warmup", "evaluate_base"}
    for name in shared:
        kinds = Counter(e["event"] for found in by_run for e in found if e.get("stage") == name)
        assert kinds["stage_done"] == kinds["stage_reused"] == 1, (name, kinds)


def test_the_other_waited_for_the_stage_and_says_for_whom(pair: Pair) -> None:
    waits = [e for e in events(pair.chosen) if e["event"] == "stage_waiting" and e["stage"] == "initial"]
    assert [e["holder"] for e in waits] == [f"process {pair.pid} on host {socket.gethostname()}"]


def test_the_same_settings_give_the_same_data_scores_and_answers(pair: Pair, reference: Path) -> None:
    assert pair.trained.name == reference.name
    for name in ("dataset.jsonl", "README.md"):
        assert (pair.trained / name).read_bytes() == (reference / name).read_bytes()
    for stage in ("initial", "grpo", "regenerate", "evaluate", "evaluate_base"):
        assert rows(stage_folder(pair.trained, stage)) == rows(stage_folder(reference, stage))


@dataclass(frozen=True)
class Interrupted:
    """A `static` run that was interrupted, what it said, and its status then; it was resumed by what it said."""

    folder: Path
    done: Done
    status: str


@pytest.fixture(scope="module")
def interrupted(reference: Path, settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """In the folder of the reference, whose sources and base evaluation it can use."""
    runs, cwd = reference.parent, tmp_path_factory.mktemp("interrupted")
    process = Harness(["run", "--method", "static", *settings, "--runs", str(runs), "--quiet"], cwd)

    def seen() -> list[Path]:
        shard = [(f, e) for f in run_folders(runs) for e in events(f) if e["event"] == "shard"]
        return [f for f, e in shard if f.name.startswith("static") and e["stage"] == "regenerate"]

    process.until(lambda: bool(seen()))
    done = process.kill(signal.SIGINT)
    folder = seen()[0]
    status = json.loads((folder / "run.json").read_text())["status"]
    command = re.search(r"harness (resume \S+)$", done.err.strip())
    assert command is not None, done
    finished([*command[1].split(), "--quiet"], cwd)
    return Interrupted(folder, done, status)


def test_an_interrupt_is_one_line_and_status_130(interrupted: Interrupted) -> None:
    assert interrupted.done.status == 130
    assert interrupted.done.out == ""
    assert len(interrupted.done.err.splitlines()) == 1
    assert interrupted.status == "interrupted"


def test_the_resumed_run_redoes_nothing_and_reuses_what_another_run_made(interrupted: Interrupted) -> None:
    found = events(interrupted.folder)
    shards = Counter(e["index"] for e in found if e["event"] == "shard" and e["stage"] == "regenerate")
    assert len(shards) >= 2
    assert set(shards.values()) == {1}
    assert {"sources", "evaluate_base"} <= {e["stage"] for e in found if e["event"] == "stage_reused"}
    assert json.loads((interrupted.folder / "run.json").read_text())["status"] == "finished"


def test_another_seed_gives_other_data(interrupted: Interrupted, settings: tuple[str, ...], tmp_path: Path) -> None:
    arguments = ["run", "--method", "static", *settings, "--seed", "4", "--runs", str(tmp_path), "--quiet"]
    finished(arguments, tmp_path)
    mine = run_folders(tmp_path)[0] / "dataset.jsonl"
    assert mine.read_bytes() != (interrupted.folder / "dataset.jsonl").read_bytes()
