"""DPO prefers what it was told to prefer, from a reference that stays where it was."""

from __future__ import annotations

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
    from transformers import AutoTokenizer

    if (path / "adapter_config.json").exists():
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(path)
    else:
        from transformers import AutoModelForCausalLM

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
    assert _margin(tmp_path / "policy") > before + 1.0
    assert result.accuracy == 1.0
    assert result.usage.flops > 0 and result.usage.calls == 32


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
