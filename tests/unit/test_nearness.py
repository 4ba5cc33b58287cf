"""`proximity` and `novelty` against cosines taken by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.config import EmbedderConfig, SignalChoice
from harness.errors import StageError
from harness.models.embedder import open_embedder
from harness.types import Sample, Seed
from methods.signals.base import Archive, Item, SignalContext
from methods.signals.catalogue import make_signal
from methods.signals.nearness import centroids
from support.tiny_target import pair

SEEDS = [
    Seed(f"d{i}", f"{topic} {word} {'of the heart' if i % 2 else 'in court'}")
    for i, (topic, word) in enumerate((t, w) for t in ("fever", "law", "aspirin") for w in ("one", "two", "three"))
]
ITEMS = [
    pair(0, "does aspirin lower the fever?", "yes, by two degrees"),
    pair(1, "is the law one of the heart?", "no"),
    pair(2, "who wrote the poem?", "nobody"),
    pair(3, "fever one in court", "as a document has it"),
]


def unit(texts: list[str]) -> Any:
    return open_embedder(EmbedderConfig()).embed(texts).astype(np.float64)


def scores(name: str, items: list[Item], archive: Archive | None = None, **settings: Any) -> list[Any]:
    signal = make_signal(SignalChoice.model_validate({"name": name, **settings}))
    signal.prepare(SignalContext(seed=3, seeds=SEEDS), None)
    return signal.score(items, archive or Archive())


def test_proximity_with_a_centroid_for_each_document_is_the_largest_cosine() -> None:
    for text, texts in (
        ("question", [p.question for p in ITEMS]),
        ("pair", [f"{p.question}\n{p.answer}" for p in ITEMS]),
    ):
        wanted = (unit(texts) @ unit([s.text or "" for s in SEEDS]).T).max(axis=1)
        found = scores("proximity", list(ITEMS), text=text)
        assert [s.value for s in found] == pytest.approx(wanted.tolist(), abs=1e-6)


def test_centroids_are_unit_means_of_what_lies_together() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(3), 30, axis=0) + rng.normal(size=(90, 3)) * 0.01
    rows = groups / np.linalg.norm(groups, axis=1, keepdims=True)
    found = centroids(rows, 3, 0)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3))
    assert sorted(found.argmax(axis=1)) == [0, 1, 2] and found.max(axis=1) == pytest.approx(np.ones(3), abs=1e-3)
    assert (centroids(rows, 3, 0) == found).all()
    few = scores("proximity", list(ITEMS), centroids=2)
    assert all(-1 <= s.value <= 1 for s in few)


def test_novelty_falls_to_nothing_for_what_is_known_or_was_accepted() -> None:
    alone = [s.value for s in scores("novelty", list(ITEMS))]
    wanted = 1 - (unit([p.question for p in ITEMS]) @ unit([s.text or "" for s in SEEDS]).T).max(axis=1)
    assert alone == pytest.approx(wanted.tolist(), abs=1e-6) and alone[3] == pytest.approx(0, abs=1e-6)
    after = [s.value for s in scores("novelty", list(ITEMS), Archive([ITEMS[2]]))]
    assert after[2] == pytest.approx(0, abs=1e-6) and all(a <= b + 1e-9 for a, b in zip(after, alone, strict=True))


def test_upstream_novelty_is_one_minus_proximity_and_sees_no_archive() -> None:
    near = [s.value for s in scores("proximity", list(ITEMS), centroids=3)]
    far = [s.value for s in scores("novelty", list(ITEMS), Archive([ITEMS[2]]), centroids=3, upstream=True)]
    assert far == pytest.approx([1 - n for n in near])


def test_neither_batch_nor_order_nor_place_matters() -> None:
    for name in ("proximity", "novelty"):
        together = [s.value for s in scores(name, list(ITEMS), Archive([ITEMS[1]]), centroids=4)]
        back = [s.value for s in scores(name, list(ITEMS[::-1]), Archive([ITEMS[1]]), centroids=4)][::-1]
        alone = [scores(name, [item], Archive([ITEMS[1]]), centroids=4)[0].value for item in ITEMS]
        assert back == pytest.approx(together, abs=1e-6) and alone == pytest.approx(together, abs=1e-6)


def test_what_cannot_be_compared_is_not_zero() -> None:
    blank: Sample = pair(9, "  ", "yes")
    for name in ("proximity", "novelty"):
        found = scores(name, [blank, Seed("d", "text")])
        assert [(s.value, s.reason) for s in found] == [
            (None, "no words to compare"),
            (None, "only samples can be scored"),
        ]
        signal = make_signal(SignalChoice.model_validate(name))
        with pytest.raises(StageError, match=f"{name} compares with the run's documents"):
            signal.prepare(SignalContext(seed=0, seeds=[Seed("d", " ")]), None)
