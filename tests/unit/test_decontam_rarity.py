"""Copies of a leak are no evidence that it is stock, stock phrases are; both without a step, and by either engine."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from decontam.backend import Corpus, Phrases, Postings
from decontam.check import ContaminationCheck, run_check
from decontam.corpus import MemoryCorpus
from decontam.embedded import EmbeddedBackend
from decontam.items import TestItem
from decontam.rarity import MOST, fewest
from decontam.verdict import KINDS, Verdicts, decide
from harness.config import DecontamConfig

LEAK = "Which sea captain first charted the northern ice strait?"
LONG = (
    "A lighthouse keeper has 14 lamps and each lamp burns 3 litres of oil a night; how much oil is left after 9 nights "
    "if he began with 500 litres and spilled 20?"
)
STOCK = "play an important role in"
OPENER = "which of the following is the most likely"


class Elsewhere(EmbeddedBackend):
    """An engine that does not say where phrases stand."""

    def find(self, corpus: Corpus, phrases: Phrases, **options: object) -> Iterator[Postings]:
        for found in super().find(corpus, phrases, **options):  # type: ignore[arg-type]
            yield replace(found, places=None)


def _words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(3)) for _ in range(count))


def _noise(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [_words(rng, 30) for _ in range(count)]


def _check(
    items: Sequence[TestItem], texts: Sequence[str], engine: type[EmbeddedBackend] = EmbeddedBackend, **settings: object
) -> Verdicts:
    check = ContaminationCheck(items, DecontamConfig(modes=("ngram",), **settings), engine())  # type: ignore[arg-type]
    corpus = MemoryCorpus(texts, 64)
    return decide(check, run_check(check, corpus), corpus.size)


def _best(found: Verdicts, documents: int) -> list[float]:
    score = np.zeros(documents)
    grams = found.pairs.kind == KINDS.index("ngram")
    np.maximum.at(score, found.pairs.document[grams], found.pairs.score[grams])
    return [float(s) for s in score]


COPIES: dict[str, Callable[[int, random.Random], str]] = {
    "equal rows": lambda i, rng: LEAK,
    "numbered rows": lambda i, rng: f"Question {i}: {LEAK}",
    "in other texts": lambda i, rng: f"{_words(rng, 12)} {LEAK} {_words(rng, 12)}",
    "a word changed": lambda i, rng: f"{_words(rng, 12)} {LEAK.replace('first', 'later')} {_words(rng, 12)}",
    "its last word cut": lambda i, rng: f"{_words(rng, 12)} {LEAK.rpartition(' ')[0]} {_words(rng, 12)}",
    "other numbers": lambda i, rng: f"{_words(rng, 9)} {LONG.replace('14', str(i)).replace('500', str(7 * i))}",
    "first half": lambda i, rng: f"Item {i}. {' '.join(LONG.split()[:16])}",
}


@pytest.mark.parametrize("copies", COPIES)
def test_more_copies_never_lower_a_score(copies: str) -> None:
    """Whole, changed and cut leaks, alone and in other texts, from one copy to hundreds."""
    items = [TestItem("b", "1", (LEAK,)), TestItem("b", "2", (LONG,))]
    noise = _noise(40)
    last = 0.0
    for count in (1, 5, 10, 11, 12, 30, 400):
        rng = random.Random(1)
        found = _check(items, [*(COPIES[copies](i, rng) for i in range(count)), *noise])
        scores = _best(found, count + len(noise))
        assert found.removed.tolist() == [True] * count + [False] * len(noise), count
        assert min(scores[:count]) >= last - 1e-12, count
        last = min(scores[:count])


def test_a_leak_and_a_stock_phrase_do_not_harm_each_other() -> None:
    item = TestItem("b", "1", (f"Why does salt {STOCK} old harbour towns of the far north?",))
    rng = random.Random(2)
    stock = [f"{_words(rng, 10)} {STOCK} {_words(rng, 10)}" for _ in range(200)]
    leaks = [f"{_words(rng, 10)} {item.fields[0]} {_words(rng, 10)}" for _ in range(30)]
    found = _check([item], [*leaks, *stock])
    assert found.removed.tolist() == [True] * 30 + [False] * 200


@pytest.mark.parametrize("place", ["inside", "first", "last"])
@pytest.mark.parametrize("phrase", [STOCK, OPENER])
def test_unrelated_rows_stay_for_a_stock_phrase(phrase: str, place: str) -> None:
    """One n-gram that is a third of an item, and an opener of eight tokens that is two fifths of it."""
    rng = random.Random(3)
    count = 7 if phrase == STOCK else 11
    item = TestItem("b", "1", (f"{phrase} {_words(rng, count)}",))
    shapes = {"inside": "{1} {0} {2}", "first": "{0} {1} {2}", "last": "{1} {2} {0}"}
    rows = [shapes[place].format(phrase, _words(rng, 8), _words(rng, 8)) for _ in range(70)]
    noise = _noise(930)
    found = _check([item], [*rows, *noise])
    assert not found.removed.any() and len(found.touched()) == 0
    assert _check([item], [*rows, *noise], common_share=None).removed.tolist() == [True] * 70 + [False] * 930
    assert found.common.any() and found.common_limit == 10
    assert np.all(found.evidence[found.common] > 40)


def test_a_phrase_of_many_items_is_stock_without_training_texts() -> None:
    rng = random.Random(4)
    items = [TestItem("b", str(i), (f"{OPENER} {_words(rng, 9)}",)) for i in range(60)]
    row = f"{OPENER} {_words(rng, 20)}"
    assert not _check(items, [row]).removed.any()
    assert _check(items[:1], [row]).removed.all()
    same = [TestItem("b", str(i), items[0].fields) for i in range(60)]
    assert _check(same, [row]).removed.all(), "equal items are one text"
    assert _check(items, [items[7].fields[0], f"x {items[8].fields[0]} x"]).removed.all()


def test_items_that_share_a_template_do_not_match_each_other() -> None:
    """Twenty short questions that differ in one word, beside twenty others: neither set is a copy of the other."""
    rng = random.Random(7)
    names = iter(_words(rng, 80).split())
    questions = [f"Which colour do the flowers of the {next(names)} have?" for _ in range(40)]
    items = [TestItem("b", str(i), (text,)) for i, text in enumerate(questions[:20])]
    assert not _check(items, questions[20:]).removed.any()
    leaked = [questions[3], f"Tell me: {questions[4]} Thanks."]
    assert _check(items, [*questions[20:], *leaked]).removed.tolist() == [False] * 20 + [True] * 2


def test_a_score_falls_smoothly_with_unrelated_texts() -> None:
    rng = random.Random(5)
    item = TestItem("b", "1", (f"{_words(rng, 4)} {STOCK} {_words(rng, 4)}",))
    rows = [f"{_words(rng, 10)} {STOCK} {_words(rng, 10)}" for _ in range(100)]
    scores = [_best(_check([item], rows[:n], thresholds=(0.01,)), n)[0] for n in range(1, 40)]
    assert abs(scores[0] - 5 / 13) < 1e-12
    steps = -np.diff(scores)
    assert np.all(steps > 0) and steps.max() < 0.04
    assert abs(scores[10] - 5 / 13 / 2) < 1e-12, "ten beside the first halve it"


@pytest.mark.parametrize("copies", ["in other texts", "other numbers", "first half"])
def test_an_engine_that_names_documents_alone_gives_the_same(copies: str) -> None:
    rng = random.Random(6)
    fields = (LEAK, LONG, f"{STOCK} {_words(rng, 8)}")
    items = [TestItem("b", str(i), (text,)) for i, text in enumerate(fields)]
    texts = [COPIES[copies](i, rng) for i in range(20)]
    texts += [f"{_words(rng, i % 9)} {STOCK} {_words(rng, i % 7)}" for i in range(90)]
    rng.shuffle(texts)
    ours, theirs = (_check(items, texts, engine) for engine in (EmbeddedBackend, Elsewhere))
    assert np.array_equal(ours.evidence, theirs.evidence) and ours.evidence.max() > 20
    for name in ("document", "item", "kind", "score", "hit", "removes"):
        assert np.array_equal(getattr(ours.pairs, name), getattr(theirs.pairs, name)), name


def test_contexts_that_are_not_kept_are_estimated() -> None:
    rng = np.random.default_rng(7)
    for count in (MOST - 1, MOST, 1000, 100_000):
        context = rng.integers(0, 2**64, count, np.uint64)
        phrase, kept = fewest(np.zeros(count, np.int64), context)
        assert len(phrase) == min(count, MOST) and np.array_equal(kept, np.sort(context)[:MOST])
        half = count // 2
        one, other = (fewest(np.zeros(len(c), np.int64), c) for c in (context[:half], context[half:]))
        again = fewest(np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]]))
        assert np.array_equal(again[1], kept)


OPTIONS = ("Yes", "No", "All of the above", "None of them at all in any of these cases")


@pytest.mark.parametrize(
    ("fields", "leak", "found"),
    [
        ((LEAK, *OPTIONS[:3]), LEAK, True),
        ((LEAK, "a", "b", "c", "d", "e", "f", "g", "h"), f"{LEAK}\nA) a\nB) b\nC) c", True),
        ((LONG, *OPTIONS), f"{LONG}\n1. {OPTIONS[3]}\n2. {OPTIONS[0]}", True),
        ((LEAK, LONG), LONG, True),
        ((LONG, LONG.replace("oil", "gas")), "how much oil is left after", False),
        (("Pick one", "play an important role in", "no", "yes", LONG), "play an important role in", False),
    ],
)
def test_fields_too_short_for_an_ngram_do_not_hide_a_leak(fields: tuple[str, ...], leak: str, found: bool) -> None:
    rng = random.Random(8)
    text = f"{_words(rng, 9)} {leak} {_words(rng, 9)}"
    assert _check([TestItem("b", "1", fields)], [text]).removed.tolist() == [found]


def test_long_fields_count_alike() -> None:
    """As before: half of one of two long fields is a quarter."""
    rng = random.Random(9)
    one, other = _words(rng, 40), _words(rng, 20)
    for text, score in ((one, 0.5), (other, 0.5), (" ".join(one.split()[:20]), 0.25), (f"{one} x {other}", 1.0)):
        assert _best(_check([TestItem("b", "1", (one, other))], [text]), 1) == [pytest.approx(score, abs=1e-12)]
