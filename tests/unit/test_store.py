"""Shards, stages and their identities without any kill: tables, accounts, reuse, and a disk that is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DiskFullError, InputError, StageError
from harness.events import EventLog, read_events
from harness.lock import hold
from harness.runtime.execute import execute
from harness.runtime.ledger import Ledger
from harness.shards import (
    ShardOutput,
    Summary,
    merge_usage,
    part_name,
    parts,
    read_records,
    read_shards,
    replace_into,
    write_json,
    write_shard,
    write_table,
)
from harness.stage import DONE, Stage, StageRun, ordered, read_summary, stage_folder
from harness.types import Message, Reject, Sample, Seed, Usage, from_row, to_row
from support.plain_stage import plain_stage
from support.store_worker import Watcher

SEED = Seed("s1", "text — ü", None, "med", "file", "CC0", {"pmid": "12"})
SAMPLE = Sample("a", ("s1", "s2"), None, "h", (Message("user", "q"), Message("assistant", "a\n")), "raw", "g", "stop")


def counting_stage(calls: list[int], items: int, **settings: Any) -> Stage:
    def shard(part: Sequence[int], index: int, seed: int) -> ShardOutput:
        calls.append(index)
        return ShardOutput([{"item": i, "seed": seed} for i in part], usage=[Usage("writer", "m", 1)])

    def work(run: StageRun) -> dict[str, Any]:
        run.map_shards(list(range(items)), 3, shard)
        return {"note": 1}

    return plain_stage("count", 1, {"items": items, **settings}, (), work)


def test_records_survive_a_table(tmp_path: Path) -> None:
    write_table(tmp_path / part_name(0), [SEED])
    write_table(tmp_path / "samples" / part_name(0), [SAMPLE])
    assert read_records(tmp_path, Seed) == [SEED]
    assert read_records(tmp_path / "samples", Sample) == [SAMPLE]


@given(st.text(), st.dictionaries(st.text(), st.text()), st.lists(st.builds(Message, st.text(), st.text())))
def test_rows_are_the_inverse_of_records(text: str, keys: dict[str, str], messages: list[Message]) -> None:
    seed = Seed("i", text, tuple(messages), keys=keys)
    assert from_row(Seed, to_row(seed)) == seed


def test_empty_shards_and_missing_tables_read_as_no_rows(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, ShardOutput([]), 0.0)
    assert read_shards(tmp_path) == [] and read_shards(tmp_path / "rejects") == []
    assert [p.name for p in tmp_path.iterdir()] == [part_name(0)]


def test_shards_read_in_order_past_nine(tmp_path: Path) -> None:
    for index in (11, 2, 10, 0, 1):
        write_table(tmp_path / part_name(index), [{"i": index}])
    assert [row["i"] for row in read_shards(tmp_path)] == [0, 1, 2, 10, 11]


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / part_name(3)).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=rf"{part_name(3)} is not a readable parquet file.*delete it and resume"):
        read_shards(tmp_path)


def test_usage_adds_up_by_role_and_model() -> None:
    merged = merge_usage([Usage("w", "m", 1, 2, 3, 4.0, 5.0), Usage("g", "m", 1), Usage("w", "m", 1, 1, 1, 1.0, 1.0)])
    assert merged == [Usage("w", "m", 2, 3, 4, 5.0, 6.0), Usage("g", "m", 1)]


def test_summary_line_names_every_reason() -> None:
    assert Summary(10, 7, {"b": 1, "a": 2}, [], 0.0).line() == "10 in, 7 kept, rejected: a 2, b 1"
    assert Summary(1, 1, {}, [], 0.0).line() == "1 in, 1 kept"
    assert Summary(3, 3, {}, [], 0.0, shortened=2).line() == "3 in, 3 kept, document shortened to fit the model for 2"


def test_a_finished_stage_is_reused_and_an_unfinished_one_completed(tmp_path: Path) -> None:
    calls: list[int] = []
    stage = counting_stage(calls, 8)
    watcher = Watcher(tmp_path / "events.jsonl")
    first = execute([stage, stage], tmp_path / "store", watcher)
    assert calls == [0, 1, 2]
    folder = stage_folder(tmp_path / "store", stage)
    (folder / DONE).unlink()
    (folder / part_name(1)).unlink()
    second = execute([counting_stage(calls, 8)], tmp_path / "store", watcher)
    assert calls == [0, 1, 2, 1]
    assert execute([counting_stage(calls, 8)], tmp_path / "store", watcher) == second
    assert calls == [0, 1, 2, 1]
    a, b = first[stage.identity], second[stage.identity]
    assert (a.kept, a.usage, a.notes) == (b.kept, b.usage, b.notes) == (8, [Usage("writer", "m", 3)], {"note": 1})
    assert read_summary(folder) == b
    kinds = [event["event"] for event in read_events(tmp_path / "events.jsonl")]
    assert kinds.count("stage_started") == 2 and kinds.count("stage_reused") == 1


def test_leftovers_of_a_kill_are_removed_before_work_goes_on(tmp_path: Path) -> None:
    stage = counting_stage([], 2)
    folder = stage_folder(tmp_path, stage)
    nested = folder / "checkpoints" / ".step-3.77.tmp" / "deep"
    nested.mkdir(parents=True)
    (nested / ".inner.77.tmp").write_text("half")
    (folder / f".{part_name(0)}.77.tmp").write_text("half")
    execute([stage], tmp_path, Watcher(tmp_path / "events.jsonl"))
    assert not list(folder.rglob(".*.tmp"))
    assert len(parts(folder)) == 1


def test_identity_follows_what_changes_rows_and_nothing_else() -> None:
    def stage(name: str = "a", version: int = 1, inputs: tuple[Stage, ...] = (), **settings: Any) -> Stage:
        return plain_stage(name, version, settings, inputs, lambda run: None)

    base = stage(x=1, y={"b": 2, "a": [1]})
    assert base.identity == stage(y={"a": [1], "b": 2}, x=1).identity
    assert plain_stage("a", 1, {"x": 1, "y": {"a": [1], "b": 2}}, (), print, signal="s").identity == base.identity
    others = [stage(x=1), stage("b", x=1, y={"b": 2, "a": [1]}), stage(version=2, x=1, y={"b": 2, "a": [1]})]
    others.append(stage(inputs=(base,), x=1, y={"b": 2, "a": [1]}))
    assert len({base.identity, *[s.identity for s in others]}) == 5
    # Fixed for ever: a changed hash would silently recompute every stored stage.
    assert stage(x=1).identity == "2695667b3a698705"


def test_ordered_puts_inputs_first_and_each_stage_once() -> None:
    a = plain_stage("a", 1, {}, (), lambda run: None)
    b = plain_stage("b", 1, {}, (a,), lambda run: None)
    c = plain_stage("c", 1, {}, (b, a), lambda run: None)
    assert [s.name for s in ordered([c, b, a])] == ["a", "b", "c"]


def test_a_stage_reads_its_inputs(tmp_path: Path) -> None:
    output = ShardOutput([SEED], [Reject("x", "bad", "r")])
    source = plain_stage("source", 1, {}, (), lambda run: run.write(0, output, 0.0))
    seen: list[Any] = []

    def work(run: StageRun) -> None:
        seen.extend([*run.records("source", Seed), *run.records("source", Reject, "rejects")])
        with pytest.raises(KeyError, match="no input other"):
            run.input("other")

    execute([plain_stage("user", 1, {}, (source,), work)], tmp_path, Watcher(tmp_path / "e.jsonl"))
    assert seen == [SEED, Reject("x", "bad", "r")]


def test_a_failing_stage_is_not_marked_done_and_frees_its_lock(tmp_path: Path) -> None:
    attempts: list[int] = []

    def work(run: StageRun) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise StageError("service down")

    stage = plain_stage("s", 1, {}, (), work)
    with pytest.raises(StageError, match="service down"):
        execute([stage], tmp_path, Watcher(tmp_path / "e.jsonl"))
    assert read_summary(stage_folder(tmp_path, stage)) is None
    execute([stage], tmp_path, Watcher(tmp_path / "e.jsonl"))
    assert read_summary(stage_folder(tmp_path, stage)) is not None


# A temporary file that is a link to /dev/full makes the kernel itself refuse every write with ENOSPC.
needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


def fill(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f".{path.name}.{os.getpid()}.tmp").symlink_to("/dev/full")


@needs_dev_full
def test_a_full_disk_is_one_clear_error_and_leaves_no_shard(tmp_path: Path) -> None:
    shard = tmp_path / "stage" / part_name(0)
    fill(shard)
    with pytest.raises(StageError) as caught:
        write_shard(tmp_path / "stage", 0, ShardOutput([{"text": "x" * 100_000}]), 0.0)
    assert str(caught.value).startswith(f"the disk is full while writing {shard}; free some space, then resume")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "stage").iterdir()) == []
    assert caught.value.exit_status == 2
    fill(tmp_path / "marker")
    with pytest.raises(StageError, match="the disk is full while writing"):
        write_json(tmp_path / "marker", {"a": 1})


@needs_dev_full
def test_a_full_disk_is_a_clear_error_for_events_too(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    log = EventLog(tmp_path / "events.jsonl")
    with pytest.raises(StageError, match=r"the disk is full while writing .*events\.jsonl"):
        log.add("event")
    log.close()


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match=r"cannot write .*run\.lock"), hold(tmp_path / "file" / "run.lock", "x"):
        pass
    with pytest.raises(StageError, match=r"cannot write .*events\.jsonl"):
        EventLog(tmp_path / "file" / "events.jsonl")
    with pytest.raises(StageError, match=r"cannot write .*ledger\.sqlite \(unable to open database file\)"):
        Ledger(tmp_path / "file" / "ledger.sqlite")
    (tmp_path / "ledger.sqlite").write_text("not a database, but a text that is long enough " * 50)
    with pytest.raises(StageError, match=r"cannot write .*ledger\.sqlite \(file is not a database\)"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_full_disk_is_a_clear_error_for_the_ledger_too(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger._db.execute("PRAGMA max_page_count=2")
    with pytest.raises(StageError, match=r"cannot write .*ledger\.sqlite \(database or disk is full\)"):
        for _ in range(10_000):
            ledger.add("s", "none", [Usage("writer", "m")])
    ledger.close()


@needs_dev_full
def test_a_full_disk_is_a_clear_error_when_a_library_writes(tmp_path: Path) -> None:
    def text(run: StageRun) -> None:
        with open("/dev/full", "w") as handle:
            handle.write("x")

    def weights(run: StageRun) -> None:
        from safetensors import SafetensorError

        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def archive(run: StageRun) -> None:
        import torch

        torch.save({"w": torch.zeros(90_000)}, "/dev/full")

    def defect(run: StageRun) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    for work in (text, weights, archive):
        with pytest.raises(DiskFullError, match="the disk is full while writing"):
            execute([plain_stage(work.__name__, 1, {}, (), work)], tmp_path, Watcher(tmp_path / "e.jsonl"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        execute([plain_stage("defect", 1, {}, (), defect)], tmp_path, Watcher(tmp_path / "e.jsonl"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_and_quota_are_told_from_permissions(tmp_path: Path, number: int) -> None:
    def refuse(code: int) -> Any:
        def write(path: Path) -> None:
            path.write_text("half")
            raise OSError(code, os.strerror(code))

        return write

    with pytest.raises(StageError, match="the disk is full"):
        replace_into(tmp_path / "x", refuse(number))
    with pytest.raises(StageError, match="Permission denied; check"):
        replace_into(tmp_path / "x", refuse(errno.EACCES))
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_ours_while_writing_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def write(path: Path) -> None:
        path.write_text("half")
        raise TypeError("defect")

    with pytest.raises(TypeError, match="defect"):
        replace_into(tmp_path / "x", write)
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "old"


def test_half_a_character_is_one_line_wherever_it_would_be_written(tmp_path: Path) -> None:
    for write in (
        lambda text: write_table(tmp_path / "t.parquet", [{"a": text}]),
        lambda text: write_json(tmp_path / "t.json", {"a": text}),
    ):
        with pytest.raises(StageError, match=r"half a character .* after '.*so .ud83d'") as caught:
            write("so \ud83d")
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
