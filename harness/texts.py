"""Texts that users wrote, read from files as their editors left them."""

from __future__ import annotations

import codecs
from pathlib import Path

_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | Path) -> str:
    """A file's text without a byte order mark, every line ending as a newline.

    UTF-8, or UTF-16 where the file begins with its mark. Raises `OSError`, and `UnicodeDecodeError` for other bytes.
    """
    raw = Path(path).read_bytes()
    text = raw.decode("utf-16" if raw.startswith(_WIDE) else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")
