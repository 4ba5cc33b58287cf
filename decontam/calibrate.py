"""The meaning of a similarity under an embedder: how high unrelated texts come, and how low paraphrases fall.

A threshold does not carry over from one embedding model to another: a cosine of 0.85 is a copy for one and the same
subject for the next. So it should be read off two distributions for the model at hand: pairs of texts drawn at random
from the data, and pairs that say the same. Random pairs may hold a few true duplicates, which raises the topmost
quantiles and never lowers them; equal texts are left out. Paraphrases come from the user, or are made by rule, and
those keep much of the wording, so their similarity is higher than that of a rewriting by a model or a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from decontam.backend import Floats
from harness.errors import InputError
from harness.models.embedder import Embedder
from harness.synthesis.tables import read_rows

RANDOM_PAIRS = 100_000
RANDOM_LEVELS = (0.5, 0.9, 0.99, 0.999, 0.9999)
PARAPHRASE_LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5)
THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
BEYOND = 5
"""Pairs that must lie beyond a quantile for it to be given; with fewer it is a matter of chance."""

_FEWEST = 10


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Cosines of `pairs` pairs: (level, cosine) by rising level; None where `pairs` are too few for the level."""

    pairs: int
    values: tuple[tuple[float, float | None], ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """Share of random pairs and of paraphrases whose cosine is above `threshold`."""

    threshold: float
    random: float
    paraphrase: float


@dataclass(frozen=True, slots=True)
class ThresholdCalibration:
    """An embedder on some texts. `cut` counts texts that were longer than the model reads."""

    embedder: str
    texts: int
    cut: int
    random: Quantiles
    paraphrase: Quantiles
    rates: tuple[Rate, ...]


def calibrate_embedder(
    embedder: Embedder,
    texts: Sequence[str],
    paraphrases: Sequence[tuple[str, str]],
    *,
    pairs: int = RANDOM_PAIRS,
    seed: int = 0,
) -> ThresholdCalibration:
    """Quantiles of random pairs of `texts` and of `paraphrases`. Raises `InputError` with fewer than ten of either."""
    distinct = list(dict.fromkeys(text for text in texts if text.strip()))
    paraphrases = [(a, b) for a, b in paraphrases if a.strip() and b.strip()]
    if len(distinct) < _FEWEST or len(paraphrases) < _FEWEST:
        raise InputError(
            f"calibration has {len(distinct)} different texts and {len(paraphrases)} paraphrase pairs; it needs at "
            f"least {_FEWEST} of each, and some hundreds to be worth reading"
        )
    vectors = embedder.embed(distinct)
    first, second = _random_pairs(len(distinct), pairs, np.random.default_rng(seed))
    random = _cosines(vectors[first], vectors[second])
    alike = _cosines(embedder.embed([a for a, _ in paraphrases]), embedder.embed([b for _, b in paraphrases]))
    rates = [Rate(t, float(np.mean(random > t)), float(np.mean(alike > t))) for t in THRESHOLDS]
    return ThresholdCalibration(
        embedder=embedder.name,
        texts=len(distinct),
        cut=embedder.truncated,
        random=_quantiles(random, RANDOM_LEVELS),
        paraphrase=_quantiles(alike, PARAPHRASE_LEVELS),
        rates=tuple(rates),
    )


def read_pairs(path: str) -> list[tuple[str, str]]:
    """Paraphrases from JSONL or parquet: each row has exactly two fields of text. Raises `InputError`."""
    found = []
    for line, row in read_rows(path)[1]:
        texts = [value for value in row.values() if isinstance(value, str)]
        if len(texts) != 2:
            raise InputError(
                f"{path}, line {line}, has {len(texts)} fields of text, where a pair of paraphrases has two; "
                "leave the others out"
            )
        found.append((texts[0], texts[1]))
    if not found:
        raise InputError(f"{Path(path)} has no pairs; write one JSON object with two texts per line")
    return found


def _random_pairs(texts: int, wanted: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Unordered pairs of different texts: all of them where there are no more than `wanted`, else a sample with
    replacement."""
    if texts * (texts - 1) // 2 <= wanted:
        first, second = np.triu_indices(texts, 1)
        return first, second
    first = rng.integers(0, texts, wanted)
    return first, (first + rng.integers(1, texts, wanted)) % texts


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> Floats:
    """Row by row; both sides are unit vectors. In blocks, since 100,000 pairs of wide vectors fill gigabytes."""
    step = 10_000
    parts = [
        np.einsum("ij,ij->i", left[i : i + step].astype(np.float64), right[i : i + step].astype(np.float64))
        for i in range(0, len(left), step)
    ]
    return np.concatenate([np.zeros(0), *parts])


def _quantiles(cosines: Floats, levels: Sequence[float]) -> Quantiles:
    values: list[tuple[float, float | None]] = []
    for level in levels:
        enough = len(cosines) * min(level, 1 - level) >= BEYOND - 1e-9
        values.append((level, float(np.quantile(cosines, level)) if enough else None))
    return Quantiles(len(cosines), tuple(values))


def render_embedder_calibration(found: ThresholdCalibration) -> str:
    """The calibration for people, with every cosine also as Elasticsearch's score, (1 + cosine) / 2."""
    cut = f", {found.cut} of them cut to what the model reads" if found.cut else ""
    lines = [f"{found.embedder} on {found.texts:,} texts{cut}", ""]
    for title, part in (("random pairs", found.random), ("paraphrases", found.paraphrase)):
        lines.append(f"{title} ({part.pairs:,})  cosine  es_score")
        for level, value in part.values:
            shown = f"{value:>8.3f}  {(1 + value) / 2:>8.3f}" if value is not None else "   too few pairs"
            lines.append(f"  {level:>7.2%} lie below {shown}")
        lines.append("")
    lines.append("threshold (cosine)  es_score  random pairs above  paraphrases above")
    for rate in found.rates:
        lines.append(
            f"{rate.threshold:>18.2f}  {(1 + rate.threshold) / 2:>8.3f}  {rate.random:>18.3%}  {rate.paraphrase:>17.1%}"
        )
    lines += [
        "",
        "A check compares every training text with every test item, so a share of 0.001 % among random pairs is",
        "10 false pairs in 1,000 texts against 1,000 items.",
    ]
    return "\n".join(lines)
