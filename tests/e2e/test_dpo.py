"""DPO prefers what it was told to prefer, from a reference that stays where it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.training.dpo import CUT_EQUAL, EQUAL, FULL, DpoRecipe, Preference, train_preferences
from harness.training.recipe import LoraSettings
from harness.types import Message
from support.tiny import make_tiny_model

PROMPTS = ("is it so", "is it one", "is the answer yes", "which of the choices")


def _pairs() -> list[Preference]:
    return [Preference((Message("user", p),), "yes", "no") for p in PROMPTS] * 2


def _margin(path: Path) -> float:
    """Mean log-probability of the chosen sides less that of the rejected ones."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)

    def score(prompt: str, side: str) -> float:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": side}]
        whole = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)
        start = len(tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False))
        with torch.no_grad():
            logs = model(input_ids=whole).logits[0, :-1].log_softmax(-1)
        return float(logs.gather(1, whole[0, 1:, None])[start - 1 :].sum())

    return sum(score(p, "yes") - score(p, "no") for p in PROMPTS) / len(PROMPTS)


@pytest.mark.parametrize("lora", [None, LoraSettings(4, 8, 0.0, ("q_proj", "v_proj"))], ids=["full", "lora"])
def test_it_comes_to_prefer_the_chosen(tmp_path: Path, lora: LoraSettings | None) -> None:
    base = make_tiny_model(tmp_path / "model")
    before = _margin(base)
    recipe = DpoRecipe(learning_rate=1e-2, epochs=4, batch_size=4, micro_batch=4, schedule="constant", lora=lora)
    steps: list[int] = []
    result = train_preferences(
        base, _pairs(), recipe, seed=1, folder=tmp_path, on_step=lambda step, total: steps.append(step)
    )
    assert result.steps == steps[-1] == 8
    assert (tmp_path / "policy" / "adapter" / "adapter_config.json").is_file() == (lora is not None)
    assert _margin(tmp_path / "policy") > before + 1.0
    assert result.accuracy == 1.0
    assert result.usage.flops > 0 and result.usage.calls == 32


def test_loss_gradient_and_steps_are_those_computed_by_hand(tmp_path: Path) -> None:
    """All pairs in one step, five times: AdamW on the gradient of Rafailov et al. 2023 (§4), rates of the schedule.

    ∇L = -β/N Σ σ(-β m) (∇log π(chosen) - ∇log π(rejected)), with m the difference of both sides' log-ratios.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, beta, peak = make_tiny_model(tmp_path / "model"), 0.3, 3e-3
    sides = ("yes", "yes yes", "maybe", "the one")
    pairs = [(prompt, chosen, "no maybe no") for prompt, chosen in zip(PROMPTS, sides, strict=True)]
    recipe = DpoRecipe(
        beta=beta,
        learning_rate=peak,
        epochs=5,
        batch_size=4,
        micro_batch=2,
        schedule="warmup_stable_decay",
        warmup_ratio=0.2,
    )
    logged: list[dict[str, float]] = []
    train_preferences(
        base,
        [Preference((Message("user", p),), chosen, rejected) for p, chosen, rejected in pairs],
        recipe,
        seed=1,
        folder=tmp_path,
        on_log=lambda step, logs: logged.append(dict(logs)),
    )
    tokenizer = AutoTokenizer.from_pretrained(base)
    model, reference = (AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval() for _ in range(2))

    def log_probability(net: torch.nn.Module, prompt: str, side: str) -> torch.Tensor:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": side}]
        # The turn ends with its token; the line break behind it is the template's.
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)[:, :-1]
        start = len(tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False))
        return net(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[start - 1 :].sum()

    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    # One step of warm-up from a thousandth, two at the peak, two that begin a half cosine down to a thousandth.
    rates = [1e-3, 1.0, 1.0, 1.0, 1e-3 + (1 - 1e-3) * 0.5]
    steps = [entry for entry in logged if "grad_norm" in entry]
    assert [entry["learning_rate"] for entry in steps] == pytest.approx([peak * rate for rate in rates])
    for entry, rate in zip(steps, rates, strict=True):
        optimizer.zero_grad()
        loss = 0.0
        for prompt, chosen, rejected in pairs:
            with torch.no_grad():
                before = log_probability(reference, prompt, chosen) - log_probability(reference, prompt, rejected)
            difference = log_probability(model, prompt, chosen) - log_probability(model, prompt, rejected)
            margin = float(difference.detach() - before)
            loss += math.log1p(math.exp(-beta * margin)) / len(pairs)
            (difference * (-beta / (1 + math.exp(beta * margin)) / len(pairs))).backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        assert entry["loss"] == pytest.approx(loss, abs=2e-4)
        assert entry["grad_norm"] == pytest.approx(norm, rel=1e-3)
        optimizer.param_groups[0]["lr"] = peak * rate
        optimizer.step()
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.05
    saved, own = load_file(tmp_path / "policy" / "model.safetensors"), dict(model.named_parameters())
    for name, weights in saved.items():
        assert torch.allclose(weights, own[name].detach(), atol=2e-5), name


def test_pairs_that_teach_nothing_are_counted_by_reason(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "model")
    long = "the answer is one of the choices " * 20
    question = (Message("user", "is it so"),)
    pairs = [
        Preference(question, "yes", "no"),
        Preference(question, "yes", "no " + long),
        Preference(question, "a", "a"),
        Preference((Message("user", long),), "yes", "no"),
        Preference((Message("user", long),), "no", "yes"),
        Preference(question, long + "yes", long + "no"),
    ]
    recipe = DpoRecipe(learning_rate=1e-2, batch_size=2, micro_batch=2, max_length=40)
    found = train_preferences(base, pairs, recipe, seed=1, folder=tmp_path)
    assert found.dropped == {EQUAL: 1, FULL: 2, CUT_EQUAL: 1}
    assert (found.truncated, found.steps, found.usage.calls) == (1, 1, 2)
    with pytest.raises(InputError, match=r"none of 3 preference pairs can be used \(1 equal sides, 2 prompt fills"):
        train_preferences(base, pairs[2:5], recipe, seed=0, folder=tmp_path)
