"""kill -9 at ten moments of one run, each followed by a resume: nothing differs from a run that nothing interrupted."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from support.commands import Event, Harness, events, finished, rows, run_folders, stage_folder

CHECKPOINT_EVERY = 2
STAGES = (
    "sources",
    "initial",
    "warmup",
    "grpo",
    "regenerate",
    "decontaminate",
    "dataset",
    "finetune",
    "evaluate",
    "evaluate_base",
)
SEED_VARIABLE = "HARNESS_TEST_SEED"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Kill:
    """When to kill: after an event (and a delay in seconds), or just before the file `trap` is in place."""

    stage: str
    event: str = ""
    number: int = 0
    delay: float = 0.0
    trap: str = ""

    def seen(self, new: list[Event]) -> bool:
        """Whether the event, or a later one of its kind, has come."""
        return any(
            e["event"] == self.event and e["stage"] == self.stage and e.get("index", e.get("step", 0)) >= self.number
            for e in new
        )


def kills(random_: random.Random) -> Iterator[Kill]:
    """From the first stage to the last, in GRPO at random steps and moments, and between two writes of a pair."""
    yield Kill("initial", "shard", 1, random_.uniform(0, 0.5))
    yield Kill("warmup", "stage_started", 0, random_.uniform(0, 0.5))
    for first in (1, 3, 5):
        yield Kill("grpo", "grpo_step", first + random_.randrange(2), random_.uniform(0, 0.3))
    yield Kill("grpo", trap="checkpoint-8/_DONE")
    yield Kill("grpo", trap="grpo-[0-9a-f]+/_DONE")
    yield Kill("regenerate", trap="regenerate-[0-9a-f]+/part-00000002")
    yield Kill("finetune", trap="checkpoint-45/_DONE")
    yield Kill("evaluate", "stage_started", 0, random_.uniform(0, 0.1))


@dataclass(frozen=True)
class Killed:
    """The run that was killed again and again: its folder, events by process, stages it died in."""

    folder: Path
    processes: list[list[Event]]
    stages: list[str]


@pytest.fixture(scope="module")
def killed(lab: None, optimsyn: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """The run, finished after the last kill."""
    seed = int(os.environ.get(SEED_VARIABLE, time.time_ns() % 10_000))
    print(f"{SEED_VARIABLE}={seed}")
    base = tmp_path_factory.mktemp("killed")
    runs = base / "runs"
    arguments = ["run", *optimsyn, "--runs", str(runs)]
    stages: list[str] = []
    for kill in kills(random.Random(seed)):
        print(kill)
        before = sum(len(events(folder)) for folder in run_folders(runs))
        process = Harness([*arguments, "--quiet"], base, (kill.trap, 1) if kill.trap else None)
        if kill.trap:
            done = process.wait()
        else:
            process.until(lambda k=kill, n=before: any(k.seen(events(f)[n:]) for f in run_folders(runs)))
            time.sleep(kill.delay)
            done = process.kill()
        assert done.status == -9, done
        assert done.err == ""
        stages.append([e["stage"] for e in events(run_folders(runs)[0]) if e["event"] == "stage_started"][-1])
        print(f"killed in {stages[-1]}")
        arguments = ["resume", run_folders(runs)[0].name, "--runs", str(runs)]
    shown = finished(["ls", "--runs", str(runs)], base).out
    assert "killed" in shown
    finished([*arguments, "--quiet"], base)
    (folder,) = run_folders(runs)
    found = events(folder)
    order = list(dict.fromkeys(e["pid"] for e in found))
    return Killed(folder, [[e for e in found if e["pid"] == pid] for pid in order], stages)


def test_it_really_died_in_many_stages(killed: Killed) -> None:
    assert len(killed.processes) == len(killed.stages) + 1
    assert len(set(killed.stages)) >= 5
    assert killed.stages.count("grpo") >= 5


def test_data_set_and_items_are_those_of_an_uninterrupted_run(killed: Killed, reference: Path) -> None:
    assert killed.folder.name == reference.name
    assert (killed.folder / "dataset.jsonl").read_bytes() == (reference / "dataset.jsonl").read_bytes()
    import pyarrow.parquet as pq

    mine, theirs = (pq.ParquetFile(f / "items.parquet").read().to_pylist() for f in (killed.folder, reference))
    assert len(mine) == 180
    assert mine == theirs


@pytest.mark.parametrize("stage", STAGES)
def test_every_row_of_every_stage_is_equal(stage: str, killed: Killed, reference: Path) -> None:
    mine, theirs = (stage_folder(f, stage) for f in (killed.folder, reference))
    assert mine.name == theirs.name
    expected = rows(theirs)
    assert expected
    assert rows(mine) == expected
    assert rows(mine / "rejects") == rows(theirs / "rejects")
    if stage == "grpo":
        assert [r["step"] for r in expected] == [step for step in range(8) for _ in range(32)]
        # Nearly every valid rollout has a score and a reward of its own; how many are valid is the machine's.
        scored = [r for r in expected if r["value"] is not None]
        assert len(scored) > len(expected) / 2
        assert len({r["value"] for r in scored}) > 0.8 * len(scored)
        assert len({r["reward"] for r in scored}) > 0.8 * len(scored)


@pytest.mark.parametrize(
    ("stage", "model"),
    [
        ("warmup", "adapter/adapter_model"),
        ("warmup", "adapter/adam"),
        ("grpo", "policy/model"),
        ("finetune", "model/model"),
    ],
)
def test_weights_and_moments_are_equal_to_the_last_bit(stage: str, model: str, killed: Killed, reference: Path) -> None:
    from safetensors.torch import load_file

    mine, theirs = (load_file(stage_folder(f, stage) / f"{model}.safetensors") for f in (killed.folder, reference))
    assert mine.keys() == theirs.keys()
    assert all(bool((mine[name] == theirs[name]).all()) for name in theirs)


def test_accounts_add_up_like_those_of_an_uninterrupted_run(killed: Killed, reference: Path) -> None:
    def counts(run: Path) -> list[tuple[str, int, int, dict[str, int]]]:
        record = json.loads((run / "record.json").read_text(encoding="utf-8"))
        return [(c["stage"], c["rows_in"], c["kept"], c["rejected"]) for c in record["counts"]]

    assert counts(killed.folder) == counts(reference)


def test_the_manifest_says_the_same_of_the_signal(killed: Killed, reference: Path) -> None:
    mine, theirs = (
        json.loads((f / "run.json").read_text(encoding="utf-8"))["signals"] for f in (killed.folder, reference)
    )
    assert next(fact["value"] for fact in theirs["grpo"]["diagnostics"] if fact["name"] == "scored") > 0
    assert mine == theirs


def test_at_most_the_steps_since_the_last_checkpoint_are_redone(killed: Killed) -> None:
    steps = [[e["step"] for e in process if e["event"] == "grpo_step"] for process in killed.processes]
    steps = [s for s in steps if s]
    assert len(steps) >= 4
    for before, after in pairwise(steps):
        assert after == list(range(after[0], after[-1] + 1))
        assert 0 <= before[-1] + 1 - after[0] <= CHECKPOINT_EVERY
    assert steps[0][0] == 0
    assert steps[-1][-1] == 7


def test_no_committed_shard_and_no_finished_stage_is_redone(killed: Killed) -> None:
    committed = Counter(
        (e["stage"], e["index"])
        for process in killed.processes
        for e in process
        if e["event"] == "shard" and e["stage"] in ("initial", "regenerate")
    )
    assert len(committed) >= 7
    assert set(committed.values()) == {1}
    done: set[str] = set()
    for process in killed.processes:
        assert not done & {e["stage"] for e in process if e["event"] == "stage_started"}
        done |= {e["stage"] for e in process if e["event"] == "stage_done"}
    assert done == set(STAGES)


def test_nothing_is_left_of_checkpoints_and_half_written_files(killed: Killed) -> None:
    store = killed.folder.parent / ".stages"
    assert not list(store.rglob("*.tmp")) + list(store.glob("*/trainer"))
    assert not list(killed.folder.rglob("*.tmp"))
