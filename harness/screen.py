"""Screens as they are: not UTF-8, closed, full, or read by someone who has seen enough.

Text is written for people on any screen: what its encoding has no letter for is spelt in ASCII (`×` as `x`, `→` as
`->`, `é` as `e`), and what has no such spelling as an escape. The exit status says what became of the work; that its
last words could not be shown is no failure of the work.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from harness.errors import ConfigError, StageError

WIDTH = 100
"""Columns that a screen is taken to have."""
GAP = "  "
"""What stands between two columns of a table."""

ProgressCallback = Callable[[str, int, int], None]
"""Told a label, the steps that are finished, and all steps."""

READER_GONE = 141
"""Exit status of a program whose reader went away: 128 + SIGPIPE, as of programs that the signal ends."""

_HANDLER = "harness.spelt"
_SPELT = {
    **dict.fromkeys("×✕✖", "x"),
    **{"±": "+/-", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "−": "-", "·": "*", "…": "..."},
    **dict.fromkeys("‘’‚′", "'"),
    **dict.fromkeys("“”„″«»", '"'),
    **dict.fromkeys("‐‑‒–—─━═╌╍┄┅┈┉╴╶╸╺╼╾", "-"),
    **dict.fromkeys("│┃║┆┇┊┋╎╏", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼┏┓┗┛┣┫┳┻╋╔╗╚╝╠╣╦╩╬╭╮╯╰", "+"),
    **dict.fromkeys("█▓▒░▏▎▍▌▋▊▉■▪", "#"),
    **dict.fromkeys("•●◦", "*"),
    **{"ε": "eps", "Γ": "Gamma", "α": "alpha", "β": "beta", "σ": "sigma", "µ": "u", "μ": "u", "√": "sqrt", "Σ": "sum"},
    **{"✓": "ok", "✔": "ok", "✗": "x", "✘": "x", "ß": "ss", "æ": "ae", "ø": "o", "œ": "oe", "ł": "l", "đ": "d"},
}


def spelt(character: str) -> str:
    """`character` in ASCII: its usual spelling, its letter without marks, or a backslash escape."""
    known = _SPELT.get(character)
    if known is not None:
        return known
    bare = "".join(c for c in unicodedata.normalize("NFKD", character) if ord(c) < 128)
    return bare or character.encode("ascii", "backslashreplace").decode("ascii")


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(spelt, error.object[error.start : error.end])), error.end


def prepare_screens() -> None:
    """Let standard output and standard error take any text, whatever their encoding, and also where they are closed.

    A closed stream is opened on the null device: files that are opened later must not get its number.
    """
    codecs.register_error(_HANDLER, _spell)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            _to_null(number)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise `ConfigError` for an argument whose bytes are no text in this locale: it could be stored nowhere."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise ConfigError(
                f"the argument {argument.encode('utf-8', 'backslashreplace').decode()} is not text in this locale's "
                "encoding; rename the file, or set a UTF-8 locale such as LC_ALL=C.UTF-8"
            ) from None


def say(text: str, stream: TextIO | None = None) -> None:
    """Print `text` to `stream` (standard output), or drop it where nobody reads that any more.

    For what is said beside work whose results lie elsewhere: the work goes on, and its exit status is its own.
    """
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        _silence(stream)
    except ValueError:
        # Python's word for a stream that was closed here.
        if not stream.closed:
            raise


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows of equal length as lines; the first `left` columns are flush left, the others flush right."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(GAP.join(cells).rstrip())
    return lines


def no_progress(label: str, done: int, total: int) -> None:
    """The callback that shows nothing."""


def emit(text: str) -> None:
    """Print what was asked for to standard output; a reader that has gone away (`| head`) ends the program quietly.

    Raises `StageError` where the output is refused otherwise, as by a full disk.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _silence(sys.stdout)
        raise SystemExit(READER_GONE) from None
    except OSError as error:
        _silence(sys.stdout)
        raise StageError(f"cannot write to standard output: {error.strerror or error}; send it elsewhere") from None


def emit_json(value: Any, *, indent: int | None = 2) -> None:
    """Print `value` as JSON, in ASCII where the screen is not UTF-8: an escape of another kind would be no JSON."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    emit(json.dumps(value, indent=indent, ensure_ascii=encoding not in ("utf-8", "utf8")))


def _silence(stream: TextIO) -> None:
    """Send what `stream` still holds, and will get, to the null device."""
    try:
        _to_null(stream.fileno())
    except (OSError, ValueError):
        return


def _to_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)


def rough_duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.0f} h" if seconds < 100 * 3600 else f"{seconds / 86400:,.0f} days"
