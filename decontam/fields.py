"""The fields of a training row: which are text, and of which part.

Every string of a row is read, wherever it stands and whatever its field is called, since what is not read cannot be
found, and a name that nobody thought of would hide a leak. There is one exception, stated by a rule: a string of fewer
than `LONG` words in a field whose name says that it describes the row (an id, a source, a licence: `DESCRIBES`). What
was read as what, and what was not, is counted by field, so that a report can say so.

A field is a document of its own, and so is every turn of a conversation. Fields that are written into one prompt
(question and options, instruction and input) are one document together, too; short ones are no document besides. Short
strings under names that no rule knows are one document together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from decontam.tokens import clean
from harness.errors import InputError
from harness.synthesis.turns import CONVERSATION_FIELDS, Turn, find_turns, parsed

Part = Literal["prompt", "answer"]
PARTS: tuple[Part, ...] = ("prompt", "answer")

LONG = 8
"""Words from which a string is text, whatever its field is called."""

_PROMPTS = (
    r"prompts?|questions?|instructions?|query|queries|problems?|inputs?|contexts?|passages?|documents?|article|statement"
    r"|puzzle|stem|(question|problem|prompt|instruction|input|query)_(text|body|stem|statement|content)"
    r"|(?!system).*_(prompt|question|instruction|input|query|problem|context|passage)"
    r"|options?|choices|endings?\d*|sent[12]|ctx|op[a-j]|option_?[a-j\d]|choice_?[a-j\d]"
)
"""Names that are written into one prompt; so are single letters, beside them or within."""
_ANSWERS = (
    r"(.*_)?(answers?|responses?|outputs?|completions?|solutions?|targets?|explanations?|exp|rationales?|reasonings?"
    r"|reasoning_content|thoughts?|thinking|cot|cot_content|chosen|rejected|ground_truth|golds?|reply|replies|summary"
    r"|canonical_solution|code)"
)
_TEXTS = r"text|clean_text|raw_text|content|body|history|system|system_.*|title|data|instances"
DESCRIBES = (
    r"(.*_)?(meta|metadata|info|header|usage|task|ids?|uuid|guid|hash|sha\d*|md5|checksum|digest|ur[li]s?|links?|path|file|files|filename|date|year|time"
    r"|timestamp|created|updated|created_at|updated_at|lang|language|locale|country|licen[cs]e|source|sources|dataset"
    r"|split|subset|categor(y|ies)|domain|subject|topic|area|[a-z]?type|kind|tags?|labels?|level|difficulty|scores?|rating"
    r"|ranks?|model|engine|version|role|name|author|annotator|status|format|style|ability|flag|finish_reason|index|idx"
    r"|number|mask|weight|key)"
)
"""Names of fields that describe a row."""

_PROMPT, _ANSWER, _TEXT, _META = (re.compile(p) for p in (_PROMPTS, _ANSWERS, _TEXTS, DESCRIBES))
_TALKS = frozenset({*CONVERSATION_FIELDS, "dialog", "dialogue", "chat", "turns", "history", "data", "utterances"})
"""Fields in which a list of strings is a conversation: asked, answered, asked."""
_NAMES = "(names of fields)"
_NOTATIONS = ("[{", '{"', "{'", "[[", '["', "['")
_FIELDS_COUNTED = 2000


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a row that are read (names, dotted where they are nested); none leaves it to the names above."""

    prompt: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()
    source: str | None = None


class Piece(NamedTuple):
    """One document of a row, and the fields that it is from."""

    part: Part
    text: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FieldUse:
    """The fate of a field: rows in which it gave text of `part`, or "" where it was not read.

    `known` is False of a name that no rule names, which is read all the same.
    """

    field: str
    part: str
    rows: int
    known: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A field by its dotted path: its part, whether its name is known, and how its text stands among others.

    `talks`: a list of strings is a conversation; `counts`: a number is text, as in an answer.
    """

    path: str
    part: Part
    known: bool
    joins: bool
    describes: bool
    talks: bool
    counts: bool


@lru_cache(maxsize=20_000)
def _place(above: _Place | None, name: str) -> _Place:
    """The place of field `name` inside `above`; what a name does not say is as above."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    path = f"{above.path}.{name}" if above else name
    outer = above is None or above.joins
    answer = bool(_ANSWER.fullmatch(plain))
    prompt = bool(_PROMPT.fullmatch(plain)) or (outer and len(plain) == 1 and plain in "abcdefghij")
    text = bool(_TEXT.fullmatch(plain))
    describes = bool(_META.fullmatch(plain)) or (above is not None and above.describes)
    talks = plain in _TALKS
    part: Part = "answer" if answer else "prompt" if prompt or not above else above.part
    describes = describes and not (answer or prompt or text or talks)
    known = answer or prompt or text or talks or (above is not None and above.known and not describes)
    # Within a list of rows' own records (instances), a field stands by itself.
    joins = prompt and not answer and outer
    return _Place(
        path=path, part=part, known=known, joins=joins, describes=describes, talks=talks, counts=answer or prompt
    )


class RowText:
    """The texts of one row: its documents, the fields that were left out, and those whose names no rule knows."""

    def __init__(self) -> None:
        self.turns: list[Piece] = []
        self.joined: list[Piece] = []
        self.plain: list[Piece] = []
        self.short: list[Piece] = []
        self.skipped: set[str] = set()
        self.unknown: set[str] = set()

    def leaf(self, place: _Place, text: str) -> None:
        """Take a string, unless it only describes the row."""
        if not text or text.isspace():
            return
        if place.known:
            chosen = self.joined if place.joins else self.plain
        elif _is_long(text):
            chosen = self.plain
        elif place.describes:
            self.skipped.add(place.path)
            return
        else:
            chosen = self.short
        if not (place.known or place.describes):
            self.unknown.add(place.path)
        chosen.append(Piece(place.part, text, (place.path,)))

    @property
    def silent(self) -> bool:
        """Whether there is no text at all."""
        return not (self.turns or self.joined or self.plain or self.short)

    def documents(self) -> list[Piece]:
        """Turns, what is joined into one prompt, and the rest; a text that is there already is left out."""
        found = [*self.turns, *_together(self.joined)]
        if len(self.joined) > 1:
            found += [piece for piece in self.joined if _is_long(piece.text)]
        found += self.plain
        for part in PARTS:
            found += _together([piece for piece in self.short if piece.part == part])
        if len(found) < 2:
            return found
        return list({(piece.part, piece.text): piece for piece in reversed(found)}.values())[::-1]


def _together(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces of one part as one document."""
    if len(pieces) < 2:
        return list(pieces)
    names = tuple(dict.fromkeys(name for piece in pieces for name in piece.fields))
    return [Piece(pieces[0].part, "\n".join(piece.text for piece in pieces), names)]


def _is_long(text: str) -> bool:
    """Whether `text` has `LONG` words; scripts without blanks are counted by letters."""
    if len(text) < 2 * LONG - 1:
        return False
    if text.isascii():
        return len(text.split(None, LONG)) >= LONG
    return len(text.split(None, LONG)) >= LONG or sum(c > "\u2e7f" for c in text) >= 2 * LONG


def _walk(row: RowText, place: _Place, value: Any) -> None:
    """Read `value`, which stands at `place`."""
    if isinstance(value, str):
        if value[:1] in ("[", "{") and (inner := _inside(value)) is not value:
            _walk(row, place, inner)
        else:
            row.leaf(place, value)
    elif value is None or isinstance(value, bool):
        return
    elif isinstance(value, bytes):
        row.leaf(place, _decoded(value))
    elif isinstance(value, Mapping):
        _walk_mapping(row, place, value)
    elif isinstance(value, (list, tuple)):
        _walk_list(row, place, value)
    elif isinstance(value, (int, float)):
        # A number is text where an answer or a question is expected, else it measures the row. NaN is no value.
        if place.counts and value == value:
            row.leaf(place, str(value))
    elif place.counts:
        row.leaf(place, str(value))


def _inside(value: str) -> Any:
    """The value that a string holds as JSON, if there is text in it; else `value` itself, such as a list of numbers."""
    found = parsed(value) if value.startswith(_NOTATIONS) else value
    return found if _has_text(found) else value


def _has_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, (list, tuple)) and any(isinstance(one, str) or _has_text(one) for one in value)


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return ""


def _walk_mapping(row: RowText, place: _Place, value: Mapping[str, Any]) -> None:
    turns = find_turns(value)
    if turns:
        _walk_turns(row, place, turns)
    else:
        _walk_fields(row, place, value)


def _walk_fields(row: RowText, above: _Place | None, values: Mapping[str, Any], but: str | None = None) -> None:
    """Read all fields but one; a name that is a text, as in a mapping from questions to answers, is read, too."""
    for name, inner in values.items():
        plain = str(name)
        if name == but:
            continue
        if _is_long(plain):
            place = _place(above, _NAMES)
            row.leaf(place, plain)
            _walk(row, place, inner)
        else:
            _walk(row, _place(above, plain), inner)


def _walk_list(row: RowText, place: _Place, value: Sequence[Any]) -> None:
    turns = find_turns(value)
    if turns:
        _walk_turns(row, place, turns)
    elif place.talks and (said := _said(value)):
        for number, text in enumerate(said):
            part = PARTS[number % 2]
            row.turns += [Piece(part, text, (place.path,))] if text and not text.isspace() else []
    elif all(isinstance(one, (str, int, float, type(None))) for one in value):
        texts = [one for one in value if isinstance(one, str)]
        row.leaf(place, "\n".join(map(str, (v for v in value if v is not None)) if place.counts else texts))
    else:
        for one in value:
            _walk(row, place, one)


def _said(value: Sequence[Any]) -> list[str]:
    """The turns of a conversation without roles: strings, or pairs of them."""
    flat: list[str] = []
    for one in value:
        pair = one if isinstance(one, (list, tuple)) else [one]
        if not all(isinstance(text, (str, type(None))) for text in pair) or len(pair) > 2:
            return []
        flat += [text or "" for text in pair]
    return flat


def _walk_turns(row: RowText, place: _Place, turns: Sequence[Turn]) -> None:
    for turn in turns:
        part: Part = "answer" if turn.role == "assistant" else "prompt"
        if turn.text and not turn.text.isspace():
            row.turns.append(Piece(part, turn.text, (place.path,)))
        for name, value in turn.rest.items():
            _walk(row, _place(_turn_place(place.path, part), name), value)


@lru_cache(maxsize=2000)
def _turn_place(path: str, part: Part) -> _Place:
    """The place of the other fields of a turn."""
    return _Place(path=path, part=part, known=False, joins=False, describes=False, talks=False, counts=False)


def _named(row: RowText, values: Mapping[str, Any], fields: Fields, where: str) -> None:
    """Read the fields that are named, and nothing else; count the others that hold text as left out."""
    found = False
    for part, names in (("prompt", fields.prompt), ("answer", fields.answer)):
        for name in names:
            there, value = look_up(values, name)
            found = found or there
            _walk(row, _named_place(name, "answer" if part == "answer" else "prompt"), value)
    if not found:
        wanted = ", ".join((*fields.prompt, *fields.answer))
        raise InputError(f"{where} has no field {wanted} (fields present: {present(values)}); name another")
    rest = RowText()
    _walk_fields(rest, None, values)
    left = (*rest.turns, *rest.joined, *rest.plain, *rest.short)
    others = {name for piece in left for name in piece.fields} | rest.skipped
    named = tuple(name for name in (*fields.prompt, *fields.answer, fields.source) if name)
    row.skipped |= {name for name in others if not any(_within(name, own) for own in named)}


@lru_cache(maxsize=200)
def _named_place(name: str, part: Part) -> _Place:
    return _Place(
        path=name,
        part=part,
        known=True,
        joins=part == "prompt",
        describes=False,
        talks=name.rpartition(".")[2].lower() in _TALKS,
        counts=True,
    )


def _within(field: str, other: str) -> bool:
    """Whether `field` is `other` or stands in it."""
    return field == other or field.startswith(other + ".")


def look_up(values: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """Whether a row has the field `name`, which may be a dotted path, and its value."""
    if name in values:
        return True, values[name]
    value: Any = values
    for step in name.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return False, None
        value = value[step]
    return True, value


def present(row: Mapping[str, Any]) -> str:
    """The names of a row's fields, for messages."""
    return ", ".join(sorted(map(str, row)))[:200] or "none"


def read_row(row: Mapping[str, Any], fields: Fields, where: str) -> RowText:
    """The text of a row. `where` names it in errors: `InputError` where fields are named and it has none of them."""
    found = RowText()
    if fields.prompt or fields.answer:
        _named(found, row, fields, where)
    else:
        _walk_fields(found, None, row, fields.source)
    return found


class Uses:
    """Counts, over the rows of a check, what became of their fields."""

    def __init__(self) -> None:
        self._read: Counter[tuple[str, Part]] = Counter()
        self._unread: Counter[str] = Counter()
        self._unknown: set[str] = set()

    def count(self, row: RowText, documents: Sequence[Piece]) -> None:
        """Add one row, of which `documents` are checked."""
        read = {(name, piece.part) for piece in documents for name in piece.fields}
        for key in read:
            self._read[key] += self._room(self._read, key)
        for name in row.skipped:
            self._unread[name] += self._room(self._unread, name)
        self._unknown |= row.unknown if len(self._unknown) < _FIELDS_COUNTED else set()

    def _room(self, counter: Counter[Any], key: Any) -> int:
        # Rows keyed by ids have as many fields as values; counting them all would fill memory and say nothing.
        return int(key in counter or len(counter) < _FIELDS_COUNTED)

    def missing(self, fields: Fields) -> list[str]:
        """The named fields that gave no text in any row."""
        return [n for n in (*fields.prompt, *fields.answer) if not any(_within(field, n) for field, _ in self._read)]

    def table(self) -> tuple[FieldUse, ...]:
        """Fields that were read, then those that were not, each by falling count."""
        read = [FieldUse(clean(f), part, n, f not in self._unknown) for (f, part), n in _ordered(self._read)]
        return (*read, *(FieldUse(clean(f), "", n, True) for f, n in _ordered(self._unread)))


def _ordered(counter: Counter[Any]) -> list[tuple[Any, int]]:
    """By falling count, then by name: the order of sets is not the same in every process."""
    return sorted(((key, n) for key, n in counter.items() if n), key=lambda pair: (-pair[1], pair[0]))
