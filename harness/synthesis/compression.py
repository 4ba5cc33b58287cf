"""Files as plain bytes, whatever they are compressed with: read by what they begin with, written by their name.

A file that is compressed under a plain name, or plain under the name of a compressed one, is read all the same: the
first bytes leave no doubt. Gzip, bzip2 and xz come from the standard library, Zstandard from pyarrow.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""Endings of names of compressed files."""

DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What reading a damaged or truncated file raises."""

_MAGIC = ((b"\x1f\x8b", ".gz"), (b"BZh", ".bz2"), (b"\xfd7zXZ\x00", ".xz"), (b"\x28\xb5\x2f\xfd", ".zst"))


def plain_name(name: str) -> str:
    """`name` in lower case without the ending of a compression."""
    lowered = name.lower()
    return next((lowered.removesuffix(s) for s in SUFFIXES if lowered.endswith(s)), lowered)


def open_plain(path: Path) -> IO[bytes]:
    """The bytes of `path`, decompressed while they are read. Raises one of `DAMAGE`, now or on reading."""
    with open(path, "rb") as stream:
        head = stream.read(6)
    found = next((suffix for magic, suffix in _MAGIC if head.startswith(magic)), "")
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstandard}.get(found, open)
    opened: IO[bytes] = opener(path, "rb")
    return opened


def _open_zstandard(path: Path, mode: str) -> IO[bytes]:
    import pyarrow

    assert mode == "rb"
    stream: Any = pyarrow.input_stream(str(path), compression="zstd")
    return io.BufferedReader(stream, 1 << 20)


def create(path: Path, name: str, stack: ExitStack) -> IO[bytes]:
    """A new file at `path`, compressed as `name` says; equal bytes give an equal file. `stack` closes it."""
    lowered = name.lower()
    raw: Any = stack.enter_context(path.open("wb"))
    packed: Any = raw
    if lowered.endswith(".gz"):
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0)  # without a time stamp
    elif lowered.endswith((".bz2", ".xz")):
        packed = {".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}[Path(lowered).suffix](raw, "wb")
    elif lowered.endswith(".zst"):
        import pyarrow

        packed = pyarrow.CompressedOutputStream(raw, "zstd")
    result: IO[bytes] = packed if packed is raw else stack.enter_context(packed)
    return result
