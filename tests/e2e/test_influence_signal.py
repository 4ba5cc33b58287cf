"""The influence signal from a real warm-up by the project's own trainer to scores, against the definition."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.bench import oracle
from harness.errors import StageError
from harness.models.transformers_backend import load_causal_lm
from harness.training import adam_state, sft
from harness.training.adam_state import AdamState
from harness.training.chat import encode
from harness.training.recipe import LoraSettings, Recipe
from harness.training.sft import finetune
from harness.types import Message, Sample, Score, Seed
from methods.signals.base import Archive, Preparation, SignalContext, TargetState, ValidationExample, WarmCheckpoint
from methods.signals.influence.settings import InfluenceSettings
from methods.signals.influence.signal import InfluenceSignal
from support import influence_reference as reference
from support.facts import by_name
from support.tiny import make_tiny_model

LENGTH = 96


def sample(number: int, question: str, answer: str) -> Sample:
    messages = (Message("user", question), Message("assistant", answer))
    return Sample(f"s{number}", ("d",), None, "", messages, answer, "test", "stop", 0, 0)


SAMPLES = [sample(i, f"is the answer {'one of ' * (i % 3)}{i}?", "yes " * (1 + i % 4) + str(i)) for i in range(12)]
VALIDATION = [
    ValidationExample(f"v{i}", (Message("user", f"which choice is {i}"), Message("assistant", f"choice {i}")), i < 2)
    for i in range(6)
]
TOO_LONG = sample(99, "the question " * 60, "yes")


@dataclass(frozen=True)
class Warm:
    """A warmed-up tiny target, and what its trainer held at the end."""

    target: TargetState
    optimizer: Mapping[str, Mapping[str, torch.Tensor]]
    adapter: Mapping[str, torch.Tensor]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Warm:
    folder = tmp_path_factory.mktemp("warm")
    model = make_tiny_model(folder / "target")
    held: dict[str, Any] = {}

    def spy(path: Path, trained: Any, optimizer: Any) -> None:
        inner = getattr(optimizer, "optimizer", optimizer)
        named = {n: p for n, p in trained.named_parameters() if p.requires_grad}
        held["adapter"] = {n: p.detach().clone() for n, p in named.items()}
        held["optimizer"] = {n: {k: v.clone() for k, v in inner.state[p].items()} for n, p in named.items()}
        adam_state.save_adam_state(path, trained, optimizer)

    lora = LoraSettings(4, 8, 0.1, ("q_proj", "v_proj", "down_proj"))
    recipe = Recipe(5e-3, 2, 4, 3, "linear", 0.03, 0.0, 0.999, LENGTH, lora)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "save_adam_state", spy)
        tuned = finetune(model, [*SAMPLES, TOO_LONG], recipe, seed=1, folder=folder, output="adapter", save_adam=True)
    assert (tuned.steps, tuned.unusable, tuned.truncated) == (6, 1, 1)
    adapter = folder / "adapter"
    target = TargetState(model, "rev", LENGTH, checkpoints=(WarmCheckpoint(adapter, adapter / "adam.safetensors"),))
    return Warm(target, held["optimizer"], held["adapter"])


def context(validation: list[ValidationExample] = VALIDATION) -> SignalContext:
    return SignalContext(seed=0, validation=validation, batch_size=5)


def prepared(warm: Warm, **options: Any) -> tuple[InfluenceSignal, Preparation]:
    signal = InfluenceSignal(InfluenceSettings(**options))
    return signal, signal.prepare(context(), warm.target)


def definition(warm: Warm, items: list[Sample], withheld: bool, options: InfluenceSettings) -> list[float]:
    """Scores from the trainer's own adapter and optimizer, not from the files."""
    base, tokenizer = load_causal_lm(warm.target.model)
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    model = reference.lora_model("qwen3", base, **lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(warm.adapter[name])
    first = {n: s["exp_avg"] for n, s in warm.optimizer.items()}
    second = {n: s["exp_avg_sq"] for n, s in warm.optimizer.items()}

    def gradient(messages: tuple[Message, ...]) -> oracle.Gradient:
        return oracle.gradient(model, encode(tokenizer, messages, LENGTH))

    validation = [gradient(v.messages) for v in VALIDATION if v.withheld == withheld]
    candidates = [gradient(s.messages) for s in items]
    return oracle.scores(candidates, validation, AdamState(first, second, 6), options)


@pytest.mark.parametrize("options", [{}, {"eps_mode": "inside", "bias_correction": False}, {"update": "sgd"}])
def test_scores_equal_the_definition_on_the_trainers_own_state(warm: Warm, options: dict[str, Any]) -> None:
    signal, said = prepared(warm, **options)
    got = signal.score(SAMPLES, Archive())
    assert [s.item_id for s in got] == [s.id for s in SAMPLES]
    assert all(s.status == "ok" and s.signal == "influence" and s.target_rev == "rev" for s in got)
    wanted = definition(warm, SAMPLES, False, InfluenceSettings(**options))
    reference.assert_close(_values(got), wanted, 1e-4)
    beside = definition(warm, SAMPLES, True, InfluenceSettings(**options))
    reference.assert_close([s.parts["withheld"] for s in got], beside, 1e-4)
    assert by_name(said.facts)["adam_steps"] == [None if options.get("update") == "sgd" else 6]
    assert {check.status for check in said.checks} == {"passed"}
    assert (said.validation["rewarded"].items, said.validation["withheld"].items) == (4, 2)


def test_without_withheld_items_nothing_stands_beside(warm: Warm) -> None:
    signal = InfluenceSignal(InfluenceSettings())
    signal.prepare(context([v for v in VALIDATION if not v.withheld]), warm.target)
    scores = signal.score(SAMPLES, Archive())
    assert all("withheld" not in s.parts for s in scores)
    with_withheld = prepared(warm)[0].score(SAMPLES, Archive())
    reference.assert_close(_values(scores), _values(with_withheld), 1e-6)


def test_what_cannot_be_measured_is_none_in_its_place(warm: Warm) -> None:
    signal, _ = prepared(warm)
    items = [SAMPLES[0], TOO_LONG, Seed("doc", "text"), SAMPLES[1]]
    scores = signal.score(items, Archive())
    assert [s.status for s in scores] == ["ok", "unscorable", "unscorable", "ok"]
    assert [s.item_id for s in scores] == ["s0", "s99", "doc", "s1"]
    assert scores[1].value is None and "completion token" in scores[1].reason
    assert scores[2].value is None and "samples" in scores[2].reason
    assert signal.score([TOO_LONG], Archive())[0].value is None
    assert signal.score([], Archive()) == []


@pytest.mark.parametrize("dot, norm", [(float("nan"), 1.0), (float("inf"), 1.0), (0.3, 0.0), (0.3, float("nan"))])
def test_a_zero_or_broken_gradient_is_unscorable(
    warm: Warm, monkeypatch: pytest.MonkeyPatch, dot: float, norm: float
) -> None:
    signal, _ = prepared(warm)

    def fake(gradients: Any, codes: Any, directions: Any, *rest: Any, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
        parts = next(iter(directions.values())).shape[0]
        dots = torch.tensor([[dot] * parts, [0.2] * parts], dtype=torch.float64)
        return dots, torch.tensor([norm, 1.0], dtype=torch.float64)

    monkeypatch.setattr("methods.signals.influence.products.influence", fake)
    broken, whole = signal.score(SAMPLES[:2], Archive())
    assert (broken.value, broken.status) == (None, "unscorable") and "not finite" in broken.reason
    assert whole.value == pytest.approx(0.2)


def test_a_failing_self_check_stops_the_run(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout that stays on, here in one layer, makes every gradient another sample's."""
    from methods.signals.target import warm as warm_target

    class Leaky(warm_target.WarmTarget):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            layer = self.model.get_base_model().model.layers[0]
            layer.register_forward_hook(lambda m, i, out: torch.nn.functional.dropout(out, 0.5))

    monkeypatch.setattr(warm_target, "WarmTarget", Leaky)
    with pytest.raises(StageError, match=r"failed the check 'right equals plain': .*or chance does"):
        prepared(warm)


def other_checkpoint(warm: Warm, folder: Path, factor: float = 3.0) -> WarmCheckpoint:
    """The warm-up's adapter with its B matrices scaled: the same moments, other gradients."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(warm.target.checkpoints[0].adapter, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    scaled = {n: w * factor if "lora_B" in n else w for n, w in weights.items()}
    save_file(scaled, folder / "adapter_model.safetensors")
    return WarmCheckpoint(folder, folder / "adam.safetensors")


def test_checkpoints_are_summed_by_their_weights(warm: Warm, tmp_path: Path) -> None:
    """Each checkpoint is scored under its own weights, whichever was entered before it."""
    both = (warm.target.checkpoints[0], other_checkpoint(warm, tmp_path / "other"))
    single = []
    for checkpoint in both:
        signal = InfluenceSignal(InfluenceSettings())
        signal.prepare(context(), replace(warm.target, checkpoints=(checkpoint,)))
        single.append(_values(signal.score(SAMPLES, Archive())))
    with pytest.raises(AssertionError):
        reference.assert_close(single[1], single[0], 1e-2)
    signal = InfluenceSignal(InfluenceSettings())
    weighted = tuple(replace(c, weight=w) for c, w in zip(both, (0.25, 0.75), strict=True))
    said = signal.prepare(context(), replace(warm.target, checkpoints=weighted))
    assert by_name(said.facts)["weight"] == [0.25, 0.75]
    for _ in range(2):
        got = _values(signal.score(SAMPLES, Archive()))
        reference.assert_close(got, [0.25 * a + 0.75 * b for a, b in zip(*single, strict=True)], 1e-5)


def test_checkpoints_of_two_adapters_are_refused(warm: Warm, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = other_checkpoint(warm, tmp_path / "other")
    weights = load_file(other.adapter / "adapter_model.safetensors")
    save_file({n: w for n, w in weights.items() if "q_proj" in n}, other.adapter / "adapter_model.safetensors")
    both = replace(warm.target, checkpoints=(warm.target.checkpoints[0], other))
    with pytest.raises(StageError, match="all checkpoints must be of one adapter"):
        InfluenceSignal(InfluenceSettings()).prepare(context(), both)


def test_a_score_on_a_part_of_an_answer_says_so(warm: Warm) -> None:
    signal, _ = prepared(warm)
    long = sample(98, "why?", "the question " * 60)
    scores = signal.score([*SAMPLES[:3], long], Archive())
    assert [s.parts["truncated_tokens"] > 0 for s in scores] == [False, False, False, True]
    assert scores[3].value is not None and scores[3].parts["completion_tokens"] < LENGTH
    assert by_name(signal.diagnose(scores))["truncated"] == 1


def test_halves_stand_beside_the_value(warm: Warm) -> None:
    signal, _ = prepared(warm)
    for score in signal.score(SAMPLES, Archive()):
        assert score.value == pytest.approx((score.parts["half_a"] + score.parts["half_b"]) / 2)
        assert {"gradient_norm", "completion_tokens", "withheld"} <= score.parts.keys()


def test_diagnostics_say_what_a_score_follows() -> None:
    def score(value: float | None, norm: float, half: float) -> Score:
        parts = {"gradient_norm": norm, "completion_tokens": 5.0, "half_a": half, "half_b": -half}
        return Score("s", "influence", value, "ok" if value is not None else "unscorable", "", parts)

    scores = [score(0.1, 1.0, 0.3), score(0.2, 2.0, 0.2), score(0.4, 3.0, 0.1), score(None, 9.0, 0.5)]
    figures = by_name(InfluenceSignal.diagnose(scores))
    assert figures["scored"] == 3 and figures["unscorable"] == 1
    assert figures["mean"] == pytest.approx(0.7 / 3) and figures["gradient_norm"] == 2.0
    assert figures["correlation_gradient_norm"] == pytest.approx(1.0)
    assert figures["halves_agreement"] == pytest.approx(-1.0)
    assert figures["correlation_length"] is None
    assert by_name(InfluenceSignal.diagnose([]))["mean"] is None
    without = by_name(InfluenceSignal.diagnose([Score(f"s{i}", "length", float(i)) for i in range(4)]))
    assert (without["mean"], without["gradient_norm"], without["correlation_length"]) == (1.5, None, None)


def test_cost_is_counted_once(warm: Warm) -> None:
    signal, _ = prepared(warm)
    _, tokenizer = load_causal_lm(warm.target.model)
    tokens = [len(encode(tokenizer, v.messages, LENGTH).ids) for v in VALIDATION]
    assert sum(u.prompt_tokens for u in signal.usage()) == 2 * sum(tokens)
    signal.score(SAMPLES[:3], Archive())
    (spent,) = signal.usage()
    assert spent.calls == 3 and spent.role == "target" and spent.flops > 0
    assert signal.usage() == []


def test_scores_repeat_to_the_bit(warm: Warm) -> None:
    first, second = (prepared(warm)[0].score(SAMPLES, Archive()) for _ in range(2))
    assert _values(first) == _values(second)


def _values(scores: list[Score]) -> list[float]:
    assert all(s.value is not None for s in scores)
    return [s.value or 0.0 for s in scores]


def test_refusals_say_what_to_do(warm: Warm) -> None:
    signal = InfluenceSignal(InfluenceSettings())
    with pytest.raises(StageError, match="warmed-up target"):
        signal.prepare(context(), None)
    with pytest.raises(StageError, match="--guide"):
        signal.prepare(context([]), warm.target)
    with pytest.raises(StageError, match="max_length"):
        signal.prepare(context([ValidationExample("v", TOO_LONG.messages)]), warm.target)
