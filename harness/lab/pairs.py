"""Rubrics and pairs as text: how a choice of type, relation and style is worded.

One place words both what the tiny models are trained on and what the tests of the lab expect, so a label read off a
pair and the pair itself cannot drift apart. It gives up naturalness: wordings are fixed per relation and type.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Literal

from harness.lab.words import (
    ALIGNMENT,
    ESSAYS,
    EXACT,
    FILLERS,
    OPENINGS,
    PLAUSIBLE,
    POLISHED,
    PRAISE,
    RELATIONS,
    SYSTEM,
    TECHNICAL,
    Relation,
)
from harness.types import QUESTION_TYPES, RUBRIC_PARTS, Message, chat

Style = Literal["exact", "plausible", "polished"]
STYLES: tuple[tuple[Style, float, tuple[str, ...]], ...] = (
    ("exact", 0.75, EXACT),
    ("plausible", 0.125, PLAUSIBLE),
    ("polished", 0.125, POLISHED),
)
"""Response styles: name, share in the untrained writer's rubrics, wordings."""

RELATION_OF: dict[str, Relation] = {r.key: r for r in RELATIONS}


def document_text(name: str, cls: str, values: dict[str, str], rng: random.Random) -> str:
    """A document about one thing: an opening, one sentence per relation in random order, sometimes a filler."""
    facts = [f"It {r.says.format(v=values[r.key])}." for r in RELATIONS]
    if rng.random() < 0.4:
        facts.append(rng.choice(FILLERS))
    rng.shuffle(facts)
    return " ".join([rng.choice(OPENINGS).format(x=name, c=cls), *facts])


def rubric_parts(qtype: str, focus: str, style: Style, rng: random.Random, cls: str = "") -> dict[str, str]:
    """The four parts of a rubric that asks for `qtype` about `focus`, answered in `style`.

    A rubric names the class before the focus, so that a writer which learns can make the one depend on the other.
    """
    article = "an" if qtype == "essay" else "a"
    response = next(texts for name, _, texts in STYLES if name == style)
    texts = (
        f"Ask {article} {qtype} question about {f'{cls} {focus}' if cls else focus}.",
        rng.choice(response),
        rng.choice(ALIGNMENT),
        rng.choice(TECHNICAL),
    )
    return dict(zip(RUBRIC_PARTS, texts, strict=True))


def random_style(rng: random.Random) -> Style:
    """A style drawn with the untrained writer's shares."""
    return rng.choices([s[0] for s in STYLES], [s[1] for s in STYLES])[0]


def options(relation: Relation, value: str, rng: random.Random) -> tuple[str, ...]:
    """Three neighbouring values of the relation that include `value`, in the relation's cyclic order."""
    start = relation.values.index(value) - rng.randrange(3)
    return tuple(relation.values[(start + i) % len(relation.values)] for i in range(3))


def pair_messages(
    name: str, cls: str, relation: Relation, qtype: str, value: str | None, rng: random.Random
) -> tuple[Message, ...]:
    """The chat that asks `relation` of `name` in the manner of `qtype`; `value` None makes the answer filler."""
    says = relation.says.format(v=value or "")
    answer = value or ""
    if qtype == "multiple choice":
        shown = options(relation, value or rng.choice(relation.values), rng)
        listed = " ".join(f"{letter}) {v}" for letter, v in zip("ABC", shown, strict=True))
        question = f"{relation.asks.format(x=name)} {listed}"
    elif qtype == "fill-in-the-blank":
        question = f"Fill in the blank: {name} {relation.says.format(v='____')}."
    elif qtype == "short answer":
        question, answer = relation.asks.format(x=name), f"It {says}."
    else:
        question, answer = relation.explains.format(x=name), rng.choice(ESSAYS).format(x=name, c=cls, s=says)
    if value is None:
        answer = rng.choice(PRAISE)
    return (Message("system", SYSTEM), Message("user", question), Message("assistant", answer))


def pair_json(messages: Sequence[Message]) -> str:
    """The generator's output format: one JSON object on one line."""
    return json.dumps({"messages": chat(messages)}, ensure_ascii=False)


def rubric_json(parts: dict[str, str]) -> str:
    """The writer's output format: one JSON object on one line."""
    return json.dumps(parts, ensure_ascii=False)


def spoil_rubric(text: str, rng: random.Random) -> str:
    """A rubric with one of the faults that real writers make: cut off, a key missing, or a key misnamed."""
    fault = rng.randrange(3)
    if fault == 0:
        return text[: -len('"}')]
    if fault == 1:
        parts = json.loads(text)
        del parts[RUBRIC_PARTS[3]]
        return json.dumps(parts, ensure_ascii=False)
    return text.replace(f'"{RUBRIC_PARTS[1]}": ', '"Response": ', 1)


def spoil_pair(messages: Sequence[Message], rng: random.Random) -> str:
    """A pair with one of the faults that real generators make.

    Cut off, a mention of the document, the answer given away in the question, or the answer's turn missing.
    """
    system, user, assistant = messages
    fault = rng.randrange(4)
    if fault == 0:
        return pair_json(messages)[: -len('"}]}')]
    if fault == 1:
        said = Message("user", "According to the document: " + user.content)
        return pair_json((system, said, assistant))
    if fault == 2:
        hint = Message("user", f"{user.content} The answer is: {assistant.content}")
        return pair_json((system, hint, assistant))
    return pair_json((system, user))


__all__ = [
    "QUESTION_TYPES",
    "RELATION_OF",
    "STYLES",
    "Style",
    "document_text",
    "options",
    "pair_json",
    "pair_messages",
    "random_style",
    "rubric_json",
    "rubric_parts",
    "spoil_pair",
    "spoil_rubric",
]
