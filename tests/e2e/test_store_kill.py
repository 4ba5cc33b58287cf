"""Processes that are really killed while they write, and processes that meet at a lock."""

from __future__ import annotations

import fcntl
import json
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RunLockedError
from harness.events import EventLog, read_events
from harness.lock import hold, is_held
from harness.runtime.execute import execute
from harness.runtime.ledger import Ledger
from harness.shards import parts, read_shards
from harness.stage import DONE, read_summary, stage_folder
from harness.types import Usage
from support.store_worker import ITEMS, SHARD, Watcher, slow_stage

HERE = Path(__file__).parent
SHARDS = ITEMS // SHARD


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True, cwd=HERE.parent)


def start_worker(store: Path, events: Path, delay: float) -> subprocess.Popen[str]:
    return start("-m", "support.store_worker", str(store), str(events), str(delay))


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the worker did not get there in time"
        time.sleep(0.002)


def test_killed_while_writing_shards_then_resumed_gives_the_same_rows(tmp_path: Path) -> None:
    """Three kills at random moments; afterwards rows, rejects and account are those of an uninterrupted run."""
    rng = random.Random(3)
    events, store = tmp_path / "events.jsonl", tmp_path / "store"
    folder = stage_folder(store, slow_stage())
    kills = 3
    for _ in range(kills):
        before = len(parts(folder))
        worker = start_worker(store, events, 0.004)
        wait_for(lambda before=before: len(parts(folder)) > before)
        time.sleep(rng.uniform(0.0, 0.02))
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        assert worker.returncode == -signal.SIGKILL
        # Whatever is in place is whole.
        read_shards(folder)
        read_shards(folder / "rejects")
        assert not (folder / DONE).exists()
    assert 0 < len(parts(folder)) < SHARDS

    done_before = {path.name: path.stat().st_mtime_ns for path in parts(folder)}
    execute([slow_stage(0)], store, Watcher(events))
    execute([slow_stage(0)], tmp_path / "whole", Watcher(tmp_path / "whole.jsonl"))
    whole = stage_folder(tmp_path / "whole", slow_stage())
    for table in ("", "rejects", "notes"):
        assert read_shards(folder / table) == read_shards(whole / table)
    got, reference = read_summary(folder), read_summary(whole)
    assert got is not None and reference is not None
    assert (got.rows_in, got.kept, got.rejected, got.usage) == (60, 51, {"seventh": 9}, reference.usage)
    assert got.usage[0].calls == SHARDS

    # Finished shards were not touched again, and the events show that none was computed twice.
    assert done_before.items() <= {path.name: path.stat().st_mtime_ns for path in parts(folder)}.items()
    written = [event["index"] for event in read_events(events) if event["event"] == "shard"]
    assert len(written) == len(set(written))
    assert len(written) >= SHARDS - kills
    assert not list(folder.rglob(".*.tmp"))


def test_second_process_waits_for_a_stage_and_reuses_it(tmp_path: Path) -> None:
    store, first, second = tmp_path / "store", tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    folder = stage_folder(store, slow_stage())
    worker = start_worker(store, first, 0.03)
    wait_for(lambda: len(parts(folder)) > 0)
    execute([slow_stage(0.03)], store, Watcher(second))
    worker.communicate(timeout=60)
    assert worker.returncode == 0
    seen = [event for event in read_events(second) if event.get("stage") == "slow"]
    assert [event["event"] for event in seen] == ["stage_waiting", "stage_reused"]
    assert seen[0]["holder"] == f"process {worker.pid} on host {socket.gethostname()}"
    assert sum(event["event"] == "shard" for event in read_events(first)) == SHARDS


HOLDER = """
import sys, time
from pathlib import Path
from harness.lock import hold, is_held
with hold(Path(sys.argv[1]), "run a"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_writer_gets_one_clear_line_and_a_kill_frees_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    holder = start("-c", HOLDER, str(lock))
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunLockedError) as caught, hold(lock, "run a"):
            pass
        said = str(caught.value)
        assert f"run a is being written by process {holder.pid} on host {socket.gethostname()}" in said
        assert "harness resume" in said and "\n" not in said
    finally:
        holder.kill()
        holder.communicate()
    assert not is_held(lock)
    with hold(lock, "run a"):
        assert is_held(lock)
        assert json.loads(lock.read_text())["pid"] != holder.pid


def test_asking_about_a_lock_does_not_pass_for_holding_it(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    lock.touch()

    def write() -> bool:
        with hold(lock, "run a"):
            return is_held(lock)

    with ThreadPoolExecutor(1) as pool:
        # What `is_held` does for a moment, at length.
        with lock.open("rb") as asking:
            fcntl.flock(asking, fcntl.LOCK_SH)
            writing = pool.submit(write)
            with pytest.raises(TimeoutError):
                writing.result(0.3)
        assert writing.result(20)


LEDGER = """
import sys
from pathlib import Path
from harness.runtime.ledger import Ledger
from harness.types import Usage
ledger = Ledger(Path(sys.argv[1]))
for i in range(1_000_000):
    ledger.add("s", "none", [Usage("writer", "m", 1, 2, 1, 0.0)])
    print(i + 1, flush=True)
"""


def test_ledger_keeps_every_acknowledged_row_through_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    worker = start("-c", LEDGER, str(path))
    assert worker.stdout is not None
    for line in worker.stdout:
        if int(line) >= 200:
            worker.kill()
            break
    rest = worker.communicate()[0].split("\n")
    acknowledged = max([200, *[int(text) for text in rest[:-1] if text]])
    ledger = Ledger(path)
    (total,) = ledger.by_role_and_stage()
    # The row after the last acknowledged one may be there or not.
    assert total[:3] == ("writer", "s", "none") and acknowledged <= total[5] <= acknowledged + 1
    ledger.add("s", "none", [Usage("writer", "m", 1, 2, 1, 0.0), Usage("target", "t", 5, 0, 1, 0.25, 2.0)])
    assert [row[0] for row in ledger.by_role_and_stage()] == ["writer", "target"]
    ledger.close()


def test_torn_event_lines_are_skipped_and_do_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.add("one", text="é\n")
    log.close()
    for torn in ('{"at": 1, "event": "to', '{"at": 1, "text": "\xc3', "\x00\x00"):
        with open(path, "ab") as handle:
            handle.write(torn.encode("latin-1"))
        log = EventLog(path)
        log.add("next")
        log.close()
    assert [event["event"] for event in read_events(path)] == ["one", "next", "next", "next"]
