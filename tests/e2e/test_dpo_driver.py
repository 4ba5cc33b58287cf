"""Driver `dpo` in the lab: its iterations, killed in DPO and in the second one's drafts, are those of a quiet run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import main as cli
from support.commands import Harness, events, finished, rows, run_folders, stage_folder

RUN = (
    *("--target", "nano", "--scale", "smoke", "--seed", "3", "--budget", "8"),
    *("--set", "lab.seeds=16", "--set", "lab.test_items=6", "--set", "synthesis.initial_samples=12"),
    *("--set", "synthesis.shard_size=9", "--set", "sft.epochs=1"),
)
DPO = (
    *("--method", "montessori", *RUN, "--set", "driver.probe=12", "--set", "driver.drafts=3"),
    *("--set", "signal.form=first_order", "--set", "runtime.checkpoint_every=1"),
    *("--set", "driver.batch_size=2", "--set", "driver.pairs=best_worst"),
)
"""36 drafts are four shards; 12 preferences are twelve steps, two epochs of six."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupted."""
    base = tmp_path_factory.mktemp("whole")
    finished(["run", *DPO, "--runs", str(base / "runs"), "--quiet"], base)
    return run_folders(base / "runs")[0]


@pytest.fixture(scope="module")
def killed(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed before a checkpoint of DPO counted and before a shard of later drafts was in place."""
    base = tmp_path_factory.mktemp("killed")
    arguments = ["run", *DPO, "--runs", str(base / "runs"), "--quiet"]
    for trap in ("dpo_1-[0-9a-f]+/trainer/checkpoint-3/_DONE", "probe_2-[0-9a-f]+/part-00000002"):
        died = Harness(arguments, base, (trap, 1)).wait()
        assert (died.status, died.err) == (-9, "")
        arguments = ["resume", run_folders(base / "runs")[0].name, "--runs", str(base / "runs"), "--quiet"]
    finished(arguments, base)
    return run_folders(base / "runs")[0]


def test_a_resumed_run_is_the_one_that_nothing_interrupted(whole: Path, killed: Path) -> None:
    from safetensors.torch import load_file

    assert killed.name == whole.name
    assert (killed / "dataset.jsonl").read_bytes() == (whole / "dataset.jsonl").read_bytes()
    for number in (1, 2):
        names = [f"{stage}_{number}" for stage in ("probe", "score", "prefer", "dpo")]
        for mine, theirs in ((stage_folder(killed, name), stage_folder(whole, name)) for name in names):
            assert mine.name == theirs.name and rows(mine) == rows(theirs) != []
        one, other = (load_file(stage_folder(run, names[-1]) / "policy/model.safetensors") for run in (killed, whole))
        assert all(bool((one[name] == other[name]).all()) for name in other)
    assert not list((killed.parent / ".stages").glob("*/trainer"))


def test_preferences_are_of_the_prompt_that_both_answered_and_follow_the_scores(whole: Path) -> None:
    for number in (1, 2):
        scores = {row["item_id"]: row["value"] for row in rows(stage_folder(whole, f"score_{number}"))}
        probe = stage_folder(whole, f"probe_{number}")
        seeds = {row["id"]: json.loads(row["seed_ids"])[0] for row in rows(probe)}
        texts = {row["id"]: row["text"] for row in rows(probe / "drafts")}
        found = rows(stage_folder(whole, f"prefer_{number}"))
        assert found and seeds.keys() == texts.keys() == scores.keys()
        for row in found:
            chosen, rejected = row["chosen_id"], row["rejected_id"]
            assert seeds[chosen] == seeds[rejected] == row["seed_id"]
            assert (row["chosen"], row["rejected"]) == (texts[chosen], texts[rejected])
            own = [scores[key] for key, seed in seeds.items() if seed == row["seed_id"]]
            assert (scores[chosen], scores[rejected]) == (max(own), min(own))


def test_an_earlier_iteration_is_regenerated_from_and_evaluated(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ["--runs", str(whole.parent)]
    assert cli.main(["run", *DPO, "--iteration", "1", *runs, "--quiet"]) == 0
    (first,) = set(run_folders(whole.parent)) - {whole}
    reused = {event["stage"] for event in events(first) if event["event"] == "stage_reused"}
    started = [event["stage"] for event in events(first) if event["event"] == "stage_started"]
    assert {"probe_1", "dpo_1", "evaluate_base"} <= reused and started[0] == "regenerate"
    assert (first / "dataset.jsonl").read_bytes() != (whole / "dataset.jsonl").read_bytes()
    record = json.loads((whole / "record.json").read_text(encoding="utf-8"))
    training = [cost for cost in record["cost"] if cost["stage"] == "dpo_2"]
    # What is trained on was written by no teacher: it counts in no budget of teacher tokens.
    assert [(cost["role"], cost["calls"]) for cost in training] == [("generator", 0)] and training[0]["flops"] > 0
    capsys.readouterr()
    assert cli.main(["show", str(whole)]) == 0
    shown = capsys.readouterr().out
    assert "in stage prefer_2" in shown and "preferences between drafts: 1" in shown
    other = ["--driver", "static", "--route", "question", "--writer-from", whole.name, "--iteration", "1"]
    assert cli.main(["plan", *RUN, *other, *runs]) == 0
    assert f"{whole.name}, iteration 1" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "setting, said",
    [
        ("driver.margin=9", "no preference pair in iteration 1: "),
        ("driver.max_length=16", "no preference pair is left of"),
    ],
)
def test_no_preference_is_one_line_before_anything_is_trained(
    whole: Path, setting: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", *DPO, "--set", setting, "--runs", str(whole.parent), "--quiet"]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
