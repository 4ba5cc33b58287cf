"""Two wordings of the same task: rules and JSON for large models, worked examples and plain lines for small ones.

A model of a hundred million parameters fills a JSON form with its placeholders and follows no list of rules, but it
continues a pattern. So the compact wording shows three worked examples as chat turns and asks for one line (what the
question is to be about) and then two (`Question:` and `Answer:`). Such a model does not know where to end: what follows
an answer's second sentence repeats or drifts, and is left out. The checks of pairs are the same for both. What it gives
up is three of the rubric's four parts: a line has no room for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from harness.models.extractive.sentences import split_sentences
from harness.synthesis.pairs import PAIR_CONTROL_CHARACTER, PAIR_EMPTY, PAIR_SCHEMA, PAIR_TRUNCATED, parse_pair
from harness.synthesis.parsing import Failure, after_thinking, control_character, is_unicode, plain_lines
from harness.synthesis.rubric import RUBRIC_BAD_TYPE, RUBRIC_MISSING_PART, RUBRIC_TRUNCATED, parse_rubric
from harness.types import RUBRIC_PARTS, Message

PAIR_NO_LINES = "pair_no_lines"
WORDING_REASONS: Mapping[str, str] = MappingProxyType(
    {PAIR_NO_LINES: "no line 'Question:' that is followed by a line 'Answer:'"}
)
"""Reason codes that only the compact wording has, with what each means."""

_QUESTION = re.compile(r"^\W*question\W*:[*_]*\s*", re.IGNORECASE | re.MULTILINE)
_ANSWER = re.compile(r"^\W*answer\W*:[*_]*\s*", re.IGNORECASE | re.MULTILINE)
_SENTENCES = 2
"""Most sentences of an answer under the compact wording, as its examples have them."""
_PLACEHOLDER = re.compile(r"\{\{|\}\}|<(?:question|answer|topic)>", re.IGNORECASE)

ReadRubric = Callable[[str, str], "Mapping[str, str] | Failure"]
"""From a writer's output and its finish reason to the rubric's parts."""
ReadPair = Callable[[str, str, str], "tuple[Message, ...] | Failure"]
"""From a generator's output, its finish reason and the system message to the pair's turns."""


@dataclass(frozen=True, slots=True)
class Wording:
    """The wording of requests and the reading of answers. `rubric` and `generator` are packaged prompts.

    `parts` are those of a rubric that the generator's prompt must use; `json` says that both outputs are JSON.
    """

    name: str
    rubric: str
    generator: str
    parts: tuple[str, ...]
    json: bool
    read_rubric: ReadRubric
    read_pair: ReadPair


def read_line(text: str, finish_reason: str = "stop") -> Mapping[str, str] | Failure:
    """The first line of a writer's output as the rubric's first part, or why there is none."""
    lines = [line.strip() for line in after_thinking(text).splitlines()]
    found = next((line for line in lines if line), "")
    if not is_unicode(found):
        return Failure(RUBRIC_BAD_TYPE, "the line is not valid Unicode")
    if not re.search(r"\w", found) or _PLACEHOLDER.search(found):
        return Failure(RUBRIC_MISSING_PART, f"the line says '{found[:80]}'")
    if finish_reason == "length" and sum(map(bool, lines)) == 1:
        return Failure(RUBRIC_TRUNCATED, "the line did not end")
    return {RUBRIC_PARTS[0]: found}


def read_lines(text: str, finish_reason: str, system_message: str) -> tuple[Message, ...] | Failure:
    """The pair of the first lines `Question:` and `Answer:`, each up to the next such line, or why there is none.

    An answer is its first two sentences; one that the limit cut off is those of them that ended. A JSON pair is read as
    one, so that a generator which writes JSON serves this wording too.
    """
    body = plain_lines(after_thinking(text))
    if body.lstrip().startswith("{"):
        return parse_pair(text, finish_reason)
    asked = _QUESTION.search(body)
    answered = _ANSWER.search(body, asked.end()) if asked else None
    if asked is None or answered is None:
        failure = PAIR_TRUNCATED if finish_reason == "length" else PAIR_NO_LINES
        return Failure(failure, "no line 'Question:' followed by a line 'Answer:'")
    rest = _QUESTION.search(body, answered.end())
    question = body[asked.end() : answered.start()].strip()
    answer = body[answered.end() : rest.start() if rest else len(body)].strip()
    answer = first_sentences(answer, ended=rest is not None or finish_reason != "length")
    if not answer and rest is None and finish_reason == "length":
        return Failure(PAIR_TRUNCATED, "the answer's first sentence did not end")
    for name, content in (("question", question), ("answer", answer)):
        if not re.search(r"\w", content) or _PLACEHOLDER.search(content):
            return Failure(PAIR_EMPTY, f"the {name} says '{content[:80]}'")
        if not is_unicode(content):
            return Failure(PAIR_SCHEMA, f"the {name} is not valid Unicode")
        if character := control_character(content):
            return Failure(PAIR_CONTROL_CHARACTER, f"the {name} holds {character}")
    pair = (Message("user", question), Message("assistant", answer))
    return (Message("system", system_message), *pair) if system_message else pair


def first_sentences(text: str, *, ended: bool) -> str:
    """The first two sentences of an answer, without a last one that did not end."""
    sentences = split_sentences(text)
    if not ended and not sentences[-1].endswith((".", "!", "?")):
        sentences = sentences[:-1]
    elif len(sentences) <= _SENTENCES:
        return text
    return " ".join(sentences[:_SENTENCES])


WORDINGS: Mapping[str, Wording] = MappingProxyType(
    {
        "full": Wording(
            name="full",
            rubric="rubric",
            generator="generator",
            parts=RUBRIC_PARTS,
            json=True,
            read_rubric=parse_rubric,
            read_pair=lambda text, finish, _system: parse_pair(text, finish),
        ),
        "compact": Wording(
            name="compact",
            rubric="rubric_compact",
            generator="generator_compact",
            parts=RUBRIC_PARTS[:1],
            json=False,
            read_rubric=read_line,
            read_pair=read_lines,
        ),
    }
)
"""By the value of `synthesis.prompts`."""
