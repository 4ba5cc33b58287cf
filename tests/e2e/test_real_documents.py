"""OptimSyn on real abstracts, end to end on a CPU: what is drawn, dropped, shortened, rejected, scored and said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.shards import read_records
from harness.types import Sample
from support.commands import Done, events, finished, rows, run_folders, stage_folder

DOCUMENTS, DRAWS = 120, 80
GRPO = {"prompts": 8, "group": 4, "steps": 3}


@dataclass(frozen=True)
class Finished:
    """The run's folder, its record, and what the command printed."""

    folder: Path
    record: dict[str, Any]
    done: Done

    def count(self, stage: str) -> dict[str, Any]:
        """What a stage did."""
        (found,) = [c for c in self.record["counts"] if c["stage"] == stage]
        return dict(found)

    def flags(self, kind: str) -> list[str]:
        """Cautions of one kind."""
        return [flag for flag in self.record["validity_flags"] if flag.startswith(f"{kind}:")]


def _seeds(test_data: Path) -> Path:
    return test_data / "seeds" / "pubmedqa_cv_contexts.jsonl.gz"


@pytest.fixture(scope="module")
def run(lab: None, test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """One small run."""
    base = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_DATA", str(test_data))
        sets = {
            "seeds.limit": DOCUMENTS,
            "synthesis.initial_samples": DRAWS,
            "driver.prompts_per_step": GRPO["prompts"],
            "driver.group_size": GRPO["group"],
            "driver.steps": GRPO["steps"],
        }
        done = finished(
            [
                *("run", "--method", "optimsyn", "--target", "nano", "--scale", "smoke", "--suite", "pubmedqa"),
                *("--seeds", str(_seeds(test_data)), "--guide", "cv:100", "--runs", str(base / "runs")),
                *(word for key, value in sets.items() for word in ("--set", f"{key}={value}")),
            ],
            base,
        )
        (folder,) = run_folders(base / "runs")
        yield Finished(folder, json.loads((folder / "record.json").read_text(encoding="utf-8")), done)


def test_documents_of_guide_items_are_dropped_and_counted(run: Finished) -> None:
    sources = run.count("sources")
    guide = {row["id"] for row in rows(stage_folder(run.folder, "sources") / "validation")}
    assert len(guide) == 100
    dropped = {row["detail"].rpartition(" ")[2] for row in rows(stage_folder(run.folder, "sources") / "rejects")}
    assert dropped <= guide
    assert sources["rows_in"] == DOCUMENTS
    assert sources["rejected"] == {"overlap": DOCUMENTS - sources["kept"]}
    # A fifth of the labelled items guides, so about a fifth of their abstracts has to go.
    assert 0.1 * DOCUMENTS < len(dropped) < 0.3 * DOCUMENTS


def test_most_documents_yield_a_valid_rubric_and_a_valid_pair(run: Finished) -> None:
    initial = run.count("initial")
    written = {row["seed_id"] for row in rows(stage_folder(run.folder, "initial") / "rubrics")}
    paired = {seed for sample in read_records(stage_folder(run.folder, "initial"), Sample) for seed in sample.seed_ids}
    assert initial["rows_in"] == DRAWS  # one draw of each of as many documents
    assert len(written) >= 0.8 * initial["rows_in"]
    assert len(paired) >= 0.6 * initial["rows_in"]
    assert initial["rows_in"] == initial["kept"] + sum(initial["rejected"].values())


def test_no_rubric_stands_in_for_a_failed_one(run: Finished) -> None:
    texts = {row["text"] for row in rows(stage_folder(run.folder, "initial") / "rubrics")}
    assert len(texts) > 30
    failed = [r for r in rows(stage_folder(run.folder, "initial") / "rejects") if r["reason"].startswith("rubric")]
    paired = {row["rubric_id"] for row in rows(stage_folder(run.folder, "initial"))}
    assert not {row["item_id"] for row in failed} & paired


def test_shortened_documents_are_counted_and_shown(run: Finished) -> None:
    for stage, total in (("initial", DRAWS), ("grpo", GRPO["prompts"] * GRPO["group"] * GRPO["steps"])):
        assert 0.9 * total <= run.count(stage)["shortened"] <= total
    assert "Documents shortened to fit a model's context: initial" in run.done.out
    assert "document shortened to fit the model for" in (run.folder / "README.md").read_text(encoding="utf-8")


def test_everything_valid_was_scored(run: Finished) -> None:
    found = rows(stage_folder(run.folder, "grpo"))
    assert len(found) == GRPO["prompts"] * GRPO["group"] * GRPO["steps"]
    for row in found:
        assert (row["value"] is None) == bool(row["reason"])
    (prepared,) = [e for e in events(run.folder) if e["event"] == "signal_prepared"]
    assert prepared["validation"]["rewarded"] == {"items": 100, "truncated": 0, "unusable": 0}


def test_the_output_says_that_the_model_is_a_rehearsal(run: Finished) -> None:
    (column,) = run.record["columns"]
    assert (column["column"], column["n"], column["guided"]) == ("pubmedqa", 40, True)
    assert run.flags("rehearsal") and "near chance" in run.done.out
    assert run.flags("partial")
    # Abstracts are longer than the tiny target's context, and lm-eval cuts their beginning.
    assert run.flags("truncated")


def test_the_data_card_names_the_file_and_no_document(run: Finished) -> None:
    card = (run.folder / "README.md").read_text(encoding="utf-8")
    assert "pubmedqa_cv_contexts.jsonl.gz (" in card
    assert "pmid/" not in card
    lines = (run.folder / "dataset.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == run.record["budget"] == run.count("dataset")["kept"]
    assert all(set(json.loads(line)) == {"messages", "id"} for line in lines)


def test_pairs_that_leave_no_answer_are_unscorable_and_earn_nothing(
    run: Finished, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for a question but not always for its answer, influence is None, and so is the reward."""
    monkeypatch.setenv("HARNESS_DATA", str(test_data))
    exam = _short_suite(tmp_path / "exam")
    arguments = [
        *("run", "--method", "optimsyn", "--target", "nano", "--scale", "smoke", "--suite", str(exam), "--quiet"),
        *("--seeds", str(_seeds(test_data)), "--runs", str(tmp_path / "runs"), "--set", f"seeds.limit={DOCUMENTS}"),
        *("--set", "models.target.max_length=130", "--set", "driver.steps=1", "--set", "sft.epochs=1"),
    ]
    finished(arguments, tmp_path)
    (folder,) = run_folders(tmp_path / "runs")
    unscored = [r for r in rows(stage_folder(folder, "grpo")) if r["question"] and r["value"] is None]
    assert unscored
    assert all(r["reward"] is None and r["reason"] == "no completion token left" for r in unscored)
    (step,) = [e for e in events(folder) if e["event"] == "grpo_step"]
    assert step["unscorable"] == len(unscored)


def _short_suite(folder: Path) -> Path:
    """Questions that fit where abstracts do not."""
    folder.mkdir()
    rows_ = [{"id": i, "q": f"Is {i} odd?", "a": "no" if i % 2 == 0 else "yes"} for i in range(20)]
    for name, part in (("test.jsonl", rows_[:10]), ("guide.jsonl", rows_[10:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    source = "{{file: {}, fields: {{id: id, question: q, answer: a}}}}"
    (folder / "suite.yaml").write_text(
        f"""
name: parity
description: Short questions
benchmarks:
  - id: parity
    rows: {{sources: [{source.format("test.jsonl")}]}}
    template: {{prompt: "{{{{ question }}}}", choices: ["yes", "no"]}}
    contamination: [question]
validation:
  - name: guide
    rows: {{sources: [{source.format("guide.jsonl")}]}}
    guides: [parity]
    like: parity
""",
        encoding="utf-8",
    )
    return folder / "suite.yaml"
