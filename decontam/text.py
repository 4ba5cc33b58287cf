"""The first contamination gate: exact containment of token sequences, in both directions.

A training text is contaminated when, after normalisation, it contains the whole of a test item's text or is itself
contained in one. Items and texts of fewer than `min_tokens` tokens prove nothing ("What is the diagnosis?") and are
never matched; short items are listed instead. Exactness is the point: every removal shows the span on both sides.
What it gives up are partial and paraphrased overlaps, which n-gram and embedding checks find.

One dictionary lookup per token of training text: the start of every item is indexed by its first `min_tokens`
tokens, and a hit is verified token by token.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from harness.types import Message

MIN_TOKENS = 8
# Scripts written without spaces are cut into characters; everything else into runs of letters and digits.
_UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class TestText:
    """The text of one test item, as its benchmark declares it."""

    __test__ = False  # keeps pytest from collecting it

    benchmark: str
    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """Evidence: which item, in which direction, and the matched span on both sides.

    `text_contains_item`: the whole item stands in the text; otherwise the whole text stands in the item. Spans are
    character offsets (start, end) into the NFKC form of either text, and `excerpt` is the text's side.
    """

    benchmark: str
    item_id: str
    direction: Literal["text_contains_item", "item_contains_text"]
    tokens: int
    text_span: tuple[int, int]
    item_span: tuple[int, int]
    excerpt: str


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Normalised tokens and the offsets of each in the NFKC form `text`."""

    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    text: str

    def span(self, start: int, length: int) -> tuple[int, int]:
        return self.spans[start][0], self.spans[start + length - 1][1]


def _tokenise(text: str) -> _Tokens:
    folded = unicodedata.normalize("NFKC", text)
    found = list(_TOKEN.finditer(folded))
    return _Tokens(tuple(m.group().lower() for m in found), tuple(m.span() for m in found), folded)


def normalise(text: str) -> str:
    """`text` as its tokens joined by blanks: NFKC, lower case, punctuation and white space folded."""
    return " ".join(m.group().lower() for m in _TOKEN.finditer(unicodedata.normalize("NFKC", text)))


@dataclass(frozen=True, slots=True)
class TextIndex:
    """Test items, indexed for containment. Build it with `from_items`.

    `short` are the items below `min_tokens`, which this check cannot speak about.
    """

    items: tuple[TestText, ...]
    short: tuple[TestText, ...]
    min_tokens: int
    _tokens: tuple[_Tokens, ...] = field(repr=False)
    _starts: dict[tuple[str, ...], list[int]] = field(repr=False)
    _grams: dict[int, list[tuple[int, int]]] = field(repr=False)

    @classmethod
    def from_items(cls, items: Iterable[TestText], min_tokens: int = MIN_TOKENS) -> TextIndex:
        """Index `items`; memory grows with their tokens, not with the training text."""
        long: list[TestText] = []
        short: list[TestText] = []
        tokens: list[_Tokens] = []
        starts: dict[tuple[str, ...], list[int]] = defaultdict(list)
        grams: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for item in items:
            found = _tokenise(item.text)
            if len(found.words) < min_tokens:
                short.append(item)
                continue
            starts[found.words[:min_tokens]].append(len(long))
            for at in range(len(found.words) - min_tokens + 1):
                grams[hash(found.words[at : at + min_tokens])].append((len(long), at))
            long.append(item)
            tokens.append(found)
        return cls(tuple(long), tuple(short), min_tokens, tuple(tokens), dict(starts), dict(grams))

    def check(self, text: str) -> Match | None:
        """The first item that `text` contains or is contained in; None if there is none."""
        return next(self.matches(text), None)

    def matches(self, text: str) -> Iterator[Match]:
        """Every item that `text` contains, by place in the text, then every item that contains `text`; each once."""
        mine = _tokenise(text)
        size = self.min_tokens
        seen: set[int] = set()
        for at in range(len(mine.words) - size + 1):
            for number in self._starts.get(mine.words[at : at + size], ()):
                words = self._tokens[number].words
                if number not in seen and mine.words[at : at + len(words)] == words:
                    seen.add(number)
                    yield self._match(number, mine, at, 0, len(words), "text_contains_item")
        length = len(mine.words)
        if length < size:
            return
        for number, at in self._grams.get(hash(mine.words[:size]), ()):
            if number not in seen and self._tokens[number].words[at : at + length] == mine.words:
                seen.add(number)
                yield self._match(number, mine, 0, at, length, "item_contains_text")

    def _match(
        self,
        number: int,
        mine: _Tokens,
        at: int,
        item_at: int,
        length: int,
        direction: Literal["text_contains_item", "item_contains_text"],
    ) -> Match:
        item = self.items[number]
        span = mine.span(at, length)
        item_span = self._tokens[number].span(item_at, length)
        return Match(item.benchmark, item.item_id, direction, length, span, item_span, mine.text[span[0] : span[1]])


class Conversation(Protocol):
    """Anything with an id and chat messages: samples, validation items."""

    @property
    def id(self) -> str:
        """The row's id."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """Its chat turns."""


@dataclass(frozen=True, slots=True)
class Contaminated:
    """A conversation that matched: where (`prompt` or `answer`) and the evidence."""

    id: str
    part: Literal["prompt", "answer"]
    match: Match


C = TypeVar("C", bound=Conversation)


def _evidence(row: Conversation, index: TextIndex) -> Contaminated | None:
    for message in row.messages:
        if (match := index.check(message.content)) is not None:
            return Contaminated(row.id, "answer" if message.role == "assistant" else "prompt", match)
    return None


def gate(samples: Sequence[C], index: TextIndex) -> tuple[list[C], list[Contaminated]]:
    """The samples of which no turn matches a test item, and the evidence for each of the others, in order."""
    kept: list[C] = []
    removed: list[Contaminated] = []
    for sample in samples:
        found = _evidence(sample, index)
        if found is None:
            kept.append(sample)
        else:
            removed.append(found)
    return kept, removed


@dataclass(frozen=True, slots=True)
class ValidationOverlap:
    """One pair (validation set, benchmark): how many items were checked and which of them match a test item."""

    validation: str
    benchmark: str
    checked: int
    matches: tuple[Contaminated, ...]


def check_validation_against_tests(
    validation: str, items: Sequence[Conversation], index: TextIndex
) -> list[ValidationOverlap]:
    """Every validation item against every benchmark of `index`: one result per pair, also where nothing matches.

    Only what the user turn asks is compared: an answer such as a letter or a drug's name is no test text.
    """
    names = sorted({item.benchmark for item in (*index.items, *index.short)})
    found: dict[str, list[Contaminated]] = {name: [] for name in names}
    for row in items:
        hit: set[str] = set()
        for message in row.messages:
            if message.role == "assistant":
                continue
            for match in index.matches(message.content):
                if match.benchmark not in hit:
                    hit.add(match.benchmark)
                    found[match.benchmark].append(Contaminated(row.id, "prompt", match))
    return [ValidationOverlap(validation, name, len(items), tuple(found[name])) for name in names]
