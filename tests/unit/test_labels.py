"""Labels: which of several answers stays, what is dropped, and what is kept of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config_labels import LabelsConfig
from harness.errors import ConfigError
from harness.models.backend import Completion, PromptRequest, Sampling
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.synthesis.agreement import consensus, value_of
from harness.synthesis.route import Attempt, Draft, Draw
from harness.synthesis.synthesize import Counter, Synthesizer
from harness.types import Message, Sample, Seed
from methods.plan import Plan
from methods.stages import labels
from methods.stages.labels import NO_AGREEMENT, Labeller, label_settings
from methods.stages.trajectories import untrained


@given(st.lists(st.sampled_from(["", "a", "b", "c"]), max_size=12))
def test_the_largest_group_of_given_values_stands_the_earlier_of_equal_ones(values: list[str]) -> None:
    found, kept = consensus(values), [v for v in values if v]
    if not kept:
        assert found is None
        return
    assert found is not None and found.groups == len(set(kept))
    largest = max(kept.count(v) for v in kept)
    assert found.size == largest == kept.count(values[found.place])
    assert values[found.place] == next(v for v in values if v and kept.count(v) == largest)


@given(st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_the_majority_is_found_under_planted_noise(wrong: int, seed: int) -> None:
    """With more right answers than there are of any other, whatever their order."""
    values = ["right"] * (wrong + 1) + [f"wrong {i % 3}" for i in range(wrong)]
    np.random.default_rng(seed).shuffle(values)
    found = consensus(values)
    assert found is not None and values[found.place] == "right" and found.size == wrong + 1


def test_clusters_take_paraphrases_for_the_same_and_their_medoid_stands() -> None:
    east, near, north = [1.0, 0.0], [0.9, 0.2], [0.0, 1.0]
    found = consensus(["e", "n", "e2", "e3"], np.array([east, north, near, [0.8, 0.4]]))
    assert found is not None and (found.size, found.groups, found.place) == (3, 2, 2)


def test_a_value_stands_behind_the_last_marker() -> None:
    assert value_of("So 3. Answer: 4. ANSWER: ** Four**.", "ANSWER:") == "four"
    assert value_of("  It IS so. ", "ANSWER:") == "it is so"


class Scripted:
    """Answers every question by its own list, again and again."""

    name, flops_per_token = "oracle", 2.0

    def __init__(self, answers: dict[str, Sequence[str]]) -> None:
        self.answers, self.asked = answers, list[str]()

    def generate(self, requests: Sequence[PromptRequest], sampling: Sampling, seed: int) -> list[Completion]:
        found = []
        for request in requests:
            asked = request.variables["question"]
            texts = self.answers[asked]
            text = texts[self.asked.count(asked) % len(texts)]
            self.asked.append(asked)
            found.append(Completion(text, "length" if text.endswith("…") else "stop", 7, 3))
        return found


def attempt(question: str, answer: str) -> Attempt:
    seed = Seed("d", "A text.", domain="medicine")
    pair = (Message("user", question), Message("assistant", answer))
    sample = Sample(question, ("d",), None, "h", pair, "raw", "writer", "stop")
    return Attempt(Draft(Draw(seed, 0), "raw", "stop"), sample=sample)


def plan(**sets: Any) -> Plan:
    sets = {"labels.samples": 4, "synthesis.system_message": "", **sets}
    return assemble(resolve_run(driver="static", target="nano", route="direct", sets=sets).config).plan


def test_pairs_get_the_answer_that_most_agree_on_or_go(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "What treats gout?": ["Colchicine", "colchicine.", "Aspirin", "Colchicine"],
        "What treats fever?": ["One", "Two", "Three", "Four"],
        "What treats rash?": ["Cut…", "Cut…", "Zinc", ""],
    }
    backend = Scripted(answers)
    monkeypatch.setattr(labels, "open_backend", lambda *_, **__: backend)
    given, counter = plan(), Counter()
    assert given.config.labels is not None
    labeller = Labeller(given, given.config.labels, {})
    empty = Attempt(Draft(Draw(Seed("d", "A text."), 0), "raw", "stop"))
    attempts = [attempt("What treats gout?", "Aspirin"), empty, *(attempt(q, "x") for q in list(answers)[1:])]
    found, rows = labeller.label(attempts, 0, counter)
    assert found[0].sample is not None and found[0].sample.answer == "Colchicine" and found[1] is empty
    assert (found[0].sample.id, found[0].sample.raw) == ("What treats gout?", "raw")
    assert found[0].sample.generator == "writer, labelled by oracle"
    assert [(r.generated, r.label, r.agreement, r.groups) for r in rows] == [("Aspirin", "Colchicine", 0.75, 2)]
    gone = [a.reject for a in found[2:]]
    assert [r.reason for r in gone if r] == [NO_AGREEMENT] * 2
    assert gone[0] is not None and gone[0].detail == "0.25 of 4 answers agree, in 4 groups"
    assert [(u.role, u.calls, u.completion_tokens) for u in counter.usage] == [("labeller", 12, 36)]


def test_a_label_is_checked_like_any_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Scripted({"What treats gout?": ["I'm sorry, but I can't help with that."]})
    monkeypatch.setattr(labels, "open_backend", lambda *_, **__: backend)
    given = plan()
    assert given.config.labels is not None
    found, rows = Labeller(given, given.config.labels, {}).label(
        [attempt("What treats gout?", "Aspirin")], 0, Counter()
    )
    assert found[0].reject is not None and found[0].reject.reason == "refusal" and rows == []


def test_labels_are_part_of_what_regeneration_is_and_of_nothing_without_them() -> None:
    plain = assemble(resolve_run(driver="static", target="nano").config).plan
    assert plain.config.labels is None and label_settings(plain) == {}
    four, eight = label_settings(plan()), label_settings(plan(**{"labels.samples": 8}))
    assert four != eight and four["labels"]["model"] == plan().identity(plan().config.models.generator)
    assert LabelsConfig().samples == 16


def test_a_labeller_that_answers_nothing_is_refused_before_work() -> None:
    sets = {"labels.samples": 4, "models.generator.backend": "extractive", "models.generator.id": "extractive"}
    with pytest.raises(ConfigError, match=r"answered without its text.* set models\.labeller\.id"):
        assemble(resolve_run(driver="static", target="nano", route="direct", sets=sets).config)


def test_a_model_that_is_open_as_it_came_is_the_labeller_and_a_trained_one_is_not() -> None:
    given, open_ = plan(), Scripted({})
    assert given.config.labels is not None
    assert Labeller(given, given.config.labels, {"generator": open_}).model is open_
    maker = Synthesizer(given.route, None)
    assert untrained(given, maker, open_, None) == {"generator": open_}
    assert untrained(given, maker, open_, Path("policy")) == {}
