"""The worth of a pair in its world: useful, or which trap it fell into.

The label is read off the text of the pair alone, by the world's own words, so it holds for whatever a generator
wrote and not for what its rubric asked. It is for signals that calibrate the bench and for reports about the lab;
a signal under test must never read it. It gives up nuance: a pair is worth 1 or 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from harness.lab.pairs import RELATION_OF
from harness.lab.words import FIRST, SECOND
from harness.lab.world import World
from harness.types import Message

PairKind = Literal["useful", "known", "unasked", "false", "filler", "off_world"]

_STEMS: dict[str, tuple[str, ...]] = {
    "use": (" treat",),
    "intake": (" taken",),
    "storage": (" kept",),
    "danger": (" never meet",),
    "finder": (" found",),
    "price": (" cost",),
}
"""What the question of a training pair about each relation contains, and no question about another one does."""


@dataclass(frozen=True, slots=True)
class Planted:
    """The label of one pair. `utility` is 1.0 for useful pairs, else 0.0; unrecognised fields are empty."""

    kind: PairKind
    utility: float
    relation: str = ""
    cls: str = ""
    question_type: str = ""


@lru_cache(maxsize=4)
def _names(classes: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern of a thing's name, whose group is the class."""
    return re.compile(rf"\b(?:{'|'.join(FIRST)})(?:{'|'.join(SECOND)})({'|'.join(classes)})\b")


def label(messages: Sequence[Message], world: World) -> Planted:
    """Label a pair: its last user turn asks, its last assistant turn answers.

    `off_world`: no thing or no relation of the world is recognised; `filler`: the answer names no value of the
    relation; `false`: it names another value than the rule's, or more than one; then `unasked` (whether known or
    not), `known` (asked, and the target knew it) or `useful`.
    """
    question = next((m.content for m in reversed(messages) if m.role == "user"), "")
    answer = next((m.content for m in reversed(messages) if m.role == "assistant"), "")
    classes = {match[1] for match in _names(world.classes).finditer(question)}
    relations = [key for key, stems in _STEMS.items() if any(stem in question for stem in stems)]
    if len(classes) != 1 or len(relations) != 1:
        return Planted("off_world", 0.0)
    cls, key = classes.pop(), relations[0]
    kind = _kind(answer, cls, key, world)
    return Planted(
        kind=kind,
        utility=1.0 if kind == "useful" else 0.0,
        relation=key,
        cls=cls,
        question_type=_question_type(question),
    )


def _kind(answer: str, cls: str, key: str, world: World) -> PairKind:
    named = set(re.findall(r"\w+", answer))
    values = {v for v in RELATION_OF[key].values if v in named}
    if not values:
        return "filler"
    if values != {world.rules[cls, key]} or {m[1] for m in _names(world.classes).finditer(answer)} - {cls}:
        return "false"
    if key not in world.asked:
        return "unasked"
    return "known" if (cls, key) in world.known else "useful"


def _question_type(question: str) -> str:
    if "A)" in question and "B)" in question:
        return "multiple choice"
    if "____" in question:
        return "fill-in-the-blank"
    return "essay" if question.lstrip().startswith("Explain") else "short answer"
