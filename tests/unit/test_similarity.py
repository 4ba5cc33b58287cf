"""`val_bm25` and `val_cosine` against the formulas, and who may move their value."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.catalogue import load_suite
from evals.data import load_items, load_validation
from evals.read import DataContext
from harness.config import EmbedderConfig, SignalChoice
from harness.errors import StageError
from harness.models.embedder import open_embedder
from harness.types import Message, Sample, Score, Seed
from methods.signals.base import Archive, Item, SignalContext, ValidationExample
from methods.signals.bm25 import Bm25
from methods.signals.catalogue import make_signal
from methods.signals.similarity import Bm25Settings, SimilaritySettings
from support.facts import by_name
from support.minilm import minilm

QUERIES = ["Does aspirin lower fever?\nyes, aspirin does", "Is the court bound?\nno", "What is fever?\na sign"]


def sample(number: int, question: str, answer: str) -> Sample:
    messages = (Message("system", "fever aspirin court"), Message("user", question), Message("assistant", answer))
    return Sample(f"s{number}", ("d",), None, "", messages, answer, "test", "stop")


def examples(texts: list[str], withheld: int = 0) -> list[ValidationExample]:
    turns = [text.split("\n") for text in texts]
    return [
        ValidationExample(f"v{i}", (Message("user", q), Message("assistant", a)), i >= len(texts) - withheld)
        for i, (q, a) in enumerate(turns)
    ]


def score(name: str, items: list[Item], validation: list[ValidationExample], settings: Any, **more: Any) -> list[Score]:
    signal = make_signal(SignalChoice(name=name, settings=settings))
    signal.prepare(SignalContext(seed=0, validation=validation, **more), None)
    scores = signal.score(items, Archive())
    assert [(s.item_id, s.signal) for s in scores] == [(i.id, name) for i in items]
    return scores


# Okapi BM25


def _words(text: str) -> list[str]:
    return text.lower().replace("?", " ").replace(",", " ").split()


def _definition(query: str, document: str, collection: list[str], k1: float, b: float) -> float:
    """Term by term, as it stands in the docstring of `Bm25`."""
    average = sum(len(_words(t)) for t in collection) / len(collection)
    tf, total = Counter(_words(document)), 0.0
    for term in _words(query):
        if not tf[term]:
            continue
        n = sum(term in _words(t) for t in collection)
        idf = math.log(1 + (len(collection) - n + 0.5) / (n + 0.5))
        total += idf * tf[term] * (k1 + 1) / (tf[term] + k1 * (1 - b + b * len(_words(document)) / average))
    return total


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.0, 0.75), (2.0, 0.0), (0.9, 1.0)])
def test_bm25_is_its_definition(k1: float, b: float) -> None:
    documents = ["aspirin, aspirin and fever", "the court", "nothing of it", "fever " * 30]
    ours = Bm25(QUERIES, k1, b).scores(documents)
    wanted = [[_definition(q, d, QUERIES, k1, b) for q in QUERIES] for d in documents]
    assert np.allclose(ours, wanted, rtol=1e-12)
    assert (ours[2] == 0).all() and ours[0, 0] > ours[3, 0] > 0


def test_bm25_by_hand() -> None:
    # One query of one term: N = n = 1, so idf = ln(1 + 0.5/1.5); |d| = avgdl and tf = 1 give (k1 + 1)/(1 + k1) = 1.
    assert Bm25(["fever"], 1.2, 0.75).scores(["fever"])[0, 0] == pytest.approx(math.log(4 / 3))


def test_val_bm25_takes_mean_or_maximum_over_rewarded_items_only() -> None:
    item = sample(1, "Does aspirin lower fever?", "yes")
    text = f"{item.question}\n{item.answer}"
    rewarded = QUERIES[:2]
    each = [_definition(q, text, rewarded, 1.2, 0.75) for q in rewarded]
    other = _definition(QUERIES[2], text, rewarded, 1.2, 0.75)
    (mean,) = score("val_bm25", [item], examples(QUERIES, withheld=1), Bm25Settings())
    (best,) = score("val_bm25", [item], examples(QUERIES, withheld=1), Bm25Settings(aggregate="max"))
    assert mean.value == pytest.approx(sum(each) / 2) and best.value == pytest.approx(max(each))
    assert mean.parts == pytest.approx({"mean": mean.value, "max": best.value, "withheld": other})
    (without,) = score("val_bm25", [item], examples(rewarded), Bm25Settings())
    assert without.value == mean.value and "withheld" not in without.parts


# Cosine


def test_val_cosine_is_the_mean_cosine_of_embeddings() -> None:
    items: list[Item] = [sample(1, "Does aspirin lower fever?", "yes"), Seed("d", "The court is bound by law.")]
    rows = open_embedder(EmbedderConfig()).embed(["Does aspirin lower fever?\nyes", "The court is bound by law."])
    cosines = rows @ open_embedder(EmbedderConfig()).embed(QUERIES).T
    validation = examples(QUERIES, withheld=1)
    mean = score("val_cosine", items, validation, SimilaritySettings())
    best = score("val_cosine", items, validation, SimilaritySettings(aggregate="max"))
    assert [s.value for s in mean] == pytest.approx(cosines[:, :2].mean(axis=1).tolist(), abs=1e-6)
    assert [s.value for s in best] == pytest.approx(cosines[:, :2].max(axis=1).tolist(), abs=1e-6)
    assert [s.parts["withheld"] for s in mean] == pytest.approx(cosines[:, 2].tolist(), abs=1e-6)


def test_scores_do_not_depend_on_what_is_scored_beside() -> None:
    items: list[Item] = [sample(i, f"Does aspirin lower fever {i}?", "no " * (i + 1)) for i in range(9)]
    for name, settings in (("val_bm25", Bm25Settings()), ("val_cosine", SimilaritySettings())):
        together = [s.value for s in score(name, items, examples(QUERIES), settings)]
        alone = [score(name, [item], examples(QUERIES), settings)[0].value for item in items]
        assert alone == pytest.approx(together, rel=1e-6) and len(set(together)) > 5


@pytest.mark.parametrize(("name", "settings"), [("val_bm25", Bm25Settings()), ("val_cosine", SimilaritySettings())])
def test_what_cannot_be_compared_is_not_zero(name: str, settings: Any) -> None:
    items: list[Item] = [sample(0, " ", ""), sample(1, "fever", "yes")]
    empty, full = score(name, items, examples(QUERIES), settings)
    assert (empty.value, empty.status, empty.reason) == (None, "unscorable", "no words to compare")
    assert full.value is not None and full.value > 0
    with pytest.raises(StageError, match=f"{name} needs validation items"):
        score(name, items, examples(QUERIES, withheld=3), settings)


def test_what_a_run_says_of_val_cosine() -> None:
    signal = make_signal(SignalChoice.model_validate("val_cosine"))
    context = SignalContext(seed=0, validation=examples(QUERIES, withheld=1))
    said = signal.prepare(context, None)
    assert (said.validation["rewarded"].items, said.validation["withheld"].items) == (2, 1)
    facts = by_name(said.facts)
    assert facts["dimension"] == 2048
    assert facts["embedder_identity"] == "lexical-1:2048" and 0 < facts["validation_coherence"] < 1


def test_on_real_items_both_find_the_field(test_data: Path) -> None:
    """PubMedQA's questions lie nearer to other PubMedQA items than chat does: clearly to MiniLM, less to words."""
    suite = load_suite("pubmedqa")
    data = DataContext(data_folder=test_data)
    validation = [
        ValidationExample(v.id, v.messages) for v in load_validation(suite, "cv", 40, 0, data, rendering="answer")
    ]
    tests = load_items(suite.benchmarks[0], data, suite.folder)[:20]
    medical: list[Item] = [sample(i, t.text, t.fields["answer"]) for i, t in enumerate(tests)]
    chat = ["Write a poem about the sea.", "How do I sort a list in Python?", "Plan a trip to Rome for two days."]
    other: list[Item] = [sample(100 + i, question, "yes") for i, question in enumerate(chat)]
    embedder = EmbedderConfig(id=str(minilm()))
    for name, settings, more, least in (
        ("val_bm25", Bm25Settings(), {}, 0.6),
        ("val_cosine", SimilaritySettings(), {"embedder": embedder}, 0.9),
    ):
        values = [s.value or 0.0 for s in score(name, [*medical, *other], validation, settings, **more)]
        auc = float(np.mean([m > o for m in values[:20] for o in values[20:]]))
        assert auc >= least, name
