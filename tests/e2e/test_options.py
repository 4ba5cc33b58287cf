"""Options that change what a run does, each through a whole small run in the lab.

All runs share one folder and one process, so what they have in common is computed once.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from harness.errors import BudgetError
from harness.events import read_events
from harness.shards import read_records, read_shards
from harness.stage import read_summary
from harness.types import Reject, file_hash
from support.lab_runs import Bench, Finished

INFLUENCE: dict[str, Any] = {"method": "optimsyn", "sets": {"guide.withhold": 0.5}}
"""Half of the validation items withheld: every run below shares its stages up to the trained writer."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def guided(bench: Bench) -> Finished:
    return bench.run(**INFLUENCE)


@pytest.fixture(scope="module")
def plain(bench: Bench) -> Finished:
    return bench.run(method="static")


def sft_tokens(run: Finished) -> list[int]:
    """Tokens that fine-tuning sees of each sample of the data set, counted with the tuned model's own tokenizer."""
    from transformers import AutoTokenizer

    from harness.training.chat import encode

    tokenizer = AutoTokenizer.from_pretrained(run.folder / "model")
    return [len(encode(tokenizer, s.messages, run.config.sft.max_length).ids) for s in run.samples()]


def test_a_line_of_samples_is_met_exactly(plain: Finished) -> None:
    assert plain.record.data_metrics["samples"] == len(plain.samples()) == plain.config.budget
    assert len((plain.folder / "dataset.jsonl").read_text().splitlines()) == plain.config.budget
    made_from = json.loads((plain.folder / "model" / "provenance.json").read_text())
    assert (made_from["run"], made_from["base"]) == (plain.folder.name, "lab:target")
    assert made_from["data"]["sha256_16"] == file_hash(plain.folder / "dataset.jsonl")
    order = [s.id for s in plain.samples("regenerate")]
    assert [s.id for s in plain.samples()] == [i for i in order if i in {s.id for s in plain.samples()}]


def test_a_line_of_tokens_is_the_same_for_every_arm(bench: Bench) -> None:
    """Arms with other selections and other lengths are cut at one number of the target's own tokens."""
    line: dict[str, Any] = {"match": "sft_tokens", "budget": 900.0}
    arms = [
        bench.run(method="static", **line),
        bench.run(**{**INFLUENCE, "driver": "best_of_n"}, **line),
        bench.run(method="static", **line, **{"sets": {"select.keep": 0.4, "select.signal": "length"}}),
    ]
    assert len({len(run.samples()) for run in arms}) > 1
    for run in arms:
        tokens = sft_tokens(run)
        assert 900 - max(tokens) - 40 < sum(tokens) <= 900
        assert not any("shortfall" in flag for flag in run.record.validity_flags)
        reasons = [r.reason for r in read_records(run.stage("dataset") / "rejects", Reject)]
        assert "beyond_budget" in reasons


def test_a_line_of_teacher_tokens_counts_training_too(bench: Bench, guided: Finished) -> None:
    spent = guided.tokens("generator", "initial", "grpo")
    run = bench.run(**INFLUENCE, match="teacher_tokens", budget=spent + 2000.0)
    assert "grpo" in run.reused()
    total = run.tokens("generator", "initial", "grpo", "regenerate")
    events = read_events(run.folder / "events.jsonl")
    made = [e for e in events if e["event"] == "shard" and e["stage"] == "regenerate"]
    share = run.tokens("generator", "regenerate") / len(made)
    assert spent + 2000 <= total < spent + 2000 + 2 * share
    with pytest.raises(BudgetError, match=r"is spent before the data set is generated \(training used"):
        bench.run(**INFLUENCE, match="teacher_tokens", budget=float(spent))


def test_a_line_of_operations_is_reached(bench: Bench, plain: Finished) -> None:
    one = sum(c.flops for c in plain.record.cost if c.stage == "regenerate")
    run = bench.run(method="static", match="flops", budget=1.5 * one)
    used = sum(c.flops for c in run.record.cost if c.stage == "regenerate")
    assert 1.5 * one <= used < 3 * one
    assert len(run.samples("regenerate")) > len(plain.samples("regenerate"))


def test_withheld_items_are_scored_beside_the_reward(
    bench: Bench, guided: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = read_shards(guided.stage("sources") / "validation")
    assert sum(row["withheld"] for row in items) == len(items) // 2 > 0
    rows = read_shards(guided.stage("grpo"))
    scored = [row for row in rows if row["value"] is not None]
    assert len(scored) > len(rows) / 2 and all(row["withheld"] is not None for row in scored)
    assert all(row["withheld"] is None for row in rows if row["value"] is None)
    assert all(row["value"] != row["withheld"] for row in scored)
    for step in {row["step"] for row in rows}:
        here = [row for row in scored if row["step"] == step]
        low, high = (bound(row["value"] for row in here) for bound in (min, max))
        for row in here:
            assert row["reward"] == pytest.approx((row["value"] - low) / (high - low), abs=1e-5)
    assert (guided.folder / "learning.png").stat().st_size > 10_000
    drawn: list[str] = []
    monkeypatch.setattr("results.learning._line", lambda axis, series, label, colour: drawn.append(label))
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda *args, **named: None)
    from results.learning import plot_learning

    plot_learning(rows, "influence", bench.runs / "again.png")
    assert "on withheld validation items" in drawn


def test_steps_of_the_rollouts_are_those_of_the_run(guided: Finished) -> None:
    rows = read_shards(guided.stage("grpo"))
    grpo = guided.config.driver.settings
    size = grpo.prompts_per_step * grpo.group_size
    assert Counter(row["step"] for row in rows) == {step: size for step in range(grpo.steps or 0)}
    for step in range(grpo.steps or 0):
        seeds = [row["seed_id"] for row in rows if row["step"] == step]
        group = grpo.group_size
        assert all(len(set(seeds[i : i + group])) == 1 for i in range(0, size, group))
    assert all(row["reward"] == pytest.approx(-0.1) for row in rows if row["reason"] and row["value"] is None)


def test_selection_keeps_the_best_half(bench: Bench, guided: Finished) -> None:
    run = bench.run(method="optimsyn", sets={"guide.withhold": 0.5, "select.keep": 0.5})
    assert {"sources", "initial", "warmup", "grpo", "evaluate_base"} <= run.reused()
    scores = run.scores()
    rejects = read_records(run.stage("dataset") / "rejects", Reject)
    left = [scores[r.item_id] for r in rejects if r.reason == "not_selected"]
    kept = [scores[s.id] for s in run.samples()]
    # Half of an odd number is rounded.
    assert len(kept) == run.config.budget <= len(left) + 1
    assert min(v for v in kept if v is not None) >= max(v for v in left if v is not None)
    assert not any(scores[s.id] is None for s in run.samples())


def test_best_of_n_keeps_the_best_of_each_seed(bench: Bench, guided: Finished) -> None:
    run = bench.run(**INFLUENCE, driver="best_of_n")
    assert {"sources", "initial", "warmup"} <= run.reused()
    scores, chosen = run.scores(), run.samples()
    assert len({s.seed_ids for s in chosen}) == len(chosen) == run.config.budget
    dropped = {r.item_id for r in read_records(run.stage("dataset") / "rejects", Reject) if r.reason != "not_selected"}
    drawn = Counter(s.seed_ids for s in run.samples("regenerate"))
    assert max(drawn.values()) == run.config.driver.settings.n
    for sample in chosen:
        # What the contamination check removed was not scored.
        drawn_too = [s for s in run.samples("regenerate") if s.seed_ids == sample.seed_ids and s.id in scores]
        rivals = [s for s in drawn_too if s.id not in dropped]
        assert (scores[sample.id] or 0.0) == max(scores[s.id] or 0.0 for s in rivals)


def test_the_codes_preset_runs_and_gives_invalid_pairs_zero(bench: Bench, guided: Finished) -> None:
    run = bench.run(**INFLUENCE, preset="code")
    assert run.config.signal.identity() == {"name": "influence", "eps_mode": "inside", "bias_correction": False}
    assert run.config.driver.settings.loss == "dapo" and run.config.driver.settings.reward.invalid == "zero"
    rows = read_shards(run.stage("grpo"))
    invalid = [row for row in rows if row["value"] is None]
    assert invalid and all(row["reward"] == 0.0 for row in invalid)
    assert {"sources", "initial"} <= run.reused() and "grpo" not in run.reused()


def test_several_pairs_of_a_seed(bench: Bench, plain: Finished) -> None:
    run = bench.run(method="static", sets={"synthesis.samples_per_seed": 2})
    made = Counter(s.seed_ids for s in run.samples("regenerate"))
    # Two draws of each; that one of them is invalid here and there is up to the lab's models.
    assert {2} <= set(made.values()) <= {1, 2} and len(run.samples()) == run.config.budget
    summary = read_summary(run.stage("regenerate"))
    assert summary is not None and summary.rows_in == len(run.samples("regenerate")) + sum(summary.rejected.values())
    # Shards hold both draws of a seed, and one pass over the seeds is enough.
    assert summary.rows_in % 2 == 0 and len(made) <= summary.rows_in / 2
    assert {s.rollout for s in run.samples("regenerate")} == {0, 1}
    assert "regenerate" not in run.reused()
    rollouts = {(s.seed_ids, s.rollout) for s in run.samples("regenerate")}
    assert len(rollouts) == len(run.samples("regenerate"))
