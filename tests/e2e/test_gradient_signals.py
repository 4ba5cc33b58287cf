"""`gradient_norm`, `reducible_loss` and `density` against autograd, one sample at a time, with no code shared."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harness.config import SignalChoice
from harness.errors import StageError
from harness.models.transformers_backend import load_causal_lm
from harness.training.chat import encode
from harness.types import Sample, Seed
from methods.signals.base import Archive, Item, SignalContext, TargetState
from methods.signals.catalogue import make_signal, signal_needs
from methods.signals.gradient_norm import GradientNormSettings
from methods.signals.target.head import check_head
from support.facts import by_name
from support.tiny_target import LENGTH, PAIRS, TOO_LONG, pair, warm_target

SEEDS = [Seed("d0", "is the answer one of the choices"), Seed("d1", "the question of yes or no"), Seed("d2", " ")]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> TargetState:
    return warm_target(tmp_path_factory.mktemp("gradients"))


def scored(target: TargetState, items: list[Item], name: str, **settings: Any) -> tuple[list[Any], Any, Any]:
    signal = make_signal(SignalChoice.model_validate({"name": name, **settings}))
    said = signal.prepare(SignalContext(seed=0, seeds=SEEDS), target)
    return signal.score(items, Archive()), signal, said


def by_hand(target: TargetState, item: Sample, which: str, *, warm: bool) -> tuple[float, float]:
    """Loss of the answer, and the norm of its gradient over the parameters whose name contains `which`."""
    from peft import PeftModel

    model, tokenizer = load_causal_lm(target.model)
    if warm:
        model = PeftModel.from_pretrained(model, target.checkpoints[-1].adapter)
    code = encode(tokenizer, item.messages, LENGTH)
    ids = torch.tensor([code.ids])
    labels = ids.clone()
    labels[:, : code.prompt_length] = -100
    head = model.get_output_embeddings()
    if which == "lm_head":
        # Untied, so that the gradient is the head's alone.
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    parameters = [head.weight] if which == "lm_head" else [p for name, p in model.named_parameters() if which in name]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    loss = model.eval()(input_ids=ids, labels=labels).loss
    gradients = torch.autograd.grad(loss, parameters)
    return float(loss.detach()), math.sqrt(sum(float(g.square().sum()) for g in gradients))


@pytest.mark.parametrize(
    ("settings", "which", "warm"),
    [
        ({}, "lora_", True),
        ({"parameters": "head"}, "lm_head", True),
        ({"parameters": "head", "checkpoint": "base"}, "lm_head", False),
        ({"upstream": True}, "", False),
    ],
)
def test_gradient_norm_is_autograds(target: TargetState, settings: Any, which: str, warm: bool) -> None:
    items: list[Item] = [*PAIRS[:6], TOO_LONG, Seed("d", "text")]
    scores, signal, said = scored(target, items, "gradient_norm", **settings)
    wanted = [by_hand(target, item, which, warm=warm)[1] for item in PAIRS[:6]]
    assert [s.value for s in scores[:6]] == pytest.approx(wanted, rel=1e-5)
    assert [s.reason for s in scores[6:]] == ["no completion token left", "only samples can be scored"]
    assert by_name(said.facts)["parameters"] == (
        "all" if "upstream" in settings else settings.get("parameters", "lora")
    )
    assert sum(usage.calls for usage in signal.usage()) == 6


def test_settings_of_gradient_norm_that_contradict_each_other_are_refused() -> None:
    for settings in ({"checkpoint": "base"}, {"upstream": True, "parameters": "head"}):
        with pytest.raises(ValidationError, match=r"no adapter|leave out"):
            GradientNormSettings.model_validate(settings)
    needs = [signal_needs(SignalChoice.model_validate({"name": "gradient_norm", "upstream": u})) for u in (True, False)]
    assert needs == [{"target"}, {"warm_target"}]


def test_a_head_whose_logits_are_changed_afterwards_is_refused(target: TargetState) -> None:
    model, _ = load_causal_lm(target.model)
    assert check_head(model, "").status == "passed"
    forward = model.forward

    def capped(*args: Any, **given: Any) -> Any:
        out = forward(*args, **given)
        out.logits = 2 * torch.tanh(out.logits / 2)
        return out

    model.forward = capped
    assert check_head(model, "").status == "failed"


def test_reducible_loss_is_the_difference_of_two_losses(target: TargetState) -> None:
    scores, _, _ = scored(target, list(PAIRS[:4]), "reducible_loss")
    base = [_loss(target, item, False) for item in PAIRS[:4]]
    warm = [_loss(target, item, True) for item in PAIRS[:4]]
    assert [s.parts["loss"] for s in scores] == pytest.approx(base, rel=1e-5)
    assert [s.value for s in scores] == pytest.approx([b - w for b, w in zip(base, warm, strict=True)], abs=1e-5)
    assert all(s.value > 0 for s in scores)
    with pytest.raises(StageError, match="needs a warmed-up target"):
        scored(TargetState(target.model, "rev", LENGTH), [], "reducible_loss")


def _loss(target: TargetState, item: Sample, warm: bool) -> float:
    return by_hand(target, item, "lora_" if warm else "lm_head", warm=warm)[0]


def test_density_weighs_the_loss_by_the_mean_cosine_to_the_documents(target: TargetState) -> None:
    from harness.config import EmbedderConfig
    from harness.models.embedder import open_embedder

    items = [*PAIRS[:3], pair(50, "  ", "yes")]
    embed = open_embedder(EmbedderConfig()).embed
    cosines = embed([p.question for p in PAIRS[:3]]) @ embed([s.text or "" for s in SEEDS[:2]]).T
    for beta in (1.0, 2.0):
        scores, _, _ = scored(target, list(items), "density", beta=beta)
        wanted = [_loss(target, p, True) * max(0.0, c.mean()) ** beta for p, c in zip(PAIRS, cosines, strict=False)]
        assert [s.value for s in scores[:3]] == pytest.approx(wanted, rel=1e-5)
        assert (scores[3].value, scores[3].reason) == (None, "no words to compare")


@pytest.mark.parametrize(
    ("name", "settings"),
    [("gradient_norm", {}), ("gradient_norm", {"parameters": "head"}), ("reducible_loss", {}), ("density", {})],
)
def test_scores_depend_on_no_batch_and_no_order(target: TargetState, name: str, settings: Any) -> None:
    items: list[Item] = list(PAIRS)
    together, signal, _ = scored(target, items, name, **settings)
    backwards = signal.score(items[::-1], Archive())[::-1]
    shards = [s for i in range(0, 12, 5) for s in signal.score(items[i : i + 5], Archive())]
    elsewhere = [s for i in range(0, 12, 5) for s in scored(target, items[i : i + 5], name, **settings)[0]]
    values = [s.value for s in together]
    for other in (backwards, shards, elsewhere):
        assert [s.value for s in other] == pytest.approx(values, rel=1e-6, abs=1e-6)
    assert len({round(v, 6) for v in values}) > 8
