"""The `loss` signal against the definition, at the warmed-up target and at the base."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.config import SignalChoice
from harness.errors import StageError
from harness.models.transformers_backend import load_causal_lm
from harness.training.chat import encode
from harness.training.recipe import LoraSettings, Recipe
from harness.training.sft import finetune
from harness.types import Message, Sample, Seed
from methods.signals.base import Archive, Item, SignalContext, TargetState, WarmCheckpoint
from methods.signals.catalogue import make_signal
from support.tiny import make_tiny_model

LENGTH = 96


def sample(number: int, question: str, answer: str) -> Sample:
    return Sample(f"s{number}", ("d",), None, "", (Message("user", question), Message("assistant", answer)), "", "", "")


SAMPLES = [sample(i, f"is the answer {'one of ' * (i % 3)}{i}?", "yes " * (1 + i % 4) + str(i)) for i in range(12)]
TOO_LONG = sample(99, "the question " * 60, "yes")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> TargetState:
    folder = tmp_path_factory.mktemp("loss")
    model = make_tiny_model(folder / "target")
    recipe = Recipe(5e-3, 2, 4, 4, "constant", 0.0, 0.0, 0.999, LENGTH, LoraSettings(4, 8, 0.1, ("q_proj", "v_proj")))
    finetune(model, SAMPLES, recipe, seed=1, folder=folder, output="adapter", save_adam=True)
    adapter = folder / "adapter"
    return TargetState(model, "rev", LENGTH, checkpoints=(WarmCheckpoint(adapter, adapter / "adam.safetensors"),))


def _scores(target: TargetState | None, checkpoint: str, items: list[Item]) -> tuple[list[Any], Any]:
    signal = make_signal(SignalChoice.model_validate({"name": "loss", "checkpoint": checkpoint}))
    signal.prepare(SignalContext(seed=0), target)
    return signal.score(items, Archive()), signal


def _definition(target: TargetState, checkpoint: str) -> list[float]:
    """One sample at a time, all logits, the library's own cross-entropy."""
    from peft import PeftModel

    model, tokenizer = load_causal_lm(target.model)
    if checkpoint == "warm":
        model = PeftModel.from_pretrained(model, target.checkpoints[0].adapter)
    values = []
    for s in SAMPLES:
        code = encode(tokenizer, s.messages, LENGTH)
        ids = torch.tensor([code.ids])
        labels = ids.clone()
        labels[:, : code.prompt_length] = -100
        with torch.no_grad():
            values.append(float(model.eval()(input_ids=ids, labels=labels).loss))
    return values


@pytest.mark.parametrize("checkpoint", ["warm", "base"])
def test_loss_is_the_mean_cross_entropy_of_the_completion(target: TargetState, checkpoint: str) -> None:
    scores, signal = _scores(target, checkpoint, [*SAMPLES, TOO_LONG, Seed("d", "text")])
    assert [s.value for s in scores[:12]] == pytest.approx(_definition(target, checkpoint), rel=1e-5)
    assert [s.reason for s in scores[12:]] == ["no completion token left", "no reference answer"]
    assert {s.status for s in scores[12:]} == {"unscorable"} and {s.value for s in scores[12:]} == {None}
    (usage,) = signal.usage()
    assert (usage.role, usage.calls, usage.completion_tokens) == ("target", 12, 0)
    assert usage.flops > 0 and signal.usage() == []


def test_a_labelled_seed_has_the_loss_of_its_reference_answer(target: TargetState) -> None:
    thanks = (Message("user", "and now?"),)
    seeds = [Seed(f"d{i}", None, s.messages + thanks * (i % 2)) for i, s in enumerate(SAMPLES)]
    scores, _ = _scores(target, "base", [*seeds])
    assert [s.value for s in scores] == pytest.approx(_definition(target, "base"), rel=1e-5)


def test_warm_up_lowers_the_loss_of_what_was_learned(target: TargetState) -> None:
    warm, base = ([s.value for s in _scores(target, name, list(SAMPLES))[0]] for name in ("warm", "base"))
    assert sum(w < b for w, b in zip(warm, base, strict=True)) >= 11


def test_a_target_that_was_not_provided_is_said(target: TargetState) -> None:
    with pytest.raises(StageError, match="loss needs a warmed-up target"):
        _scores(TargetState(target.model, "rev", LENGTH), "warm", [])
    with pytest.raises(StageError, match="loss needs the target"):
        _scores(None, "base", [])
