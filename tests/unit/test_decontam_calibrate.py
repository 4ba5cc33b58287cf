"""Calibration of an embedder: quantiles of random pairs and paraphrases, against plain counting."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from decontam.calibrate import BEYOND, calibrate_embedder, read_pairs, render_embedder_calibration
from harness.config import EmbedderConfig
from harness.errors import InputError
from harness.models.embedder import open_embedder

NOUNS = "court river engine dose treaty lemma forest sonata enzyme ledger".split()  # noqa: SIM905
TEXTS = [f"the {a} and the {b} of case {i}" for i, (a, b) in enumerate(combinations(NOUNS, 2))]
PAIRS = [(text, text.replace("the ", "a ")) for text in TEXTS]


def test_quantiles_are_those_of_all_pairs() -> None:
    embedder = open_embedder(EmbedderConfig())
    found = calibrate_embedder(embedder, [*TEXTS, TEXTS[0], " "], PAIRS)
    vectors = embedder.embed(TEXTS).astype(float)
    random = sorted(float(a @ b) for a, b in combinations(vectors, 2))
    assert found.texts == len(TEXTS) and found.random.pairs == len(random) == 45 * 44 // 2
    for level, value in found.random.values:
        if value is None:
            assert len(random) * (1 - level) < BEYOND
        else:
            assert value == pytest.approx(np.quantile(random, level))
    assert [value is None for _, value in found.random.values] == [False, False, False, True, True]
    for rate in found.rates:
        assert rate.random == pytest.approx(sum(c > rate.threshold for c in random) / len(random))
    below = {level: value for level, value in found.paraphrase.values}
    assert below[0.01] is None and below[0.5] == pytest.approx(
        np.quantile([float(a @ b) for a, b in zip(vectors, embedder.embed([b for _, b in PAIRS]), strict=True)], 0.5)
    )


def test_many_texts_are_sampled_and_the_seed_decides() -> None:
    embedder = open_embedder(EmbedderConfig())
    one, same, other = (calibrate_embedder(embedder, TEXTS, PAIRS, pairs=500, seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    assert one.random.pairs == 500
    every = calibrate_embedder(embedder, TEXTS, PAIRS)
    assert one.random.values[0][1] == pytest.approx(every.random.values[0][1], abs=0.05)


def test_both_units_are_shown() -> None:
    shown = render_embedder_calibration(calibrate_embedder(open_embedder(EmbedderConfig()), TEXTS, PAIRS))
    assert "0.85     0.925" in shown and "too few pairs" in shown


def test_too_little_to_calibrate_on() -> None:
    with pytest.raises(InputError, match="3 different texts and 45 paraphrase pairs"):
        calibrate_embedder(open_embedder(EmbedderConfig()), [*TEXTS[:3], TEXTS[0]], PAIRS)


def test_pairs_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"a": a, "label": 1, "b": b}) + "\n" for a, b in PAIRS), encoding="utf-8")
    assert read_pairs(str(path)) == PAIRS
    path.write_text('{"a": "x", "b": "y"}\n{"a": "x"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="line 2, has 1 fields of text"):
        read_pairs(str(path))
