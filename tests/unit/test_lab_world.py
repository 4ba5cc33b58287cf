"""The planted world: determinism, disjoint things, balanced rules, exams in other words than training pairs."""

from __future__ import annotations

import random
import re

import pytest

from harness.errors import InputError
from harness.lab.build import lab_identity
from harness.lab.pairs import RELATION_OF, pair_messages
from harness.lab.planted import label
from harness.lab.pool import candidates
from harness.lab.report import learning
from harness.lab.words import CLASSES, EXACT, PLAUSIBLE, RELATIONS
from harness.lab.world import LAB_COLUMNS, World
from harness.synthesis.validity import check_pair
from harness.types import QUESTION_TYPES, Message


def _pairs(world: World, value: str = "true") -> list[tuple[str, str, str, tuple[Message, ...]]]:
    """Every rule in every question type about a seed's thing: (class, relation, type, pair)."""
    rng = random.Random(3)
    made = []
    for cls in CLASSES:
        for key, relation in RELATION_OF.items():
            for qtype in QUESTION_TYPES:
                true = world.rules[cls, key]
                other = next(v for v in relation.values if v != true)
                said = {"true": true, "false": other, "filler": None}[value]
                name = rng.choice(world.names("seeds", cls))
                made.append((cls, key, qtype, pair_messages(name, cls, relation, qtype, said, rng)))
    return made


def test_a_world_is_its_number() -> None:
    assert World(3).rules == World(3).rules and World(3).seeds(24) == World(3).seeds(24)
    assert World(3).test_items("lab_asked", 30) == World(3).test_items("lab_asked", 30)
    assert World(3).rules != World(4).rules
    assert {World(n).asked for n in range(20)} != {World(0).asked}


@pytest.mark.parametrize("world", [*map(World, range(5)), World(0, 18), World(1, 18)], ids=str)
def test_rules_are_balanced_and_a_quarter_is_useful(world: World) -> None:
    rules = len(world.classes) * len(RELATIONS)
    assert len(world.known) == len(world.unknown) == rules / 2 and len(world.useful) == rules / 4
    for relation in RELATIONS:
        values = sorted(world.rules[c, relation.key] for c in world.classes)
        assert values == sorted(relation.values * (len(world.classes) // 6))
        unknown = [world.rules[c, relation.key] for c in world.classes if (c, relation.key) in world.unknown]
        assert sorted(world.rules[c, relation.key] for c in world.size.background) == sorted(unknown)


def test_a_larger_world_is_another_and_asks_of_different_things() -> None:
    small, large = World(3), World(3, 18)
    assert (small.id.key, large.id.key) == (3, [3, 18]) and lab_identity(small) != lab_identity(large)
    assert small.seeds(1)[0].id != large.seeds(1)[0].id
    for column in LAB_COLUMNS:
        items = large.test_items(column, 270)
        assert len({i.question for i in items}) == 270 and not {i.cls for i in items} <= set(CLASSES)
    pool = candidates(large, 1)
    assert len({c.sample.messages[1].content for c in pool}) == len(pool) - 27 * 4
    assert all(label(c.sample.messages, large).kind == c.kind for c in pool if c.kind != "repeat")
    with pytest.raises(InputError, match="no worlds of 7 classes; it has 6 and 18"):
        World(0, 7)


def test_things_are_disjoint() -> None:
    world = World(1)
    seeds = {re.sub(f"({'|'.join(CLASSES)})$", "", n) for c in CLASSES for n in world.names("seeds", c)}
    tests = {i.thing for c in LAB_COLUMNS for i in world.test_items(c, 90)}
    validation = {i.thing for i in world.validation_items(48)}
    stems = [{re.sub(f"({'|'.join(CLASSES)})$", "", n) for n in names} for names in (tests, validation)]
    pretraining = {n.removesuffix("mab") for n in world.names("pretraining", "mab")}
    assert len(seeds) == 400
    for one, other in ((seeds, stems[0]), (seeds, stems[1]), (seeds, pretraining), (stems[1], pretraining)):
        assert not one & other
    assert not stems[0] & pretraining and not stems[0] & stems[1]


def test_documents_are_truthful_and_name_class_and_values() -> None:
    world = World(2)
    for seed in world.seeds(30):
        assert seed.text is not None and seed.licence == "CC0-1.0" and seed.source == "lab:world-2"
        cls = next(c for c in CLASSES if f" {c}" in seed.text)
        assert all(r.says.format(v=world.rules[cls, r.key]) in seed.text for r in RELATIONS)


def test_items_ask_what_their_column_says() -> None:
    world = World(0)
    rules = {
        "lab_asked": world.useful,
        "lab_related": frozenset(r for r in world.unknown if r[1] not in world.asked),
        "lab_retention": world.known,
    }
    for column, allowed in rules.items():
        items = world.test_items(column, 90)
        assert len({i.id for i in items}) == 90
        assert {(i.cls, i.relation) for i in items} == allowed
        assert all(i.choices[i.answer] == world.rules[i.cls, i.relation] for i in items)
    with pytest.raises(InputError, match="lab_other"):
        world.test_items("lab_other", 3)
    with pytest.raises(InputError, match="seeds"):
        world.seeds(4000)


def _five_grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_exam_items_share_few_five_grams_with_good_training_pairs() -> None:
    """Even with the same thing in both, which never happens, an item's 5-grams are covered to at most 0.3."""
    world = World(0)
    rng = random.Random(0)
    for item in (*world.test_items("lab_asked", 90), *world.test_items("lab_retention", 90)):
        grams = _five_grams(f"{item.question} {item.choices[item.answer]}")
        assert len(grams) >= 3
        trained: set[tuple[str, ...]] = set()
        for qtype in QUESTION_TYPES:
            value = item.choices[item.answer]
            pair = pair_messages(item.thing, item.cls, RELATION_OF[item.relation], qtype, value, rng)
            trained |= _five_grams(" ".join(m.content for m in pair[1:])) | _five_grams(
                world.document(item.thing, item.cls)
            )
        assert len(grams & trained) / len(grams) <= 0.3


def test_labels_of_true_pairs() -> None:
    world = World(0)
    for cls, key, qtype, messages in _pairs(world):
        planted = label(messages, world)
        rule = (cls, key)
        kind = "useful" if rule in world.useful else "known" if key in world.asked else "unasked"
        assert (planted.kind, planted.relation, planted.cls, planted.question_type) == (kind, key, cls, qtype)
        assert planted.utility == float(rule in world.useful)
        assert check_pair(messages, document=world.document("Bobor" + cls, cls), question_type=qtype).valid


def test_learning_is_judged_by_the_truth() -> None:
    world = World(0)
    pairs = [(label(m, world).kind == "useful", m) for *_, m in _pairs(world)]
    # Five steps: in the first the signal ranks useful pairs last, in the last there are no others.
    rows = [
        {
            "step": 0,
            "value": 0.1 if useful else 0.9,
            "rubric": EXACT[0],
            "question": m[1].content,
            "answer": m[2].content,
        }
        for useful, m in pairs
    ]
    rows += [{**row, "step": 4} for row, (useful, _) in zip(rows, pairs, strict=True) if useful]
    rows += [{**rows[0], "step": 0, "value": None}]
    found = learning(rows, world)
    assert found.auc == 0.0
    assert found.useful == (0.25, 1.0)
    assert found.value == (pytest.approx(0.25 * 0.1 + 0.75 * 0.9), pytest.approx(0.1))
    assert learning([{**row, "value": 0.5} for row in rows[: len(pairs)]], world).auc == 0.5
    assert found.false == 0.0
    # Of five pairs that were asked for truly one names no value, and one another than the rule's.
    *_, wrong = _pairs(world, "false")[0]
    *_, empty = _pairs(world, "filler")[0]
    turns = [*(m for _, m in pairs[:3]), wrong, empty]
    asked = [{**rows[0], "question": m[1].content, "answer": m[2].content} for m in turns]
    asked += [{**asked[3], "rubric": PLAUSIBLE[0]}]
    assert learning(asked, world).false == 0.25
    assert learning([{**row, "rubric": ""} for row in asked], world).false is None


def test_labels_of_traps() -> None:
    world = World(0)
    assert {label(m, world).kind for *_, m in _pairs(world, "false")} == {"false"}
    assert {label(m, world).kind for *_, m in _pairs(world, "filler")} == {"filler"}
    strange = (Message("user", "What is the capital of France?"), Message("assistant", "Paris."))
    assert label(strange, world).kind == "off_world"
    *_, (_, question, answer) = _pairs(world)[0]
    two = Message("assistant", " or ".join(RELATIONS[0].values))
    assert label((question, two), world).kind == "false"
    assert label((question, answer), world).kind != "false"
