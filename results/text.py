"""Plain aligned text: tables that stay readable in a terminal of 100 columns, in a log file and in a pasted message.

Cells are never wrapped. A table that would be wider than the screen is cut into blocks of columns instead, each with
the leading columns repeated.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from harness.screen import GAP, WIDTH, aligned

Formatter = Callable[..., str]
"""From a value, its error (None: without) and whether a plus is written to a cell: `percent` or `number`."""
_HARD_SPACE = "\N{NO-BREAK SPACE}"


def blocks(rows: Sequence[Sequence[str]], left: int = 1, width: int = WIDTH) -> list[list[str]]:
    """Like `aligned`, cut into as many blocks of columns as `width` makes necessary."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    head = sum(widths[:left]) + len(GAP) * (left - 1)
    groups: list[list[int]] = [[]]
    used = head
    for i in range(left, len(widths)):
        need = widths[i] + len(GAP)
        if groups[-1] and used + need > width:
            groups.append([])
            used = head
        groups[-1].append(i)
        used += need
    keep = list(range(left))
    return [aligned([[row[i] for i in [*keep, *group]] for row in rows], left) for group in groups]


def wrapped(text: str, width: int = WIDTH, indent: str = "  ") -> list[str]:
    """A sentence in lines of `width` characters, all but the first indented."""
    lines = textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_HARD_SPACE, " ") for line in lines]


def kept_together(text: str) -> str:
    """Words that `wrapped` must not part."""
    return text.replace(" ", _HARD_SPACE)


def percent(value: float | None, error: float | None = None, signed: bool = False) -> str:
    """A share as percent, with its error or deviation; empty where it was not measured."""
    if value is None:
        return ""
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    # A difference of zero has no sign.
    text = "0.0" if text in ("+0.0", "-0.0") else text
    return text if error is None else f"{text} ± {100 * error:.1f}"


def number(value: float | None, error: float | None = None, signed: bool = False) -> str:
    """A value in its own unit with three decimals, with its error or deviation; empty where it was not measured."""
    if value is None:
        return ""
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    text = "0.000" if text in ("+0.000", "-0.000") else text
    return text if error is None else f"{text} ± {error:.3f}"


def count(value: float) -> str:
    """A whole number with its digits grouped, or a short form from ten million on."""
    if value >= 1e7:
        for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
            if value >= size:
                return f"{value / size:.1f}{unit}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds as `12.3 s`, `4 min 05 s` or `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def shorten(text: str, width: int) -> str:
    """`text` cut in the middle to `width` characters, so that both ends of a run's name stay visible."""
    if len(text) <= width:
        return text
    keep = width - 3
    return text[: keep - keep // 2] + "..." + text[len(text) - keep // 2 :]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table as lines, its cells padded so that the source reads as a table too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    cells = [[cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def whole_ranges(numbers: Sequence[int]) -> str:
    """`100-104, 110` for sorted whole numbers."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(str(g[0]) if len(g) == 1 else f"{g[0]}-{g[-1]}" for g in groups)
