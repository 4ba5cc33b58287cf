"""Strategies of choosing validation items, and the control signals, each through a whole small run in the lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.shards import read_records, read_shards
from harness.types import Score
from methods.stages.sources import GuideRow
from support.lab_runs import Bench, Finished


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("runs"))


def run(bench: Bench, signal: str, **sets: object) -> Finished:
    return bench.run(method="static", driver="best_of_n", signal=signal, sets={"guide.n": 8, **sets})


def chosen(finished: Finished) -> list[GuideRow]:
    return read_records(finished.stage("sources") / "validation", GuideRow)


def test_the_capability_tree_guides_a_run(bench: Bench) -> None:
    tree = run(bench, "val_cosine", **{"guide.strategy": "capability_tree", "guide.withhold": 0.5})
    answers = {row["item_id"]: row["correct"] for row in read_shards(tree.stage("evaluate_guide"))}
    assert len(answers) == 16, "all items of the set are answered, not the chosen ones only"
    capabilities = read_shards(tree.stage("sources") / "capabilities")
    assert (capabilities[0]["items"], capabilities[0]["chosen"]) == (16, 8)
    assert capabilities[0]["correct"] == sum(answers.values())
    rows = chosen(tree)
    assert {r.id for r in rows} < set(answers) and sum(r.withheld for r in rows) == 4
    assert all(r.subtask for r in rows)
    scores = read_records(tree.stage("score"), Score)
    assert all({"mean", "max", "withheld"} == set(s.parts) for s in scores if s.value is not None)
    assert tree.tokens("target", "evaluate_guide") > 0, "its cost is the method's"
    assert tree.record.reads_validation and "lab_asked" in tree.record.guided_columns

    fewer = run(bench, "val_bm25", **{"guide.strategy": "capability_tree", "guide.n": 4})
    assert "evaluate_guide" in fewer.reused() and len(chosen(fewer)) == 4


def test_coverage_and_a_loss_that_needs_no_warm_up(bench: Bench) -> None:
    covered = run(bench, "loss", **{"guide.strategy": "coverage", "signal.checkpoint": "base"})
    assert covered.assembly.stage("warmup") is None and covered.assembly.stage("evaluate_guide") is None
    assert not covered.record.reads_validation
    values = covered.scores().values()
    assert values and all(v is not None and v > 0 for v in values)
    ids = {r.id for r in chosen(covered)}
    assert len(ids) == 8
    centre = run(bench, "loss", **{"guide.strategy": "coverage", "guide.coverage": "k_center"})
    assert centre.assembly.stage("warmup") is not None
    assert {r.id for r in chosen(centre)} != ids
    assert centre.scores().keys() and Path(centre.folder / "record.json").is_file()
