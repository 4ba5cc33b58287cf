"""Labelled rows: a question with its reference answer, in the columns that people keep them in.

Only rows that hold no text and no conversation are read so; which columns are meant is looked up, or named in the
settings. Reasoning that has a column of its own comes before the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.types import Message

QUESTION_FIELDS = ("question", "problem", "instruction", "prompt", "query")
"""Columns looked up for the question, in this order."""
ANSWER_FIELDS = ("answer", "solution", "output", "response", "completion")
"""Columns looked up for the reference answer, in this order."""
REASONING_FIELDS = ("reasoning", "rationale", "explanation")
"""Columns with the way to the answer."""
CONTEXT_FIELDS = ("input", "context")
"""Columns with a text that the question is about, which follows it, as in Alpaca's and Dolly's rows."""


def find_labelled(
    row: Mapping[str, Any], question_field: str | None = None, answer_field: str | None = None
) -> tuple[Message, Message] | None:
    """Question and reference answer of a row as two turns; None where either is missing or no text.

    `question_field` and `answer_field` name the columns; a context is only added to a question that was looked up.
    """
    question = _first(row, (question_field,) if question_field else QUESTION_FIELDS)
    answer = _first(row, (answer_field,) if answer_field else ANSWER_FIELDS)
    if not question or not answer:
        return None
    context = "" if question_field else _first(row, CONTEXT_FIELDS)
    reasoning = "" if answer_field else _first(row, REASONING_FIELDS)
    asked = f"{question}\n\n{context}" if context else question
    return Message("user", asked), Message("assistant", f"{reasoning}\n\n{answer}" if reasoning else answer)


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these columns that holds text; empty where none does. Numbers are answers, too."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
            return str(value)
    return ""
