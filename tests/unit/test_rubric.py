from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.synthesis.parsing import Failure, read_object
from harness.synthesis.rubric import RUBRIC_REASONS, parse_rubric, question_type
from harness.types import RUBRIC_PARTS

GOOD = {part: f"about {i}" for i, part in enumerate(RUBRIC_PARTS)}


def reason(text: str, finish_reason: str = "stop") -> str:
    parsed = parse_rubric(text, finish_reason)
    assert isinstance(parsed, Failure)
    assert parsed.reason in RUBRIC_REASONS
    return parsed.reason


def test_takes_the_first_object_after_any_thought() -> None:
    decoy = json.dumps({part: "draft" for part in RUBRIC_PARTS})
    text = f"<think>maybe {decoy}</think> Here: {{not json}} ```json\n{json.dumps(GOOD)}\n``` and {decoy}"
    assert parse_rubric(text) == GOOD
    assert list(parse_rubric(text)) == list(RUBRIC_PARTS)


def test_extra_keys_are_dropped_and_values_stripped() -> None:
    assert parse_rubric(json.dumps({"extra": 1} | {k: f" {v}\n" for k, v in GOOD.items()})) == GOOD


def test_line_breaks_inside_strings_are_accepted() -> None:
    parts = parse_rubric(json.dumps(GOOD).replace("about 0", "about\n0"))
    assert not isinstance(parts, Failure)
    assert parts["Prompt-related"] == "about\n0"


def test_a_complete_rubric_survives_a_cut_tail() -> None:
    assert parse_rubric(json.dumps(GOOD) + " and furth", "length") == GOOD


def test_reasons() -> None:
    assert reason("no object here") == "rubric_no_json"
    assert reason("<think>" + json.dumps(GOOD)) == "rubric_no_json"
    assert reason(json.dumps(GOOD)[:-5]) == "rubric_no_json"
    assert reason(json.dumps(GOOD)[:-5], "length") == "rubric_truncated"
    assert reason(json.dumps({k: v for k, v in GOOD.items() if k != RUBRIC_PARTS[2]})) == "rubric_missing_part"
    assert reason(json.dumps(GOOD | {RUBRIC_PARTS[1]: "  "})) == "rubric_missing_part"
    assert reason(json.dumps(GOOD | {RUBRIC_PARTS[1]: ["a"]})) == "rubric_bad_type"
    assert reason(json.dumps(GOOD | {RUBRIC_PARTS[1]: None})) == "rubric_bad_type"
    assert reason(json.dumps(GOOD | {RUBRIC_PARTS[3]: "\ud800"})) == "rubric_bad_type"


def test_backslashes_in_a_rubric_are_latex_or_refused_by_name() -> None:
    def part(raw: str) -> str:
        parsed = parse_rubric(json.dumps(GOOD).replace("about 0", raw))
        return parsed.reason if isinstance(parsed, Failure) else parsed["Prompt-related"]

    assert part(r"use \frac and \beta") == part(r"use \\frac and \\beta") == r"use \frac and \beta"
    assert part(r"C:\Users") == "rubric_bad_escape"
    assert part(r"a\u0000b") == "rubric_control_character"


@given(st.text(max_size=80), st.text(max_size=80))
def test_surrounding_text_without_braces_changes_nothing(before: str, after: str) -> None:
    before = before.replace("{", "").replace("<think>", "").replace("</think>", "")
    assert parse_rubric(before + json.dumps(GOOD) + after.replace("</think>", "")) == GOOD


@given(st.text(alphabet='{}[]":,a\\0', max_size=200))
def test_any_text_gives_parts_or_a_known_reason(text: str) -> None:
    parsed = parse_rubric(text)
    assert isinstance(parsed, Failure) and parsed.reason in RUBRIC_REASONS


def test_deep_nesting_is_no_crash() -> None:
    assert read_object('{"a":' * 50_000).value is None
    assert read_object("{" * 100_000).value is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Write a Multiple-Choice question", "multiple choice"),
        ("multiple_choice", "multiple choice"),
        ("use an MCQ", "multiple choice"),
        ("a fill in the blank item", "fill-in-the-blank"),
        ("Fill-in-the-Blanks", "fill-in-the-blank"),
        ("one short-answer question", "short answer"),
        ("an Essay", "essay"),
        ("not an essay but a short answer", "short answer"),
        ("a fair question", None),
        ("an essayist", None),
    ],
)
def test_question_type(text: str, wanted: str | None) -> None:
    assert question_type(GOOD | {"Prompt-related": text}) == wanted


def test_the_question_part_decides_first() -> None:
    assert question_type({"Response-related": "a short answer", "Prompt-related": "an essay"}) == "essay"
    assert question_type({"Response-related": "a short answer", "Prompt-related": "clear"}) == "short answer"
