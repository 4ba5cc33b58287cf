r"""The tokens of Elasticsearch's `standard` analyzer: UAX #29 words, in simple lower case, with offsets.

The rules are those of Lucene's StandardTokenizer (Unicode Standard Annex #29, rules WB4 to WB13b, and Unicode Technical
Standard #51 for emoji), restated as one regular expression over Unicode properties: words of letters and digits with
their connectors, one token per ideograph and per Hiragana sign, runs of Katakana and of South-East Asian scripts, emoji
sequences, nothing else. What a plain reading of UAX #29 would get wrong: a token ends after 255 UTF-16 units and the
rest is scanned anew; lower case is Java's, code point by code point (`Σ` is never a final `ς`, `İ` is `i`).

Lucene's tables are those of Unicode 12.1. Code points up to Unicode 14 that are newer, or have changed class since, are
listed below as servers 8.19 and 9.5 were seen to treat them: with the lists, all of 139,961 assigned code points, in
six surroundings each, give the servers' tokens. Letters that are newer still are words here and nothing there.

Texts are compared as `plain` writes them, so that what only looks different is equal: on both sides, before either
engine sees them. Tokens of `plain(text)` with their places in `text` itself are `located(text)`, for evidence.

A document is mostly repeated words, so `TokenIds` tokenises each distinct stretch between blanks once and remembers it:
on two cores of a cloud machine some millions of tokens a second, against 0.4 million without.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from itertools import chain
from typing import Any
from zlib import crc32

import numpy as np
import regex
from numpy.typing import NDArray

MAX_UNITS = 255
"""UTF-16 units of the longest token (Lucene: `maxTokenLength`)."""

PLAIN = 1
"""The version of `plain`: raised by hand whenever a text comes out of it otherwise."""

SIGNS = 4
"""Signs of a token of `plain` in scripts that neither part words nor are cut by the analyzer (Thai, Lao, Khmer,
Myanmar): about a word."""

UNKNOWN = -1
"""Tokens that are in no phrase have this id or one below `BREAK`, which tells them apart (see `TokenIds`)."""

BREAK = -2
"""The id between two documents. No phrase has it, so no phrase reaches from one document into the next."""

NUMBER = -3
"""The id of a token of digits that is in no phrase."""

_LATER = (
    r"\u0870-\u089F\u08B5\u08BE-\u08D2\u0B55\u0C3C\u0C5D\u0CDD\u0D04\u0D81\u170D\u1715-\u171F\u180F\u1ABF-\u1ACE\u1B4C"
    r"\u1DFA\u2C2F\u2C5F\u31BB-\u31BF\u4DB6-\u4DBF\u9FF0-\u9FFF\uA7C0\uA7C1\uA7C7-\uA7F6\uA82C\uAB68\uAB69"
    r"\U00010570-\U000105BC\U00010780-\U000107BA\U00010E80-\U00010EB1\U00010F70-\U00010FC4\U00011070-\U00011075"
    r"\U000110C2\U00011147\U000111CE\U000111CF\U00011460\U00011461\U00011740-\U00011746\U00011900-\U00011959"
    r"\U00011AB0-\U00011ABF\U00011FB0\U00012F90-\U00012FF0\U00016A70-\U00016AC9\U00016FE2\U00016FE4-\U0001AFFE"
    r"\U0001B11F-\U0001B122\U0001CF00-\U0001CF46\U0001DF00-\U0001DF1E\U0001E290-\U0001E2AE\U0001E7E0-\U0001E7FE"
    r"\U0002A6D7-\U0002A6DF\U0002B735-\U0002B738\U0002EBF0-\U0002F7FF\U0002FA20-\U0003FFFF"
)
"""Assigned after Lucene's tables were made: no part of any token."""
_SYMBOLS_ONCE = r"\u00B8\u02E5-\u02EB\u055A\u058A\uA708-\uA716"
"""Letters to Unicode now, symbols to Lucene."""
_SIGNS_ONCE = r"\u0600-\u0605\u06DD\u070F\u08E2\U000110BD\U000110CD"
"""Signs that precede a number: numeric now, format characters to Lucene."""
_PICTOGRAPHS_ONCE = (
    r"\u2388\u2605\u2607-\u2612\u2616-\u2685\u2690-\u2704\u270E-\u2711\u2765-\u2767\U0001F000-\U0001F0F5"
    r"\U0001F10D-\U0001F10F\U0001F12F\U0001F16C-\U0001F16F\U0001F1AD\U0001F260-\U0001F4FE\U0001F546-\U0001F5F9"
    r"\U0001F6C6-\U0001F6F2\U0001F7D5-\U0001F7D8\U0001F8B0\U0001F8B1\U0001FA00-\U0001FBCA\U0001FBF0-\U0001FBF9"
)
"""Pictographs of emoji version 11 that later versions took back."""


def _class(inside: str, without: str = "") -> str:
    """A character class without what Lucene's tables do not hold."""
    return rf"[[{inside}]--[{_LATER}{_SIGNS_ONCE}{without}]]"


def _pattern() -> str:
    joined = rf"\p{{WB=Extend}}\p{{WB=Format}}\p{{WB=ZWJ}}{_SIGNS_ONCE}"
    x = rf"[[{joined}]--[{_LATER}]]*+"
    # Emoji keep their presentation selectors apart.
    xs = rf"[[{joined}]--[\uFE0E\uFE0F{_LATER}]]*"
    letter = _class(r"\p{WB=ALetter}\p{WB=Hebrew_Letter}", _SYMBOLS_ONCE) + x
    hebrew = rf"\p{{WB=Hebrew_Letter}}{x}"
    single, double = rf"\p{{WB=Single_Quote}}{x}", rf"\p{{WB=Double_Quote}}{x}"
    number = _class(r"\p{WB=Numeric}[[\uFF00-\uFFEF]&&\p{Nd}]", r"\u19DA\U0001FBF0-\U0001FBF9") + x
    katakana = _class(r"\p{WB=Katakana}") + x
    join = rf"\p{{WB=ExtendNumLet}}{x}"
    mid_letter = rf"[[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]--\u055F]{x}"
    mid_number = rf"[\p{{WB=MidNum}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}\uFE10\uFE14]{x}"
    quoted = rf"{hebrew}(?:{single}|{double}{hebrew})"
    # A chain of letters leaves a Hebrew letter with its quote to the first alternative, which alone may take the quote.
    segment = (
        rf"(?:{katakana}(?:(?:{join})*{katakana})*"
        rf"|(?:{quoted}"
        rf"|{number}(?:(?:(?:{join})*|{mid_number}){number})*"
        rf"|{letter}(?:(?:{join})*(?!{quoted}){letter}|{mid_letter}{letter})*)+)"
    )
    word = rf"(?:{join})*{segment}(?:(?:{join})+{segment})*(?:{join})*"
    plain = r"[0-9#*]\p{WB=Regional_Indicator}\p{Emoji_Modifier}"
    pictograph = rf"[[\p{{Emoji}}\p{{Extended_Pictographic}}{_PICTOGRAPHS_ONCE}]--[{plain}]]{xs}"
    # A modifier of skin colour is joined to what stands before it, so only one that begins a token is named.
    unit = rf"(?:\u200D*{pictograph}\uFE0F?|\p{{Emoji_Modifier}}{xs})"
    emoji = (
        rf"{unit}(?:[\U000E0020-\U000E007E]+\U000E007F|(?:(?<=\u200D){unit}|\u200D{unit})*)"
        rf"|[0-9#*]{xs}\uFE0F?\u20E3{xs}"
        rf"|(?:\p{{WB=Regional_Indicator}}{x}){{2}}"
    )
    sign = _class(r"\p{Script=Han}\p{Script=Hiragana}") + x
    complex_context = _class(r"\p{Line_Break=Complex_Context}\u19DA") + x
    rest = rf"(?:{complex_context})+|{sign}"
    # Connectors that join nothing are no token; taken at once, since each of them would be looked at from each before.
    nothing = r"(\p{WB=ExtendNumLet}+|\u200D+)"
    return rf"{word}|{emoji}|{rest}|{nothing}"


_TOKEN: Any = regex.compile(_pattern(), regex.V1)
# The same rules among ASCII, where they are short, for an engine that is several times as fast.
_SEGMENT = r"(?:[0-9](?:(?:_*|[.,;'])[0-9])*|[A-Za-z](?:(?:_*|[.:'])[A-Za-z])*)+"
_ASCII = re.compile(rf"_*{_SEGMENT}(?:_+{_SEGMENT})*_*|(_+)")
_LOOK = 4 * MAX_UNITS
"""Characters of an overlong match that are searched for the next token's beginning at a time."""
_SURROGATE = regex.compile(r"[\uD800-\uDFFF]")
_BLANKS = regex.compile(r"[ \t\n\r]+")
_REMEMBERED = 1_000_000
"""Distinct stretches of text that `TokenIds` remembers before it starts anew; about 200 MB."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it stood: `text[start:end]`, in characters."""

    word: str
    start: int
    end: int


def clean(text: str) -> str:
    """`text` with lone surrogates replaced by U+FFFD: they are no characters, and no service or file takes them."""
    return text if text.isascii() else str(_SURROGATE.sub("\ufffd", text))


def lower(word: str) -> str:
    """Lower case as Java's `Character.toLowerCase`: one code point gives one, whatever stands beside it."""
    if word.isascii():
        return word.lower()
    return "".join("i" if c == "\u0130" else c.lower() for c in word)


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Tokens of a match that may be longer than `MAX_UNITS`: the scanner never sees more than so many units at once."""
    while start < end:
        found = _TOKEN.search(text, start, min(end, start + _LOOK))
        if found is None or found.lastindex:
            start = min(end, start + _LOOK) if found is None else found.end()
            continue
        start = stop = found.start()
        units = 0
        while stop < end:
            units += 2 if text[stop] > "\uffff" else 1
            if units > MAX_UNITS:
                break
            stop += 1
        found = _TOKEN.match(text, start, stop)
        start = stop if found is None else found.end()
        if found is not None and not found.lastindex:
            yield found.span()


def spans(text: str) -> Iterator[tuple[int, int]]:
    """The places of the tokens of `text`, (start, end) in characters, in order."""
    for match in (_ASCII if text.isascii() else _TOKEN).finditer(text):
        if match.lastindex:
            continue
        start, end = match.span()
        if end - start <= MAX_UNITS // 2:
            yield start, end
        else:
            yield from _cut(text, start, end)


def tokenise(text: str) -> list[Token]:
    """The tokens of `text` with their places."""
    return [Token(lower(text[start:end]), start, end) for start, end in spans(text)]


def token_texts(text: str) -> list[str]:
    """The tokens of `text`."""
    return [lower(text[start:end]) for start, end in spans(text)]


_ENTITY: Any = re.compile(r"&(?:amp;){0,3}(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_FORMATTING = (
    "a abbr address article aside b bdi bdo big blockquote body br caption center cite code col colgroup dd del "
    "details dfn div dl dt em figcaption figure font footer h[1-6] head header hr html i img ins kbd label li main "
    "mark nav ol p pre q s samp section small span strike strong sub summary sup table tbody td tfoot th thead "
    "tr tt u ul var wbr"
)
"""HTML that says how text looks. Other tags may be what an item is about: the path of a drawing, a type in code."""
_TAG: Any = re.compile(
    rf"<!--[^<>]{{0,1000}}-->|</?({_FORMATTING.replace(' ', '|')})"
    r"(?:\s+[A-Za-z_:][\w:.-]*\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>=]+))*\s*/?>",
    re.IGNORECASE,
)
_WITHIN = ("sub", "sup", "wbr")
"""Tags that stand inside words; all others part them."""
_IGNORED: Any = regex.compile(r"[\p{Cf}\p{Default_Ignorable_Code_Point}]")
_APOSTROPHES = re.compile("[\u2018\u2019\u201b\u02bc\u2032\u00b4\uff07]")
_EDGE = re.compile(r"(?<!\w)_+|(?<!_)_++(?!\w)")
"""Connectors that join nothing: Markdown's emphasis, gaps to fill in."""
_JOINED: Any = regex.compile(r"\p{Line_Break=Complex_Context}{2,}")
_CLUSTER: Any = regex.compile(r"\X", regex.DOTALL)

Change = Callable[[Any], str]
Places = list[tuple[int, int]]


def _character(match: Any) -> str:
    """The character for which an entity stands, also where it was escaped more than once."""
    text = str(match.group())
    for _ in range(4):
        text = unescape(text)
    return text


def _untagged(match: Any) -> str:
    return "" if (match.group(1) or "").lower() in _WITHIN else " "


def _settled(text: str) -> str:
    """Characters alone: NFKC, no case, one apostrophe, one `i` for Turkish's two."""
    text = unicodedata.normalize("NFKC", _APOSTROPHES.sub("'", text))
    text = unicodedata.normalize("NFKC", text.casefold().replace("\u0131", "i"))
    # What İ becomes: the dot has no letter to join. And a fraction's bar is a slash.
    return text.replace("i\u0307", "i").replace("\u2044", "/")


def _clusters(run: str) -> list[tuple[int, int]]:
    """The places of each `SIGNS` neighbouring signs of a run: windows that overlap, one a sign, at least one."""
    edges = [0, *(match.end() for match in _CLUSTER.finditer(run))]
    width = min(SIGNS, len(edges) - 1)
    return [(edges[i], edges[i + width]) for i in range(len(edges) - width)]


def _shingled(match: Any) -> str:
    run = match.group()
    return " " + " ".join(run[start:end] for start, end in _clusters(run)) + " "


def plain(text: str) -> str:
    """`text` as it is compared: equal for texts that differ only in how the same words are written.

    In this order: HTML entities become their characters; format and other ignorable characters go (soft hyphens, zero
    width, direction marks); curly apostrophes become straight; NFKC (composed or not, full width, ligatures, special
    blanks) and full case folding (`ß` is `ss`; `İ`, `ı`, `I` and `i` are one); HTML tags that say how text looks, and
    comments, become a blank (`sub`, `sup` and `wbr` nothing); underscores at the edge of a word go; runs of Thai, Lao,
    Khmer and Myanmar become overlapping stretches of `SIGNS` signs, since no blank parts their words. Most English
    texts come back as they are; ASCII keeps its case, which the analyzer folds.
    """
    if "&" in text:
        text = _ENTITY.sub(_character, text)
    plain_ascii = text.isascii()
    if not plain_ascii:
        text = _settled(_IGNORED.sub("", text))
        if "&" in text:  # of an entity in full width, or with something ignorable inside
            text = _settled(_IGNORED.sub("", _ENTITY.sub(_character, text)))
    if "<" in text:
        text = _TAG.sub(_untagged, text)
    if not plain_ascii:
        text = _JOINED.sub(_shingled, text)
    return _EDGE.sub(" ", text) if "_" in text else text


def _changed(text: str, places: Places, pattern: Any, change: Change) -> tuple[str, Places]:
    """`text` with every match of `pattern` changed; `places[i]` is where its character i stood before all changes."""
    parts: list[str] = []
    where: Places = []
    at = 0
    for match in pattern.finditer(text):
        start, end = match.span()
        new = change(match)
        parts += [text[at:start], new]
        where += places[at:start]
        where += [(places[start][0], places[end - 1][1])] * len(new)
        at = end
    return "".join([*parts, text[at:]]), where + places[at:]


_CHARACTERS: tuple[tuple[Any, Change], ...] = (
    (_ENTITY, _character),
    (_IGNORED, lambda match: ""),
    (_CLUSTER, lambda match: _settled(match.group())),
)
_STEPS: tuple[tuple[Any, Change], ...] = (
    *_CHARACTERS,
    *_CHARACTERS,
    (_TAG, _untagged),
    (_EDGE, lambda match: " "),
)
"""The steps of `plain`, character by character (without the last, which `located` does by tokens)."""


def located(text: str) -> list[Token]:
    """The tokens of `plain(text)`, each with its place in `text` itself."""
    if plain(text) == text:
        return tokenise(text)
    shown, places = text, [(i, i + 1) for i in range(len(text))]
    for pattern, change in _STEPS:
        shown, places = _changed(shown, places, pattern, change)
    found: list[Token] = []
    for start, end in spans(shown):
        parts = [(start, end)]
        if _JOINED.fullmatch(shown, start, end):
            parts = [(start + a, start + b) for a, b in _clusters(shown[start:end])]
        found += [Token(lower(shown[a:b]), places[a][0], places[b - 1][1]) for a, b in parts]
    return found


class TokenIds(dict[str, tuple[int, ...]]):
    """Texts as ids of tokens in a vocabulary; with `grow`, tokens outside it are added to it.

    Without, a token outside it has a negative id that tells it from others: `NUMBER` for digits alone, else by a hash.

    A mapping from stretches without blanks to their ids, filled as they are met. Blanks never stand in a token, and no
    rule looks across one, so a text's tokens are those of its stretches.
    """

    def __init__(self, vocabulary: dict[str, int], *, grow: bool = False) -> None:
        super().__init__()
        self._vocabulary, self._grow = vocabulary, grow

    def _id(self, word: str) -> int:
        if self._grow:
            return self._vocabulary.setdefault(word, len(self._vocabulary))
        known = self._vocabulary.get(word)
        if known is not None:
            return known
        return NUMBER if word.isdecimal() else NUMBER - 1 - (crc32(word.encode()) & 0x3FFFFFFF)

    def __missing__(self, stretch: str) -> tuple[int, ...]:
        if stretch.isascii() and stretch.isalnum() and len(stretch) <= MAX_UNITS:
            ids: tuple[int, ...] = (self._id(stretch.lower()),)
        else:
            ids = tuple(map(self._id, token_texts(stretch)))
        if len(self) >= _REMEMBERED:
            self.clear()
        if len(stretch) <= MAX_UNITS:
            self[stretch] = ids
        return ids

    def _stretches(self, text: str) -> Sequence[str]:
        # `str.split` takes more for blanks than the analyzer does (U+202F joins numbers), but among ASCII nothing else.
        return text.split() if text.isascii() else _BLANKS.split(text)

    def of(self, texts: Iterable[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of all `texts` with `BREAK` before each and after the last, and where each text's ids begin.

        Shapes (total,) and (n + 1,): text i is `ids[starts[i]:starts[i + 1] - 1]`.
        """
        parts: list[NDArray[np.int32]] = [np.array([BREAK], np.int32)]
        starts = [1]
        lookup = self.__getitem__
        for text in texts:
            flat = [*chain.from_iterable(map(lookup, self._stretches(text))), BREAK]
            parts.append(np.array(flat, np.int32))
            starts.append(starts[-1] + len(flat))
        return np.concatenate(parts), np.array(starts, np.int64)
