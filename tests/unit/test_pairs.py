from __future__ import annotations

import json
from typing import Any

import pytest

from harness.synthesis.pairs import PAIR_REASONS, parse_pair
from harness.synthesis.parsing import Failure
from harness.types import Message

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
USER = {"role": "user", "content": "Why?"}
ASSISTANT = {"role": "assistant", "content": "Because."}
PAIR = (Message("user", "Why?"), Message("assistant", "Because."))


def dump(*turns: Any) -> str:
    return json.dumps({"messages": list(turns)})


def test_with_and_without_a_system_turn() -> None:
    assert parse_pair(dump(USER, ASSISTANT)) == PAIR
    assert parse_pair(dump(SYSTEM, USER, ASSISTANT)) == (Message("system", SYSTEM["content"]), *PAIR)


def test_fences_thoughts_second_lines_and_cut_tails_are_ignored() -> None:
    line = dump(USER, ASSISTANT)
    assert parse_pair(f"<think>{dump(USER)}</think>\n```jsonl\n{line}\n```") == PAIR
    assert parse_pair(line + "\n" + dump(SYSTEM)) == PAIR
    assert parse_pair(line + '\n{"messages": [', "length") == PAIR


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Question: why?", "pair_no_json"),
        ('{"error": "no sentence with a number"}', "pair_schema"),
        ('{"messages": {"role": "user"}}', "pair_schema"),
        (dump("Why?"), "pair_schema"),
        (dump({"role": "user"}, ASSISTANT), "pair_schema"),
        (dump(USER, {"role": "assistant", "content": ["Because."]}), "pair_schema"),
        (dump(USER, {"role": "assistant", "content": "\ud800"}), "pair_schema"),
        (dump(), "pair_roles"),
        (dump(USER), "pair_roles"),
        (dump(ASSISTANT, USER), "pair_roles"),
        (dump(USER, ASSISTANT, USER, ASSISTANT), "pair_roles"),
        (dump(USER, SYSTEM, ASSISTANT), "pair_roles"),
        (dump(USER, {"role": "tool", "content": "x"}), "pair_roles"),
        (dump(USER, {"role": "assistant", "content": " \n"}), "pair_empty"),
        (dump({"role": "user", "content": "<question>"}, ASSISTANT), "pair_empty"),
    ],
)
def test_reasons(text: str, reason: str) -> None:
    parsed = parse_pair(text)
    assert isinstance(parsed, Failure)
    assert parsed.reason == reason in PAIR_REASONS
    assert parsed.detail


def test_a_cut_pair_is_truncated_not_malformed() -> None:
    text = dump(USER, ASSISTANT)
    for end in range(len(text)):
        parsed = parse_pair(text[:end], "length")
        assert isinstance(parsed, Failure) and parsed.reason == "pair_truncated"
