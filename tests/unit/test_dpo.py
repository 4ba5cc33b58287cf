"""DPO prefers what it was told to prefer, from a reference that stays where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError
from harness.training.dpo import DpoRecipe, Preference, train_preferences
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


def test_pairs_without_a_difference_are_refused(tmp_path: Path) -> None:
    same = [Preference((Message("user", "q"),), "a", "a")]
    with pytest.raises(InputError, match="two different sides"):
        train_preferences(tmp_path, same, DpoRecipe(), seed=0, folder=tmp_path)
