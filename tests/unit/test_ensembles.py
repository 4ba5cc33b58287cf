"""Disagreement and information gain in their bounds, and ensembles that cannot be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from harness.config import SignalChoice
from harness.errors import ConfigError
from harness.planning.plan import make_plan
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from methods.signals.bald import Disagreement
from methods.signals.epig import information, outcomes


def drawn(*shape: int, sharp: float = 3.0) -> torch.Tensor:
    return sharp * torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def disagreement(logits: torch.Tensor) -> dict[str, float]:
    held = Disagreement(logits[0])
    for own in logits:
        held.add(own)
    return held.mean(len(logits))


def test_disagreement_lies_between_nothing_and_the_number_of_members() -> None:
    assert 0 < disagreement(drawn(4, 7, 30))["value"] < math.log(4)
    assert disagreement(drawn(1, 7, 30).expand(4, 7, 30))["value"] == pytest.approx(0.0, abs=1e-12)
    sure = 90.0 * torch.eye(4)[:, None]
    assert disagreement(sure) == {"value": pytest.approx(math.log(4)), "member_entropy": pytest.approx(0.0, abs=1e-12)}


def test_information_is_that_of_members_who_are_sure_of_both() -> None:
    shares = torch.full((2,), 0.5, dtype=torch.float64)
    sure = torch.eye(2, dtype=torch.float64)[:, None]
    unsure = torch.full((2, 1, 2), 0.5, dtype=torch.float64)
    assert information(sure, sure.expand(2, 2, 2), shares) == pytest.approx(math.log(2))
    # One place of two that says all, and one that says nothing.
    assert information(torch.cat([sure, unsure], 1), sure.expand(2, 2, 2), shares) == pytest.approx(math.log(2) / 2)
    assert information(unsure, sure.expand(2, 2, 2), shares) == 0.0


@pytest.mark.parametrize("members, most", [(2, 5), (9, 2)])
def test_information_lies_between_nothing_and_what_there_is_to_know(members: int, most: int) -> None:
    p = outcomes(drawn(members, 4, 30).double().softmax(-1), most)
    q = outcomes(drawn(members, 6, 30, sharp=9.0).double().softmax(-1), most)
    assert p.shape == (members, 4, most + 1) and torch.allclose(p.sum(-1), torch.ones(members, 4, dtype=p.dtype))
    shares = torch.full((6,), 1 / 6, dtype=p.dtype)
    assert 0 < information(p, q, shares) < min(math.log(members), math.log(most + 1))
    assert information(p, p[:1].expand(members, -1, -1)[:, :1], shares[:1]) == pytest.approx(0.0, abs=1e-12)


def test_an_ensemble_of_one_is_refused() -> None:
    with pytest.raises(ValidationError, match="an ensemble of one agrees with itself; take 2 members or more"):
        SignalChoice.model_validate({"name": "bald", "members": 1})


@pytest.mark.parametrize("driver", ["best_of_n", "grpo"])
def test_every_member_is_a_stage_with_a_cost(tmp_path: Path, driver: str) -> None:
    sets = {"signal.members": 3, "runtime.runs": str(tmp_path)}
    plan = make_plan(resolve_run(driver=driver, signal="epig", target="nano", scale="smoke", sets=sets))
    costs = {line.name: line.cost for line in plan.stages}
    members = [costs[f"member_{k}"] for k in (1, 2, 3)]
    assert all(cost is not None and cost.flops > 0 for cost in members) and "member_4" not in costs
    assert "warmup" not in costs


def test_members_are_shared_by_ensembles_and_differ(tmp_path: Path) -> None:
    def stages(**sets: object) -> dict[str, str]:
        own = {"runtime.runs": str(tmp_path), "signal.terms": "loss,bald,epig", **sets}
        assembly = assemble(resolve_run(driver="best_of_n", signal="combine", target="nano", sets=own).config)
        return {stage.name: stage.identity for stage in assembly.stages}

    found = stages()
    names = [name for name in found if name.startswith("member_")]
    assert names == ["member_1", "member_2", "member_3", "member_4"] and len({found[n] for n in names}) == 4
    larger = stages(**{"signal.terms": [{"signal": {"name": "bald", "members": 6}}]})
    assert {name: larger[name] for name in names} == {name: found[name] for name in names} and "member_6" in larger


def test_own_adapters_are_no_ensemble(tmp_path: Path) -> None:
    sets = {"warmup.adapter": [str(tmp_path)], "runtime.runs": str(tmp_path)}
    config = resolve_run(driver="best_of_n", signal="bald", target="nano", sets=sets).config
    with pytest.raises(ConfigError, match=r"warmup\.adapter names adapters that are trained already"):
        assemble(config)
