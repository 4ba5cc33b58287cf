"""What the check of a target's tokens says, over families of tokenizers and templates, and what it finds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.models.tokenizers import complete, declare_stop
from harness.training import token_check
from harness.training.checks import to_rows
from harness.training.token_check import check_tokens, is_notice
from support.tiny import CHATML, FAMILIES, TEMPLATES, make_family


def check(
    family: str = "bytes", template: str = "chatml", ends: int | list[int] | None = 1, **tokens: str | None
) -> dict[str, Any]:
    """The checks by name; `ends` is what the model declares."""
    tokenizer = complete(make_family(family, template, **tokens), "t")
    model = SimpleNamespace(config=SimpleNamespace(), generation_config=SimpleNamespace(eos_token_id=ends))
    declare_stop(model, tokenizer)
    return {c.name: c for c in check_tokens(model, tokenizer)}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_and_a_template_without_an_end_is_named(family: str, template: str) -> None:
    found = check(family, template)
    assert found["same tokens"].status == "passed"
    endless = template == "endless"
    assert found["stop token"].status == ("skipped" if endless else "passed")
    assert ("nothing teaches the model to stop" in found["stop token"].detail) == endless
    assert ("system turn" in found) == (template == "gemma")
    assert ("date in template" in found) == (template == "dated")
    assert all("\n" not in c.line() for c in found.values())
    notices = [row["name"] for row in to_rows(list(found.values())) if is_notice(row)]
    wanted = {"endless": ["stop token"], "gemma": ["system turn"], "dated": ["date in template"]}
    assert notices == wanted.get(template, [])


def test_the_line_says_which_token_ends_an_answer_and_how_a_prompt_begins() -> None:
    found = check(template="inst", eos_token="</s>")
    assert found["stop token"].detail == "an answer ends with </s>, at which what is saved stops"
    assert "with <s>, as the template has it" in found["same tokens"].detail


def test_a_model_that_would_not_stop_there_is_found() -> None:
    tokenizer = complete(make_family("bytes"), "t")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for ends, status in ((1, "failed"), (None, "failed"), (end, "passed"), ([1, end], "passed")):
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=ends))
        assert {c.name: c.status for c in check_tokens(model, tokenizer)}["stop token"] == status


def test_plain_text_after_an_answer_is_no_end_token() -> None:
    closing = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} ###\n{% endfor %}"
    found = check(template=closing + "{% if add_generation_prompt %}assistant: {% endif %}")
    assert found["stop token"].status == "skipped" and "' ###', which is no token" in found["stop token"].detail


def test_a_begin_token_that_stands_twice_is_found() -> None:
    found = check(template="{{ bos_token }}<s>" + CHATML)
    assert found["same tokens"].status == "failed" and "<s> twice in a row" in found["same tokens"].detail


def test_a_begin_token_that_opens_every_turn_is_no_fault() -> None:
    """SmolLM2 calls `<|im_start|>` its begin token, and its template opens three turns with it."""
    found = check(bos_token="<|im_start|>")
    assert found["same tokens"].status == "passed" and "with <|im_start|>" in found["same tokens"].detail


def test_an_answer_that_a_template_leaves_out_is_found() -> None:
    silent = CHATML.replace("{{ m['content'] }}", "{{ m['content'] if m['role'] != 'assistant' else '' }}")
    assert "leaves out the answer" in check(template=silent)["same tokens"].detail


def test_other_tokens_in_testing_than_in_training_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = token_check.prompt_ids
    monkeypatch.setattr(token_check, "prompt_ids", lambda tokenizer, turns: [1, *plain(tokenizer, turns)])
    found = check()["same tokens"]
    assert found.status == "failed" and "otherwise in training than in testing" in found.detail
