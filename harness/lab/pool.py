"""A world's pool of candidate pairs: useful ones, and useless ones that each lack exactly one thing.

Signals are compared on the same pairs, so the pairs come from the lab's own wording and no language model draws them.
A useful pair is asked, unknown to the target, true and new; each useless kind lacks one of these and shares the rest,
so an AUC against a kind says how well a signal sees that one property. Every kind has the same number of pairs for each
of its rules and each question type, each pair about another thing. It gives up the mixture that a writer would
produce: shares of kinds are equal here, and in a run they are not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

from harness.errors import InputError
from harness.lab.pairs import RELATION_OF, Style, pair_messages, random_style
from harness.lab.words import RELATIONS, Relation
from harness.lab.world import Rule, World
from harness.types import QUESTION_TYPES, Message, Sample, derive_seed, stable_hash

PoolKind = Literal["useful", "known", "unasked", "false", "filler", "repeat"]

USELESS: tuple[PoolKind, ...] = ("known", "unasked", "false", "filler", "repeat")
"""Asked and true but known; unknown and true but unasked; a false value; no value; a verbatim copy of a useful pair."""
_KIND_OF_STYLE: dict[Style, PoolKind] = {"exact": "useful", "plausible": "false", "polished": "filler"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One pair of a pool, its kind, the rule that it is about and its question type."""

    sample: Sample
    kind: PoolKind
    rule: Rule
    question_type: str


def candidates(world: World, per_cell: int = 2) -> list[Candidate]:
    """The pool of `world`: `per_cell` pairs for each rule of a kind, four question types and six kinds, kind by kind.

    False values and filler are about rules that are useful otherwise. The copies follow the useful pairs in order, one
    each. Raises `InputError` where the world has fewer things than the pool needs.
    """
    useful = sorted(world.useful)
    rules: dict[PoolKind, list[Rule]] = {
        "useful": useful,
        "known": sorted(r for r in world.known if r[1] in world.asked),
        "unasked": sorted(world.unknown - world.useful),
        "false": useful,
        "filler": useful,
    }
    cells = [(kind, r, q) for kind, own in rules.items() for r in own for q in QUESTION_TYPES for _ in range(per_cell)]
    names = {cls: world.names("seeds", cls) for cls in world.classes}
    stems = len(names[world.classes[0]])
    # In a larger world more things share a stem.
    if not 0 < len(cells) <= (most := stems * world.shared):
        raise InputError(f"a pool needs one thing a pair and a world has {most}, not {len(cells)}; lower per_cell")
    rng = random.Random(derive_seed("lab pool", world.id.key, per_cell))
    taken: set[str] = set()
    made = []
    for i, (kind, (cls, key), question_type) in enumerate(cells):
        relation = RELATION_OF[key]
        value = _value(kind, relation, world.rules[cls, key], rng)
        own = names[cls]
        name = next(n for n in own[i % stems :] + own[: i % stems] if n not in taken)
        taken.add(name)
        messages = pair_messages(name, cls, relation, question_type, value, rng)
        sample = _sample(world, "pool", i, messages)
        made.append(Candidate(sample, kind, (cls, key), question_type))
    useful_ones = [c for c in made if c.kind == "useful"]
    copies = [_sample(world, "pool copy", i, c.sample.messages) for i, c in enumerate(useful_ones)]
    return made + [replace(c, kind="repeat", sample=s) for c, s in zip(useful_ones, copies, strict=True)]


def _value(kind: PoolKind, relation: Relation, true: str, rng: random.Random) -> str | None:
    """The value that a pair of this kind gives; None for filler."""
    if kind == "filler":
        return None
    return rng.choice([v for v in relation.values if v != true]) if kind == "false" else true


def first_pairs(world: World, count: int, seed: int) -> list[Sample]:
    """`count` pairs as an untrained writer and the world's generator would write them, without their failures.

    The classes come in turn; relation, question type and style are drawn as in the writer's training. These stand for a
    run's initial pairs, on which the target is warmed up. Raises `InputError` where the world has fewer things.
    """
    stems = len(world.names("seeds", world.classes[0]))
    if not 0 < count <= stems:
        raise InputError(f"lab world {world.id} has 1 to {stems} things to write pairs about, not {count}")
    rng = random.Random(derive_seed("lab first pairs", world.id.key, seed))
    samples = []
    for i in range(count):
        cls = world.classes[i % len(world.classes)]
        relation, question_type, style = rng.choice(RELATIONS), rng.choice(QUESTION_TYPES), random_style(rng)
        value = _value(_KIND_OF_STYLE[style], relation, world.rules[cls, relation.key], rng)
        messages = pair_messages(world.names("seeds", cls)[i], cls, relation, question_type, value, rng)
        samples.append(_sample(world, f"first pairs {seed}", i, messages))
    return samples


def _sample(world: World, origin: str, index: int, messages: tuple[Message, ...]) -> Sample:
    source = f"lab:world-{world.id}:{origin}:{index}"
    identity = stable_hash(source, [m.content for m in messages])
    return Sample(
        id=identity,
        seed_ids=(source,),
        rubric_id=None,
        prompt_hash=stable_hash(source),
        messages=messages,
        raw="",
        generator="lab wording",
        finish_reason="stop",
    )
