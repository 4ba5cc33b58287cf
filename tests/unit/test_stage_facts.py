"""What stages say of themselves: nobody is forgotten in a plan's cost and memory, under any driver and signal."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.checks.needs import loads, make_sizer
from harness.config import SignalChoice
from harness.costs.records import Cost, Load
from harness.costs.sizer import no_models
from harness.planning.costs import estimates, make_estimator
from harness.planning.plan import make_plan
from harness.resolve.assemble import Assembly, assemble
from harness.resolve.layers import resolve_run
from harness.stage import Stage, ordered
from methods.drivers.catalogue import driver_classes
from methods.signals.catalogue import signal_classes, signal_needs

EMBEDDER = "Qwen/Qwen3-Embedding-0.6B"
SIGNALS = {found.name: found for found in signal_classes()[0]}
DRIVERS = {found.name: found for found in driver_classes()[0]}
LIMITS: dict[str, dict[str, Any]] = {"nano": {}, "qwen3-8b": {"seeds.limit": 2000}}
SOME = {
    "active_loop": ("self_loss", "badge", "facility_location"),
    "dpo": ("local_influence", "self_loss", "val_cosine", "oracle"),
}
"""Signals that drivers which do not take all of them are tried with: of answers, gradients, embeddings, the lab."""
PAIRINGS = [(d.name, s) for d in DRIVERS.values() if d.uses_signal for s in SOME.get(d.name, SIGNALS)]


def laid_out(tmp_path: Path, **options: Any) -> Assembly:
    sets = {"runtime.runs": str(tmp_path / "runs"), "models.embedder.id": EMBEDDER, **options.pop("sets", {})}
    return assemble(resolve_run(**{"method": "optimsyn", "sets": sets, **options}).config)


@cache
def unscored(driver: str, target: str) -> Cost:
    """What scoring costs under a driver with the signal that computes nothing."""
    free = laid_out(Path("none"), driver=driver, signal="random", target=target, sets=LIMITS[target])
    stage = next(stage for stage in free.stages if stage.signal == "random")
    cost = estimates(free.stages, make_estimator(free.plan.config))[stage.identity]
    assert cost is not None
    return cost


def scorers(signal: SignalChoice) -> set[str]:
    """The roles whose models a signal computes with."""
    needs = signal_needs(signal)
    reads = needs & {"warm_target", "target", "ensemble"}
    return ({"target"} if reads else set()) | needs & {"embedder", "rater"}


@pytest.mark.parametrize("driver, signal", PAIRINGS)
def test_the_scorer_is_in_memory_tokens_and_time(tmp_path: Path, driver: str, signal: str) -> None:
    target = "nano" if SIGNALS[signal].lab_only else "qwen3-8b"
    sets = LIMITS[target]
    # It has no pool under a driver that trains.
    own = {"signal.covers": "seeds"} if (driver, signal) == ("grpo", "facility_location") else {}
    own |= {"driver.rule": "set"} if driver == "active_loop" and SIGNALS[signal].unit == "set" else {}
    own |= {"signal.terms": "loss,novelty"} if signal == "combine" else {}
    assembly = laid_out(tmp_path, driver=driver, signal=signal, target=target, sets={**sets, **own})
    config = assembly.plan.config
    # What a signal is normalised by is measured before, and what a learner makes of its scores after.
    scoring = next(stage for stage in assembly.stages if stage.signal == signal and stage.kind != "measurement")
    cost = estimates(assembly.stages, make_estimator(config))[scoring.identity]
    nothing = unscored(driver, target)
    assert cost is not None and cost.seconds is not None and nothing.seconds is not None
    held = {part.role for part in scoring.loads(make_sizer(config)).parts}
    for role in scorers(config.signal):
        assert role in held
        assert cost.models[role][0] > 0
        assert cost.tokens_in > nothing.tokens_in and cost.flops > nothing.flops and cost.seconds > nothing.seconds
    shown = {load.name: load.bytes for load in loads(config, assembly.stages)}
    own = scoring.loads(make_sizer(config))
    assert not own.parts or shown[own.name] >= own.bytes


@pytest.mark.parametrize("driver", [name for name in DRIVERS if name not in ("best_of_n", "active_loop")])
def test_what_selects_after_a_driver_is_counted(tmp_path: Path, driver: str) -> None:
    sets = {"select.keep": 0.5, "select.signal": "influence", "seeds.limit": 2000}
    assembly = laid_out(tmp_path, driver=driver, target="qwen3-8b", sets=sets)
    found = {load.name: load for load in loads(assembly.plan.config, assembly.stages)}
    assert {part.what for part in found["scoring"].parts} == {"scoring"}


def test_a_plan_shows_the_scorer(tmp_path: Path) -> None:
    sets = {"runtime.runs": str(tmp_path)}
    options = {"driver": "best_of_n", "target": "qwen3-8b", "sets": sets}
    plan = make_plan(resolve_run(method="optimsyn", signal="influence", **options))
    (line,) = [line for line in plan.stages if line.kind == "scores"]
    assert line.cost is not None and line.cost.models["target"][0] == line.cost.tokens_in > 0
    (load,) = [load for load in plan.loads if load.name == "scoring"]
    assert load.bytes > 16e9 and load.parts[0].role == "target"


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_stage_says_what_it_leaves_once(tmp_path: Path, driver: str) -> None:
    signal = {"signal": "random"} if driver == "active_loop" else {}
    stages = laid_out(tmp_path, driver=driver, target="nano", **signal).stages
    # A loop has them once a round.
    rounds = max(1, *(stage.round for stage in stages))
    for kind in ("seeds", "base_answers"):
        assert sum(stage.kind == kind for stage in stages) == 1
    for kind in ("gated", "dataset", "model", "tuned_answers"):
        assert sum(stage.kind == kind for stage in stages) == rounds


def test_a_stage_without_estimate_or_loads_is_none() -> None:
    for missing in ("kind", "estimate", "loads"):
        said: dict[str, Any] = {"kind": "pairs", "estimate": lambda e, before: None, "loads": no_models}
        del said[missing]
        with pytest.raises(TypeError, match=missing):
            Stage("a", 1, {}, (), lambda run: None, **said)


def test_equal_parts_share_a_line_and_the_larger_stands(tmp_path: Path) -> None:
    sets = {"decontam.modes": ["text", "embedding"]}
    assembly = laid_out(tmp_path, target="qwen3-8b", sets=sets)
    synthesis = [s.loads(make_sizer(assembly.plan.config)) for s in assembly.stages]
    several = [load for load in synthesis if load.name == "synthesis"]
    assert len(several) == 2 and several[0].bytes < several[1].bytes
    shown: list[Load] = [load for load in loads(assembly.plan.config, assembly.stages) if load.name == "synthesis"]
    assert shown == several[1:]


def test_only_what_a_stage_is_made_from_counts_against_a_line_of_spending(tmp_path: Path) -> None:
    """As in the run: `best_of_n` draws from the untrained writer, so pairs for a warm-up are not upstream of it."""

    def draws(driver: str) -> int:
        assembly = laid_out(
            tmp_path, driver=driver, signal="influence", target="nano", match="teacher_tokens", budget=5e6
        )
        found = estimates(assembly.stages, make_estimator(assembly.plan.config))
        stage = assembly.only("gated").inputs[0]
        before = sum(
            sum(cost.models.get("generator", (0, 0)))
            for s in ordered(stage.inputs)
            if (cost := found[s.identity]) is not None
        )
        cost = found[stage.identity]
        assert cost is not None and cost.rows is not None
        assert before + sum(cost.models["generator"]) == pytest.approx(5e6, rel=1e-3)
        return cost.rows

    assert draws("best_of_n") > draws("grpo") > 0
