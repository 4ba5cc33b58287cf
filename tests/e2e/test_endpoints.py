"""A whole run whose writer and generator are endpoints that fail: what is kept, counted, said, resumed and not told."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.stage import read_summary
from support.commands import Harness, finished, harness, rows, run_folders, stage_folder
from support.faulty_server import FaultyServer, scripted

KEY = "sk-planted-0123456789abcdef"
BUDGET = 20
READ_SECONDS = 3.0
"""How long a call may take: more than a busy machine keeps a good one waiting."""
ONE_BY_ONE = ("--set", "runtime.service.concurrency=1")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_KEY", KEY)


def arguments(server: FaultyServer, test_data: Path, runs: Path, *more: str) -> list[str]:
    """A run without feedback on real abstracts, with both of its models behind the server."""
    sets = {
        "seeds.limit": 120,
        "synthesis.shard_size": 10,
        "runtime.service.backoff_seconds": 0.02,
        "runtime.service.read_seconds": READ_SECONDS,
        "eval.limit": 4,
        "sft.epochs": 1,
        **{f"models.{role}.id": "small" for role in ("writer", "generator")},
        **{f"models.{role}.backend": "openai" for role in ("writer", "generator")},
        **{f"models.{role}.base_url": server.url for role in ("writer", "generator")},
        **{f"models.{role}.key_env": "PLANTED_KEY" for role in ("writer", "generator")},
        **{f"models.{role}.structured": "true" for role in ("writer", "generator")},
    }
    return [
        *("run", "--method", "static", "--target", "nano", "--scale", "smoke", "--suite", "pubmedqa"),
        *("--seeds", str(test_data / "seeds" / "pubmedqa_cv_contexts.jsonl.gz"), "--budget", str(BUDGET)),
        *("--runs", str(runs)),
        *(word for name, value in sets.items() for word in ("--set", f"{name}={value}")),
        *more,
    ]


def calls(run: Path) -> list[dict[str, object]]:
    """The ledger's rows of calls."""
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute("SELECT * FROM calls")]


@pytest.fixture(autouse=True)
def real_data(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HARNESS_DATA", str(test_data))
    yield


def test_a_run_through_every_fault(lab: None, key: None, test_data: Path, tmp_path: Path) -> None:
    cycle = ("429", "500", "reset", "slow", "truncated", "429-after", "wrong_schema", "no_choices", "invalid_json")
    script = scripted(*[(cycle[i % len(cycle)],) if i % 2 else () for i in range(36)], ("length",), ("400",))
    with FaultyServer(script, slow_seconds=READ_SECONDS + 1) as server:
        done = finished(arguments(server, test_data, tmp_path / "runs"), tmp_path)
        (run,) = run_folders(tmp_path / "runs")
        ledger = calls(run)
        # One row for every call that arrived, and the tokens of all that the server would have billed and could say so.
        assert len(ledger) == len(server.log)
        known = [c for c in ledger if c["prompt_tokens"] is not None]
        lost = {"broken_off", "timeout", "invalid_json"}
        assert {c["status"] for c in ledger if c["prompt_tokens"] is None} <= lost
        assert {c["role"] for c in ledger} == {"writer", "generator"} and {c["stage"] for c in ledger} == {"regenerate"}
    stage = stage_folder(run, "regenerate")
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    (count,) = [c for c in record["counts"] if c["stage"] == "regenerate"]
    rejects = rows(stage / "rejects")
    assert count["rows_in"] == count["kept"] + sum(count["rejected"].values())
    assert len(rejects) == count["rows_in"] - count["kept"]
    # One request of the thirty-eight was cut off and one refused; each is a reject with its reason and what was said.
    reasons = {row["reason"] for row in rejects}
    assert {"writer_length", "generator_length"} & reasons
    assert {"writer_request_refused", "generator_request_refused"} & reasons
    assert all(row["raw"] for row in rejects)
    # The stage's own account has every token that the ledger has.
    spent = [u for u in read_summary(stage).usage if u.role in ("writer", "generator")]
    for name in ("prompt_tokens", "completion_tokens"):
        assert sum(getattr(u, name) for u in spent) == sum(int(c[name]) for c in known)
    assert sum(u.calls for u in spent) == len(ledger)
    # The key went to the server and nowhere else.
    assert server.keys == {f"Bearer {KEY}"}
    for path in [*run.rglob("*"), *(tmp_path / "runs" / ".stages").rglob("*")]:
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in done.out + done.err


def test_a_killed_run_does_not_pay_twice(lab: None, key: None, test_data: Path, tmp_path: Path) -> None:
    with FaultyServer() as server:
        server.seconds = 0.15
        process = Harness(arguments(server, test_data, tmp_path / "runs", *ONE_BY_ONE), tmp_path)
        process.until(lambda: len(server.log) >= 16)
        process.kill()
        (run,) = run_folders(tmp_path / "runs")
        answered = {str(c["at"]) for c in calls(run) if c["status"] == "ok"}
        assert len(answered) >= 10
        server.seconds = 0.0
        finished(["resume", str(run)], tmp_path)
        # The call that the kill cut off is the only one that may have been made twice.
        repeated = [count for count in server.attempts.values() if count > 1]
        assert repeated in ([], [2])


def test_a_server_that_dies_stops_the_run_and_resume_goes_on(
    lab: None, key: None, test_data: Path, tmp_path: Path
) -> None:
    down = threading.Event()
    with FaultyServer(lambda number, attempt: "500" if down.is_set() else "") as server:
        server.seconds = 0.05
        impatient = ("--set", "runtime.service.patience_seconds=2")
        process = Harness(arguments(server, test_data, tmp_path / "runs", *ONE_BY_ONE, *impatient), tmp_path)
        process.until(lambda: len(server.log) >= 14)
        down.set()
        done = process.wait()
        assert done.status == 3 and "without one answer" in done.err and "Traceback" not in done.err
        (run,) = run_folders(tmp_path / "runs")
        assert json.loads((run / "run.json").read_text(encoding="utf-8"))["status"] == "failed"
        down.clear()
        server.seconds = 0.0
        finished(["resume", str(run)], tmp_path)
        good = [c for c in calls(run) if c["status"] == "ok"]
        assert len(good) == len(server.seen)


def test_a_token_limit_stops_cleanly_and_a_higher_one_goes_on(
    lab: None, key: None, test_data: Path, tmp_path: Path
) -> None:
    with FaultyServer() as server:
        limit = ("--set", "runtime.max_tokens=15000")
        done = harness(arguments(server, test_data, tmp_path / "runs", *limit), tmp_path)
        assert done.status == 2 and "limit of 15,000 tokens" in done.err and "Traceback" not in done.err
        (run,) = run_folders(tmp_path / "runs")
        assert 0 < server.prompt_tokens + server.completion_tokens <= 15000
        config = run / "config.yaml"
        text = config.read_text(encoding="utf-8").replace("max_tokens: 15000", "max_tokens: 4000000")
        config.write_text(text, encoding="utf-8")
        finished(["resume", str(run)], tmp_path)
        assert all(count == 1 for count in server.attempts.values())


def test_dollars_without_a_price_are_refused_before_a_call(key: None, test_data: Path, tmp_path: Path) -> None:
    with FaultyServer() as server:
        line = arguments(server, test_data, tmp_path / "runs", "--set", "runtime.max_usd=5")
        done = harness(["plan", *line[1:]], tmp_path)
        assert done.status == 2 and "has no price" in done.err and done.err.count("\n") == 1
        assert not server.log


def test_a_missing_key_is_one_line(lab: None, test_data: Path, tmp_path: Path) -> None:
    with FaultyServer() as server:
        done = harness(arguments(server, test_data, tmp_path / "runs"), tmp_path)
        assert done.status == 2 and "PLANTED_KEY, which is not set" in done.err
        assert not server.log
