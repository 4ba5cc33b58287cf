from __future__ import annotations

import json
from typing import Any

import pytest

from harness.synthesis import latex
from harness.synthesis.forms import PAIR_FORM
from harness.synthesis.pairs import PAIR_REASONS, parse_pair
from harness.synthesis.parsing import Failure, mends
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


def said(raw: str) -> str:
    """The answer of a pair whose JSON holds `raw` as it stands."""
    parsed = parse_pair(dump(USER, {"role": "assistant", "content": "@"}).replace("@", raw))
    return parsed[-1].content if not isinstance(parsed, Failure) else parsed.reason


def test_every_command_that_begins_like_an_escape_is_read_as_latex() -> None:
    names = [n for n in latex._COMMANDS if n[0] in "bfnrtu"]
    assert len(names) > 100
    for name in names:
        assert said(rf"so ${{x}} \{name} y$, and") == rf"so ${{x}} \{name} y$, and"
        assert said(rf"so ${{x}} \\{name} y$, and") == rf"so ${{x}} \{name} y$, and"


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (r"It is \frac{1}{2} \times \beta, or", r"It is \frac{1}{2} \times \beta, or"),
        (r"\alpha \geq \Omega", r"\alpha \geq \Omega"),
        (r"is \nu, or", r"is \nu, or"),
        (r"Let\nu = 3", "Let\nu = 3"),
        (r"Two things:\ni. one\nii. two", "Two things:\ni. one\nii. two"),
        (r"it \nexists in text, a \nless known", "it \nexists in text, a \nless known"),
        (r"$f \nless g$", r"$f \nless g$"),
        (r"x \to 0, A\to B, \tan x", r"x \to 0, A\to B, \tan x"),
        (r"\\frac{1}{2} is it.\nu = 3", "\\frac{1}{2} is it.\nu = 3"),
        (r"\(x\), \{y\}, 5\% of \$3 \& \_", r"\(x\), \{y\}, 5\% of \$3 \& \_"),
        (r"\begin{matrix} 1 \\ 2 \end{matrix}", r"\begin{matrix} 1 \\ 2 \end{matrix}"),
        (r"\\begin{matrix} 1 \\\\ 2 \\end{matrix}", r"\begin{matrix} 1 \\ 2 \end{matrix}"),
        (r"\underline{a} \upsilon \u00e9 \uD83D\uDE00", "\\underline{a} \\upsilon é \U0001f600"),
        (r"a\tb\nNote: \"so\" \/ ends\r\nhere\rnow", 'a\tb\nNote: "so" / ends\nhere\nnow'),
        (r"\foo and", "pair_control_character"),
        (r"the \bword\b", "pair_control_character"),
        (r"a\u0000b", "pair_control_character"),
        (r"a\u007fb", "pair_control_character"),
        ("a\x0bb", "pair_control_character"),
        (r"C:\Users\me", "pair_bad_escape"),
        (r"don\'t", "pair_bad_escape"),
        (r"\u12 metres", "pair_bad_escape"),
        (r"half \ud83d of one", "pair_schema"),
    ],
)
def test_backslashes_in_json_are_latex_or_refused_by_name(raw: str, wanted: str) -> None:
    assert said(raw) == wanted
    assert PAIR_FORM.fault(dump(USER).replace("Why?", raw), None)  # one turn alone is never the form


def test_a_mended_object_is_counted_and_a_repair_is_asked_for_by_its_fault() -> None:
    assert mends(dump(USER).replace("Why?", r"\alpha")) and not mends(dump(USER).replace("Why?", r"\\alpha"))
    assert "\\q" in PAIR_FORM.fault(r'{"messages": "\q"}', None)


TAGGED = (Message("user", "Why?"), Message("assistant", "The tag </think> ends it."))


@pytest.mark.parametrize("opening", ["", "<think>", "<Thinking>", "[THINK]"])
@pytest.mark.parametrize("thought", ["", "So.", dump(USER), "The tag </think> ends. Draft: " + dump(USER)])
def test_a_closing_tag_inside_a_string_is_text(opening: str, thought: str) -> None:
    line = dump(USER, {"role": "assistant", "content": "The tag </think> ends it."})
    closing = opening.replace("<", "</").replace("[", "[/") or "</think>"
    if opening or thought:
        assert parse_pair(f"{opening}{thought}{closing}\n{line}") == TAGGED
        assert parse_pair(f"{opening}{thought}{closing}\n```json\n{line}\n```") == TAGGED
    assert parse_pair(line) == parse_pair(f"Here it is: {line}") == parse_pair(f"{line} I closed </think>.") == TAGGED


def test_an_open_thought_holds_no_answer() -> None:
    draft = dump(USER, {"role": "assistant", "content": "The tag </think> ends it."})
    for text in (f"<think>{draft}", f"<think>Perhaps {draft} or"):
        parsed = parse_pair(text)
        assert isinstance(parsed, Failure) and parsed.reason == "pair_no_json"


def test_half_a_character_is_written_out_in_what_is_said_of_a_pair() -> None:
    texts = ['{"\\ud83d": 1}', '{"error": "\\ud83d"}', dump({"role": "\ud83d", "content": "x"}, ASSISTANT)]
    for text in (*texts, r'{"messages": [{"role": "user", "\ud83d": 1}]}'):
        parsed = parse_pair(text)
        assert isinstance(parsed, Failure)
        parsed.detail.encode()
        PAIR_FORM.fault(text, None).encode()
