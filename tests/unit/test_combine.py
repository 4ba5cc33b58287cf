"""Sums of signals: what a term adds by hand, a reference that stays as it was, and terms that cannot be."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.config import SignalChoice
from harness.errors import ConfigError, StageError
from harness.planning.plan import make_plan
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.types import Sample, Score
from methods.signals.base import Archive, Signal, SignalContext
from methods.signals.catalogue import check_use, declares, make_signal, signal_needs, signal_terms, signal_uses
from methods.signals.normalise import fit
from support.tiny_target import pair

POOL = [pair(i, "why " * (i % 5 + 1), "so " * (i * i % 7 + 1)) for i in range(20)]
OTHER = [pair(100 + i, "why " * (3 * i + 1), "because") for i in range(6)]


def words(sample: Sample) -> int:
    return len(sample.question.split()) + len(sample.answer.split())


def combined(terms: Any, reference: list[Sample] = POOL, **settings: Any) -> Signal[Any]:
    """A signal that has gone through its reference, as the stages take it through."""
    choice = SignalChoice.model_validate({"name": "combine", "terms": terms, **settings})
    signal = make_signal(choice)
    signal.prepare(SignalContext(seed=3), None)
    rows = signal.reference(reference)
    signal = make_signal(choice)
    signal.prepare(SignalContext(seed=3, reference=rows), None)
    return signal


def values(signal: Signal[Any], items: list[Sample]) -> list[float]:
    return [score.value for score in signal.score(items, Archive()) if score.value is not None]


TERMS = [{"signal": "length", "weight": -0.5}, "random"]


@pytest.mark.parametrize("how", ["z", "cdf", "minmax"])
def test_a_sum_is_that_of_its_terms_on_one_scale(how: str) -> None:
    lengths = [words(s) for s in POOL]
    drawn = {s.item_id: s.value or 0.0 for s in make_random().score([*POOL, *OTHER], Archive())}

    def scale(value: float, of: list[float]) -> float:
        if how == "z":
            return (value - statistics.mean(of)) / statistics.pstdev(of)
        if how == "cdf":
            return statistics.mean([1.0 if x < value else 0.5 if x == value else 0.0 for x in of])
        return (value - min(of)) / (max(of) - min(of))

    hand = [
        -0.5 * scale(words(s), [float(x) for x in lengths]) + scale(drawn[s.id], [drawn[p.id] for p in POOL])
        for s in [*POOL, *OTHER]
    ]
    assert values(combined(TERMS, normalise=how, cut=False), [*POOL, *OTHER]) == pytest.approx(hand, abs=1e-12)


def make_random() -> Signal[Any]:
    signal = make_signal(SignalChoice.model_validate("random"))
    signal.prepare(SignalContext(seed=3), None)
    return signal


def test_a_score_is_the_same_whatever_is_scored_beside_it() -> None:
    signal = combined(TERMS)
    whole = dict(zip([s.id for s in [*POOL, *OTHER]], values(signal, [*POOL, *OTHER]), strict=True))
    alone = {s.id: values(combined(TERMS), [s])[0] for s in [*OTHER, *POOL]}
    assert alone == whole
    # Another pool gives other scores only through the reference that it was.
    assert values(combined(TERMS, OTHER), OTHER) != [whole[s.id] for s in OTHER]


def test_a_cut_leaves_the_order_of_the_reference_and_bounds_what_is_outside() -> None:
    far = [pair(900, "why " * 500, "so")]
    for how, most in (("z", 3.0), ("minmax", 1.0), ("cdf", 1.0)):
        assert values(combined(["length"], normalise=how), far) == [most]
    assert values(combined(["length"], cut=False), far)[0] > 3


def test_lower_is_better_is_turned_round(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = values(combined(["length"]), POOL)
    monkeypatch.setattr("methods.signals.controls.LengthSignal.direction", "lower")
    assert values(combined(["length"]), POOL) == pytest.approx([-v for v in plain])


def test_what_cannot_be_told_apart_counts_nothing_and_is_said() -> None:
    signal = combined(["constant", "length"])
    assert values(signal, POOL) == pytest.approx(values(combined(["length"]), POOL))
    found = signal.prepare(SignalContext(seed=3, reference=signal.reference(POOL)), None)
    assert any("counts 0" in str(fact.value) for fact in found.facts)


def test_an_item_that_a_term_cannot_score_has_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = combined(["length", "random"])
    monkeypatch.setattr(
        "methods.signals.controls.LengthSignal.score",
        lambda self, items, archive: [Score.unscorable(item.id, "length", "too odd") for item in items],
    )
    (score,) = signal.score(OTHER[:1], Archive())
    assert (score.value, score.status, score.reason, score.signal) == (None, "unscorable", "length: too odd", "combine")
    with pytest.raises(StageError, match=r"term 'length': no pair of the reference has a score \(too odd\)"):
        combined(["length"])


def test_it_declares_and_uses_what_its_terms_do(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = ["influence", {"signal": {"name": "loss", "checkpoint": "base"}}, "novelty", "answer_variance", "random"]
    choice = SignalChoice.model_validate({"name": "combine", "terms": terms})
    assert signal_needs(choice) == {"reference", "warm_target", "target", "target_sampling", "embedder"}
    assert [use.role for use in signal_uses(choice)] == ["target", "target", "embedder", "target"]
    plain = SignalChoice.model_validate({"name": "combine", "terms": ["length"]})
    for what in ("reads_validation", "reads_seeds", "stateful", "student_aware", "drawn"):
        assert declares(choice, what)  # type: ignore[arg-type]
        assert not declares(plain, what)  # type: ignore[arg-type]
    before = plain.identity()
    monkeypatch.setattr("methods.signals.controls.LengthSignal.version", 2)
    assert plain.identity() != before


def test_terms_are_written_as_a_list_or_with_commas() -> None:
    plan = {"driver": "best_of_n", "signal": "combine", "target": "nano"}
    config = resolve_run(**plan, sets={"signal.terms": "loss,novelty"}).config
    listed = resolve_run(**plan, sets={"signal.terms": [{"signal": "loss"}, {"signal": {"name": "novelty"}}]}).config
    assert config.signal == listed.signal
    assert [term.name for term in signal_terms(config.signal)] == ["loss", "novelty"]


@pytest.mark.parametrize(
    "terms, message",
    [
        (["badge"], "'badge' chooses sets, and a term scores items one by one"),
        (["none"], "'none' is no signal"),
        ([{"signal": {"name": "combine", "terms": ["length"]}}], "'combine' is normalised by a reference already"),
        ([{"signal": "length", "weight": 0}], "a weight of 0 leaves the term out"),
    ],
)
def test_terms_that_cannot_be_are_refused(terms: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SignalChoice.model_validate({"name": "combine", "terms": terms})


def test_a_sum_of_nothing_and_a_truth_outside_the_lab_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"signal 'combine' has no terms; set signal\.terms"):
        check_use(SignalChoice.model_validate("combine"), "selection")
    options = {"driver": "best_of_n", "signal": "combine", "target": "qwen3-8b"}
    with pytest.raises(ConfigError, match="planted truth"):
        resolve_run(**options, sets={"signal.terms": "oracle"})


def test_opposites_are_pointed_out_in_the_plan(tmp_path: Path) -> None:
    def said(terms: Any) -> list[str]:
        sets = {"signal.terms": terms, "runtime.runs": str(tmp_path)}
        plan = make_plan(resolve_run(driver="best_of_n", signal="combine", target="nano", scale="smoke", sets=sets))
        return [value for name, value in plan.meaning if name == "caution"]

    (line,) = said("proximity,novelty")
    assert "'proximity' and 'novelty' cancel" in line and "\n" not in line
    assert said(["proximity", {"signal": "novelty", "weight": -1}]) == said("proximity,loss") == []


@pytest.mark.parametrize(
    "driver, source, name", [("best_of_n", "decontaminate", ""), ("grpo", "initial", "_of_reward")]
)
def test_a_reference_comes_before_any_score(tmp_path: Path, driver: str, source: str, name: str) -> None:
    sets = {"signal.terms": "loss,length", "runtime.runs": str(tmp_path)}
    sets |= {"select.keep": 0.5} if driver == "grpo" else {}
    assembly = assemble(resolve_run(driver=driver, signal="combine", target="nano", scale="smoke", sets=sets).config)
    stage = assembly.stage(f"reference{name}")
    assert stage is not None and [i.name for i in stage.inputs] == [source, "sources", "warmup"]
    (scoring,) = [s for s in assembly.stages if s.signal == "combine" and stage in s.inputs]
    assert scoring.name == {"best_of_n": "score", "grpo": "grpo"}[driver]
    # What a reward and a selection are normalised by are two stages of two names.
    assert len({s.name for s in assembly.stages}) == len(assembly.stages)


def test_iterations_share_the_first_ones_reference(tmp_path: Path) -> None:
    sets = {"signal.terms": "loss,length", "driver.iterations": 2, "runtime.runs": str(tmp_path)}
    assembly = assemble(resolve_run(driver="dpo", signal="combine", target="nano", scale="smoke", sets=sets).config)
    reference = assembly.stage("reference_of_drafts")
    assert reference is not None and reference.inputs[0].name == "probe_1"
    scores = [s for s in assembly.stages if s.signal == "combine" and s.name.startswith("score")]
    assert len(scores) == 2 and all(reference in s.inputs for s in scores)
    assert len({s.name for s in assembly.stages}) == len(assembly.stages)


def test_a_normaliser_without_spread_and_with_two_values() -> None:
    assert fit("z", [2.0, 2.0], cut=True)(5.0) == 0.0
    assert fit("cdf", [1.0, 2.0, 2.0, 3.0], cut=True)(2.0) == 0.5
    assert math.isclose(fit("z", [0.0, 2.0], cut=True)(2.0), 1.0)


def test_a_preset_may_take_another_driver(tmp_path: Path) -> None:
    sets = {"runtime.runs": str(tmp_path), "lab.labelled": True}
    options = {"method": "acquisition-synthesis", "preset": "filtered", "target": "nano", "scale": "smoke"}
    assembly = assemble(resolve_run(**options, sets=sets).config)
    assert assembly.plan.config.driver.name == "static" and assembly.last("policy") is None
    (score,) = [stage for stage in assembly.stages if stage.kind == "scores"]
    assert score.signal == "combine" and {"warmup", "reference"} <= {stage.name for stage in score.inputs}
