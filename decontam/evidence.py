"""Evidence for a pair: which characters of the document and of the item match, so that a person can judge it.

Spans are made after the verdict, from the two texts alone, with the standard tokens (also where open-instruct's rules
counted spaCy's): evidence does not depend on the engine, and none is kept for the many pairs that nobody asks about.
Texts are shown as they stand and compared as `decontam.tokens.plain` writes them. A long document is shown as a window
around its spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decontam.tokens import Token, clean, located

CONTEXT = 300
"""Characters of a document that are shown before its first and after its last span."""
LONGEST = 6000
"""Characters of a document or item that are shown at most."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shown:
    """A text, or a window of it that begins at character `offset`, and the matched spans within what is shown."""

    text: str
    spans: tuple[Span, ...]
    offset: int = 0
    whole: bool = True


def text_spans(document: Sequence[Token], field: Sequence[Token]) -> list[Span]:
    """The places of the tokens of `field` in `document` as one run, first place only, in characters."""
    words = [t.word for t in document]
    wanted = [t.word for t in field]
    size = len(wanted)
    if not size:
        return []
    at = -1
    while True:
        try:
            at = words.index(wanted[0], at + 1)
        except ValueError:
            return []
        if words[at : at + size] == wanted:
            return [(document[at].start, document[at + size - 1].end)]


def gram_spans(mine: Sequence[Token], other: Sequence[Token], size: int) -> list[Span]:
    """The characters of `mine` that n-grams shared with `other` cover, in runs."""
    theirs = {tuple(t.word for t in other[i : i + size]) for i in range(len(other) - size + 1)}
    covered: list[tuple[int, int]] = []
    for i in range(len(mine) - size + 1):
        if tuple(t.word for t in mine[i : i + size]) in theirs:
            if covered and i <= covered[-1][1]:
                covered[-1] = (covered[-1][0], i + size)
            else:
                covered.append((i, i + size))
    return [(mine[a].start, mine[b - 1].end) for a, b in covered]


def span_window(text: str, spans: Sequence[Span]) -> Shown:
    """`text` with its spans: whole where it is short, else a window around the first spans."""
    if len(text) <= LONGEST:
        return Shown(text, tuple(spans))
    first = spans[0][0] if spans else 0
    start = max(0, first - CONTEXT)
    last = max((end for _, end in spans if end <= start + LONGEST), default=start + LONGEST - CONTEXT)
    stop = min(len(text), last + CONTEXT, start + LONGEST)
    inside = tuple((a - start, min(b, stop) - start) for a, b in spans if a < stop)
    return Shown(text[start:stop], inside, start, False)


def evidence(kind: str, document: str, fields: Sequence[str], size: int) -> tuple[Shown, tuple[Shown, ...]]:
    """Both sides of a pair that was found by `kind`: the document, and every field of the item. `size`: the n-gram's.

    Embeddings have no spans of their own; the n-grams that the texts share are marked, where there are any.
    """
    document, fields = clean(document), [clean(field) for field in fields]
    mine = located(document)
    theirs = [located(field) for field in fields]
    if kind == "text":
        spans = [span for field in theirs for span in text_spans(mine, field)]
        shown = [[(field[0].start, field[-1].end)] if field else [] for field in theirs]
    elif kind == "contained":
        spans = [(mine[0].start, mine[-1].end)] if mine else []
        shown = [text_spans(field, mine) for field in theirs]
    else:
        spans = [span for field in theirs for span in gram_spans(mine, field, size)]
        shown = [gram_spans(field, mine, size) for field in theirs]
    sides = tuple(span_window(text, found) for text, found in zip(fields, shown, strict=True))
    return span_window(document, _merged(spans)), sides


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Spans in order, those that touch or overlap as one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
