"""Acquisition functions of the target's own answers against the definitions, a token at a time, without a cache."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import SignalChoice
from harness.models.transformers_backend import load_causal_lm
from harness.types import Message, Sample, Score, Seed, chat
from methods.signals.base import Archive, Item, SignalContext, TargetState
from methods.signals.catalogue import cost_class, make_signal, signal_uses
from methods.signals.target.answers import _Chooser
from support.tiny import make_tiny_model

TOKENS = 12
GREEDY = ("confidence", "least_confidence", "entropy", "self_loss")


def sample(number: int, question: str) -> Sample:
    turns = (Message("user", question), Message("assistant", "yes"))
    return Sample(f"s{number}", ("d",), None, "", turns, "", "", "")


ITEMS: list[Item] = [sample(i, f"is the answer {'one of ' * (i % 3)}{i}?") for i in range(5)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> TargetState:
    return TargetState(make_tiny_model(tmp_path_factory.mktemp("acquisition") / "target", printable=True), "rev", 128)


def scored(target: TargetState, name: str, items: list[Item], **settings: Any) -> tuple[list[Score], Any]:
    own = {"name": name, "checkpoint": "base", "max_tokens": TOKENS, **settings}
    signal = make_signal(SignalChoice.model_validate(own))
    signal.prepare(SignalContext(seed=3), target)
    return signal.score(items, Archive()), signal


def by_hand(path: Path | str, question: str) -> dict[str, float]:
    """A whole pass for every token of the greedy answer, and the definitions in plain numbers."""
    model, tokenizer = load_causal_lm(path)
    text = tokenizer.apply_chat_template(chat([Message("user", question)]), tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    margins, entropies, logs = [], [], []
    for _ in range(TOKENS):
        with torch.no_grad():
            p = model.eval()(torch.tensor([ids])).logits[0, -1].double().softmax(0).tolist()
        first, second = sorted(p)[-1], sorted(p)[-2]
        margins.append(first - second)
        entropies.append(-sum(x * math.log(x) for x in p if x > 0))
        logs.append(math.log(first))
        ids.append(p.index(first))
        if ids[-1] == tokenizer.eos_token_id:
            break
    n = len(logs)
    return {
        "confidence": 1 - sum(margins) / n,
        "least_confidence": 1 - math.prod(math.exp(x) for x in logs) ** (1 / n),
        "entropy": sum(entropies) / n,
        "self_loss": -sum(logs) / n,
    }


@pytest.mark.parametrize("name", GREEDY)
def test_a_score_is_the_definition(target: TargetState, name: str) -> None:
    scores, signal = scored(target, name, ITEMS)
    hand = [by_hand(target.model, item.question)[name] for item in ITEMS if isinstance(item, Sample)]
    assert [s.value for s in scores] == pytest.approx(hand, abs=1e-6)
    used = signal.usage()
    assert len(used) == 5 and all(0 < u.completion_tokens <= TOKENS and u.flops > 0 for u in used)
    choice = SignalChoice.model_validate(name)
    assert cost_class(signal_uses(choice)) == "sampling"


@pytest.mark.parametrize("settings", [{}, {"upstream": True}])
def test_no_score_depends_on_what_is_scored_beside_it(target: TargetState, settings: dict[str, Any]) -> None:
    together = [s.value for s in scored(target, "confidence", ITEMS, **settings)[0]]
    reverse = [s.value for s in scored(target, "confidence", ITEMS[::-1], **settings)[0]][::-1]
    alone = [scored(target, "confidence", [item], **settings)[0][0].value for item in ITEMS]
    assert reverse == pytest.approx(together, abs=1e-6) and alone == pytest.approx(together, abs=1e-6)


def test_the_released_formula_is_the_inverse_margin_cut_at_two(target: TargetState) -> None:
    scores, signal = scored(target, "confidence", ITEMS, upstream=True)
    assert signal.settings.template == "none" and signal.temperature(signal.settings) == 0.7
    # The tiny model is nearly uniform: every lead is below 1/2, so each score is at one of the ends.
    assert {s.value for s in scores} <= {0.0, 2.0} and 0.0 in {s.value for s in scores}


def test_a_conversation_as_a_seed_is_asked_and_a_document_is_not(target: TargetState) -> None:
    question = ITEMS[0].messages
    scores, _ = scored(
        target, "self_loss", [ITEMS[0], Seed("c", None, question), Seed("d", "text"), sample(9, "a " * 99)]
    )
    assert scores[1].value == scores[0].value
    assert [s.reason for s in scores[2:]] == ["it asks no question", "the question leaves no room for an answer"]


def test_figures_stay_within_their_bounds() -> None:
    """One-hot and uniform distributions, and what is between."""
    logits = torch.stack([torch.tensor([90.0] + [0.0] * 9), torch.zeros(10), torch.linspace(0, 3, 10)])
    chooser = _Chooser(0.0, torch.zeros(3, 1))
    chooser(torch.zeros(3, 1), logits)
    _, entropy, margin, lead = chooser.kept[0].unbind(1)
    assert (1 - margin).tolist()[:2] == pytest.approx([0.0, 1.0], abs=1e-9)
    assert entropy.tolist()[:2] == pytest.approx([0.0, math.log(10)], abs=1e-9)
    assert 0 < entropy[2] < math.log(10) and torch.equal(lead, margin)


def test_drawn_tokens_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, float("-inf")]]).expand(4000, 4)
    chosen = _Chooser(0.5, torch.rand(4000, 1, generator=torch.Generator().manual_seed(0)))
    shares = (chosen(torch.zeros(4000, 1), logits) == 0).double().mean(0)
    assert shares.tolist() == pytest.approx((logits[0].double() / 0.5).softmax(0).tolist(), abs=0.03)
