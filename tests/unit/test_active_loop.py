"""The loop of rounds: which seeds a round takes, what its stages are made of, and what is refused before it runs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from harness.checks.prerequisites import check_prerequisites
from harness.errors import ConfigError, InputError
from harness.resolve.assemble import Assembly, assemble
from harness.resolve.layers import resolve_run
from harness.runtime.rounds import _inheritance
from harness.stage import Stage, ordered
from harness.types import Message, Score, Seed
from methods.signals.items import answered
from methods.stages.seed_choice import Count, choose, chosen_by_signal, pool_of

VALUES = {f"s{i}": float(i // 2) for i in range(10)}
"""Ten seeds, of which two each score alike."""


def laid_out(signal: str = "self_loss", **options: Any) -> Assembly:
    named = {"driver": "active_loop", "route": "question", "target": "nano", "scale": "smoke", "signal": signal}
    return assemble(resolve_run(**{**named, **options}).config)


def stage(assembly: Assembly, name: str) -> Stage:
    found = assembly.stage(name)
    assert found is not None, name
    return found


class TestRules:
    def test_top_and_bottom_are_the_best_and_the_worst(self) -> None:
        assert set(choose(VALUES, "top", 4, 0)) == {"s9", "s8", "s7", "s6"}
        assert set(choose(VALUES, "bottom", 4, 0)) == {"s0", "s1", "s2", "s3"}
        assert {VALUES[key] for key in choose(VALUES, "top", 2, 0)} == {4.0}

    @pytest.mark.parametrize("count", range(11))
    def test_balanced_takes_as_many_of_either_half(self, count: int) -> None:
        apart = {f"s{i}": float(i) for i in range(10)}
        found = choose(apart, "balanced", count, 3)
        assert len(found) == len(set(found)) == count
        assert sum(apart[key] >= 5 for key in found) == (count + 1) // 2

    def test_balanced_makes_up_for_a_half_that_runs_out(self) -> None:
        assert set(choose({"a": 2.0, "b": 1.0, "c": 0.0}, "balanced", 3, 0)) == {"a", "b", "c"}

    @pytest.mark.parametrize("rule", ["top", "bottom", "balanced"])
    def test_the_order_of_the_pool_changes_nothing(self, rule: Any) -> None:
        keys = list(VALUES)
        random.Random(1).shuffle(keys)
        assert choose({key: VALUES[key] for key in keys}, rule, 5, 0, 2) == choose(VALUES, rule, 5, 0, 2)

    def test_ties_go_by_chance_anew_in_every_round(self) -> None:
        level = dict.fromkeys(VALUES, 1.0)
        drawn = {tuple(choose(level, "top", 3, 0, number)) for number in range(1, 6)}
        assert len(drawn) == 5
        assert choose(level, "top", 3, 0, 1) == choose(level, "top", 3, 0, 1)

    def test_a_set_is_chosen_by_its_signal_alone(self) -> None:
        scores = [Score(f"s{i}", "badge", 1.0, parts={"pick": float(i)} if i else {}) for i in (2, 0, 3, 1)]
        assert chosen_by_signal(scores) == ["s1", "s2", "s3"]
        assert Count(3).wanted(scores) == (3, None)
        with pytest.raises(ValueError, match="by its signal"):
            choose(VALUES, "set", 3, 0)

    def test_a_pool_is_one_draw_in_the_seeds_own_order(self) -> None:
        seeds = [Seed(f"s{i}", "text") for i in range(50)]
        pool = pool_of(seeds, 10, 7)
        assert len(pool) == 10 and pool == [s for s in seeds if s in pool]
        assert pool_of(list(reversed(seeds)), 10, 7) == list(reversed(pool))
        assert pool_of(seeds, 10, 8) != pool and pool_of(seeds, 50, 7) == seeds


class TestSeeds:
    def test_a_labelled_seed_is_read_up_to_its_answer(self) -> None:
        turns = (Message("user", "why"), Message("assistant", "so"), Message("user", "thanks"))
        assert answered(Seed("a", None, turns)) == turns[:2]
        assert answered(Seed("a", None, turns[:1])) == () == answered(Seed("a", "a document"))


class TestStages:
    def test_names_carry_the_round_and_the_line_grows(self) -> None:
        assembly = laid_out()
        assert [s.round for s in assembly.stages if s.kind == "dataset"] == [1, 2, 3]
        assert [stage(assembly, f"dataset_{n}").settings["budget"] for n in (1, 2, 3)] == [8, 16, 24]
        assert assembly.only("tuned_answers").name == "evaluate_3" and assembly.only("model").name == "finetune_3"

    def test_a_student_is_read_anew_and_other_scores_are_taken_once(self) -> None:
        read = laid_out("self_loss")
        assert [s.name for s in stage(read, "score_seeds_1").inputs] == ["sources"]
        assert [s.name for s in stage(read, "score_seeds_3").inputs] == ["sources", "finetune_2"]
        assert laid_out("oracle").stage("score_seeds") is not None
        drawn = laid_out("random")
        draws = [stage(drawn, f"score_seeds_{n}").settings["draw"] for n in (1, 2, 3)]
        assert draws == [1, 2, 3] and [s.name for s in stage(drawn, "score_seeds_3").inputs] == ["sources"]

    def test_fine_tuning_starts_at_the_base_unless_it_goes_on(self) -> None:
        assert [s.name for s in stage(laid_out(), "finetune_3").inputs] == ["dataset_3"]
        more = stage(laid_out(sets={"driver.start": "student"}), "finetune_3")
        assert [s.name for s in more.inputs] == ["dataset_3", "finetune_2", "dataset_2"]

    def test_a_round_without_its_pairs_scored(self) -> None:
        assert laid_out(sets={"driver.score_children": False}).stage("score_children_1") is None
        assert laid_out("badge", sets={"driver.rule": "set"}).stage("score_children_1") is None

    def test_all_that_is_needed_comes_before(self) -> None:
        stages = laid_out().stages
        assert ordered(stages) == list(stages)

    @pytest.mark.parametrize("preset", ["self-loss", "loss", "random", "badge"])
    def test_every_preset_of_the_method_is_laid_out(self, preset: str) -> None:
        config = resolve_run(method="active", preset=preset, target="nano", scale="smoke").config
        assert config.signal.name == preset.replace("-", "_") and config.route.name == "question"
        assert getattr(config.signal.settings, "checkpoint", "base") == "base"
        assert config.lab is not None and config.lab.labelled
        assert assemble(config).stages


class TestRefusals:
    @pytest.mark.parametrize(
        "signal, options, said",
        [
            ("influence", {}, "signal 'influence' scores pairs and no seeds"),
            ("density", {}, "signal 'density' scores pairs and no seeds"),
            ("badge", {}, "'badge' chooses sets, and driver.rule=top; set driver.rule=set"),
            ("loss", {"sets": {"driver.rule": "set"}}, "scores seeds one by one, and driver.rule=set"),
            ("loss", {"sets": {"signal.checkpoint": "warm"}}, "set signal.checkpoint=base"),
            ("random", {"sets": {"select.keep": 0.5}}, "drop select"),
            ("random", {"budget": 2}, "a budget of 2 samples is less than one"),
            ("random", {"budget": 1e12, "match": "flops"}, "set driver.choose"),
        ],
    )
    def test_what_does_not_fit_is_said_in_one_line(self, signal: str, options: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=said) as refused:
            laid_out(signal, **options)
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        "signal, sets, said",
        [
            ("random", {"driver.pool": 5}, r"a round chooses 8 seeds, and the pool holds 5 \(driver.pool=5\)"),
            ("random", {"driver.choose": 60}, "the pool holds 48 "),
            ("loss", {"lab.labelled": False}, r"can score 0 of the pool's 48 seeds \(no reference answer\)"),
            ("self_loss", {"lab.labelled": False}, r"can score 0 of the pool's 48 seeds \(it asks no question\)"),
            ("oracle", {"lab.labelled": False}, "--set lab.labelled=true"),
        ],
    )
    def test_seeds_that_cannot_be_chosen_from(self, signal: str, sets: dict[str, Any], said: str) -> None:
        assembly = laid_out(signal, sets=sets)
        with pytest.raises(InputError, match=said):
            check_prerequisites(assembly.plan.config, assembly.stages)


def test_pairs_are_compared_with_their_own_seeds() -> None:
    rounds = [[(1.0, 5.0), (2.0, 4.0)], [(3.0, 6.0)], [(9.0, 9.0), (7.0, 7.0)]]
    found = _inheritance(rounds)
    assert found is not None and (found.pairs, found.rounds) == (5, 3)
    assert found.of_pairs == pytest.approx(0.9) and found.of_medians == pytest.approx(1.0)
    assert _inheritance([[], []]) is None
