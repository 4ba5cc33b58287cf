"""Routes without a rubric, through GRPO on the generator and labels: killed twice, and equal to a run that was not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.commands import Harness, finished, rows, run_folders, stage_folder

pytestmark = pytest.mark.slow

PROMPT = Path(__file__).parents[2] / "harness" / "lab" / "prompts" / "question_answer.txt"
COMMON = (
    *("--target", "nano", "--scale", "smoke", "--seed", "5", "--budget", "12", "--quiet"),
    *("--set", "lab.labelled=true", "--set", "synthesis.shard_size=6", "--set", "lab.test_items=18"),
    *("--set", "sft.epochs=1"),
)
TRAINED = (
    *(
        "run",
        "--method",
        "acquisition-synthesis",
        *COMMON,
        "--set",
        "driver.steps=3",
        "--set",
        "runtime.checkpoint_every=1",
    ),
    *("--set", "labels.samples=4", "--set", "labels.max_tokens=48", "--set", f"labels.prompt={PROMPT}"),
)


@pytest.fixture(scope="module")
def runs(lab: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of a run that was killed in GRPO and in regeneration, and of one that nothing interrupted."""
    base = tmp_path_factory.mktemp("routes")
    finished([*TRAINED, "--runs", str(base / "whole")], base)
    arguments, mine = [*TRAINED, "--runs", str(base / "killed")], base / "killed"
    for trap in ("checkpoint-2/_DONE", "regenerate-[0-9a-f]+/part-00000001"):
        assert Harness(arguments, base, (trap, 1)).wait().status == -9
        arguments = ["resume", run_folders(mine)[0].name, "--runs", str(mine), "--quiet"]
    finished(arguments, base)
    return run_folders(mine)[0], run_folders(base / "whole")[0]


def test_a_killed_run_is_the_same(runs: tuple[Path, Path]) -> None:
    mine, theirs = runs
    assert mine.name == theirs.name
    assert (mine / "dataset.jsonl").read_bytes() == (theirs / "dataset.jsonl").read_bytes()
    for name in ("grpo", "regenerate"):
        assert rows(stage_folder(mine, name)) == rows(stage_folder(theirs, name))


def test_the_generator_is_trained_and_pairs_are_labelled(runs: tuple[Path, Path]) -> None:
    _, whole = runs
    record = json.loads((whole / "record.json").read_text(encoding="utf-8"))
    roles = {cost["role"] for cost in record["cost"]}
    assert {"generator", "labeller", "target"} <= roles and "writer" not in roles
    folder = stage_folder(whole, "regenerate")
    pairs, labels = rows(folder), {row["id"]: row for row in rows(folder / "labels")}
    assert pairs and set(labels) == {pair["id"] for pair in pairs}
    for pair in pairs:
        label = labels[pair["id"]]
        answer = json.loads(pair["messages"])[-1]["content"]
        assert answer == label["label"] and label["agreement"] >= 0.5
        assert pair["generator"] == "lab:author (trained), labelled by lab:author"


def test_a_question_is_written_after_a_seed_and_answered_alone(lab: None, tmp_path: Path) -> None:
    finished(["run", "--driver", "static", "--route", "question", *COMMON, "--runs", str(tmp_path / "runs")], tmp_path)
    (folder,) = run_folders(tmp_path / "runs")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    calls = {cost["role"]: cost["calls"] for cost in record["cost"] if cost["stage"] == "regenerate"}
    assert calls["answerer"] <= calls["generator"]
    seeds = {seed["id"]: json.loads(seed["messages"])[1]["content"] for seed in rows(stage_folder(folder, "sources"))}
    pairs = rows(stage_folder(folder, "regenerate"))
    asked = [(seeds[json.loads(p["seed_ids"])[0]], json.loads(p["messages"])[1]["content"]) for p in pairs]
    assert len(asked) >= 12 and all(new != old for old, new in asked)


def test_a_corpus_is_an_arm_of_which_a_signal_takes_half(lab: None, tmp_path: Path) -> None:
    """Rows of a file as pairs: checked, the same twice and a bad one rejected, scored, chosen from, trained on."""
    good = [{"question": f"What is drug {n} for?", "answer": "Drug " + "very " * n + "good."} for n in range(12)]
    table = tmp_path / "corpus.jsonl"
    table.write_text(
        "\n".join(map(json.dumps, [*good, {"question": "Who?", "answer": "..."}, {"text": "A document " * 20}]))
    )
    sets = ("select.signal=length", "select.keep=0.5", "eval.limit=2", "sft.epochs=1")
    finished(
        [
            *("run", "--method", "dataset", "--target", "nano", "--suite", "lab", "--seeds", str(table), "--quiet"),
            *("--budget", "4", *(word for setting in sets for word in ("--set", setting))),
        ],
        tmp_path,
    )
    (run,) = run_folders(tmp_path / "runs")
    made = [json.loads(row["messages"])[-1]["content"] for row in rows(stage_folder(run, "regenerate"))]
    assert set(made) <= {row["answer"] for row in good}
    kept = [json.loads(line) for line in (run / "dataset.jsonl").read_text(encoding="utf-8").splitlines()]
    longest = sorted(made, key=lambda text: -len(text.split()))
    assert len(kept) == 4
    assert {row["messages"][-1]["content"] for row in kept} <= set(longest[: len(made) // 2])
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    assert {cost["role"] for cost in record["cost"]} == {"target"}
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "4 conversations made by `dataset`" in card and "rows of these seeds" in card
