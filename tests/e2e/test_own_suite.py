"""A user's own exam and documents through the command line, and a trained writer taken to them from another run."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.commands import Done, finished, harness, rows, run_folders, stage_folder
from support.law import commentary, write_commentary, write_exam

DOCUMENTS = 40


@dataclass(frozen=True)
class Office:
    """A lawyer's folder with a finished run: documents, exam, the run's folder, its record, and what was printed."""

    base: Path
    folder: Path
    record: dict[str, Any]
    done: Done


def _options(*words: str, method: str = "optimsyn", seeds: str = "commentary.jsonl") -> list[str]:
    return [
        *("--method", method, "--target", "nano", "--scale", "smoke", "--suite", "bar-exam/suite.yaml"),
        *("--seeds", seeds, *words),
    ]


def _record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def office(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Office:
    """The exam of the documentation, with commentary of which one document is a question of the exam."""
    base = tmp_path_factory.mktemp("office")
    write_exam(base / "bar-exam")
    exam = [json.loads(line) for line in (base / "bar-exam" / "exam.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = commentary(DOCUMENTS)
    write_commentary(base / "commentary.jsonl", [*texts, texts[0], "Too short.", exam[0]["q"].upper()])
    done = finished(["run", *_options("--set", "driver.steps=2", "--set", "seeds.min_words=5")], base)
    (folder,) = run_folders(base / "runs")
    return Office(base, folder, _record(folder), done)


def test_documents_are_checked_and_what_was_dropped_is_said(office: Office) -> None:
    sources = next(c for c in office.record["counts"] if c["stage"] == "sources")
    assert (sources["rows_in"], sources["kept"]) == (DOCUMENTS + 3, DOCUMENTS)
    assert sources["rejected"] == {"overlap": 1, "seed_duplicate": 1, "seed_too_short": 1}
    rejects = {row["reason"]: row for row in rows(stage_folder(office.folder, "sources") / "rejects")}
    assert rejects["overlap"]["raw"].startswith("AN OFFER LAPSES")
    assert "shares text with 1" in rejects["overlap"]["detail"]


def test_the_exam_is_the_test_and_practice_the_guide(office: Office) -> None:
    (column,) = office.record["columns"]
    assert (column["column"], column["n"], column["guided"]) == ("bar_exam", 3, True)
    assert office.record["suite"] == "bar-exam"
    assert office.record["guided_columns"] == ["bar_exam"]
    assert len(rows(stage_folder(office.folder, "sources") / "validation")) == 2
    assert "near chance" in office.done.out


def test_the_data_set_carries_the_documents_licence(office: Office) -> None:
    card = (office.folder / "README.md").read_text(encoding="utf-8")
    assert f"commentary.jsonl ({DOCUMENTS})" in card
    assert f"licences: CC0 ({DOCUMENTS})" in card


def test_the_command_offered_next_reuses_what_is_there(office: Office) -> None:
    line = next(line for line in office.done.out.splitlines() if line.endswith("--driver static")).strip()
    assert line.startswith("harness run ")
    done = finished([*line.split()[1:], "--quiet"], office.base)
    folder = next(f for f in run_folders(office.base / "runs") if ".static@" in f.name)
    record = _record(folder)
    assert (record["driver"], record["signal"], record["suite"]) == ("static", "none", "bar-exam")
    shared = {c["stage"]: c["identity"] for c in record["counts"]}
    before = {c["stage"]: c["identity"] for c in office.record["counts"]}
    assert shared["sources"] == before["sources"]
    assert shared["evaluate_base"] == before["evaluate_base"]
    assert "harness compare" in done.out


def test_a_writer_trained_elsewhere_writes_for_this_suite(office: Office, reference: Path) -> None:
    """The lab run's trained writer, taken to other documents and another suite, without training again."""
    words = ("--writer-from", str(reference), "--quiet")
    finished(["run", *_options(*words, method="static")], office.base)
    folder = next(f for f in run_folders(office.base / "runs") if f.name.startswith("static@"))
    record = _record(folder)
    names = [c["stage"] for c in record["counts"]]
    assert "grpo" not in names and "warmup" not in names
    regenerate = next(c for c in record["counts"] if c["stage"] == "regenerate")
    assert regenerate["kept"] >= record["budget"]
    # The same command without the trained writer would write other rubrics.
    plain = json.loads(finished(["plan", "--json", *_options(method="static")], office.base).out)
    untrained = {stage["name"]: stage["identity"] for stage in plain["stages"]}
    assert untrained["sources"] == next(c["identity"] for c in record["counts"] if c["stage"] == "sources")
    assert untrained["regenerate"] != regenerate["identity"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl.gz", "jsonl"])
def test_plan_reads_documents_in_every_form(lab: None, tmp_path: Path, kind: str) -> None:
    write_exam(tmp_path / "bar-exam")
    path = _stored(tmp_path / f"documents.{kind}", commentary(8))
    done = finished(["plan", *_options(seeds=path.name)], tmp_path)
    # The path is shown in full, and may be longer than a line.
    assert f"documents.{kind},8documents" in "".join(done.out.split())
    assert "near chance" in done.out
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix not in (".out", ".err")) == ["bar-exam", path.name]


def test_plan_names_the_line_of_a_document_that_is_not_json(tmp_path: Path) -> None:
    write_exam(tmp_path / "bar-exam")
    lines = [json.dumps({"text": text}) for text in commentary(3)]
    (tmp_path / "commentary.jsonl").write_text("\n".join([*lines, '{"text": "cut o']), encoding="utf-8")
    done = harness(["run", *_options()], tmp_path)
    assert done.status == 2
    (message,) = [line for line in done.err.splitlines() if line.startswith("harness:")]
    assert "commentary.jsonl" in message and "line 4" in message
    assert "Traceback" not in done.err


def _stored(path: Path, texts: Sequence[str]) -> Path:
    if path.suffix == ".parquet":
        import pandas as pd

        pd.DataFrame({"text": list(texts)}).to_parquet(path)
        return path
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
