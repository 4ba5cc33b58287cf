"""The options of a multiple-choice question, and which of them an answer settles on.

Options are found by their labels in sequence (A, B, C or 1, 2, 3 in any usual punctuation), on lines of their own or
inside a sentence; a lone "vitamin A." or a date makes no sequence. An answer may conclude by letter or by text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_LINE_LABEL = re.compile(
    r"^[ \t]*(?:[-*•][ \t]+)?[*_(\[]*(?P<label>[A-Ja-j]|[1-9])[*_]*[)\].:][*_)\]]*[ \t]+", re.MULTILINE
)
_INLINE_LABEL = re.compile(r"(?<![\w.])[*_(\[]*(?P<label>[A-Ja-j]|[1-9])[*_]*[)\].:][*_)\]]*\s+")
_CONCLUSION = re.compile(
    r"(?:answer|option|choice|correct|conclu\w+|therefore|thus|hence|so)\b[\s,:]*"
    r"(?:(?:is|are|would be|must be|option|choice|answer|correct|the|one|letter|best|with)\b[\s,:]*)*"
    r"[*_(\[\"'“]*(?P<label>[A-Ja-j]|[1-9])(?![\w'’-]|[.,]\d)(?P<after>.?)",
    re.IGNORECASE,
)
_LEADING = re.compile(r"\s*[*_(\[\"'“]*(?P<label>[A-Ja-j]|[1-9])[*_]*(?:[)\].:,;*_\"'”]|\s*[-–—]\s|\s*$)")


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its label in upper case, and its text."""

    label: str
    text: str


def read_options(question: str) -> tuple[Option, ...]:
    """The labelled options of `question` in order, empty where there are fewer than two."""
    for pattern in (_LINE_LABEL, _INLINE_LABEL):
        marks = _sequence(list(pattern.finditer(question)))
        if len(marks) < 2:
            continue
        ends = [mark.start() for mark in marks[1:]] + [len(question)]
        texts = [question[mark.end() : end].strip(" \t\n,;*_") for mark, end in zip(marks, ends, strict=True)]
        if all(texts):
            return tuple(Option(mark["label"].upper(), text) for mark, text in zip(marks, texts, strict=True))
    return ()


def named_option(answer: str, options: Sequence[Option]) -> Option | None:
    """The option that `answer` settles on, or None.

    In order of trust: the last conclusion by label ("the answer is B"), a label at the start, the only option whose
    text stands in the last sentence, the only one whose text stands anywhere.
    """
    by_label = {option.label: option for option in options}
    concluded = [match for match in _CONCLUSION.finditer(answer) if not _is_article(match)]
    if concluded:
        return by_label.get(concluded[-1]["label"].upper())
    leading = _LEADING.match(answer)
    if leading and leading["label"].upper() in by_label:
        return by_label[leading["label"].upper()]
    sentences = re.split(r"(?<=[.!?])\s+", answer.strip())
    for text in (sentences[-1], answer):
        mentioned = _mentioned(text, options)
        if len(mentioned) == 1:
            return mentioned[0]
    return None


def _sequence(marks: list[re.Match[str]]) -> list[re.Match[str]]:
    """The longest run of labels in alphabetical or numerical order that begins with A, a or 1."""
    best: list[re.Match[str]] = []
    for first, mark in enumerate(marks):
        if mark["label"] not in "Aa1":
            continue
        run = [mark]
        for other in marks[first + 1 :]:
            if ord(other["label"]) == ord(run[-1]["label"]) + 1:
                run.append(other)
        if len(run) > len(best):
            best = run
    return best


def _is_article(match: re.Match[str]) -> bool:
    """Whether the label is the word "a" or "I" ("the correct answer is a rise in ...") rather than a letter."""
    label = match["label"]
    return label in "aAiI" and match["after"] == " "


def _mentioned(text: str, options: Sequence[Option]) -> list[Option]:
    """Options whose text stands in `text`, without those that only stand inside a longer one."""
    plain = f" {_plain(text)} "
    found = []
    for option in sorted(options, key=lambda option: -len(option.text)):
        needle = f" {_plain(option.text)} "
        if needle.strip() and needle in plain:
            found.append(option)
            plain = plain.replace(needle, "  ")
    return found


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
