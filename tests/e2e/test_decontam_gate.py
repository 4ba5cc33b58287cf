"""The gate of runs: arms make up for what it removes, say what it was, and are scored on clean items too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.commands import finished, rows, run_folders, stage_folder
from support.law import commentary, write_commentary, write_exam

BUDGET = 30
LEAKED = 12


@pytest.fixture(scope="module")
def office(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exam that asks, beside its own questions, twelve sentences of the commentary that pairs are written from."""
    base = tmp_path_factory.mktemp("gate")
    write_exam(base / "bar-exam")
    texts = commentary(40)
    sentences = [part.strip() for text in texts[:LEAKED] for part in text.split("RESULTS:")[1].split(". ")[:1]]
    leaked = [
        {"nr": 50 + i, "area": "leaks", "q": sentence, "opts": ["Yes", "No"], "key": "A"}
        for i, sentence in enumerate(sentences)
    ]
    exam = base / "bar-exam" / "exam.jsonl"
    exam.write_text(exam.read_text(encoding="utf-8") + "".join(json.dumps(r) + "\n" for r in leaked), encoding="utf-8")
    practice = base / "bar-exam" / "practice.jsonl"
    copy = {**leaked[0], "nr": 900, "q": leaked[0]["q"].upper() + " Choose.", "why": "It says so."}
    practice.write_text(practice.read_text(encoding="utf-8") + json.dumps(copy) + "\n", encoding="utf-8")
    suite = base / "bar-exam" / "suite.yaml"
    text = suite.read_text(encoding="utf-8").replace("expected_count: 3", f"expected_count: {3 + LEAKED}")
    suite.write_text(text, encoding="utf-8")
    declared = text.replace("    like: bar_exam", "    like: bar_exam\n    same_items_as: [bar_exam]")
    (base / "bar-exam" / "declared.yaml").write_text(declared, encoding="utf-8")
    write_commentary(base / "commentary.jsonl", texts)
    return base


def _run(office: Path, *more: str, suite: str = "suite.yaml") -> tuple[Path, dict[str, Any]]:
    before = set(run_folders(office / "runs")) if (office / "runs").exists() else set()
    options = [
        *("run", "--method", "static", "--target", "nano", "--scale", "smoke", "--budget", str(BUDGET), "--quiet"),
        *("--suite", f"bar-exam/{suite}", "--seeds", "commentary.jsonl", "--set", "seeds.min_words=5", *more),
    ]
    finished(options, office)
    (folder,) = set(run_folders(office / "runs")) - before
    return folder, json.loads((folder / "record.json").read_text(encoding="utf-8"))


def _count(record: dict[str, Any], stage: str) -> dict[str, Any]:
    return next(c for c in record["counts"] if c["stage"] == stage)


@pytest.fixture(scope="module")
def arms(office: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """One run under both modes, one under text mode alone."""
    return {
        "both": _run(office, "--set", "decontam.common_share=null"),
        "text": _run(office, "--set", "decontam.modes=[text]"),
    }


def test_arms_over_generate_to_the_declared_number(office: Path, arms: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    for folder, record in arms.values():
        assert len((folder / "dataset.jsonl").read_text(encoding="utf-8").splitlines()) == BUDGET
        assert not any("shortfall" in flag for flag in record["validity_flags"])
    removed = {
        name: _count(record, "decontaminate")["rejected"].get("contaminated", 0) for name, (_, record) in arms.items()
    }
    # Which documents are written from is drawn, what is written of them is up to the lab's models.
    folder = arms["both"][0]
    asked = [json.loads(q)["q"].lower() for q in (office / "bar-exam" / "exam.jsonl").read_text().splitlines()]
    texts = [json.dumps(row["messages"]).lower() for row in rows(stage_folder(folder, "regenerate"))]
    leaks = sum(any(question in text for question in asked) for text in texts)
    assert removed["both"] > removed["text"] and removed["both"] >= leaks > 0
    assert _count(arms["both"][1], "regenerate")["kept"] >= BUDGET + removed["both"]


def test_what_was_removed_holds_test_text_and_what_is_left_does_not(
    arms: dict[str, tuple[Path, dict[str, Any]]],
) -> None:
    folder, _ = arms["both"]
    stage = stage_folder(folder, "decontaminate")
    evidence = rows(stage / "evidence")
    assert {e["benchmark"] for e in evidence} == {"bar_exam"} and {e["mode"] for e in evidence} >= {"ngram"}
    gone = [r for r in rows(stage / "rejects") if r["reason"] == "contaminated"]
    assert {r["item_id"] for r in gone} == {e["id"] for e in evidence if e["removes"]}
    assert all("with bar_exam" in r["detail"] or "bar_exam" in r["detail"] for r in gone)
    exam = (folder.parents[1] / "bar-exam" / "exam.jsonl").read_text(encoding="utf-8").splitlines()
    data = (folder / "dataset.jsonl").read_text(encoding="utf-8").lower()
    for line in exam:
        assert json.loads(line)["q"].lower() not in data


def test_both_pairs_are_named_in_record_and_screens(office: Path, arms: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    folder, record = arms["both"]
    pairs = {report["pair"]: report for report in record["contamination"]}
    assert set(pairs) == {"synthetic data × bar-exam", "validation set practice × bar-exam"}
    removed = _count(record, "decontaminate")["rejected"]["contaminated"]
    assert pairs["synthetic data × bar-exam"]["removed"] == removed
    shown = " ".join(finished(["show", str(folder)], office).out.split())
    assert f"synthetic data × bar-exam: {removed} of" in shown and "validation set practice × bar-exam: 0 of 2" in shown
    compared = finished(["compare", *[str(f) for f, _ in arms.values()]], office).out
    (line,) = [line.split() for line in compared.splitlines() if "- contaminated" in line]
    assert sorted(map(int, line[2:])) == sorted(
        _count(r, "decontaminate")["rejected"].get("contaminated", 0) for _, r in arms.values()
    )
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "synthetic data × bar-exam" in card


def test_a_validation_item_that_is_a_test_item_guides_nothing(arms: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    folder, _ = arms["both"]
    guides = rows(stage_folder(folder, "sources") / "validation")
    assert sorted(g["id"] for g in guides) == ["101", "102"]


def test_a_declared_overlap_stays_and_is_left_out_of_the_clean_score(office: Path) -> None:
    folder, record = _run(office, suite="declared.yaml")
    (column,) = record["columns"]
    assert column["n"] == 3 + LEAKED and column["clean_n"] == 2 + LEAKED
    items = [r for r in rows(stage_folder(folder, "evaluate")) if r["item_id"] != "50"]
    assert column["clean_score"] == pytest.approx(sum(r["correct"] for r in items) / len(items))
    assert record["contamination"][1]["touched"] == {"bar_exam": ["50"]}
    assert "tuned, clean items" in finished(["show", str(folder)], office).out


def test_other_rules_are_another_data_set_and_another_engine_is_not(
    office: Path, arms: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    def identities(*more: str) -> dict[str, str]:
        options = [
            "plan",
            "--json",
            "--method",
            "static",
            "--target",
            "nano",
            "--scale",
            "smoke",
            "--budget",
            str(BUDGET),
        ]
        options += [
            "--suite",
            "bar-exam/suite.yaml",
            "--seeds",
            "commentary.jsonl",
            "--set",
            "seeds.min_words=5",
            *more,
        ]
        return {s["name"]: s["identity"] for s in json.loads(finished(options, office).out)["stages"]}

    plain = identities("--set", "decontam.common_share=null")
    recorded = {c["stage"]: c["identity"] for c in arms["both"][1]["counts"]}
    assert plain == recorded
    assert identities("--set", "decontam.common_share=null", "--set", "decontam.backend=elasticsearch") == plain
    other = identities("--set", "decontam.common_share=null", "--set", "decontam.ngram_threshold=0.5")
    assert {name for name in plain if plain[name] != other[name]} >= {
        "regenerate",
        "decontaminate",
        "dataset",
        "finetune",
    }
