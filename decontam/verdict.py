"""From the results of all shards to verdicts: which pairs count, which documents must go, which items are touched.

An n-gram that stands in many unrelated texts says little ("which of the following is the most likely"), so it counts
for less (`decontam.rarity`). How rare it is shows over the whole corpus, which is why verdicts wait for all shards.
Pairs are kept down to the lowest threshold that is asked about, so that one check answers for several thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from decontam.backend import Floats, Ints
from decontam.check import TOP, ContaminationCheck, Near, Results, from_cosine
from decontam.coverage import Shared
from decontam.rarity import Around, evidence_of, others_of, weights
from harness.config import DecontamConfig

MatchKind = Literal["text", "contained", "ngram", "embedding"]
KINDS: tuple[MatchKind, ...] = ("text", "contained", "ngram", "embedding")
"""What a pair can be found by. `contained`: the document stands whole in the item; it belongs to text mode."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of document and item: parallel arrays, sorted by (document, kind, falling score, item).

    `kind` indexes `KINDS`; `score` is 1 for text, a share for n-grams, a cosine for embeddings. `hit`: above the
    threshold. `removes`: a hit with an item that is long enough to remove for.
    """

    document: Ints
    item: Ints
    kind: NDArray[np.int8]
    score: Floats
    hit: NDArray[np.bool_]
    removes: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.document)

    def select(self, keep: NDArray[np.bool_]) -> Pairs:
        """The pairs where `keep` is true."""
        return Pairs(
            document=self.document[keep],
            item=self.item[keep],
            kind=self.kind[keep],
            score=self.score[keep],
            hit=self.hit[keep],
            removes=self.removes[keep],
        )


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The findings of a check. `documents` is the size of the corpus, `removed` (documents,) marks what has to go.

    `best` gives, by kind, every item's best score (nan: the item was not asked for; below the floor an upper bound).
    Of n-grams: `frequency` is how many documents each stands in, `evidence` how many unrelated texts; `common` marks
    those that count for less than half (`common_limit` documents halve what one counts; None: all count alike).
    """

    documents: int
    pairs: Pairs
    removed: NDArray[np.bool_]
    best: dict[MatchKind, Floats]
    frequency: Ints
    evidence: Floats
    common: NDArray[np.bool_]
    common_limit: int | None

    def touched(self, kinds: Sequence[MatchKind] = KINDS) -> Ints:
        """Items with a hit of one of `kinds`, short ones included."""
        wanted = np.isin(self.pairs.kind, [KINDS.index(kind) for kind in kinds])
        return np.unique(self.pairs.item[self.pairs.hit & wanted])


def decide(check: ContaminationCheck, results: Results, documents: int) -> Verdicts:
    """Verdicts over a corpus of `documents` documents, from the results of all its shards."""
    side, settings = check.side, check.settings
    frequency, below = _totals(check, results)
    limit = common_limit(settings, documents)
    around = (Around(w.left_phrase, w.left, w.right_phrase, w.right) for w in results.words())
    evidence = evidence_of(check.line, around)
    rare = weights(evidence, others_of(check.line), limit)
    parts = _word_parts(check, results, rare)
    best: dict[MatchKind, Floats] = {}
    if "text" in settings.modes:
        best["text"] = np.where(side.empty, np.nan, 0.0)
        best["text"][parts["text"].item] = 1.0
    if "ngram" in settings.modes:
        best["ngram"] = np.minimum(below, check.floor)
        np.maximum.at(best["ngram"], parts["ngram"].item, parts["ngram"].score)
        best["ngram"][side.empty] = np.nan
    if "embedding" in settings.modes:
        parts["embedding"] = _near(settings, list(results.near()))
        best["embedding"] = np.where(side.empty, np.nan, check.near_floor)
        np.maximum.at(best["embedding"], parts["embedding"].item, parts["embedding"].score)
    pairs = _pairs(check, parts)
    removed = np.zeros(documents, np.bool_)
    removed[pairs.document[pairs.removes]] = True
    return Verdicts(
        documents=documents,
        pairs=pairs,
        removed=removed,
        best=best,
        frequency=frequency,
        evidence=evidence,
        common=rare < 0.5,
        common_limit=limit,
    )


def common_limit(settings: DecontamConfig, documents: int) -> int | None:
    """The number of unrelated texts that halve what an n-gram counts; None where all count alike."""
    if settings.common_share is None or "ngram" not in settings.modes:
        return None
    return max(settings.common_documents, int(settings.common_share * documents))


def thresholds(check: ContaminationCheck) -> dict[MatchKind, float]:
    """The threshold of every kind that is compared with one, as shares and cosines."""
    found: dict[MatchKind, float] = {}
    if "ngram" in check.settings.modes:
        found["ngram"] = check.settings.ngram_threshold
    if "embedding" in check.settings.modes:
        found["embedding"] = check.to_cosine(check.settings.embedding_threshold)
    return found


def shown_score(kind: MatchKind, score: Floats, settings: DecontamConfig) -> Floats:
    """Scores in the unit that the settings state."""
    return from_cosine(score, settings) if kind == "embedding" else score


@dataclass(frozen=True, slots=True)
class _Part:
    """Pairs of one kind."""

    document: Ints
    item: Ints
    score: Floats


def _totals(check: ContaminationCheck, results: Results) -> tuple[Ints, Floats]:
    """Document frequencies of n-grams, and every item's best coverage with all n-grams counted alike."""
    frequency = np.zeros(check.line.grams, np.int64)
    best = np.zeros(len(check.side.items))
    for found in results.words():
        frequency[found.phrase] += found.count
        np.maximum(best, found.best, out=best)
    return frequency, best


def _word_parts(check: ContaminationCheck, results: Results, rare: Floats) -> dict[MatchKind, _Part]:
    """Pairs of text and n-gram modes; n-grams get their weights `rare` here, shard by shard."""
    text: list[_Part] = []
    inside: list[_Part] = []
    grams: list[_Part] = []
    for w in results.words():
        text.append(_Part(w.text_document, w.text_item, np.ones(len(w.text_item))))
        inside.append(_Part(w.inside_document, w.inside_item, np.ones(len(w.inside_item))))
        shared = Shared(
            document=w.gram_document,
            item=w.gram_item,
            score=w.gram_score,
            first=w.gram_first,
            positions=w.gram_position,
        )
        if (rare < 1).any():
            shared = check.line.weighed(shared, rare)
            shared = shared.select(shared.score > check.floor)
        grams.append(_Part(shared.document, shared.item, shared.score))
    return {"text": _together(text), "contained": _together(inside), "ngram": _together(grams)}


def _together(parts: Sequence[_Part]) -> _Part:
    none = np.zeros(0, np.int64)
    return _Part(
        np.concatenate([none, *[p.document for p in parts]]),
        np.concatenate([none, *[p.item for p in parts]]),
        np.concatenate([np.zeros(0), *[p.score for p in parts]]),
    )


def _near(settings: DecontamConfig, near: Sequence[Near]) -> _Part:
    """All embedding pairs; under open-instruct's rules the best five of each item."""
    part = _together([_Part(n.document, n.item, n.cosine) for n in near])
    if settings.compat != "open-instruct":
        return part
    order = np.lexsort((part.document, -part.score, part.item))
    item = part.item[order]
    keep = order[np.arange(len(order)) - np.searchsorted(item, item, side="left") < TOP]
    return _Part(part.document[keep], part.item[keep], part.score[keep])


def _pairs(check: ContaminationCheck, parts: Mapping[MatchKind, _Part]) -> Pairs:
    whole = _together(list(parts.values()))
    kind = np.concatenate([np.full(len(p.item), KINDS.index(name), np.int8) for name, p in parts.items()])
    hit = np.ones(len(kind), np.bool_)
    for name, value in thresholds(check).items():
        # Strictly above, as open-instruct has it: a threshold of 1 removes nothing.
        mine = kind == KINDS.index(name)
        hit[mine] = whole.score[mine] > value
    removes = hit & (check.settings.remove_short | ~check.side.short[whole.item])
    order = np.lexsort((whole.item, -whole.score, kind, whole.document))
    return Pairs(
        document=whole.document[order],
        item=whole.item[order],
        kind=kind[order],
        score=whole.score[order],
        hit=hit[order],
        removes=removes[order],
    )
