"""Rows of JSON text: one object per line, an array of objects, or an object of objects, one at a time.

Every row comes with its own bytes, so that a file can be written again without the rows that have to go. What is no
JSON stops the reading with file and line. Three things that Python's parser lets pass are refused, too: a name that
stands twice in one object (its first value would be lost), nesting beyond `DEPTH` (whoever walks the row would run out
of stack), and numbers of thousands of digits.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.errors import InputError
from harness.synthesis.compression import DAMAGE, open_plain, plain_name

DEPTH = 100
"""Levels of nesting that a row may have."""

_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_BLANKS = re.compile(r"[ \t\r\n]*")
_MARKS = (
    *((b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32")),
    *((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")),
)
"""Bytes with which files in other encodings begin; the longer ones come first, as they begin with others."""
_OTHER_KINDS = ((b"PAR1", ".parquet"), (b"PK\x03\x04", ".zip"), (b"ARROW1", ".arrow"))


@dataclass(frozen=True, slots=True)
class JsonRow:
    """A row, its bytes as they stand in the file, and its place: the line of JSONL, else the number, from 1."""

    number: int
    raw: bytes
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JsonFile:
    """The layout of rows in a file: `lines` of JSONL, or the elements of one `array`, or the values of one `object`."""

    path: Path
    form: str

    @property
    def frame(self) -> tuple[bytes, bytes, bytes]:
        """The text before, between and after rows when they are written again."""
        if self.form == "lines":
            return b"", b"", b""
        return (b"[\n", b",\n", b"\n]\n") if self.form == "array" else (b"{\n", b",\n", b"\n}\n")

    def rows(self) -> Iterator[JsonRow]:
        """All rows, in order. Raises `InputError`."""
        if self.form == "lines":
            return (JsonRow(n, raw, _parse_line(self.path, n, raw)) for n, raw in _lines(self.path))
        return _elements(self.path, self.form == "object")

    def raw(self) -> Iterator[bytes]:
        """The bytes of all rows, whole lines where the file has lines."""
        if self.form == "lines":
            return (raw if raw.endswith(b"\n") else raw + b"\n" for _, raw in _lines(self.path))
        return (row.raw for row in _elements(self.path, self.form == "object"))


def open_json(path: Path) -> JsonFile:
    """The form of a JSON file. Raises `InputError` for a file that plainly is none; damage shows on reading."""
    try:
        with open_plain(path) as stream:
            head = stream.read(_BLOCK)
            _refuse_other(path, head)
            text = head.removeprefix(_BOM).lstrip()
            if text[:1] == b"[":
                return JsonFile(path, "array")
            if text and plain_name(path.name).endswith(".json") and _is_object_of_rows(text, stream):
                return JsonFile(path, "object")
    except DAMAGE:
        pass
    return JsonFile(path, "lines")


def refuse_encoding(path: Path, head: bytes) -> None:
    """Raise `InputError` for a text file that begins (`head`, four bytes or more) as UTF-16 or UTF-32 do."""
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    # Without a mark: rows begin with a sign of ASCII, which has zero bytes there and in no other encoding.
    if encoding is None and b"\x00" in head[:2]:
        encoding = "UTF-32" if head[:4].count(b"\x00") > 2 else "UTF-16"
    if encoding:
        raise InputError(f"{path} is written in {encoding}; save it as UTF-8")


def _refuse_other(path: Path, head: bytes) -> None:
    refuse_encoding(path, head)
    kind = next((name for mark, name in _OTHER_KINDS if head.startswith(mark)), None)
    if kind:
        raise InputError(f"{path} is no JSON but a {kind} file; name it so")


def _is_object_of_rows(head: bytes, stream: IO[bytes]) -> bool:
    """Whether the text is one object (not one per line) whose values are objects themselves."""
    first, newline, rest = head.partition(b"\n")
    if not newline:
        first += stream.readline()
        rest = stream.read(_BLOCK)
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return True  # the object goes on in the next line: no JSONL
    if rest.strip() or not isinstance(value, dict):
        return False
    return len(value) > 1 and all(isinstance(inner, dict) for inner in value.values())


def damaged(path: Path, number: int, error: Exception) -> InputError:
    """The error for a file that cannot be read beyond `number` lines or rows."""
    says = getattr(error, "strerror", None) or error
    return InputError(f"{path} cannot be read after line {number} ({says}); check or replace it")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers; the first without a byte order mark."""
    number = 0
    try:
        with open_plain(path) as stream:
            for number, line in enumerate(stream, 1):
                bare = line.removeprefix(_BOM) if number == 1 else line
                if not bare.isspace():
                    yield number, bare
    except DAMAGE as error:
        raise damaged(path, number, error) from error


def _parse_line(path: Path, number: int, line: bytes) -> Mapping[str, Any]:
    where = f"{path}, line {number}"
    try:
        value = parse(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start + 1} is not UTF-8; re-encode the file") from error
    except ValueError as error:
        says = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        hint = "" if line.lstrip()[:1] == b"{" else " (CSV is named .csv or .tsv)"
        raise InputError(f"{where}: not valid JSON ({says}); each line must be one object{hint}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: a {type(value).__name__}, where each line must be one JSON object")
    return value


def parse(text: str) -> Any:
    """The value of a JSON text. Raises `ValueError`, and for nothing else that `text` may hold another error."""
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH} levels") from None
    if text.count("[") + text.count("{") > DEPTH:
        _refuse_depth(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice[:40]}' stands twice in one object")
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > 4000:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole_number)


def _refuse_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        below: list[Any] = []
        for one in level:
            if isinstance(one, (dict, list)):
                below += one.values() if isinstance(one, dict) else one
        level = [one for one in below if isinstance(one, (dict, list))]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEPTH} levels")


class _Window:
    """The part of a text stream that is being parsed; it grows until an element fits into it."""

    def __init__(self, path: Path, stream: Any) -> None:
        self._path, self._stream = path, stream
        self.text, self.at, self._whole = "", 0, False
        self.number = 0

    def grow(self) -> bool:
        """Read on, at least as much as there is; False at the end of the file."""
        if self._whole:
            return False
        self.text, self.at = self.text[self.at :], 0
        more = self._stream.read(max(_BLOCK, len(self.text)))
        self._whole = not more
        self.text += more
        return bool(more)

    def peek(self) -> str:
        """The next character that is no blank, "" at the end."""
        while True:
            match = _BLANKS.match(self.text, self.at)
            assert match is not None
            self.at = match.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.grow():
                return ""

    def take(self, wanted: str) -> str:
        """The next character, which must be one of `wanted`."""
        found = self.peek()
        if not found or found not in wanted:
            says = f"{found!r} stands" if found else "the file ends"
            raise self.error(f"{says} where one of {' '.join(wanted)} is expected")
        self.at += 1
        return found

    def value(self) -> tuple[Any, str]:
        """The value that begins here, and its text."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                text = self.text[self.at : end]
                if text.count("[") + text.count("{") > DEPTH:
                    _refuse_depth(value)
            except json.JSONDecodeError as error:
                # Only what is wrong at the edge can be mended by reading on.
                torn = error.msg.startswith("Unterminated") or error.pos > len(self.text) - 16
                if not (torn and self.grow()):
                    raise self.error(error.msg) from None
                continue
            except RecursionError:
                raise self.error(f"nested deeper than {DEPTH} levels") from None
            except ValueError as error:
                raise self.error(str(error)) from None
            self.at = end
            return value, text

    def error(self, says: str) -> InputError:
        """The error for the row that is being read."""
        return InputError(f"{self._path}, row {self.number}: not valid JSON ({says}); correct it there")


def _elements(path: Path, keyed: bool) -> Iterator[JsonRow]:
    """The elements of an array, or with `keyed` the values of an object, each with its name as `id` if it has none."""
    opening, closing = ("{", "}") if keyed else ("[", "]")
    number = 0
    try:
        with open_plain(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as stream:
            window = _Window(path, stream)
            window.take(opening)
            more = window.peek() != closing
            while more:
                window.number = number = number + 1
                yield _element(window, keyed, path)
                more = window.take("," + closing) == ","
            if not number:
                window.take(closing)
            if window.peek():
                raise window.error(f"text stands after the closing {closing}")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, after row {number}: not UTF-8 ({error.reason}); re-encode the file") from error
    except DAMAGE as error:
        raise damaged(path, number, error) from error


def _element(window: _Window, keyed: bool, path: Path) -> JsonRow:
    name, raw = "", ""
    if keyed:
        name, raw = window.value()
        window.take(":")
        raw += ": "
    value, text = window.value()
    if not isinstance(value, dict):
        what = f"its value '{name}'" if keyed else "an element"
        raise InputError(
            f"{path}, row {window.number}: {what} is a {type(value).__name__}, where rows are objects; write one "
            "object per line, or an array of objects"
        )
    row = {"id": name, **value} if keyed else value
    return JsonRow(window.number, (raw + text).encode("utf-8"), row)
