"""Conversations as tokens: where the loss falls, what is cut, and templates that would make the mask wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import PrerequisiteError
from harness.training.chat import encode
from harness.training.template import require_template, template_hash
from harness.types import Message
from support.tiny import CHATML, make_tiny_model

TALK = (Message("system", "be brief"), Message("user", "is it yes or no?"), Message("assistant", "maybe no"))
LONG = 10_000


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def with_template(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def change(template: str | None) -> Any:
        monkeypatch.setattr(tokenizer, "chat_template", template)
        return tokenizer

    return change


def test_loss_falls_on_the_answer_and_its_end(tokenizer: Any) -> None:
    code = encode(tokenizer, TALK, LONG)
    prompt, completion = code.ids[: code.prompt_length], code.ids[code.prompt_length :]
    assert tokenizer.decode(completion) == "maybe no<|im_end|>"
    assert tokenizer.decode(prompt).endswith("is it yes or no?<|im_end|>\n<|im_start|>assistant\n")
    assert (code.completion_length, code.truncated) == (len(completion), 0)
    assert completion[-1] == tokenizer.eos_token_id


def test_the_prompt_is_what_generation_starts_from(tokenizer: Any) -> None:
    """Scoring and fine-tuning must see the very tokens that the model is prompted with."""
    from harness.types import chat

    code = encode(tokenizer, TALK, LONG)
    text = tokenizer.apply_chat_template(chat(TALK[:2]), add_generation_prompt=True, tokenize=False)
    assert list(code.ids[: code.prompt_length]) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_of_several_answers_only_the_last_carries_loss(tokenizer: Any) -> None:
    code = encode(tokenizer, (*TALK, Message("user", "sure?"), Message("assistant", "yes")), LONG)
    assert tokenizer.decode(code.ids[code.prompt_length :]) == "yes<|im_end|>"


def test_cuts_are_at_the_end_and_counted(tokenizer: Any) -> None:
    whole = encode(tokenizer, TALK, LONG)
    for length in range(1, len(whole.ids) + 1):
        cut = encode(tokenizer, TALK, length)
        assert cut.ids == whole.ids[:length]
        assert cut.truncated == len(whole.ids) - length
        assert cut.prompt_length == min(whole.prompt_length, length)
        assert cut.completion_length == max(0, length - whole.prompt_length)


def test_a_template_that_rewrites_the_prompt_is_refused(with_template: Any) -> None:
    rewriting = with_template(
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}A: {% endif %}"
    )
    with pytest.raises(PrerequisiteError, match="prefix of the conversation"):
        encode(rewriting, TALK, LONG)


def test_what_a_template_puts_before_the_answer_is_learned(with_template: Any) -> None:
    """Reasoning models' templates open the last answer with empty thoughts, which the prompt does not have."""
    thinking = with_template(
        "{% for m in messages %}{{ m['role'] }}:{% if loop.last and m['role'] == 'assistant' %}[]{% endif %}"
        "{{ m['content'] }};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    code = encode(thinking, TALK, LONG)
    assert thinking.decode(code.ids[code.prompt_length :]) == "[]maybe no;"


def test_a_missing_template_is_named(with_template: Any, tokenizer: Any) -> None:
    require_template(tokenizer, "tiny")
    with pytest.raises(PrerequisiteError, match=r"tokenizer of some/model has no chat template"):
        require_template(with_template(None), "some/model")


def test_templates_are_told_apart(with_template: Any) -> None:
    first = template_hash(with_template(CHATML))
    assert template_hash(with_template(CHATML + " ")) != first == template_hash(with_template(CHATML))


def test_fine_tuning_sees_these_tokens(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's batches hold `encode`'s ids, with labels on the completion only."""
    import trl

    from harness.training.recipe import Recipe
    from harness.training.sft import finetune
    from harness.types import Sample

    batches: list[Any] = []
    plain = trl.SFTTrainer.compute_loss

    def watch(self: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        batches.append({k: v.clone() for k, v in inputs.items() if hasattr(v, "clone")})
        return plain(self, model, inputs, *rest, **named)

    monkeypatch.setattr(trl.SFTTrainer, "compute_loss", watch)
    talks = [TALK, (Message("user", "choices?"), Message("assistant", "the answer is one of the choices"))]
    samples = [Sample(str(i), ("d",), None, "", t, "", "t", "stop", 0, 0) for i, t in enumerate(talks)]
    recipe = Recipe(1e-3, 1, 2, 2, "constant", 0.0, 0.0, 0.999, LONG)
    finetune(make_tiny_model(tmp_path / "m"), samples, recipe, seed=0, folder=tmp_path, output="out")
    (batch,) = batches
    seen = set()
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        own = ids[mask.bool()].tolist()
        seen.add((tuple(own), tuple(labels[labels != -100].tolist())))
    wanted = {(c.ids, c.ids[c.prompt_length :]) for c in (encode(tokenizer, t, LONG) for t in talks)}
    assert seen == wanted
