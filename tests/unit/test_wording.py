"""The compact wording: what is read from plain lines, and what is refused."""

from __future__ import annotations

import json

import pytest

from harness.errors import ConfigError
from harness.models.prompts import GENERATOR_KNOWN, RUBRIC_KNOWN, RUBRIC_REQUIRED, builtin_prompt, load_prompt
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.synthesis.parsing import Failure
from harness.synthesis.wording import WORDING_REASONS, WORDINGS, read_line, read_lines
from harness.types import RUBRIC_PARTS, Message

PAIR = (Message("user", "Why is the sky blue?"), Message("assistant", "Air scatters short waves most.\nSo it is blue."))
TEXT = "Question: Why is the sky blue?\nAnswer: Air scatters short waves most.\nSo it is blue."


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"Here it is.\n\n{TEXT}\n\nQuestion: And the sea?\nAnswer: It reflects the sky.",
        f"<think>Question: no\nAnswer: no</think>{TEXT}",
        TEXT.replace("Question:", "**Question:**").replace("Answer:", "  ANSWER :"),
    ],
)
def test_the_first_pair_of_lines_is_the_pair(text: str) -> None:
    assert read_lines(text, "stop", "") == PAIR
    assert read_lines(text, "stop", "Be kind.") == (Message("system", "Be kind."), *PAIR)


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("The sky is blue.", "stop", "pair_no_lines"),
        ("Answer: yes\nQuestion: is it?", "stop", "pair_no_lines"),
        ("Question: Why?", "length", "pair_truncated"),
        ("Question: Why?\nAnswer: Because the", "length", "pair_truncated"),
        ("Question: {{question}}\nAnswer: {{answer}}", "stop", "pair_empty"),
        ("Question: Why?\nAnswer: ...", "stop", "pair_empty"),
    ],
)
def test_what_is_no_pair_has_its_reason(text: str, finish: str, reason: str) -> None:
    found = read_lines(text, finish, "")
    assert isinstance(found, Failure) and found.reason == reason
    assert reason != "pair_no_lines" or reason in WORDING_REASONS


def test_a_whole_pair_before_the_limit_is_kept() -> None:
    assert read_lines(f"{TEXT}\nQuestion: And wh", "length", "") == PAIR


@pytest.mark.parametrize(
    ("answer", "finish", "kept"),
    [
        ("It is. So it is. So it is. So it", "length", "It is. So it is."),
        ("It is. So it", "length", "It is."),
        ("It is. So it is!", "length", "It is. So it is!"),
        ("It is, e.g. E. coli does. So it is. And more.", "stop", "It is, e.g. E. coli does. So it is."),
        ("No full stop", "stop", "No full stop"),
    ],
)
def test_an_answer_is_its_first_two_sentences(answer: str, finish: str, kept: str) -> None:
    pair = read_lines(f"Question: Is it?\nAnswer: {answer}", finish, "")
    assert not isinstance(pair, Failure) and pair[-1].content == kept


def test_a_generator_that_writes_json_serves_it_too() -> None:
    turns = [{"role": m.role, "content": m.content} for m in PAIR]
    assert read_lines(json.dumps({"messages": turns}), "stop", "Be kind.") == PAIR


def test_the_first_line_is_the_rubric() -> None:
    assert read_line("\n Ask why the sky is blue. \nmore", "length") == {RUBRIC_PARTS[0]: "Ask why the sky is blue."}
    for text, finish, reason in (
        ("", "stop", "rubric_missing_part"),
        ("---", "stop", "rubric_missing_part"),
        ("Ask about {{topic}}", "stop", "rubric_missing_part"),
        ("Ask why the sk", "length", "rubric_truncated"),
    ):
        found = read_line(text, finish)
        assert isinstance(found, Failure) and found.reason == reason


def test_packaged_compact_prompts_are_worked_examples() -> None:
    wording = WORDINGS["compact"]
    for name, required, known in (
        (wording.rubric, RUBRIC_REQUIRED, RUBRIC_KNOWN),
        (wording.generator, ("document", *wording.parts), GENERATOR_KNOWN),
    ):
        prompt = load_prompt(builtin_prompt(name), required=required, known=known)
        assert [role for role, _ in prompt.sections] == ["system", *["user", "assistant"] * 3, "user"]
    for role, body in load_prompt(builtin_prompt(wording.generator)).sections:
        # The examples are what the reader takes for a pair.
        assert role != "assistant" or not isinstance(read_lines(body, "stop", ""), Failure)


def test_the_wording_is_part_of_what_was_asked() -> None:
    def prompting(**sets: object) -> tuple[str, str]:
        plan = assemble(resolve_run(method="static", target="nano", sets=sets).config).plan
        return plan.route.hash, plan.route.wording.name

    files = {"synthesis.rubric_prompt": None, "synthesis.generator_prompt": None}
    assert prompting(**files)[1] == "full" and prompting(**files, **{"synthesis.prompts": "compact"})[1] == "compact"
    assert prompting(**files)[0] != prompting(**files, **{"synthesis.prompts": "compact"})[0]


def test_json_schemas_and_plain_lines_exclude_each_other() -> None:
    sets = {
        "synthesis.prompts": "compact",
        "synthesis.generator_prompt": None,
        "models.generator.backend": "vllm",
        "models.generator.structured": True,
    }
    with pytest.raises(ConfigError, match="asks for plain lines; leave one out"):
        assemble(resolve_run(method="static", target="nano", sets=sets).config)
