"""Parsers of what models write on the routes without a rubric: tags, lines, or JSON, whichever was asked for.

The tags are those of AcquisitionSynthesis: `<question>`, `<reasoning>` and `<answer>`, each closed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from harness.synthesis.pairs import PAIR_CONTROL_CHARACTER, PAIR_EMPTY, PAIR_SCHEMA, PAIR_TRUNCATED, parse_pair
from harness.synthesis.parsing import Failure, control_character, is_unicode, plain_lines
from harness.synthesis.route import turns
from harness.synthesis.wording import first_sentences
from harness.types import Message

NO_TAGS = "pair_no_tags"
QUESTION_NONE = "question_none"
QUESTION_TRUNCATED = "question_truncated"
ANSWER_EMPTY = "answer_empty"
NO_REFERENCE = "pair_no_reference"
ANSWER_TRUNCATED = "answer_truncated"

READING_REASONS: Mapping[str, str] = MappingProxyType(
    {
        NO_TAGS: "no <question> and <answer>, each closed, in the generator's output",
        QUESTION_NONE: "no question in the generator's output",
        QUESTION_TRUNCATED: "the output hit the token limit before the question was complete",
        ANSWER_EMPTY: "the answerer wrote no answer",
        NO_REFERENCE: "the seed has no question with its answer, which is the pair on route 'corpus'",
        ANSWER_TRUNCATED: "the output hit the token limit before the answer was complete",
    }
)
"""Reason codes of the routes without a rubric, with what each means."""

_PLACEHOLDER = re.compile(r"\{\{|\}\}|^\W*(?:your |new )?(?:question|answer|reasoning)\W*$|^[.…]+$", re.IGNORECASE)
_THOUGHT = re.compile(r"\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_LINE = re.compile(r"^\W*question\W*:[*_]*\s*", re.IGNORECASE | re.MULTILINE)
_ANSWER_LINE = re.compile(r"^\W*answer\W*:[*_]*\s*", re.IGNORECASE | re.MULTILINE)


def without_thought(text: str) -> str:
    """`text` without a thought at its beginning; empty where one was opened and never closed.

    The tag `<reasoning>` is a part of what was asked for and stays.
    """
    body = _THOUGHT.sub("", text, count=1) if _THOUGHT.match(text) else text
    return "" if re.match(r"\s*<think(?:ing)?>", body, re.IGNORECASE) else body


def tagged(text: str, tag: str) -> str | None:
    """The text between the first `<tag>` and the `</tag>` that follows it; None where there is no such pair."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL | re.IGNORECASE)
    return found[1].strip() if found else None


def read_tags(text: str, finish_reason: str, system_message: str, *, reasoning: bool) -> tuple[Message, ...] | Failure:
    """The pair that tags, or a JSON object of messages, hold, or why there is none.

    With `reasoning` what stands in that tag comes before the answer, on lines of its own. JSON is read as a pair, so
    that a generator that writes JSON serves this route too.
    """
    body = plain_lines(without_thought(text))
    question, answer = tagged(body, "question"), tagged(body, "answer")
    if question is None or answer is None:
        if "<question>" not in body.lower() and "{" in body:
            return parse_pair(text, finish_reason)
        failure = PAIR_TRUNCATED if finish_reason == "length" else NO_TAGS
        missing = "question" if question is None else "answer"
        return Failure(failure, f"no <{missing}> that is closed")
    thought = tagged(body, "reasoning") if reasoning else None
    for name, content in (("question", question), ("answer", answer)):
        if fault := content_fault(name, content):
            return fault
    if thought and not _PLACEHOLDER.search(thought):
        if fault := content_fault("reasoning", thought):
            return fault
        answer = f"{thought}\n\n{answer}"
    return turns(system_message, question, answer)


def read_question(text: str, finish_reason: str) -> str | Failure:
    """The question that a generator was asked for alone, or why there is none.

    In a tag, after `Question:` up to a line `Answer:`, or the whole text where it is one paragraph.
    """
    body = plain_lines(without_thought(text)).strip()
    found = tagged(body, "question")
    if found is None:
        line = _LINE.search(body)
        rest = body[line.end() :] if line else body
        stop = _ANSWER_LINE.search(rest) or _LINE.search(rest)
        found = (rest[: stop.start()] if stop else rest).strip()
        opened = "<question>" in body.lower()
        if finish_reason == "length" and not stop:
            return Failure(QUESTION_TRUNCATED, "the question did not end")
        if opened or (line is None and "\n\n" in found):
            return Failure(QUESTION_NONE, "no closed <question>, no line 'Question:', and more than one paragraph")
    if fault := content_fault("question", found):
        return Failure(QUESTION_NONE, fault.detail) if fault.reason == PAIR_EMPTY else fault
    return found


def read_answer(text: str, finish_reason: str, *, compact: bool = False) -> str | Failure:
    """The answer to a question that was put alone, without a thought and a leading `Answer:`, or why there is none.

    A `compact` one is its first two sentences, as the compact wording's pairs have it, without one that did not end.
    """
    body = plain_lines(without_thought(text)).strip()
    if finish_reason == "length" and not compact:
        return Failure(ANSWER_TRUNCATED, "the answer did not end")
    found = tagged(body, "answer")
    thought = tagged(body, "reasoning")
    if found is not None:
        body = f"{thought}\n\n{found}" if thought else found
    else:
        body = re.sub(r"^\W*answer\W*:[*_]*\s*", "", body, count=1, flags=re.IGNORECASE)
    if compact and body:
        # A small model goes on with questions of its own.
        body = first_sentences(_LINE.split(body)[0].strip(), ended=finish_reason != "length")
        if not body and finish_reason == "length":
            return Failure(ANSWER_TRUNCATED, "the answer's first sentence did not end")
    if fault := content_fault("answer", body):
        return Failure(ANSWER_EMPTY, fault.detail) if fault.reason == PAIR_EMPTY else fault
    return body


def content_fault(name: str, content: str) -> Failure | None:
    """The fault of a turn's text: nothing in it, a placeholder of the prompt, or characters that are no text."""
    if not re.search(r"\w", content) or _PLACEHOLDER.search(content):
        return Failure(PAIR_EMPTY, f"the {name} says '{content[:80]}'")
    if not is_unicode(content):
        return Failure(PAIR_SCHEMA, f"the {name} is not valid Unicode")
    if character := control_character(content):
        return Failure(PAIR_CONTROL_CHARACTER, f"the {name} holds {character}")
    return None
