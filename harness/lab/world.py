"""One planted world: rules, things, documents and exams, all drawn from the world's number.

A thing's class is its name's suffix, and the value of a relation follows a rule (class, relation) -> value. Things of
seeds, validation and tests are disjoint, so only a rule can carry over from a training pair to the exam; worlds in
which facts had to carry over instead gave noise. Each relation gives its six values to equally many classes (one each
of six, three each of eighteen), so a guess is right one time in six. The target knows half of the classes of every
relation from its pretraining, and the exam asks three of the six relations: a useful pair is asked, unknown and true,
which holds for a quarter of the rules (9 of 36, or 27 of 108). Half as many further classes occur only in the target's
pretraining and carry exactly the values of the unknown rules: without them those answers would be unfamiliar words, and
the exam would measure vocabulary. It gives up realism for known worth.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import InputError
from harness.lab.pairs import document_text, pair_messages
from harness.lab.sizes import Size, size_of
from harness.lab.words import FIRST, RELATIONS, SECOND, Relation
from harness.types import QUESTION_TYPES, SMALL_WORLD, Seed, WorldId, derive_seed, stable_hash

LAB_COLUMNS = ("lab_asked", "lab_related", "lab_retention")
"""Test columns: asked and unknown rules (the headline), unasked and unknown rules, rules known from pretraining."""

Rule = tuple[str, str]
"""A rule's address: (class, relation key)."""


_SPLITS: Mapping[str, tuple[int, int]] = {
    "seeds": (0, 400),
    "test": (400, 600),
    "validation": (600, 720),
    "pretraining": (720, len(FIRST) * len(SECOND)),
}
"""Which slice of the shuffled name stems each split owns; a stem belongs to one split, whatever the suffix."""


@dataclass(frozen=True, slots=True)
class LabItem:
    """One exam item: a question, the relation's six values as choices, the index of the right one, the thing asked."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    thing: str
    cls: str
    relation: str


@dataclass(frozen=True, slots=True)
class World:
    """The world with this number and so many classes (`harness/lab/sizes.py`).

    `rules` covers the background classes too; `known` are rules of the others. Raises `InputError` for another size.
    """

    number: int
    class_count: int = SMALL_WORLD
    rules: Mapping[Rule, str] = field(init=False, repr=False, compare=False)
    known: frozenset[Rule] = field(init=False, repr=False, compare=False)
    asked: frozenset[str] = field(init=False, repr=False, compare=False)
    stems: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        classes, background = self.size.classes, self.size.background
        rng = random.Random(derive_seed("lab world", self.id.key))
        rules: dict[Rule, str] = {}
        known: set[Rule] = set()
        for relation in RELATIONS:
            values = dict(zip(classes, rng.sample(relation.values * self.shared, len(classes)), strict=True))
            familiar = set(rng.sample(classes, len(classes) // 2))
            foreign = [values[c] for c in classes if c not in familiar]
            rng.shuffle(foreign)
            rules.update({(c, relation.key): v for c, v in values.items()})
            rules.update({(c, relation.key): v for c, v in zip(background, foreign, strict=True)})
            known.update((c, relation.key) for c in familiar)
        asked = frozenset(rng.sample([r.key for r in RELATIONS], len(RELATIONS) // 2))
        stems = [a + b for a in FIRST for b in SECOND]
        rng.shuffle(stems)
        for name, value in (("rules", rules), ("known", frozenset(known)), ("asked", asked), ("stems", tuple(stems))):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, world: WorldId | None) -> World:
        """The world at this address; None is the first of the smallest."""
        return cls(*(world or WorldId()))

    @property
    def size(self) -> Size:
        """The world's classes and the lengths of its trainings."""
        return size_of(self.class_count)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the world's things."""
        return self.size.classes

    @property
    def shared(self) -> int:
        """The number of classes that share each value of a relation."""
        return len(self.classes) // len(RELATIONS[0].values)

    @property
    def id(self) -> WorldId:
        """The world's address."""
        return WorldId(self.number, self.class_count)

    @property
    def unknown(self) -> frozenset[Rule]:
        """The rules that the target has never seen."""
        return frozenset((c, r.key) for c in self.classes for r in RELATIONS) - self.known

    @property
    def useful(self) -> frozenset[Rule]:
        """The rules whose true pairs help the headline column: asked and unknown."""
        return frozenset(rule for rule in self.unknown if rule[1] in self.asked)

    def names(self, split: str, cls: str) -> list[str]:
        """Every name of the class in the split, in a fixed random order."""
        start, stop = _SPLITS[split]
        return [stem + cls for stem in self.stems[start:stop]]

    def document(self, name: str, cls: str) -> str:
        """The truthful document about a thing."""
        values = {r.key: self.rules[cls, r.key] for r in RELATIONS}
        return document_text(name, cls, values, random.Random(derive_seed("lab document", self.id.key, name)))

    def seeds(self, n: int) -> list[Seed]:
        """`n` documents, the classes in turn. Raises `InputError` where the world has fewer things."""
        start, stop = _SPLITS["seeds"]
        if not 0 < n <= stop - start:
            raise InputError(f"lab world {self.id} has 1 to {stop - start} seeds, not {n}; ask for fewer")
        source = f"lab:world-{self.id}"
        seeds = []
        for i, stem in enumerate(self.stems[start : start + n]):
            cls = self.classes[i % len(self.classes)]
            text = self.document(stem + cls, cls)
            seeds.append(Seed(stable_hash(source, text), text, domain="pharmacy", source=source, licence="CC0-1.0"))
        return seeds

    def questions(self, n: int) -> list[Seed]:
        """`n` labelled seeds: a question about a thing with its right answer, every rule in turn.

        Question types come at random. Raises `InputError` where the world has fewer things.
        """
        start, stop = _SPLITS["seeds"]
        if not 0 < n <= stop - start:
            raise InputError(f"lab world {self.id} has 1 to {stop - start} seeds, not {n}; ask for fewer")
        rng = random.Random(derive_seed("lab questions", self.id.key))
        rules = [(cls, relation) for cls in self.classes for relation in RELATIONS]
        rng.shuffle(rules)
        source = f"lab:world-{self.id}:questions"
        seeds = []
        for i, stem in enumerate(self.stems[start : start + n]):
            cls, relation = rules[i % len(rules)]
            value = self.rules[cls, relation.key]
            messages = pair_messages(stem + cls, cls, relation, rng.choice(QUESTION_TYPES), value, rng)
            identity = stable_hash(source, [m.content for m in messages])
            seeds.append(
                Seed(identity, text=None, messages=messages, domain="pharmacy", source=source, licence="CC0-1.0")
            )
        return seeds

    def test_items(self, column: str, n: int) -> list[LabItem]:
        """`n` items of a test column (`LAB_COLUMNS`) about test things."""
        if column not in LAB_COLUMNS:
            raise InputError(f"the lab has no column {column!r}; it has {', '.join(LAB_COLUMNS)}")
        rules = {
            "lab_asked": self.useful,
            "lab_related": self.unknown - self.useful,
            "lab_retention": self.known,
        }[column]
        return self._items(column, sorted(rules), "test", n)

    def validation_items(self, n: int) -> list[LabItem]:
        """`n` items distributed as `lab_asked`, about validation things."""
        return self._items("validation", sorted(self.useful), "validation", n)

    def _items(self, column: str, rules: list[Rule], split: str, n: int) -> list[LabItem]:
        start, stop = _SPLITS[split]
        stems = list(self.stems[start:stop])
        # Classes share a stem where there are more items than stems; the things are different all the same.
        most = len(stems) * self.shared
        if not 0 < n <= most:
            raise InputError(f"lab column {column} has 1 to {most} items, not {n}; ask for fewer")
        rng = random.Random(derive_seed("lab items", self.id.key, column))
        rng.shuffle(rules)
        rng.shuffle(stems)
        by_key = {r.key: r for r in RELATIONS}
        items = []
        for i in range(n):
            cls, key = rules[i % len(rules)]
            items.append(self._item(column, stems[i % len(stems)] + cls, cls, by_key[key], i // len(rules)))
        return items

    def _item(self, column: str, name: str, cls: str, relation: Relation, turn: int) -> LabItem:
        question = relation.tests[turn % len(relation.tests)].format(x=name)
        right = relation.values.index(self.rules[cls, relation.key])
        identity = stable_hash("lab", self.id.key, column, question)
        return LabItem(
            id=identity,
            question=question,
            choices=relation.values,
            answer=right,
            thing=name,
            cls=cls,
            relation=relation.key,
        )
