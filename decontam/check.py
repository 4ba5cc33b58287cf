"""A check, shard by shard: what an engine answers becomes pairs of document and item that may count.

A shard's result is small (pairs above the lowest threshold that is asked about, document frequencies of n-grams, each
item's best score) and is written when it is complete, so a check that was killed goes on where it was. Verdicts need
all shards, since an n-gram is common or not over the whole corpus; they are made afterwards (`decontam.verdict`) from
these results alone, and so come out the same wherever a process died.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from decontam.backend import MAX_PHRASE, Corpus, Floats, Ints, Neighbours, Postings, SearchBackend, Shard, Vectors
from decontam.coverage import Line, Shared
from decontam.items import TestItem, TestSide
from decontam.rarity import NOTHING, Contexts
from decontam.rolling import Hashes
from decontam.tokens import TokenIds, token_texts
from decontam.vectors import stored_vectors
from harness.config import DecontamConfig
from harness.config_decontam import OPEN_INSTRUCT
from harness.errors import InputError
from harness.models.embedder import Embedder
from harness.screen import ProgressCallback, no_progress
from harness.shards import replace_into

VERSION = 4
"""Raised by hand when the results of equal texts and rules change."""
TOP = 5
"""Training documents per test item that open-instruct looks at in embedding mode."""
BELOW = 0.15
"""How far below its threshold a similarity is still recorded, for the table of thresholds."""

_PREFIX = 400


def resolved(settings: DecontamConfig) -> DecontamConfig:
    """The settings with open-instruct's rules in force, where they are asked for."""
    if settings.compat == "none":
        return settings
    return settings.model_copy(update=OPEN_INSTRUCT)


def from_cosine(value: Floats, settings: DecontamConfig) -> Floats:
    """Cosines in the settings' unit."""
    return value if settings.embedding_unit == "cosine" else (1 + value) / 2


@dataclass(frozen=True, slots=True)
class Words:
    """The findings of text and n-gram modes in a shard; all arrays, pairs sorted by (document, item).

    `text_*`: documents that contain an item whole. `inside_*`: documents that stand whole in an item. `gram_*`: pairs
    whose coverage is above the floor, with the positions they cover. `phrase`, `count`: document frequencies of
    n-grams. `best` (items,): the best coverage of each item, also below the floor. `left`, `right`: what stands
    around n-grams (`rarity.Around`).
    """

    text_document: Ints
    text_item: Ints
    inside_document: Ints
    inside_item: Ints
    gram_document: Ints
    gram_item: Ints
    gram_score: Floats
    gram_first: Ints
    gram_position: Ints
    phrase: Ints
    count: Ints
    best: Floats
    left_phrase: Ints
    left: Hashes
    right_phrase: Ints
    right: Hashes


@dataclass(frozen=True, slots=True)
class Near:
    """The findings of embedding mode in a shard: pairs whose cosine is above the floor."""

    document: Ints
    item: Ints
    cosine: Floats


class ContaminationCheck:
    """Test items prepared for checks of any number of corpora under one set of rules."""

    def __init__(
        self,
        items: Sequence[TestItem],
        settings: DecontamConfig,
        backend: SearchBackend,
        embedder: Embedder | None = None,
    ) -> None:
        self.settings = resolved(settings)
        self.side = TestSide(items, self.settings)
        if not self.side.items or self.side.empty.all():
            raise InputError("no test item has any text to compare with; name other fields or benchmarks")
        self.backend, self.embedder = backend, embedder
        if "embedding" in self.settings.modes and embedder is None:
            raise InputError("embedding mode needs an embedder; name one, or leave the mode out")
        self.line = Line(self.side)
        rarity = "ngram" in self.settings.modes and self.settings.common_share is not None
        self._contexts = Contexts(self.line) if rarity else None
        self._contained = _Contained(self.side) if "text" in self.settings.modes and self.settings.contained else None
        self._queries: Vectors | None = None

    @property
    def floor(self) -> float:
        """The coverage above which n-gram pairs are recorded."""
        return min((*self.settings.thresholds, self.settings.ngram_threshold))

    @property
    def near_floor(self) -> float:
        """The cosine from which embedding pairs are recorded."""
        if self.settings.compat == "open-instruct":
            return -1.0
        return self.to_cosine(self.settings.embedding_threshold - BELOW)

    def to_cosine(self, value: float) -> float:
        """A similarity in the settings' unit as a cosine; Elasticsearch's score is (1 + cos) / 2."""
        return value if self.settings.embedding_unit == "cosine" else 2 * value - 1

    def queries(self, folder: Path | None = None, progress: ProgressCallback = no_progress) -> Vectors:
        """One vector per item (its fields joined by a blank); zero for an item without text.

        They are stored in `folder`, which must be for these items and this embedder, and found there again.
        """
        if self._queries is None:
            assert self.embedder is not None
            texts = [
                "" if empty else " ".join(item.fields)
                for item, empty in zip(self.side.items, self.side.empty, strict=True)
            ]
            ids = [item.id for item in self.side.items]
            if folder is None:
                self._queries = self.embedder.embed(texts, ids)
            else:
                total = len(texts)
                self._queries = stored_vectors(
                    self.embedder, texts, ids, folder, "items", lambda n: progress("embedding test items", n, total)
                )
        return self._queries

    def words(self, corpus: Corpus, skip: Container[int] = ()) -> Iterator[tuple[int, Words]]:
        """Text and n-gram modes: one result per shard that is not in `skip`."""
        cap = self.settings.search_size if self.settings.compat == "open-instruct" else None
        question = self.side.question
        for postings in self.backend.find(corpus, question.phrases, cap=cap, skip=() if cap else skip):
            yield postings.shard.index, self._words(postings)

    def near(self, corpus: Corpus, skip: Container[int] = ()) -> Iterator[tuple[int, Near]]:
        """Embedding mode: one result per shard that is not in `skip`."""
        top = TOP if self.settings.compat == "open-instruct" else None
        for found in self.backend.nearest(
            corpus, self.queries(), floor=self.near_floor, top=top, skip=() if top else skip
        ):
            yield found.shard.index, self._near(found)

    def _near(self, found: Neighbours) -> Near:
        # The zero vector of an item without text is near nothing.
        keep = ~self.side.empty[found.query]
        return Near(found.document[keep], found.query[keep], found.cosine[keep])

    def _words(self, postings: Postings) -> Words:
        text_document, text_item = self._text(postings)
        nothing = np.zeros(0, np.int64)
        inside_document, inside_item = self._contained.find(postings.shard) if self._contained else (nothing, nothing)
        grams = postings.phrase[postings.phrase < self.line.grams]
        counts = np.bincount(grams, minlength=self.line.grams)
        phrase = np.flatnonzero(counts)
        best = np.zeros(len(self.side.items))
        kept: list[Shared] = []
        every = list(self.line.share(postings))
        for shared in every:
            np.maximum.at(best, shared.item, shared.score)
            kept.append(shared.select(shared.score > self.floor))
        around = self._contexts.of(postings, every) if self._contexts else NOTHING
        pairs = _joined(kept)
        return Words(
            text_document=text_document,
            text_item=text_item,
            inside_document=inside_document,
            inside_item=inside_item,
            gram_document=pairs.document,
            gram_item=pairs.item,
            gram_score=pairs.score,
            gram_first=pairs.first,
            gram_position=pairs.positions,
            phrase=phrase,
            count=counts[phrase],
            best=best,
            left_phrase=around.left_phrase,
            left=around.left,
            right_phrase=around.right_phrase,
            right=around.right,
        )

    def _text(self, postings: Postings) -> tuple[Ints, Ints]:
        """Documents that contain all fields of an item."""
        side, of_field = self.side, self.side.question.field_phrase
        if not len(of_field):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        order = np.argsort(of_field, kind="stable")
        low = np.searchsorted(of_field[order], postings.phrase, side="left")
        high = np.searchsorted(of_field[order], postings.phrase, side="right")
        count = high - low
        document = np.repeat(postings.document, count)
        offset = np.repeat(low - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
        field = order[offset]
        key, fields_found = np.unique(document * len(side.items) + side.item_of[field], return_counts=True)
        document, item = np.divmod(key, len(side.items))
        keep = fields_found == side.fields_of[item]
        document, item = document[keep], item[keep]
        confirmed = np.array([self._whole(postings.shard, d, i) for d, i in zip(document, item, strict=True)], np.bool_)
        return document[confirmed], item[confirmed]

    def _whole(self, shard: Shard, document: int, item: int) -> bool:
        """Whether the fields that are longer than a phrase stand in the document to their end."""
        first = self.side.first_field[item]
        long = [f for f in range(first, first + self.side.fields_of[item]) if self.side.words_length[f] > MAX_PHRASE]
        if not long:
            return True
        # Tokens hold no NUL, so joined by it they can be looked for as one string.
        text = "\0".join(["", *token_texts(shard.plain[int(document) - shard.first]), ""])
        return all("\0".join(["", *self.side.field_words(f), ""]) in text for f in long)


class _Contained:
    """Documents that stand whole in a field of an item: found by their first tokens, then compared to their end."""

    def __init__(self, side: TestSide) -> None:
        self.side = side
        self.size = max(side.settings.min_tokens, 1)
        self.tokens = TokenIds(side.vocabulary)
        self.end_at: Ints = np.repeat(side.starts[1:], side.words_length)
        ids, size = side.ids, self.size
        self.field_at: Ints = np.repeat(np.arange(len(side.words_length)), side.words_length)
        inside = self.field_at[: max(0, len(ids) - size + 1)] == self.field_at[size - 1 :]
        at = np.flatnonzero(inside)
        windows = np.lib.stride_tricks.sliding_window_view(ids, size)[at] if len(at) else np.zeros((0, size), np.int32)
        # Rows as single opaque values, in order, so that a text's first tokens are found by bisection.
        keys = np.ascontiguousarray(windows).view(f"S{size * ids.itemsize}").ravel()
        order = np.argsort(keys, kind="stable")
        self._keys, self._at = keys[order], at[order]

    def find(self, shard: Shard) -> tuple[Ints, Ints]:
        """Documents and the items that they stand in."""
        heads = [text if len(text) <= _PREFIX else text[:_PREFIX].rpartition(" ")[0] for text in shard.plain]
        ids, begin = self.tokens.of(heads)
        documents: list[int] = []
        items: list[int] = []
        for i, text in enumerate(shard.plain):
            start, stop = begin[i], begin[i + 1] - 1
            if stop - start < self.size:
                if len(heads[i]) == len(text):
                    continue
                head = self.tokens.of([text])[0][1:-1][: self.size]
            else:
                head = ids[start : start + self.size]
            if len(head) < self.size or (head < 0).any():
                continue
            key = np.frombuffer(head.astype(np.int32).tobytes(), self._keys.dtype)
            low, high = (np.searchsorted(self._keys, key[0], side=edge) for edge in ("left", "right"))
            places = self._at[low:high]
            if not len(places):
                continue
            whole = ids[start:stop] if len(heads[i]) == len(text) else self.tokens.of([text])[0][1:-1]
            found = {
                int(self.side.item_of[self.field_at[at]])
                for at in places
                if at + len(whole) <= self.end_at[at] and np.array_equal(self.side.ids[at : at + len(whole)], whole)
            }
            documents += [shard.first + i] * len(found)
            items += sorted(found)
        return np.array(documents, np.int64), np.array(items, np.int64)


def _joined(parts: Sequence[Shared]) -> Shared:
    """Pairs of consecutive documents, one after another."""
    none = np.zeros(0, np.int64)
    if not parts:
        return Shared(document=none, item=none, score=np.zeros(0), first=np.zeros(1, np.int64), positions=none)
    counts = np.concatenate([np.diff(p.first) for p in parts])
    return Shared(
        document=np.concatenate([p.document for p in parts]),
        item=np.concatenate([p.item for p in parts]),
        score=np.concatenate([p.score for p in parts]),
        first=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        positions=np.concatenate([p.positions for p in parts]),
    )


class Results:
    """The results of all shards: in memory, or as files of `folder` that a later process finds again."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: dict[tuple[str, int], Words | Near] = {}

    def done(self, kind: str) -> set[int]:
        """The shards whose `words` or `near` is there."""
        if self._folder is None:
            return {index for name, index in self._kept if name == kind}
        return {int(path.stem.rpartition("-")[2]) for path in self._folder.glob(f"{kind}-*.npz")}

    def add(self, kind: str, index: int, result: Words | Near) -> None:
        """Keep the result of one shard."""
        if self._folder is None:
            self._kept[kind, index] = result
            return
        arrays: dict[str, NDArray[np.generic]] = {f.name: getattr(result, f.name) for f in fields(result)}

        def save(temporary: Path) -> None:
            with open(temporary, "wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]

        replace_into(self._folder / f"{kind}-{index:06d}.npz", save)

    def words(self) -> Iterator[Words]:
        """The results of text and n-gram modes, in order."""
        for index in sorted(self.done("words")):
            found = self._kept.get(("words", index)) if self._folder is None else self._load(Words, "words", index)
            assert isinstance(found, Words)
            yield found

    def near(self) -> Iterator[Near]:
        """The results of embedding mode, in order."""
        for index in sorted(self.done("near")):
            found = self._kept.get(("near", index)) if self._folder is None else self._load(Near, "near", index)
            assert isinstance(found, Near)
            yield found

    def _load(self, cls: type[Words] | type[Near], kind: str, index: int) -> Words | Near:
        assert self._folder is not None
        with np.load(self._folder / f"{kind}-{index:06d}.npz") as stored:
            return cls(**{f.name: stored[f.name] for f in fields(cls)})


def run_check(
    check: ContaminationCheck,
    corpus: Corpus,
    folder: Path | None = None,
    progress: ProgressCallback = no_progress,
) -> Results:
    """Check every shard of `corpus` that `folder` does not hold already. `progress` gets label, shards done, all."""
    results = Results(folder)
    total = -(-corpus.size // corpus.shard_size)
    modes = check.settings.modes
    if "text" in modes or "ngram" in modes:
        label = " and ".join(mode for mode in modes if mode != "embedding")
        for number, (index, found) in enumerate(check.words(corpus, done := results.done("words")), len(done) + 1):
            results.add("words", index, found)
            progress(label, min(number, total), total)
    if "embedding" in modes:
        check.queries(folder, progress)
        for number, (index, near) in enumerate(check.near(corpus, done := results.done("near")), len(done) + 1):
            results.add("near", index, near)
            progress("comparing vectors", min(number, total), total)
    return results
