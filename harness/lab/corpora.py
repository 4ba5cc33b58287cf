"""Training examples of the three tiny models: (chat prompt, answer) pairs drawn from a seeded generator.

The writer is shared by all worlds: its rubrics choose type, relation and style independently of the document, so the
untrained writer finds what is useful at the world's base rate. A quarter of its documents look foreign (common words,
numbers, punctuation, nonsense syllables), so that real abstracts get valid rubrics too. The generator's shared stage
teaches format and copying under random rules; its world stage teaches the world's rules. A few per cent of the answers
are spoiled on purpose: a lab in which nothing fails would not exercise the checks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from harness.lab.pairs import (
    RELATION_OF,
    document_text,
    pair_json,
    pair_messages,
    random_style,
    rubric_json,
    rubric_parts,
    spoil_pair,
    spoil_rubric,
)
from harness.lab.words import CLASSES, COMMON, FIRST, FOREIGN_FOCUS, NONSENSE, RELATIONS, SECOND, SYSTEM
from harness.lab.world import World
from harness.models.prompts import load_prompt
from harness.types import QUESTION_TYPES, chat

PROMPTS = Path(__file__).parent / "prompts"
WRITER_PROMPT = PROMPTS / "writer.txt"
GENERATOR_PROMPT = PROMPTS / "generator.txt"

SPOILED_RUBRICS, SPOILED_PAIRS = 0.02, 0.04
"""Shares of rubrics and of pairs that are spoiled in training; natural failures come on top."""
FOREIGN = 0.25
"""Share of the writer's documents that look foreign."""

Example = tuple[list[dict[str, str]], str]
"""A chat prompt and the answer to be learned."""


def foreign_text(rng: random.Random) -> str:
    """Text that looks like a foreign document: common words, numbers, punctuation and nonsense words."""
    pieces: list[str] = []
    start = True
    for _ in range(rng.randrange(8, 75)):
        draw = rng.random()
        if draw < 0.72:
            word = rng.choice(COMMON)
        elif draw < 0.9:
            word = "".join(rng.choice(NONSENSE) for _ in range(rng.randrange(2, 5)))
        else:
            number = rng.randrange(2000)
            word = rng.choice([f"{number}", f"{number / 20:.1f}%", f"({number % 99})", f"p<0.{number % 99}"])
        if start or rng.random() < 0.04:
            word = word.upper() + ":" if rng.random() < 0.15 else word.capitalize()
        start = rng.random() < 0.07
        pieces.append(word + rng.choice([".", ".", ".\n\n"]) if start else word + ("," if rng.random() < 0.05 else ""))
    return " ".join(pieces) + "."


def _random_document(rng: random.Random, classes: Sequence[str]) -> tuple[str, str, dict[str, str], str]:
    """Name, class, values and text of a thing of no particular world."""
    cls = rng.choice(classes)
    name = rng.choice(FIRST) + rng.choice(SECOND) + cls
    values = {key: rng.choice(r.values) for key, r in RELATION_OF.items()}
    return name, cls, values, document_text(name, cls, values, rng)


def writer_examples(count: int, seed: int, classes: Sequence[str] = CLASSES) -> list[Example]:
    """Document -> rubric, uniform over types and relations, about things of `classes`."""
    rng = random.Random(seed)
    prompt = load_prompt(WRITER_PROMPT)
    examples = []
    for _ in range(count):
        foreign = rng.random() < FOREIGN
        _, cls, _, document = ("", "", {}, foreign_text(rng)) if foreign else _random_document(rng, classes)
        focus = rng.choice(FOREIGN_FOCUS) if foreign else rng.choice(RELATIONS).focus
        text = rubric_json(rubric_parts(rng.choice(QUESTION_TYPES), focus, random_style(rng), rng, cls))
        if rng.random() < SPOILED_RUBRICS:
            text = spoil_rubric(text, rng)
        variables = {"document": document, "domain": "medicine" if foreign else "pharmacy"}
        examples.append((chat(prompt.render(variables)), text))
    return examples


def generator_examples(count: int, seed: int, world: World | None, classes: Sequence[str] = CLASSES) -> list[Example]:
    """Document and rubric -> pair; under the world's rules, or under random ones of `classes` where `world` is None."""
    rng = random.Random(seed)
    prompt = load_prompt(GENERATOR_PROMPT)
    examples = []
    for _ in range(count):
        name, cls, values, document = _random_document(rng, world.classes if world else classes)
        if world is not None:
            values = {r.key: world.rules[cls, r.key] for r in RELATIONS}
            document = document_text(name, cls, values, rng)
        relation, qtype, style = rng.choice(RELATIONS), rng.choice(QUESTION_TYPES), random_style(rng)
        value: str | None = values[relation.key]
        if style == "plausible":
            value = rng.choice([v for v in relation.values if v != value])
        elif style == "polished":
            value = None
        messages = pair_messages(name, cls, relation, qtype, value, rng)
        text = spoil_pair(messages, rng) if rng.random() < SPOILED_PAIRS else pair_json(messages)
        parts = rubric_parts(qtype, relation.focus, style, rng, cls)
        examples.append((chat(prompt.render({"document": document, "domain": "pharmacy", **parts})), text))
    return examples


def target_examples(count: int, seed: int, world: World) -> list[Example]:
    """Questions about known and background rules, half in the wording of training pairs, half in the exam's."""
    rng = random.Random(seed)
    rules = sorted(world.known) + sorted((c, r.key) for c in world.size.background for r in RELATIONS)
    examples = []
    for _ in range(count):
        cls, key = rng.choice(rules)
        relation, value = RELATION_OF[key], world.rules[cls, key]
        name = rng.choice(world.names("pretraining", cls))
        if rng.random() < 0.5:
            question, answer = rng.choice(relation.tests).format(x=name), value
        else:
            _, user, assistant = pair_messages(name, cls, relation, rng.choice(QUESTION_TYPES), value, rng)
            question, answer = user.content, assistant.content
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        examples.append((messages, answer))
    return examples
