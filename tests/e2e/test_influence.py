"""The influence engine against the definition: every option, three architectures, any batching and layout."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from peft import LoraConfig

from harness.bench import oracle
from harness.config_runtime import ScoringConfig
from harness.errors import StageError
from harness.training.adam_state import AdamState
from harness.training.chat import Encoded
from methods.signals.influence.directions import Guidance, GuidancePart, best, guidance, halves
from methods.signals.influence.gamma import update_rule
from methods.signals.influence.products import influence
from methods.signals.influence.settings import InfluenceSettings
from methods.signals.influence.signal import InfluenceSignal
from methods.signals.target import selfcheck
from methods.signals.target.engine import LoraGradients, gradient_norms
from support import influence_reference as reference

AGGREGATES = ("mean_cosine", "cosine_of_mean", "max_subtask", "mean_dot")
FLAGS = (True, False)
EPSILONS = (("outside", 1e-8), ("inside", 1e-8), ("outside", 1e-5))
RULES = [
    InfluenceSettings(eps_mode=mode, eps=eps, bias_correction=bias, momentum=momentum, own_second_moment=own)
    for (mode, eps), bias, momentum, own in product(EPSILONS, FLAGS, FLAGS, FLAGS)
]
PRESETS = [InfluenceSignal.with_preset(p, aggregate=a) for p in ("less", "optimsyn-paper") for a in AGGREGATES]
SGD = [InfluenceSettings(update="sgd", aggregate=a) for a in AGGREGATES]
CANDIDATES, VALIDATION = reference.items(9, seed=10), reference.items(5, seed=20)
SUBTASKS = ["x", "y", "x", "y", "y"]
PARTS = halves([str(i) for i in range(5)], SUBTASKS, [False] * 5)


class Case:
    """A warmed-up model, its Adam state, and the definition's gradients, taken before the engine freezes the model."""

    def __init__(self, family: str) -> None:
        self.model, self.state = reference.warmed(family)
        self.candidates = [oracle.gradient(self.model, item) for item in CANDIDATES]
        self.validation = [oracle.gradient(self.model, item) for item in VALIDATION]

    def engine(self, batch_size: int = 4, restrict_logits: bool = True, **scoring: Any) -> LoraGradients:
        """The engine on a copy of the model."""
        model = copy.deepcopy(self.model)
        return LoraGradients(model, 0, batch_size, ScoringConfig(**scoring), restrict_logits=restrict_logits)

    def wanted(self, options: InfluenceSettings) -> list[float]:
        """The definition's scores."""
        return oracle.scores(self.candidates, self.validation, self.state, options, SUBTASKS)


@pytest.fixture(scope="module", params=reference.FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture(scope="module")
def qwen() -> Case:
    return Case("qwen3")


def engine_scores(
    gradients: LoraGradients,
    items: list[Encoded],
    state: AdamState | None,
    options: InfluenceSettings,
    found: Guidance | None = None,
    readings: tuple[str, ...] = ("a", "b"),
) -> list[float]:
    """Scores by the engine; the state is copied, since the rule takes it over."""
    found = found or guidance(gradients, VALIDATION, PARTS, options.aggregate)
    rule = update_rule(copy.deepcopy(state), options)
    dots, _ = influence(gradients, items, found.vectors, rule, cosine=options.aggregate != "mean_dot")
    scores: list[float] = best(found.combine(dots, options.aggregate, readings)).tolist()
    return scores


def test_every_option_equals_the_definition(case: Case) -> None:
    gradients = case.engine()
    found = {o.aggregate: guidance(gradients, VALIDATION, PARTS, o.aggregate) for o in SGD}
    for options in [*RULES, *PRESETS, *SGD]:
        got = engine_scores(gradients, CANDIDATES, case.state, options, found[options.aggregate])
        reference.assert_close(got, case.wanted(options), 1e-4)


def test_the_options_are_told_apart(qwen: Case) -> None:
    """The comparison above would mean little if the options hardly changed the scores."""
    default = qwen.wanted(InfluenceSettings())
    for change in (
        {"update": "sgd"},
        {"eps_mode": "inside"},
        {"momentum": False},
        {"own_second_moment": False},
        {"aggregate": "cosine_of_mean"},
        {"aggregate": "max_subtask"},
    ):
        with pytest.raises(AssertionError):
            reference.assert_close(qwen.wanted(InfluenceSettings(**change)), default, 1e-2)


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
    rule = update_rule(copy.deepcopy(qwen.state), InfluenceSettings())
    taken = rule.apply_(qwen.candidates[0][name].clone()[None], name)[0]
    torch.testing.assert_close(-parameter.detach(), taken, rtol=1e-4, atol=1e-5)
    wanted = oracle.adam_direction({name: qwen.candidates[0][name]}, qwen.state, InfluenceSettings())[name]
    torch.testing.assert_close(-parameter.detach().double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("restrict", [True, False], ids=["restricted", "full logits"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_layouts_recomputation_and_logits_change_nothing(
    case: Case, layout: str, checkpointing: bool, restrict: bool
) -> None:
    gradients = case.engine(restrict_logits=restrict, layout=layout, activation_checkpointing=checkpointing)
    for options in (InfluenceSettings(), InfluenceSignal.with_preset("less")):
        got = engine_scores(gradients, CANDIDATES, case.state, options)
        reference.assert_close(got, case.wanted(options), 1e-4)


def test_activations_are_recomputed_and_not_kept(qwen: Case) -> None:
    """Otherwise the option would be without effect: each layer runs a second time in the backward pass."""
    runs = {}
    for checkpointing in (False, True):
        gradients = qwen.engine(activation_checkpointing=checkpointing)
        count = [0]
        layer = gradients.model.get_base_model().model.layers[0]
        handle = layer.self_attn.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        gradient_norms(gradients, CANDIDATES[:2])
        handle.remove()
        runs[checkpointing] = count[0]
    assert runs == {False: 1, True: 2}


def test_nothing_below_the_lowest_adapter_is_differentiated() -> None:
    model = reference.lora_model("qwen3", layers_to_transform=[1])
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    wanted = [oracle.gradient(model, item) for item in CANDIDATES]
    gradients = LoraGradients(copy.deepcopy(model), 0)
    seen: list[bool] = []
    layers = gradients.model.get_base_model().model.layers
    layers[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].requires_grad))
    norms = gradient_norms(gradients, CANDIDATES).tolist()
    reference.assert_close(norms, [float(oracle.flat(g).norm()) for g in wanted], 1e-5)
    assert seen == [False]


def test_only_the_trained_of_several_adapters_is_scored(qwen: Case) -> None:
    model = copy.deepcopy(qwen.model)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.set_adapter("default")
    gradients = LoraGradients(model, 0)
    assert gradients.modules.keys() == qwen.state.first.keys()
    options = InfluenceSettings()
    reference.assert_close(engine_scores(gradients, CANDIDATES, qwen.state, options), qwen.wanted(options), 1e-4)


def test_adapters_that_are_active_together_are_scored_together(qwen: Case) -> None:
    model = copy.deepcopy(qwen.model)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.base_model.set_adapter(["default", "other"])
    wanted = [float(oracle.flat(oracle.gradient(model, item)).norm()) for item in CANDIDATES]
    gradients = LoraGradients(model, 0)
    assert any(".other." in name for name in gradients.modules)
    reference.assert_close(gradient_norms(gradients, CANDIDATES).tolist(), wanted, 1e-5)


def test_scores_in_bfloat16_rank_as_in_float32(case: Case) -> None:
    model = copy.deepcopy(case.model).to(torch.bfloat16)
    options = InfluenceSettings()
    got = engine_scores(LoraGradients(model, 0), CANDIDATES, case.state, options)
    reference.assert_close(got, case.wanted(options), 0.1)


def test_batching_and_padding_change_nothing(case: Case) -> None:
    options = InfluenceSettings()
    together = engine_scores(case.engine(batch_size=64), CANDIDATES, case.state, options)
    gradients = case.engine(batch_size=64)
    alone = [engine_scores(gradients, [item], case.state, options)[0] for item in CANDIDATES]
    reference.assert_close(alone, together, 1e-5)
    for size in (1, 2, 5):
        reference.assert_close(engine_scores(case.engine(size), CANDIDATES, case.state, options), together, 1e-5)
    small = case.engine(64, batch_tokens=30)
    reference.assert_close(engine_scores(small, CANDIDATES, case.state, options), together, 1e-5)


def test_pieces_of_a_batch_change_nothing(qwen: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    options = InfluenceSettings()
    whole = engine_scores(qwen.engine(), CANDIDATES, qwen.state, options)
    monkeypatch.setattr("methods.signals.influence.products.CACHE_ELEMENTS", 300)
    reference.assert_close(engine_scores(qwen.engine(), CANDIDATES, qwen.state, options), whole, 1e-6)


def test_scores_keep_the_order_of_the_items(qwen: Case) -> None:
    gradients, options = qwen.engine(), InfluenceSettings()
    forward = engine_scores(gradients, CANDIDATES, qwen.state, options)
    backward = engine_scores(gradients, CANDIDATES[::-1], qwen.state, options)
    reference.assert_close(backward[::-1], forward, 1e-5)
    norms = [float(oracle.flat(g).norm()) for g in qwen.candidates]
    reference.assert_close(gradient_norms(gradients, CANDIDATES).tolist(), norms, 1e-5)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_halves_and_withheld_items_are_scored_beside(qwen: Case, aggregate: Any) -> None:
    """Each reading equals the definition on exactly its items, and withheld items do not touch the value."""
    gradients, options = qwen.engine(), InfluenceSettings(aggregate=aggregate)
    parts = halves([str(i) for i in range(5)], ["x", "x", "x", "y", "y"], [False, False, False, False, True])
    found = guidance(gradients, VALIDATION, parts, aggregate)
    assert [p.half for p in parts] == ["a", "b", "a", "a", "withheld"]
    for readings in (("a", "b"), ("a",), ("b",), ("withheld",)):
        chosen = [i for i, p in enumerate(parts) if p.half in readings]
        wanted = oracle.scores(
            qwen.candidates,
            [qwen.validation[i] for i in chosen],
            qwen.state,
            options,
            [parts[i].subtask for i in chosen],
        )
        got = engine_scores(gradients, CANDIDATES, qwen.state, options, found, readings)
        reference.assert_close(got, wanted, 1e-4)
    rewarded = guidance(gradients, VALIDATION[:4], parts[:4], aggregate)
    assert rewarded.coherence == pytest.approx(found.coherence, rel=1e-6)


def test_a_half_without_items_is_not_a_number(qwen: Case) -> None:
    found = guidance(qwen.engine(), VALIDATION[:1], PARTS[:1], "mean_cosine")
    assert found.combine(torch.ones(2, 1, dtype=torch.float64), "mean_cosine", ("b",)).isnan().all()


def test_a_subtask_without_a_usable_item_keeps_its_column(qwen: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are summed column by column: one where a subtask has no gradient must not shift the others."""
    gradients = qwen.engine()
    one = guidance(gradients, VALIDATION, PARTS, "max_subtask")
    flat_at_x = torch.tensor([0.0 if s == "x" else 1.0 for s in SUBTASKS], dtype=torch.float64)
    norms = gradient_norms(gradients, VALIDATION)
    monkeypatch.setattr("methods.signals.influence.directions.gradient_norms", lambda *_: norms * flat_at_x)
    other = guidance(gradients, VALIDATION, PARTS, "max_subtask")
    ones = torch.ones(2, len(one.parts), dtype=torch.float64)
    scores = [f.combine(ones[:, : len(f.parts)], "max_subtask", ("a", "b")) for f in (one, other)]
    assert scores[0].tolist() == [[1.0, 1.0]] * 2
    assert scores[1][:, 0].isnan().all() and scores[1][:, 1].tolist() == [1.0, 1.0]
    assert best(scores[0] + scores[1]).tolist() == [2.0, 2.0]
    assert best(torch.full((1, 2), torch.nan)).isnan().all()


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_coherence_is_the_length_of_the_mean_unit_gradient(qwen: Case, aggregate: Any) -> None:
    found = guidance(qwen.engine(), VALIDATION, PARTS, aggregate)
    unit = [oracle.flat(g) / oracle.flat(g).norm() for g in qwen.validation]
    assert found.coherence == pytest.approx(float(torch.stack(unit).mean(dim=0).norm()), rel=1e-5)
    assert int((found.norms > 0.0).sum()) == len(VALIDATION)


def test_halves_take_turns_in_each_subtask_by_id() -> None:
    parts = halves(["c", "a", "b", "d"], ["x", "x", "x", "y"], [False, False, False, True])
    expected = [("x", "a"), ("x", "a"), ("x", "b"), ("y", "withheld")]
    assert parts == [GuidancePart(*each) for each in expected]  # type: ignore[arg-type]


def test_the_self_check_measures_how_far_gradients_are_apart(case: Case) -> None:
    """Half of a gradient is what a missed path would look like."""
    gradients = case.engine()
    for item, wanted in zip(CANDIDATES[:3], case.candidates[:3], strict=True):
        got = selfcheck.item_gradients(gradients, [item])[0]
        again = selfcheck.autograd(gradients.model, gradients, item)
        assert selfcheck.distance(got, wanted) < 1e-4 and selfcheck.distance(again, wanted) < 1e-4
        halved = {name: g / 2 for name, g in got.items()}
        assert selfcheck.distance(halved, wanted) == pytest.approx(0.5, rel=1e-3)


def _flat_head(model: Any) -> None:
    """Logits that do not depend on the input: every gradient is zero."""
    torch.nn.init.zeros_(model.get_output_embeddings().weight)


def test_validation_items_without_a_gradient_are_refused() -> None:
    base = reference.base_model("llama")
    _flat_head(base)
    gradients = LoraGradients(reference.lora_model("llama", base), pad_id=0)
    assert gradient_norms(gradients, VALIDATION).tolist() == [0.0] * len(VALIDATION)
    with pytest.raises(StageError, match="no validation item has a usable gradient"):
        guidance(gradients, VALIDATION, PARTS, "mean_cosine")


def test_a_candidate_without_a_gradient_has_norm_zero(qwen: Case) -> None:
    """Momentum alone would give it a score, so the norm is what tells."""
    found = guidance(qwen.engine(), VALIDATION, PARTS, "mean_cosine")
    gradients = qwen.engine()
    untied = torch.nn.Parameter(torch.zeros_like(gradients.model.get_output_embeddings().weight))
    gradients.model.get_output_embeddings().weight = untied
    untied.requires_grad_(False)
    rule = update_rule(copy.deepcopy(qwen.state), InfluenceSettings())
    dots, norms = influence(gradients, CANDIDATES[:2], found.vectors, rule)
    assert norms.tolist() == [0.0, 0.0] and bool(dots.isfinite().all())
    plain = update_rule(None, InfluenceSettings(update="sgd"))
    assert bool(influence(gradients, CANDIDATES[:2], found.vectors, plain)[0].isnan().all())


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
        engine_scores(qwen.engine(), CANDIDATES, None, InfluenceSettings())
