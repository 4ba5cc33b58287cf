"""The influence engine against the definition: every option, three architectures, any batching."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import influence_reference as reference
import pytest
import torch

from harness.config import InfluenceConfig
from harness.errors import StageError
from harness.training.adam_state import AdamState
from harness.training.chat import Encoded
from methods.signals.influence.engine import (
    LoraGradients,
    gradient_norms,
    influence,
    validation_direction,
)

AGGREGATES = ("mean_cosine", "cosine_of_mean", "mean_dot")
FLAGS = (True, False)
EPSILONS = (("outside", 1e-8), ("inside", 1e-8), ("outside", 1e-5))
ADAM = [
    InfluenceConfig(
        eps_mode=mode, eps=eps, bias_correction=bias, momentum=momentum, own_second_moment=own, aggregate=aggregate
    )
    for (mode, eps), bias, momentum, own, aggregate in product(EPSILONS, FLAGS, FLAGS, FLAGS, AGGREGATES)
]
SGD = [InfluenceConfig(update="sgd", aggregate=a) for a in AGGREGATES]
CANDIDATES, VALIDATION = reference.items(9, seed=10), reference.items(5, seed=20)


class Case:
    """A warmed-up model, its Adam state, and the reference's gradients, taken before the engine freezes the model."""

    def __init__(self, family: str) -> None:
        self.model, self.state = reference.warmed(family)
        self.candidates = [reference.gradient(self.model, item) for item in CANDIDATES]
        self.validation = [reference.gradient(self.model, item) for item in VALIDATION]

    def engine(self, batch_size: int = 4) -> LoraGradients:
        """The engine on a copy of the model."""
        return LoraGradients(copy.deepcopy(self.model), pad_id=0, batch_size=batch_size)


@pytest.fixture(scope="module", params=reference.FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture(scope="module")
def qwen() -> Case:
    return Case("qwen3")


def engine_scores(
    gradients: LoraGradients, items: list[Encoded], state: AdamState | None, options: InfluenceConfig
) -> list[float]:
    direction, _ = validation_direction(gradients, VALIDATION, options)
    return influence(gradients, items, [direction], state, options)[0][:, 0].tolist()


def test_every_option_equals_the_definition(case: Case) -> None:
    gradients = case.engine()
    directions = {o.aggregate: validation_direction(gradients, VALIDATION, o)[0] for o in SGD}
    for options in [*ADAM, *SGD]:
        wanted = reference.scores(case.candidates, case.validation, case.state, options)
        got = influence(gradients, CANDIDATES, [directions[options.aggregate]], case.state, options)[0]
        reference.assert_close(got[:, 0].tolist(), wanted, 1e-4)


def test_the_options_are_told_apart(qwen: Case) -> None:
    """The comparison above would mean little if the options hardly changed the scores."""
    default = reference.scores(qwen.candidates, qwen.validation, qwen.state, InfluenceConfig())
    for change in (
        {"update": "sgd"},
        {"eps_mode": "inside"},
        {"momentum": False},
        {"own_second_moment": False},
        {"aggregate": "cosine_of_mean"},
    ):
        other = reference.scores(qwen.candidates, qwen.validation, qwen.state, InfluenceConfig(**change))
        with pytest.raises(AssertionError):
            reference.assert_close(other, default, 1e-2)


def test_adams_direction_is_the_step_that_adam_takes(qwen: Case) -> None:
    """With the paper's options, Γ times the learning rate is what torch's Adam subtracts when g comes next."""
    name = next(iter(qwen.state.first))
    parameter = torch.nn.Parameter(torch.zeros_like(qwen.state.first[name]))
    optimizer = torch.optim.Adam([parameter], lr=1.0)
    optimizer.state[parameter] = {
        "step": torch.tensor(float(qwen.state.step)),
        "exp_avg": qwen.state.first[name].clone(),
        "exp_avg_sq": qwen.state.second[name].clone(),
    }
    parameter.grad = qwen.candidates[0][name].clone()
    optimizer.step()
    wanted = reference.adam_direction({name: qwen.candidates[0][name]}, qwen.state, InfluenceConfig())[name]
    torch.testing.assert_close(-parameter.detach().double(), wanted, rtol=1e-4, atol=1e-5)


def test_batching_and_padding_change_nothing(case: Case) -> None:
    options = InfluenceConfig()
    together = engine_scores(case.engine(batch_size=64), CANDIDATES, case.state, options)
    gradients = case.engine(batch_size=64)
    alone = [engine_scores(gradients, [item], case.state, options)[0] for item in CANDIDATES]
    reference.assert_close(alone, together, 1e-5)
    for size in (1, 2, 5):
        reference.assert_close(engine_scores(case.engine(size), CANDIDATES, case.state, options), together, 1e-5)


def test_scores_keep_the_order_of_the_items(qwen: Case) -> None:
    gradients, options = qwen.engine(), InfluenceConfig()
    forward = engine_scores(gradients, CANDIDATES, qwen.state, options)
    backward = engine_scores(gradients, CANDIDATES[::-1], qwen.state, options)
    reference.assert_close(backward[::-1], forward, 1e-5)
    norms = [float(reference.flat(g).norm()) for g in qwen.candidates]
    reference.assert_close(gradient_norms(gradients, CANDIDATES).tolist(), norms, 1e-5)


def test_two_directions_are_two_scores(qwen: Case) -> None:
    gradients, options = qwen.engine(), InfluenceConfig()
    halves = [VALIDATION[:2], VALIDATION[2:]]
    directions = [validation_direction(gradients, half, options)[0] for half in halves]
    both, norms = influence(gradients, CANDIDATES, directions, qwen.state, options)
    for column, half in enumerate((qwen.validation[:2], qwen.validation[2:])):
        wanted = reference.scores(qwen.candidates, half, qwen.state, options)
        reference.assert_close(both[:, column].tolist(), wanted, 1e-4)
    reference.assert_close(norms.tolist(), [float(reference.flat(g).norm()) for g in qwen.candidates], 1e-5)


def test_coherence_is_the_length_of_the_mean_unit_gradient(qwen: Case) -> None:
    _, facts = validation_direction(qwen.engine(), VALIDATION, InfluenceConfig())
    unit = [reference.flat(g) / reference.flat(g).norm() for g in qwen.validation]
    assert facts["validation_coherence"] == pytest.approx(float(torch.stack(unit).mean(dim=0).norm()), rel=1e-5)
    assert facts["validation_items"] == len(VALIDATION) and facts["validation_dropped"] == 0


def _flat_head(model: Any) -> None:
    """Logits that do not depend on the input: every gradient is zero."""
    torch.nn.init.zeros_(model.get_output_embeddings().weight)


def test_validation_items_without_a_gradient_are_refused() -> None:
    base = reference.base_model("llama")
    _flat_head(base)
    gradients = LoraGradients(reference.lora_model("llama", base), pad_id=0)
    assert gradient_norms(gradients, VALIDATION).tolist() == [0.0] * len(VALIDATION)
    with pytest.raises(StageError, match="no validation item has a usable gradient"):
        validation_direction(gradients, VALIDATION, InfluenceConfig())


def test_a_candidate_without_a_gradient_has_norm_zero(qwen: Case) -> None:
    """Momentum alone would give it a score, so the norm is what tells."""
    direction, _ = validation_direction(qwen.engine(), VALIDATION, InfluenceConfig())
    gradients = qwen.engine()
    untied = torch.nn.Parameter(torch.zeros_like(gradients.model.get_output_embeddings().weight))
    gradients.model.get_output_embeddings().weight = untied
    untied.requires_grad_(False)
    dots, norms = influence(gradients, CANDIDATES[:2], [direction], qwen.state, InfluenceConfig())
    assert norms.tolist() == [0.0, 0.0] and bool(dots.isfinite().all())
    assert bool(influence(gradients, CANDIDATES[:2], [direction], None, InfluenceConfig(update="sgd"))[0].isnan().all())


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_adapters_that_hooks_see_in_part_are_refused(changes: dict[str, Any]) -> None:
    base = reference.base_model("llama", attention_bias=True)
    with pytest.raises(StageError, match=r"plain LoRA adapter.*use LoRA without DoRA"):
        LoraGradients(reference.lora_model("llama", base, **changes), pad_id=0)


def test_a_model_with_nothing_to_train_is_refused(qwen: Case) -> None:
    with pytest.raises(StageError, match="0 parameters are trainable"):
        LoraGradients(copy.deepcopy(qwen.model).requires_grad_(False), pad_id=0)
    with pytest.raises(StageError, match="0 LoRA matrices"):
        LoraGradients(reference.base_model("qwen3"), pad_id=0)


def test_a_matrix_used_twice_is_refused() -> None:
    """Its gradient would come in two parts, and Γ of the parts is not Γ of the sum."""
    model = reference.lora_model("llama")
    first, second = model.get_base_model().model.layers
    second.self_attn.q_proj = first.self_attn.q_proj
    gradients = LoraGradients(model, pad_id=0)
    with pytest.raises(StageError, match="2 times"):
        gradient_norms(gradients, CANDIDATES)


def test_a_disabled_adapter_is_refused(qwen: Case) -> None:
    gradients = qwen.engine()
    with gradients.model.disable_adapter(), pytest.raises(StageError, match="0 times"):
        gradient_norms(gradients, CANDIDATES)


def test_adam_without_moments_is_refused(qwen: Case) -> None:
    with pytest.raises(StageError, match="moments"):
        engine_scores(qwen.engine(), CANDIDATES, None, InfluenceConfig())
