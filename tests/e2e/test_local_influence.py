"""Local influence against its definition: a copy of the model, one step of torch's AdamW, the loss before and after."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config_runtime import ScoringConfig
from harness.errors import StageError
from harness.models.transformers_backend import load_causal_lm
from harness.training.adam_state import load_adam_state, save_adam_state
from harness.training.chat import Encoded, encode
from harness.training.recipe import LoraSettings, Recipe
from harness.training.sft import finetune
from harness.types import Message, Sample, Score, Seed
from methods.signals.base import Archive, SignalContext, TargetState, ValidationExample, WarmCheckpoint
from methods.signals.local_influence.forms import NOISE_DRAWS
from methods.signals.local_influence.signal import LocalInfluenceSettings, LocalInfluenceSignal
from methods.signals.target import losses as reference
from support.facts import by_name
from support.influence_reference import assert_close
from support.tiny import make_tiny_model

LENGTH = 96
RATE = 5e-3


def sample(number: int, question: str, answer: str) -> Sample:
    messages = (Message("user", question), Message("assistant", answer))
    return Sample(f"s{number}", ("d",), None, "", messages, answer, "test", "stop", 0, 0)


SAMPLES = [sample(i, f"is the answer {'one of ' * (i % 3)}{i}?", "yes " * (1 + i % 4) + str(i)) for i in range(10)]
ASKED = [(f"which choice {'is it ' * i}", f"{'no ' * i}choice {i}") for i in range(6)]
VALIDATION = [
    ValidationExample(f"v{i}", (Message("user", question), Message("assistant", answer)), withheld=i < 2)
    for i, (question, answer) in enumerate(ASKED)
]
TOO_LONG = sample(99, "the question " * 60, "yes")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> TargetState:
    folder = tmp_path_factory.mktemp("warm")
    model = make_tiny_model(folder / "target")
    checkpoints = []
    for epochs, weight in ((2, 0.75), (3, 0.25)):
        lora = LoraSettings(4, 8, 0.1, ("q_proj", "v_proj", "down_proj"))
        recipe = Recipe(RATE, epochs, 4, 4, "linear", 0.03, 0.0, 0.999, LENGTH, lora)
        output = f"adapter-{epochs}"
        finetune(model, SAMPLES, recipe, seed=1, folder=folder, output=output, save_adam=True)
        checkpoints.append(WarmCheckpoint(folder / output, folder / output / "adam.safetensors", weight))
    return TargetState(model, "rev", LENGTH, checkpoints=tuple(checkpoints))


def one(warm: TargetState) -> TargetState:
    return replace(warm, checkpoints=(replace(warm.checkpoints[0], weight=1.0),))


def context(validation: list[ValidationExample] = VALIDATION, size: int = 4) -> SignalContext:
    return SignalContext(seed=0, validation=validation, batch_size=size)


def prepared(target: TargetState, **options: Any) -> tuple[LocalInfluenceSignal, dict[str, Any]]:
    signal = LocalInfluenceSignal(LocalInfluenceSettings(**options))
    return signal, by_name(signal.prepare(context(), target).facts)


def values(scores: list[Score]) -> list[float]:
    assert all(s.value is not None for s in scores)
    return [s.value or 0.0 for s in scores]


def mean_loss(model: Any, items: list[Encoded]) -> float:
    """Mean over items of the mean loss of their completion tokens, summed in float64."""
    total = 0.0
    with torch.no_grad():
        for item in items:
            logits = model(input_ids=torch.tensor([item.ids])).logits[0].double()
            labels = torch.tensor(item.ids[item.prompt_length :])
            total += float(torch.nn.functional.cross_entropy(logits[item.prompt_length - 1 : -1], labels))
    return total / len(items)


def plain_loop(target: TargetState, rate: float, withheld: bool, dtype: torch.dtype = torch.float32) -> list[float]:
    """The definition: a fresh copy for every sample, the warm optimizer's state, one step, the loss again."""
    from peft import PeftModel

    checkpoint = target.checkpoints[0]
    base, tokenizer = load_causal_lm(target.model)
    model = PeftModel.from_pretrained(base, checkpoint.adapter, is_trainable=True).to(dtype).eval()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    state = load_adam_state(checkpoint.adam, trained, checkpoint.adapter)
    reference = [encode(tokenizer, v.messages, LENGTH) for v in VALIDATION if v.withheld == withheld]
    before = mean_loss(model, reference)
    found = []
    for item in [encode(tokenizer, s.messages, LENGTH) for s in SAMPLES]:
        stepped = copy.deepcopy(model)
        named = dict(stepped.named_parameters())
        optimizer = torch.optim.AdamW([named[n] for n in trained], lr=rate, weight_decay=0.0)
        for n in trained:
            optimizer.state[named[n]] = {
                "step": torch.tensor(float(state.step)),
                "exp_avg": state.first[n].to(dtype).clone(),
                "exp_avg_sq": state.second[n].to(dtype).clone(),
            }
        ids = torch.tensor([item.ids])
        labels = ids.clone()
        labels[:, : item.prompt_length] = -100
        stepped(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        found.append(before - mean_loss(stepped, reference))
    return found


def test_exact_equals_a_plain_loop_over_copies(warm: TargetState) -> None:
    signal, facts = prepared(one(warm))
    got = signal.score(SAMPLES, Archive())
    assert [s.item_id for s in got] == [s.id for s in SAMPLES]
    assert all(s.status == "ok" and s.signal == "local_influence" and s.target_rev == "rev" for s in got)
    assert_close(values(got), plain_loop(one(warm), RATE, withheld=False), 1e-4)
    assert_close([s.parts["withheld"] for s in got], plain_loop(one(warm), RATE, withheld=True), 1e-4)
    assert (facts["gradients"], facts["learning_rate"], facts["adam_steps"]) == ("batched", [RATE], [6])
    assert 0.0 <= facts["reference_loss_rounding"][0] < 1e-6 < facts["reference_loss"][0]


def test_at_a_published_learning_rate_rounding_stays_far_below_the_scores(warm: TargetState) -> None:
    """At 1e-5 a float32 forward pass still leaves two digits, against the same loop in float64."""
    signal, facts = prepared(one(warm), learning_rate=1e-5)
    wanted = plain_loop(one(warm), 1e-5, withheld=False, dtype=torch.float64)
    assert_close(values(signal.score(SAMPLES, Archive())), wanted, 1e-2)
    rms = math.sqrt(sum(w * w for w in wanted) / len(wanted))
    assert facts["reference_loss_rounding"][0] < 0.1 * rms


@pytest.fixture(scope="module")
def exactly(warm: TargetState) -> list[float]:
    """Scores and withheld scores at a rate of 1e-6 in float64."""
    return [x for withheld in (False, True) for x in plain_loop(one(warm), 1e-6, withheld, torch.float64)]


@pytest.mark.parametrize(("tokens", "stacked"), [(1, True), (8192, True), (200, False)])
def test_rounding_is_stated_at_the_size_of_its_errors(
    warm: TargetState, exactly: list[float], tokens: int, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the batches: where every item is alone, there is no other shape of batch to compare with."""
    if not stacked:
        monkeypatch.setattr("methods.signals.local_influence.forms.TOLERANCE", -1.0)
    signal = LocalInfluenceSignal(LocalInfluenceSettings(learning_rate=1e-6))
    small = replace(context(), scoring=ScoringConfig(batch_tokens=tokens))
    facts = by_name(signal.prepare(small, one(warm)).facts)
    assert (facts["gradients"] == "batched") == stacked
    got = signal.score(SAMPLES, Archive())
    found = [*values(got), *(s.parts["withheld"] for s in got)]
    errors = [a - b for a, b in zip(found, exactly, strict=True)]
    rms = math.sqrt(sum(e * e for e in errors) / len(errors))
    stated = facts["reference_loss_rounding"][0]
    assert rms < stated < 8 * rms
    # Two deviations: most errors are below, and none is far above.
    assert sum(abs(e) < stated for e in errors) >= 0.8 * len(errors) and max(map(abs, errors)) < 2 * stated


def test_first_order_is_the_limit_of_small_steps(warm: TargetState) -> None:
    errors = []
    for rate in (5e-3, 5e-4, 5e-5):
        exact = plain_loop(one(warm), rate, withheld=False, dtype=torch.float64)
        first = values(prepared(one(warm), form="first_order", learning_rate=rate)[0].score(SAMPLES, Archive()))
        rms = math.sqrt(sum(e * e for e in exact) / len(exact))
        errors.append(max(abs(e - f) for e, f in zip(exact, first, strict=True)) / rms)
    # The remainder is of second order: its share falls with the learning rate.
    assert errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1] < 0.02


def test_several_checkpoints_add_up_by_weight(warm: TargetState) -> None:
    for form in ("exact", "first_order"):
        together = values(prepared(warm, form=form)[0].score(SAMPLES, Archive()))
        alone = [replace(warm, checkpoints=(replace(c, weight=1.0),)) for c in warm.checkpoints]
        single = [values(prepared(target, form=form)[0].score(SAMPLES, Archive())) for target in alone]
        assert_close(together, [0.75 * a + 0.25 * b for a, b in zip(*single, strict=True)], 1e-5)
        with pytest.raises(AssertionError):
            assert_close(together, single[0], 1e-2)


@pytest.mark.parametrize("size, tokens", [(1, 8192), (3, 100), (64, 1)])
def test_batching_changes_nothing(warm: TargetState, size: int, tokens: int) -> None:
    wanted = values(prepared(one(warm))[0].score(SAMPLES, Archive()))
    signal = LocalInfluenceSignal(LocalInfluenceSettings())
    small = replace(context(size=size), scoring=ScoringConfig(batch_tokens=tokens))
    signal.prepare(small, one(warm))
    assert_close(values(signal.score(SAMPLES, Archive())), wanted, 1e-4)


def test_scores_repeat_to_the_bit(warm: TargetState) -> None:
    first, second = (prepared(one(warm))[0].score(SAMPLES, Archive()) for _ in range(2))
    assert values(first) == values(second)


def test_an_adapter_that_cannot_be_stacked_is_probed_one_by_one(tmp_path: Path, warm: TargetState) -> None:
    """DoRA trains magnitudes that hooks do not see; the scores are still the definition's."""
    from peft import LoraConfig, get_peft_model

    base, tokenizer = load_causal_lm(warm.model)
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora).eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    for item in [encode(tokenizer, s.messages, LENGTH) for s in SAMPLES[:4]]:
        ids = torch.tensor([item.ids])
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path)
    save_adam_state(tmp_path / "adam.safetensors", model, optimizer)
    dora = replace(warm, checkpoints=(WarmCheckpoint(tmp_path, tmp_path / "adam.safetensors"),))
    signal, facts = prepared(dora)
    assert facts["gradients"].startswith("one by one: gradients by hooks need a plain LoRA adapter")
    wanted = plain_loop(dora, RATE, withheld=False)
    assert_close(values(signal.score(SAMPLES, Archive())), wanted, 1e-4)


def test_a_stack_that_is_not_the_model_is_found_out(warm: TargetState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one matrix does not follow its row's adapter, the self-check sees it and probes go one by one."""
    wanted = values(prepared(one(warm))[0].score(SAMPLES, Archive()))
    whole = reference._stacked
    monkeypatch.setattr(reference, "_stacked", lambda modules, adapters: whole(dict([*modules.items()][1:]), adapters))
    signal, facts = prepared(one(warm))
    assert "probes one by one: reference losses under stacked adapters are off" in facts["gradients"]
    assert_close(values(signal.score(SAMPLES, Archive())), wanted, 1e-4)


def test_a_packed_row_that_leaks_is_found_out(warm: TargetState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that does not part the items of a row would make a gradient several items'."""
    from methods.signals.target import engine

    wanted = values(prepared(one(warm))[0].score(SAMPLES, Archive()))
    packed = replace(context(), scoring=ScoringConfig(layout="packed"))
    sound = LocalInfluenceSignal(LocalInfluenceSettings())
    said = sound.prepare(packed, one(warm))
    assert by_name(said.facts)["gradients"] == "batched" and {c.status for c in said.checks} == {"passed"}
    assert_close(values(sound.score(SAMPLES, Archive())), wanted, 1e-4)

    def leaky(*arguments: Any) -> Any:
        batch = collate(*arguments)
        return replace(batch, positions=torch.arange(batch.ids.shape[1])[None]) if batch.packed else batch

    collate = engine.collate
    monkeypatch.setattr(engine, "collate", leaky)
    with pytest.raises(StageError, match="failed the check 'alone against batched'"):
        LocalInfluenceSignal(LocalInfluenceSettings()).prepare(packed, one(warm))


def test_what_cannot_be_measured_is_none_in_its_place(warm: TargetState) -> None:
    signal, _ = prepared(one(warm))
    scores = signal.score([SAMPLES[0], TOO_LONG, Seed("doc", "text"), SAMPLES[1]], Archive())
    assert [s.status for s in scores] == ["ok", "unscorable", "unscorable", "ok"]
    assert scores[1].value is None and "completion token" in scores[1].reason
    assert scores[2].value is None and "samples" in scores[2].reason
    assert signal.score([], Archive()) == []


def test_cost_counts_every_pass_over_the_reference_items(warm: TargetState) -> None:
    _, tokenizer = load_causal_lm(warm.model)
    reference_tokens = sum(len(encode(tokenizer, v.messages, LENGTH).ids) for v in VALIDATION)
    sample_tokens = sum(len(encode(tokenizer, s.messages, LENGTH).ids) for s in SAMPLES[:3])
    for form, wanted in (("exact", sample_tokens + 3 * reference_tokens), ("first_order", sample_tokens)):
        signal, _ = prepared(one(warm), form=form)
        assert sum(u.prompt_tokens for u in signal.usage()) == reference_tokens * (
            1 + 2 * NOISE_DRAWS if form == "exact" else 1
        )
        signal.score(SAMPLES[:3], Archive())
        (spent,) = signal.usage()
        assert (spent.prompt_tokens, spent.role, signal.usage()) == (wanted, "target", [])
        parameters = spent.flops / (6 * sample_tokens + 2 * (wanted - sample_tokens))
        assert parameters == int(parameters) > 10_000


def test_refusals_say_what_to_do(warm: TargetState, tmp_path: Path) -> None:
    signal = LocalInfluenceSignal(LocalInfluenceSettings())
    with pytest.raises(StageError, match="warmed-up target"):
        signal.prepare(context(), None)
    with pytest.raises(StageError, match="--guide"):
        signal.prepare(context([v for v in VALIDATION if v.withheld]), warm)
    with pytest.raises(StageError, match="max_length"):
        signal.prepare(context([ValidationExample("v", TOO_LONG.messages)]), warm)
