"""Acquisition functions of several drawn answers: groups, values and formulas, and the target that draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import AgglomerativeClustering

from harness.config import SignalChoice
from harness.models.tokenizers import load_tokenizer
from harness.models.transformers_backend import load_causal_lm
from harness.synthesis.agreement import CUT, clusters, value_of
from harness.types import Message, Sample, Score, derive_seed
from methods.signals.base import Archive, SignalContext, TargetState
from methods.signals.catalogue import make_signal
from support.tiny import make_tiny_model

DRAWN = ("answer_variance", "semantic_entropy", "learnability")
SAMPLES, TOKENS = 6, 2


def pair(number: int, question: str, answer: str = "yes") -> Sample:
    return Sample(f"s{number}", ("d",), None, "", (Message("user", question), Message("assistant", answer)), "", "", "")


ITEMS = [pair(i, f"is it {'one of ' * (i % 3)}{i}?") for i in range(4)]


class Plain:
    """Answers whose ids are their texts' code points."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids))


class Said:
    """An answer of a target that was not asked."""

    def __init__(self, text: str) -> None:
        self.ids = tuple(map(ord, text))


def of_texts(name: str, texts: Sequence[str], item: Sample = ITEMS[0], **settings: Any) -> dict[str, float]:
    signal: Any = make_signal(SignalChoice.model_validate({"name": name, **settings}))
    signal.tokenizer, signal._embedder = Plain(), None
    return dict(signal.measure_answers(item, [Said(text) for text in texts]))


def test_of_an_answer_counts_what_stands_behind_the_marker() -> None:
    assert value_of("So ANSWER: 3, no.\nANSWER:  −3. ", "ANSWER:") == "−3"
    assert value_of(" **Yes**, it\n IS ", "") == "yes**, it is"
    assert value_of("-3", "") != value_of("3", "") and value_of("ﬁve", "") == "five"
    assert value_of("no marker", "ANSWER:") == "no marker" and value_of("ANSWER: ", "ANSWER:") == ""


def test_formulas_on_known_answers() -> None:
    texts = ["Yes.", "yes", " YES", "no", "no", "maybe"]
    found = of_texts("answer_variance", texts)
    assert found["value"] == pytest.approx(1 - (9 + 4 + 1) / 36) and found["groups"] == 3
    assert of_texts("answer_variance", texts, form="distinct")["value"] == pytest.approx(2 / 5)
    entropy = -(0.5 * math.log(0.5) + math.log(1 / 3) / 3 + math.log(1 / 6) / 6)
    assert of_texts("semantic_entropy", texts)["value"] == pytest.approx(entropy)
    right = of_texts("learnability", texts)
    assert right == {"value": pytest.approx(0.25), "right": 0.5}
    assert of_texts("learnability", ["no"] * 3)["value"] == of_texts("learnability", ["yes!"] * 3)["value"] == 0.0
    marked = pair(7, "q?", "2 + 2 is 4. ANSWER: 4")
    assert of_texts("learnability", ["ANSWER: 4", "ANSWER: 5"], marked, marker="ANSWER:")["value"] == 0.25


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=20))
def test_bounds(texts: list[str]) -> None:
    count = len(set(texts))
    variance = of_texts("answer_variance", texts)["value"]
    assert 0 <= variance <= 1 - 1 / len(texts) + 1e-12 and (variance < 1e-12) == (count == 1)
    assert 0 <= of_texts("answer_variance", texts, form="distinct")["value"] <= 1
    entropy = of_texts("semantic_entropy", texts)["value"]
    assert 0 <= entropy <= math.log(count) + 1e-12
    assert variance <= entropy + 1e-12  # 1 - p <= -ln p, averaged
    assert 0 <= of_texts("learnability", texts)["value"] <= 0.25


def test_clusters_are_those_of_average_linkage() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(5, 8)), 4, axis=0) + 0.35 * rng.normal(size=(20, 8))
    own = clusters(rows)
    theirs = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=CUT).fit(rows).labels_
    same = np.equal.outer(own, own) == np.equal.outer(theirs, theirs)
    assert same.all() and 1 < len(set(own)) < 20
    rows[3:5] = 0.0
    own = clusters(rows)
    assert own[3] == own[4] and own.count(own[3]) == 2


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> TargetState:
    return TargetState(make_tiny_model(tmp_path_factory.mktemp("drawn") / "target", printable=True), "rev", 128)


def scored(target: TargetState, name: str, items: Sequence[Sample], **settings: Any) -> list[Score]:
    own = {"name": name, "checkpoint": "base", "max_tokens": TOKENS, "samples": SAMPLES, **settings}
    signal = make_signal(SignalChoice.model_validate(own))
    signal.prepare(SignalContext(seed=3), target)
    scores = signal.score(items, Archive())
    assert sum(u.calls for u in signal.usage() if u.role == "target") == SAMPLES * len(items)
    return scores


def drawn_by_hand(path: Path | str, item: Sample, temperature: float) -> list[str]:
    """Answers token by token without a cache, each from its own random numbers by inverting the distribution."""
    import torch

    model, _ = load_causal_lm(path)
    tokenizer = load_tokenizer(path)
    question = [{"role": "user", "content": item.question}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    said = []
    for number in range(SAMPLES):
        generator = torch.Generator().manual_seed(derive_seed(3, "answer", item.id, number))
        uniforms = torch.rand(TOKENS, generator=generator, dtype=torch.float64).tolist()
        made: list[int] = []
        for uniform in uniforms:
            with torch.no_grad():
                logits = model.eval()(torch.tensor([prompt + made])).logits[0, -1].double()
            weights = ((logits - logits.max()) / temperature).exp().tolist()
            goal = uniform * math.fsum(weights)
            made.append(next(i for i, total in enumerate(accumulate(weights)) if total > goal))
            if made[-1] == tokenizer.eos_token_id:
                break
        said.append(tokenizer.decode(made, skip_special_tokens=True))
    return said


def test_a_score_is_of_the_answers_that_the_target_gives(target: TargetState) -> None:
    values = [s.value for s in scored(target, "answer_variance", ITEMS, temperature=0.2)]
    hand = []
    for item in ITEMS:
        said = [value_of(text, "") for text in drawn_by_hand(target.model, item, 0.2)]
        hand.append(1 - sum((said.count(word) / SAMPLES) ** 2 for word in set(said)))
    assert values == pytest.approx(hand, abs=1e-6)


@pytest.mark.parametrize("name", DRAWN)
def test_no_score_depends_on_what_is_scored_beside_it(target: TargetState, name: str) -> None:
    together = [s.value for s in scored(target, name, ITEMS)]
    reverse = [s.value for s in scored(target, name, ITEMS[::-1])][::-1]
    alone = [scored(target, name, [item])[0].value for item in ITEMS]
    assert reverse == pytest.approx(together, abs=1e-6) and alone == pytest.approx(together, abs=1e-6)


def test_answers_are_grouped_by_the_runs_embedder(target: TargetState) -> None:
    exact = scored(target, "semantic_entropy", ITEMS)
    near = scored(target, "semantic_entropy", ITEMS, group="embedding")
    for one, other in zip(exact, near, strict=True):
        assert other.parts["groups"] <= one.parts["groups"]


def test_what_has_no_answer_is_not_learnable(target: TargetState) -> None:
    signal = make_signal(SignalChoice.model_validate({"name": "learnability", "checkpoint": "base"}))
    signal.prepare(SignalContext(seed=3), target)
    (score,) = signal.score([pair(1, "is it?", "...")], Archive())
    assert score.value is None and score.reason == "it has no answer to compare with"
