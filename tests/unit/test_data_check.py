"""What a plan and a run find wrong with documents and items before any model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.checks.data_check import check_data
from harness.checks.prerequisites import check_prerequisites
from harness.config import RunConfig
from harness.errors import HarnessError
from harness.planning.plan import make_plan
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from support.law import commentary, write_commentary, write_exam


@pytest.fixture
def office(tmp_path: Path) -> Path:
    """A folder with the documentation's exam and 30 documents."""
    write_exam(tmp_path / "exam")
    write_commentary(tmp_path / "docs.jsonl", commentary(30))
    return tmp_path


def config(office: Path, target: str = "nano", **options: Any) -> RunConfig:
    own = {"suite": str(office / "exam" / "suite.yaml"), "seeds": str(office / "docs.jsonl"), **options}
    return resolve_run(method="static", target=target, **own).config


@pytest.mark.parametrize("target", ["nano", "small", "qwen3-8b", "smollm2-135m-instruct"])
def test_a_suite_of_ones_own_guides_by_its_own_first_set_on_every_track(office: Path, target: str) -> None:
    found = config(office, target, sets={"guide.n": 2})
    assert found.guide.set == "practice"
    assert check_data(found) == 30


def test_the_tracks_own_suite_keeps_its_set() -> None:
    assert resolve_run(method="static", target="small").config.guide.set == "clean"


def test_documents_that_overlap_with_the_tests_are_not_counted(office: Path) -> None:
    (office / "docs.jsonl").open("a", encoding="utf-8").write(
        '{"id": "leak", "text": "An offer lapses when the offeree does which of the following?"}\n'
    )
    assert check_data(config(office, sets={"seeds.min_words": 5})) == 30


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("suite.yaml", "expected_count: 3", "expected_count: 4", "gives 3 items where 4 are declared"),
        ("suite.yaml", "question: q", "question: quest", "has no field 'quest'"),
        ("exam.jsonl", '"key": "A"', '"key": "F"', "line 1"),
        ("practice.jsonl", '"q": "Which element', '"p": "Which element', "practice.jsonl line 1"),
        ("practice.jsonl", '"nr": 102', '"nr": 101', "ids must be unique"),
    ],
)
def test_a_suite_whose_data_are_not_as_declared(office: Path, file: str, old: str, new: str, says: str) -> None:
    path = office / "exam" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(HarnessError, match=says) as caught:
        check_prerequisites(config(office), assemble(config(office)).stages)
    assert "\n" not in str(caught.value)


def test_more_validation_items_than_there_are(office: Path) -> None:
    with pytest.raises(HarnessError, match=r"has 2 items, but 3 are asked for; ask for 1 to 2"):
        make_plan(resolve_run(
            method="static", target="nano", suite=str(office / "exam" / "suite.yaml"), guide="practice:3",
            seeds=str(office / "docs.jsonl"),
        ))  # fmt: skip


def test_another_suite_of_tests_is_read_too(office: Path) -> None:
    """A finished run that is scored on another suite: that suite's items have to be there."""
    write_exam(office / "other")
    (office / "other" / "exam.jsonl").write_text("{}\n")
    with pytest.raises(HarnessError, match=r"exam\.jsonl line 1 has no field"):
        check_data(config(office, sets={"eval.suite": str(office / "other" / "suite.yaml")}))


def test_what_only_the_hub_has_is_left_to_the_run() -> None:
    assert check_data(resolve_run(method="static", target="small").config) is None


def test_own_documents_against_the_labs_tests_are_cautioned(office: Path) -> None:
    own = make_plan(resolve_run(method="static", target="nano", seeds=str(office / "docs.jsonl")))
    assert "made-up world" in dict(own.meaning)["caution"]
    assert "caution" not in dict(make_plan(resolve_run(method="static", target="nano")).meaning)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"budget": 241}, 240),
        ({"budget": 61, "sets": {"synthesis.samples_per_seed": 2, "synthesis.max_passes": 1}}, 60),
        ({"budget": 121, "sets": {"select.signal": "val_bm25"}}, 120),
        ({"budget": 31, "driver": "best_of_n", "signal": "val_bm25"}, 30),
    ],
)
def test_documents_that_cannot_give_the_budget(office: Path, options: dict[str, Any], most: int) -> None:
    """30 documents in 8 passes; half of what a selection sees is kept, and of the best of n one of each document."""
    with pytest.raises(HarnessError, match=f"30 documents give at most {most} pairs in .* the budget is {most + 1};"):
        _problems(config(office, **options))
    assert not _problems(config(office, **{**options, "budget": most}))
    allowed = {**options.get("sets", {}), "allow_shortfall": True}
    assert not _problems(config(office, **{**options, "sets": allowed}))


def test_documents_that_do_not_fill_a_rollout_batch(office: Path) -> None:
    training = {"driver": "grpo", "signal": "val_bm25", "budget": 8}
    with pytest.raises(HarnessError, match=r"a rollout batch takes 31 prompts and there are 30; .*driver\.prompts_per"):
        _problems(config(office, **training, sets={"driver.prompts_per_step": 31}))
    assert not _problems(config(office, **training, sets={"driver.prompts_per_step": 30}))


def _problems(config: RunConfig) -> list[str]:
    return [str(problem) for problem in check_prerequisites(config, assemble(config).stages)]
