"""Driver `dpo` as it is laid out: what an iteration is made of, what is taken over, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as cli
from harness.costs.records import Cost
from harness.errors import ConfigError, InputError
from harness.planning.costs import estimates, make_estimator
from harness.planning.plan import make_plan
from harness.resolve.assemble import Assembly, assemble
from harness.resolve.layers import resolve_run
from harness.shards import write_json
from harness.stage import DONE, ordered
from support.made_runs import make_run


def laid_out(**options: Any) -> Assembly:
    return assemble(resolve_run(**{"method": "montessori", "target": "nano", "scale": "smoke", **options}).config)


def identities(**options: Any) -> dict[str, str]:
    return {stage.name: stage.identity for stage in laid_out(**options).stages}


class TestIterations:
    def test_each_goes_on_from_the_model_of_the_one_before(self) -> None:
        assembly = laid_out()
        inputs = {stage.name: [s.name for s in stage.inputs] for stage in assembly.stages}
        assert inputs["probe_1"] == ["sources"] and inputs["probe_2"] == ["sources", "dpo_1"]
        assert inputs["dpo_2"] == ["sources", "prefer_2", "dpo_1"] and inputs["prefer_2"][-1] == "dpo_1"
        assert inputs["initial_2"] == ["sources", "dpo_1"] and inputs["score_2"] == ["probe_2", "sources", "warmup_2"]
        assert inputs["regenerate"] == ["sources", "dpo_2"]
        assert ordered(assembly.stages) == list(assembly.stages)

    def test_the_warm_up_may_stay_and_other_signals_have_none(self) -> None:
        once = {s.name: [i.name for i in s.inputs] for s in laid_out(sets={"driver.rewarm": False}).stages}
        assert once["score_2"] == ["probe_2", "sources", "warmup"] and "warmup_2" not in once
        assert {"warmup", "warmup_2", "initial"}.isdisjoint(identities(signal="random"))

    def test_an_earlier_iteration_is_the_same_in_a_longer_run(self) -> None:
        two = identities()
        for one in (identities(iteration=1), identities(sets={"driver.iterations": 1})):
            shared = {name for name in one if one[name] == two.get(name)}
            assert {"probe_1", "score_1", "prefer_1", "dpo_1"} <= shared
            assert "dpo_2" not in one and "regenerate" not in shared
        assert identities(iteration=2) == two

    @pytest.mark.parametrize(
        "sets, first",
        [
            ({"driver.drafts": 5}, "probe_1"),
            ({"driver.margin": 0.1}, "prefer_1"),
            ({"driver.max_length": 300}, "prefer_1"),
            ({"driver.beta": 0.2}, "dpo_1"),
            ({"driver.tune": "lora"}, "dpo_1"),
        ],
    )
    def test_a_setting_changes_what_it_acts_on_and_what_follows(self, sets: dict[str, Any], first: str) -> None:
        before, after = identities(), identities(sets=sets)
        changed = [name for name in after if after[name] != before[name]]
        assert changed[0] == first and "warmup" not in changed
        assert identities(sets={"driver.micro_batch": 1}) == before

    def test_a_plan_counts_what_an_iteration_takes(self) -> None:
        assembly = laid_out(signal="random", sets={"driver.probe": 20, "driver.drafts": 4, "driver.epochs": 3})
        costs = estimates(assembly.stages, make_estimator(assembly.plan.config))
        found = {stage.name: costs[stage.identity] for stage in assembly.stages}
        probe, prefer, train = (found[name] for name in ("probe_1", "prefer_1", "dpo_1"))
        assert isinstance(probe, Cost) and isinstance(prefer, Cost) and isinstance(train, Cost)
        # Of 4 drafts 3 survive; of 3 evenly split ones 3 · 2 / 4 are pairs.
        assert (probe.rows, probe.out, prefer.out) == (80, 60, 30)
        draft = assembly.plan.config.route.plugin.calls(make_estimator(assembly.plan.config).sizes)[0]
        assert train.tokens_in == 30 * 2 * 3 * (draft.prompt + draft.completion)


class TestMethod:
    def test_presets_are_laid_out_and_table_5_has_one_generator(self) -> None:
        large = laid_out(preset="optimsyn-table5", target="qwen3-8b", scale=None).plan.config
        assert large.models.generator.id == "Qwen/Qwen3-30B-A3B-Instruct-2507" and large.models.answerer is None
        small = laid_out(preset="optimsyn-table5").plan.config
        assert small.models.generator.id == "lab:author"
        named = resolve_run(method="montessori", preset="optimsyn-table5", target="qwen3-8b", generator="qwen3-4b")
        assert named.config.models.generator.id.startswith("Qwen/Qwen3-4B")

    def test_what_was_published_stands_beside_the_plan(self, tmp_path: Path) -> None:
        sets = {"runtime.runs": str(tmp_path)}
        plan = make_plan(resolve_run(method="montessori", target="qwen3-8b", sets=sets))
        assert [p.theirs for p in plan.published] == [0.403, 11.0, 0.362]
        by_name = {line.name: line.cost for line in plan.stages}
        score = by_name["score_1"]
        assert score is not None and score.seconds is not None and score.rows
        assert plan.published[1].here == pytest.approx(score.seconds / score.rows)
        assert {load.name for load in plan.loads} >= {"DPO", "scoring", "warm-up"}


class TestRefusals:
    @pytest.mark.parametrize(
        "options, said",
        [
            ({"signal": "coreset"}, "signal 'coreset' chooses sets, and driver 'dpo' prefers one draft to another"),
            ({"signal": "constant"}, "no preference pair: signal 'constant' scores every pair alike"),
            ({"signal": "random", "sets": {"driver.margin": 2}}, "no preference pair: driver.margin=2, and scores of"),
            ({"route": "direct", "sets": {"driver.preferred": "pair"}}, "whose draft is the whole pair"),
            ({"iteration": 3}, r"--iteration 3 is not among the 2 of the run \(driver.iterations\)"),
            ({"method": "static", "iteration": 1}, "--iteration 1: driver 'static' trains no model"),
            ({"method": "optimsyn", "iteration": 2}, "--iteration 2: driver 'grpo' trains one model"),
        ],
    )
    def test_what_does_not_fit_is_said_in_one_line(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=said) as refused:
            laid_out(**options)
        assert "\n" not in str(refused.value)

    def test_an_iteration_is_a_number_from_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["plan", "--method", "montessori", "--target", "nano", "--iteration", "0"]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_another_runs_models_are_told_apart_by_iteration(self, tmp_path: Path) -> None:
        run = make_run(tmp_path, "a", {"asked": [1]}, {"asked": [0]})
        stages = {f"dpo_{n}": f"dpo_{n}-x" for n in (1, 2)}
        manifest = json.loads((run / "run.json").read_text())
        manifest |= {"stages": stages, "kinds": dict.fromkeys(stages, "policy")}
        manifest["settings"] = {"route": "question", "guide": {"set": "asked"}, "suite": "lab", "signal": "length"}
        (run / "run.json").write_text(json.dumps(manifest))
        empty = {"rows_in": 0, "kept": 0, "rejected": {}, "usage": [], "seconds": 1.0, "notes": {}}
        for folder in stages.values():
            write_json(tmp_path / ".stages" / folder / DONE, empty)

        def policy(**options: Any) -> str:
            sets = {"runtime.runs": str(tmp_path)}
            found = laid_out(method="static", route="question", writer_from=run.name, sets=sets, **options).plan.policy
            assert found is not None
            return found[0]

        assert (policy(), policy(iteration=1), policy(iteration=2)) == ("dpo_2-x", "dpo_1-x", "dpo_2-x")
        with pytest.raises(InputError, match="--iteration 3: run a trained 2 models one from another"):
            policy(iteration=3)
