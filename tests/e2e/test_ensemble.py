"""`bald` and `epig` by definition: every member on its own, one item at a time, and sums written out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import SignalChoice
from harness.errors import StageError
from harness.models.transformers_backend import load_causal_lm
from harness.training.chat import encode
from harness.training.recipe import LoraSettings, lora_config
from harness.types import Sample, Score
from methods.signals.base import Archive, Item, SignalContext, TargetState, ValidationExample, WarmCheckpoint
from methods.signals.catalogue import make_signal
from support.tiny import make_tiny_model
from support.tiny_target import LENGTH, PAIRS, TOO_LONG, pair

MEMBERS = 3
ITEMS: list[Item] = list(PAIRS[:5])
TARGETS = [pair(50 + i, f"which of {i}?", "no " * (1 + i)) for i in range(3)]
VALIDATION = [ValidationExample(s.id, s.messages, withheld=i == 2) for i, s in enumerate(TARGETS)]


def member(model: Path, folder: Path, seed: int, dropout: float) -> WarmCheckpoint:
    """An adapter of random weights, large enough that members are sure of different things."""
    from peft import get_peft_model

    base, _ = load_causal_lm(model)
    own = get_peft_model(base, lora_config(LoraSettings(4, 8, dropout, ("v_proj", "o_proj")), seed, base, "test"))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=2.0)
    own.save_pretrained(folder)
    return WarmCheckpoint(folder, folder / "none")


def sharpen(folder: Path) -> None:
    """Have a model of random weights, which predicts all tokens alike, prefer a few."""
    model, _ = load_causal_lm(folder)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40.0)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> TargetState:
    folder = tmp_path_factory.mktemp("ensemble")
    model = make_tiny_model(folder / "target")
    sharpen(model)
    members = tuple(member(model, folder / str(seed), seed, 0.0) for seed in range(MEMBERS))
    return TargetState(model, "rev", LENGTH, members=members)


def scored(target: TargetState, name: str, items: list[Item], **settings: Any) -> list[Score]:
    signal = make_signal(SignalChoice.model_validate({"name": name, "members": MEMBERS, **settings}))
    signal.prepare(SignalContext(seed=3, validation=VALIDATION), target)
    return signal.score(items, Archive())


def values(scores: list[Score]) -> list[float]:
    return [score.value for score in scores if score.value is not None]


def predictions(target: TargetState, sample: Sample) -> list[list[list[float]]]:
    """By member and answer token the probabilities of the vocabulary, by whole passes over the one item."""
    from peft import PeftModel

    found = []
    for own in target.members:
        base, tokenizer = load_causal_lm(target.model)
        model = PeftModel.from_pretrained(base, own.adapter).eval()
        code = encode(tokenizer, sample.messages, LENGTH)
        with torch.no_grad():
            p = model(torch.tensor([code.ids])).logits[0].double().softmax(-1)
        found.append(p[code.prompt_length - 1 : len(code.ids) - 1].tolist())
    return found


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def mean(values: list[Any]) -> Any:
    return (
        [mean(list(v)) for v in zip(*values, strict=True)] if isinstance(values[0], list) else sum(values) / len(values)
    )


def bald_by_hand(target: TargetState, sample: Sample) -> float:
    places = list(zip(*predictions(target, sample), strict=True))
    return sum(entropy(mean(list(p))) - sum(map(entropy, p)) / len(p) for p in places) / len(places)


def epig_by_hand(target: TargetState, sample: Sample, about: list[Sample], outcomes: int, positions: int) -> float:
    def coarse(s: Sample) -> list[list[list[float]]]:
        places = []
        for p in list(zip(*predictions(target, s), strict=True))[:positions]:
            both = mean(list(p))
            kept = sorted(range(len(both)), key=lambda v: -both[v])[:outcomes]
            places.append([[own[v] for v in kept] + [1 - sum(own[v] for v in kept)] for own in p])
        return places

    def gain(p: list[list[float]], q: list[list[float]]) -> float:
        total, here, there = 0.0, mean(p), mean(q)
        for a in range(len(here)):
            for b in range(len(there)):
                joint = sum(x[a] * y[b] for x, y in zip(p, q, strict=True)) / len(p)
                total += joint * math.log(joint / (here[a] * there[b])) if joint > 0 else 0.0
        return total

    own = coarse(sample)
    by_item = [mean([mean([gain(p, q) for q in coarse(s)]) for p in own]) for s in about]
    return sum(by_item) / len(by_item)


def test_bald_is_the_definition(target: TargetState) -> None:
    scores = scored(target, "bald", [*ITEMS, TOO_LONG])
    hand = [bald_by_hand(target, item) for item in ITEMS if isinstance(item, Sample)]
    assert values(scores) == pytest.approx(hand, abs=1e-7) and min(hand) > 1e-4
    assert scores[-1].reason == "no completion token left"
    assert all(0 <= v <= math.log(MEMBERS) for v in values(scores))


def test_epig_is_the_definition(target: TargetState) -> None:
    scores = scored(target, "epig", ITEMS[:2], outcomes=3, positions=2)
    for score, item in zip(scores, ITEMS, strict=False):
        assert isinstance(item, Sample)
        assert score.value == pytest.approx(epig_by_hand(target, item, TARGETS[:2], 3, 2), abs=1e-8)
        assert score.parts["withheld"] == pytest.approx(epig_by_hand(target, item, TARGETS[2:], 3, 2), abs=1e-8)
        assert 1e-7 < (score.value or 0.0) <= math.log(MEMBERS)


@pytest.mark.parametrize("name", ["bald", "epig"])
def test_members_that_are_one_know_nothing_of_each_other(target: TargetState, name: str) -> None:
    same = replace(target, members=target.members[:1] * MEMBERS)
    assert values(scored(same, name, ITEMS)) == pytest.approx([0.0] * len(ITEMS), abs=1e-12)
    with pytest.raises(StageError, match=f"{name} needs 3 warm-ups of the target; the driver provided 2"):
        scored(replace(target, members=target.members[:2]), name, ITEMS)


@pytest.fixture(scope="module")
def dropped(target: TargetState, tmp_path_factory: pytest.TempPathFactory) -> TargetState:
    """A warm-up with dropout in its adapter."""
    own = member(Path(target.model), tmp_path_factory.mktemp("dropped"), 9, 0.3)
    return replace(target, checkpoints=(own,), members=())


@pytest.mark.parametrize("name, settings", [("bald", {}), ("epig", {}), ("bald", {"ensemble": "dropout"})])
def test_no_score_depends_on_what_is_scored_beside_it(
    target: TargetState, dropped: TargetState, name: str, settings: dict[str, Any]
) -> None:
    own = dropped if settings else target
    together = values(scored(own, name, ITEMS, **settings))
    reverse = values(scored(own, name, ITEMS[::-1], **settings))[::-1]
    alone = [values(scored(own, name, [item], **settings))[0] for item in ITEMS]
    assert reverse == pytest.approx(together, abs=1e-6) and alone == pytest.approx(together, abs=1e-6)
    assert min(together) > 0


def test_a_model_without_dropout_is_told_so(target: TargetState) -> None:
    plain = replace(target, checkpoints=target.members[:1])
    with pytest.raises(StageError, match=r"the target has no dropout, so that its passes are all alike"):
        scored(plain, "bald", ITEMS, ensemble="dropout")
