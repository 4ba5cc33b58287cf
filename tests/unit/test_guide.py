"""How a run's validation items are chosen: what a strategy is given, what it returns, and when it is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evals.catalogue import load_suite
from evals.data import ValidationItem, draw, load_validation_pool
from evals.evaluate import ItemResult
from evals.read import DataContext
from harness.config import EmbedderConfig, GuideConfig
from harness.errors import ConfigError
from harness.models.embedder import open_embedder
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.types import Message
from methods.stages.guide import GuideChoice
from support.minilm import minilm


def item(number: int, topic: str) -> ValidationItem:
    messages = (Message("user", f"{topic} question {number}?"), Message("assistant", "yes"))
    return ValidationItem(f"{number:03}", messages, text=messages[0].content)


TOPICS = ["heart failure drugs"] * 30 + ["broken bones"] * 8 + ["eye surgery lens"] * 2
ITEMS = [item(i, topic) for i, topic in enumerate(TOPICS)]


def answers(wrong: set[str]) -> list[ItemResult]:
    """The target's answers: wrong on the topics in `wrong`."""
    return [
        ItemResult("t", i.id, "", "", "", "", topic not in wrong, float(topic not in wrong), 10)
        for i, topic in zip(ITEMS, TOPICS, strict=True)
    ]


def choice(wrong: set[str] = frozenset(), **guide: Any) -> GuideChoice:  # type: ignore[assignment]
    return GuideChoice(GuideConfig(set="cv", **guide), open_embedder(EmbedderConfig()), answers(wrong))


def topics(chosen: list[ValidationItem]) -> Counter[str]:
    return Counter(TOPICS[int(i.id)] for i in chosen)


@pytest.mark.parametrize("objective", ["facility_location", "k_center"])
def test_coverage_reaches_every_topic_where_chance_does_not(objective: str) -> None:
    choose = choice(strategy="coverage", coverage=objective)
    assert set(topics(draw(list(ITEMS), 3, 0, "", choose))) == set(TOPICS)
    drawn = [len(topics(draw(list(ITEMS), 3, seed, ""))) for seed in range(50)]
    assert sum(n == 3 for n in drawn) < 15
    assert choose.facts["candidates"] == 40 and choose.facts["embedder"] == "lexical-1:2048"
    assert 0 < choose.facts["least_nearest_cosine"] <= choose.facts["mean_nearest_cosine"] <= 1
    assert choose.table == []


def test_the_tree_gives_the_weak_topic_more_than_its_part() -> None:
    choose = choice({"broken bones"}, strategy="capability_tree")
    chosen = draw(list(ITEMS), 12, 0, "", choose)
    found = topics(chosen)
    assert set(found) == set(TOPICS) and found["broken bones"] >= 6 > 12 * 8 / 40
    root = choose.table[0]
    assert (root.items, root.correct, root.chosen) == (40, 32, 12)


def test_the_seed_orders_what_a_strategy_chose() -> None:
    """The first items may be withheld: a greedy order would always withhold the most telling ones."""
    orders = [[i.id for i in draw(list(ITEMS), 6, seed, "", choice(strategy="coverage"))] for seed in range(8)]
    assert len({tuple(sorted(o)) for o in orders}) == 1 and len({o[0] for o in orders}) > 2
    assert orders[3] == [i.id for i in draw(list(ITEMS[::-1]), 6, 3, "", choice(strategy="coverage"))]


def _stages(**sets: Any) -> list[str]:
    config = resolve_run(method="static", driver="best_of_n", signal="val_bm25", target="nano", sets=sets).config
    return [stage.name for stage in assemble(config).stages]


def test_only_the_tree_asks_the_target_first() -> None:
    assert "evaluate_guide" not in _stages(**{"guide.n": 8, "guide.strategy": "coverage"})
    assert _stages(**{"guide.n": 8, "guide.strategy": "capability_tree"})[:2] == ["evaluate_guide", "sources"]


def test_a_strategy_without_a_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"there is nothing to choose; say how many of them: --guide asked:N"):
        _stages(**{"guide.strategy": "coverage"})


def test_what_changes_the_chosen_items_changes_the_stage() -> None:
    def identity(**sets: Any) -> str:
        config = resolve_run(method="static", target="nano", sets={"guide.n": 8, **sets}).config
        stage = assemble(config).stage("sources")
        assert stage is not None
        return stage.identity

    plain = identity()
    assert identity(**{"models.embedder.dimension": 64}) == plain, "nothing is embedded"
    coverage = identity(**{"guide.strategy": "coverage"})
    others = [
        identity(**{"guide.strategy": "capability_tree"}),
        identity(**{"guide.strategy": "coverage", "guide.coverage": "k_center"}),
        identity(**{"guide.strategy": "coverage", "models.embedder.dimension": 64}),
    ]
    assert len({plain, coverage, *others}) == 5
    assert identity(**{"guide.strategy": "coverage", "models.embedder.batch_size": 3}) == coverage


def test_real_items_under_a_real_embedder(test_data: Path) -> None:
    """PubMedQA's labelled items under MiniLM: coverage leaves no item as far away as chance does, at equal numbers."""
    suite, data = load_suite("pubmedqa"), DataContext(data_folder=test_data)
    pool = load_validation_pool(suite, "cv", data)[:150]
    embedder = open_embedder(EmbedderConfig(id=str(minilm())))
    texts = {i.id: row for i, row in zip(pool, embedder.embed([i.text for i in pool]), strict=True)}

    class Kept:
        """Vectors of the questions, computed once."""

        name = identity = "minilm"
        truncated = 0

        def embed(self, texts_: Any, ids: Any = None) -> Any:
            import numpy as np

            return np.stack([texts[i] for i in ids])

        def usage(self) -> list[Any]:
            return []

    def facts(**guide: Any) -> dict[str, Any]:
        chooser = GuideChoice(GuideConfig(set="cv", **guide), Kept(), [])
        assert len({i.id for i in draw(list(pool), 20, 0, "", chooser)}) == 20
        return chooser.facts

    from evals.coverage import nearest_cosines

    rows = Kept().embed(None, [i.id for i in pool])
    place = {i.id: n for n, i in enumerate(pool)}
    chance = [nearest_cosines(rows, [place[i.id] for i in draw(list(pool), 20, seed, "")]) for seed in range(5)]
    location = facts(strategy="coverage")
    assert location["mean_nearest_cosine"] > max(float(c.mean()) for c in chance)
    centre = facts(strategy="coverage", coverage="k_center")
    assert centre["least_nearest_cosine"] > max(float(c.min()) for c in chance)
