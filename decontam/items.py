"""The test side: items with their fields, and the phrases that stand for them.

Both kinds of question that an engine answers come from here. A text phrase is a whole field (its first `MAX_PHRASE`
tokens; longer fields are confirmed afterwards); an n-gram phrase is a window of a field. Distinct phrases are asked
once, and an occurrence table leads from each back to the fields and positions that it covers. Under open-instruct's
rules a window is taken over another tokenizer's tokens and analysed again, so that its length in our tokens varies,
and a repeated window keeps only its last position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from decontam.backend import MAX_PHRASE, Ints, Phrases
from decontam.tokens import BREAK, TokenIds, clean, plain, token_texts
from harness.config import DecontamConfig
from harness.errors import PrerequisiteError


@dataclass(frozen=True, slots=True)
class TestItem:
    """One test item as its benchmark declares it: the texts of its contamination fields, in order."""

    __test__ = False  # keeps pytest from collecting it

    benchmark: str
    id: str
    fields: tuple[str, ...]

    @property
    def text(self) -> str:
        """All fields, line by line."""
        return "\n".join(self.fields)


@dataclass(frozen=True, slots=True)
class Occurrences:
    """The positions of fields that a phrase covers: rows `first[p]:first[p + 1]` are of phrase p.

    `field` numbers fields over all items; a row covers the field's positions `start` to `start + width - 1`.
    """

    first: Ints
    field: Ints
    start: Ints
    width: int


class TestSide:
    """Items prepared for a check. Fields are numbered over all items, in order; empty fields are not numbered.

    `item_of` (fields,) leads from a field to its item, `length` (fields,) is its number of covered units: our tokens,
    or under open-instruct's rules the other tokenizer's. `tokens` (items,) counts an item's tokens over its fields.
    `empty` (items,) marks items that cannot be asked for, `partial` those that are asked for by some fields alone.
    """

    __test__ = False

    def __init__(self, items: Iterable[TestItem], settings: DecontamConfig) -> None:
        self.items: tuple[TestItem, ...] = tuple(items)
        self.settings = settings
        self.vocabulary: dict[str, int] = {}
        texts = [clean(text) for item in self.items for text in item.fields]
        ids, begin = TokenIds(self.vocabulary, grow=True).of(map(plain, texts))
        lengths = np.diff(begin) - 1
        owner = np.repeat(np.arange(len(self.items)), [len(item.fields) for item in self.items])
        self.partial, self.empty = _silent(owner, lengths, len(self.items), settings.compat == "open-instruct")
        kept = (lengths > 0) & ~self.empty[owner]
        self.item_of: Ints = owner[kept]
        self.words_length: Ints = lengths[kept]
        self.ids: NDArray[np.int32] = ids[ids != BREAK][np.repeat(kept, lengths)]
        self.starts: Ints = np.concatenate(([0], np.cumsum(self.words_length))).astype(np.int64)
        self._texts = [text for text, keep in zip(texts, kept, strict=True) if keep]
        self.tokens: Ints = np.bincount(self.item_of, self.words_length, len(self.items)).astype(np.int64)
        self.fields_of: Ints = np.bincount(self.item_of, minlength=len(self.items))
        self.first_field: Ints = np.concatenate(([0], np.cumsum(self.fields_of)))[:-1]
        self.short: NDArray[np.bool_] = (self.tokens < settings.min_tokens) & ~self.empty

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The benchmarks' names, in the order of their first items."""
        return tuple(dict.fromkeys(item.benchmark for item in self.items))

    @cached_property
    def benchmark_of(self) -> Ints:
        """Index into `benchmarks` of every item."""
        index = {name: i for i, name in enumerate(self.benchmarks)}
        return np.array([index[item.benchmark] for item in self.items], np.int64)

    def field_words(self, field: int) -> list[str]:
        """The tokens of a field."""
        return [self._names[t] for t in self.ids[self.starts[field] : self.starts[field + 1]]]

    @cached_property
    def _names(self) -> list[str]:
        return list(self.vocabulary)

    @cached_property
    def length(self) -> Ints:
        """Units of each field that coverage is counted in."""
        if self.settings.ngram_tokenizer == "standard":
            return self.words_length
        return np.array([len(found) for found in self._spacy], np.int64)

    @cached_property
    def _spacy(self) -> list[list[tuple[int, int]]]:
        return _spacy_tokens(self._texts)

    @cached_property
    def _grams(self) -> tuple[NDArray[np.int32], Ints, Ints, Occurrences]:
        """Distinct n-grams as one array of ids with their starts and lengths, and where they occur."""
        size = self.settings.ngram_size
        if self.settings.ngram_tokenizer == "spacy":
            return self._spacy_grams(size)
        if len(self.ids) < size:
            none = np.zeros(0, np.int64)
            return np.zeros(0, np.int32), none, none, Occurrences(np.zeros(1, np.int64), none, none, size)
        windows = np.lib.stride_tricks.sliding_window_view(self.ids, size)
        # A window is a field's own if it ends within it.
        field = np.repeat(np.arange(len(self.words_length)), self.words_length)
        inside = np.flatnonzero(field[: len(windows)] == field[size - 1 :])
        # Rows as single opaque values: exact, and faster to sort than rows.
        rows = np.ascontiguousarray(windows[inside])
        keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * size))).ravel()
        _, example, phrase = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(phrase, kind="stable")
        first = np.searchsorted(phrase[order], np.arange(len(example) + 1))
        where = inside[order]
        occurrences = Occurrences(first.astype(np.int64), field[where], where - self.starts[field[where]], size)
        count = len(example)
        return rows[example].ravel(), np.arange(count) * size, np.full(count, size, np.int64), occurrences

    def _spacy_grams(self, size: int) -> tuple[NDArray[np.int32], Ints, Ints, Occurrences]:
        """Windows over spaCy's tokens, analysed again; of equal windows in a field the last position counts."""
        asked: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for field, (text, places) in enumerate(zip(self._texts, self._spacy, strict=True)):
            last: dict[str, int] = {}
            for at in range(len(places) - size + 1):
                last[text[places[at][0] : places[at + size - 1][1]]] = at
            for window, at in last.items():
                ids = tuple(self.vocabulary.setdefault(w, len(self.vocabulary)) for w in token_texts(plain(window)))
                if ids:
                    asked.setdefault(ids[:MAX_PHRASE], []).append((field, at))
        counts = np.array([len(v) for v in asked.values()], np.int64)
        rows = np.array([row for v in asked.values() for row in v], np.int64).reshape(-1, 2)
        lengths = np.array([len(k) for k in asked], np.int64)
        flat = np.array([i for k in asked for i in k], np.int32)
        first = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)[:-1]
        return flat, starts, lengths, Occurrences(first, rows[:, 0], rows[:, 1], size)

    @cached_property
    def question(self) -> Question:
        """The question to an engine, and how to read its answer."""
        modes = self.settings.modes
        grams, gram_starts, gram_lengths, occurrences = self._grams if "ngram" in modes else _NO_GRAMS
        fields: list[tuple[int, ...]] = []
        if "text" in modes:
            flat = self.ids.tolist()
            ends = self.starts[:-1] + np.minimum(self.words_length, MAX_PHRASE)
            fields = [tuple(flat[start:end]) for start, end in zip(self.starts, ends, strict=False)]
        # The same tokens may be an n-gram and a whole short field: as phrases they are then one.
        flat = grams.tolist()
        ends = gram_starts + gram_lengths
        number = {tuple(flat[start:end]): p for p, (start, end) in enumerate(zip(gram_starts, ends, strict=True))}
        field_phrase = np.array([number.setdefault(key, len(number)) for key in fields], np.int64)
        lengths = np.array([len(key) for key in number], np.int64)
        ids = np.array([t for key in number for t in key], np.int32)
        starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        return Question(Phrases(tuple(self.vocabulary), ids, starts), len(gram_lengths), occurrences, field_phrase)


def _silent(owner: Ints, lengths: Ints, items: int, strict: bool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Items with a field of no token that others speak for, and items that cannot be asked for at all.

    The fields that say something serve for the whole; open-instruct (`strict`) leaves out an item with an empty field.
    """
    fields = np.bincount(owner, minlength=items)
    speaking = np.bincount(owner[lengths > 0], minlength=items)
    lacking = speaking < fields
    empty = (speaking == 0) | lacking if strict else speaking == 0
    return lacking & ~empty, empty


@dataclass(frozen=True, slots=True)
class Question:
    """Phrases for an engine. Phrases below `grams` are n-grams, with `occurrences`.

    `field_phrase` (fields,) is the phrase that stands for each field's text; it is empty without text mode.
    """

    phrases: Phrases
    grams: int
    occurrences: Occurrences
    field_phrase: Ints


_NONE = np.zeros(0, np.int64)
_NO_GRAMS = (np.zeros(0, np.int32), _NONE, _NONE, Occurrences(np.zeros(1, np.int64), _NONE, _NONE, 1))


def _spacy_tokens(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Character spans of spaCy's English tokens, blanks and punctuation included, as open-instruct counts them."""
    try:
        import spacy
    except ImportError:
        raise PrerequisiteError(
            "open-instruct's n-grams are of spaCy's tokens; pip install spacy, or set decontam.ngram_tokenizer=standard"
        ) from None
    tokenizer = spacy.blank("en").tokenizer
    return [[(t.idx, t.idx + len(t.text)) for t in tokenizer(text)] for text in texts]
