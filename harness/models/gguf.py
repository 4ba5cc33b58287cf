"""The contents of a GGUF file, read from its header alone: architecture, quantisation, sizes, and whether it is whole.

The format is that of llama.cpp (`docs/gguf.md` of the ggml project): magic, version, counts, key-value pairs, the table
of tensors, then their data. The `gguf` package reads it too, but builds an object for every token of the vocabulary,
which takes seconds; `plan` and the check before a run want milliseconds. Array values are skipped but for their length.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Any

from harness.errors import InputError, PrerequisiteError
from harness.estimate import ModelShape

SUFFIX = ".gguf"

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Header:
    """A file's architecture (llama.cpp's name), the type of most of its weights, and its metadata without arrays.

    `parameters` counts elements of all tensors. An array stands in `metadata` as its length.
    """

    path: Path
    architecture: str
    quantisation: str
    parameters: int
    tied: bool
    metadata: dict[str, Any]

    @property
    def quantised(self) -> bool:
        """Whether most weights are stored in blocks, so that what they were before is lost."""
        return self.quantisation not in ("F32", "F16", "BF16", "F64")

    @property
    def context(self) -> int | None:
        """Most tokens that the model was made for, where the file says so."""
        value = self.metadata.get(f"{self.architecture}.context_length")
        return value if isinstance(value, int) else None

    @property
    def shape(self) -> ModelShape | None:
        """The architecture's numbers, for families whose details are known."""
        if self.architecture not in ("llama", "qwen2", "qwen3"):
            return None

        def number(name: str) -> int:
            return int(self.metadata[f"{self.architecture}.{name}"])

        try:
            heads, hidden = number("attention.head_count"), number("embedding_length")
            return ModelShape(
                hidden=hidden,
                intermediate=number("feed_forward_length"),
                layers=number("block_count"),
                heads=heads,
                kv_heads=int(self.metadata.get(f"{self.architecture}.attention.head_count_kv", heads)),
                head_dim=int(self.metadata.get(f"{self.architecture}.attention.key_length", hidden // heads)),
                vocab=int(self.metadata["tokenizer.ggml.tokens"]),
                tied=self.tied,
                kind=self.architecture,  # type: ignore[arg-type]
            )
        except (KeyError, ValueError, ZeroDivisionError):
            return None


def read_header(path: Path) -> Header:
    """The header of a GGUF file. Raises `InputError` for a file that is none, is cut off, or holds unknown types."""
    try:
        status = path.stat()
        return _read(path, (status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from None


@lru_cache(maxsize=16)
def _read(path: Path, _stamp: tuple[int, int]) -> Header:
    with open(path, "rb") as handle:
        if handle.read(4) != b"GGUF":
            raise InputError(f"{path} does not begin as a GGUF file does; name one, or download it again")
        data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _Reader(path, data).header()
    except (struct.error, IndexError, UnicodeDecodeError, OverflowError):
        raise _damaged(path, "its header breaks off") from None
    finally:
        data.close()


@cache
def _tensor_types() -> dict[int, tuple[str, int, int]]:
    """Tensor types by number: name, elements of a block, bytes of a block."""
    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError:
        raise PrerequisiteError("reading GGUF files takes the package gguf; pip install 'gguf>=0.19'") from None
    return {kind.value: (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged: {what}; download it again")


class _Reader:
    """Walks over a mapped file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 4

    def header(self) -> Header:
        """The file's header. Raises `InputError` for a damaged file, another version, or unknown types."""
        version = self.scalar("<I")
        if version not in (2, 3):
            raise InputError(f"{self.path} is GGUF version {version}; versions 2 and 3 can be read")
        tensors, pairs = self.scalar("<Q"), self.scalar("<Q")
        metadata = {self.string(): self.value(self.scalar("<I")) for _ in range(pairs)}
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise _damaged(self.path, "it names no architecture")
        types = _tensor_types()
        sizes: Counter[str] = Counter()
        names, end = set(), 0
        for _ in range(tensors):
            names.add(self.string())
            elements = prod(self.scalar("<Q") for _ in range(self.scalar("<I")))
            code, offset = self.scalar("<I"), self.scalar("<Q")
            if code not in types:
                raise InputError(f"{self.path} holds tensors of type {code}, which is not known; use another file")
            kind, block, size = types[code]
            sizes[kind] += elements
            end = max(end, offset + elements // block * size)
        alignment = int(metadata.get("general.alignment", 32))
        start = -(-self.at // alignment) * alignment
        if start + end > len(self.data):
            raise _damaged(self.path, f"it ends after {len(self.data):,} of {start + end:,} bytes")
        if not sizes:
            raise _damaged(self.path, "it holds no weights")
        tied = "output.weight" not in names
        return Header(
            path=self.path,
            architecture=architecture,
            quantisation=max(sizes, key=sizes.__getitem__),
            parameters=sizes.total(),
            tied=tied,
            metadata=metadata,
        )

    def scalar(self, form: str) -> Any:
        """The number that comes next, in `struct`'s notation."""
        value = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def string(self) -> str:
        """The text that comes next, behind its length in bytes. Raises `IndexError` where the file ends within it."""
        length = self.scalar("<Q")
        if self.at + length > len(self.data):
            raise IndexError
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        """The value of a type that comes next; of a list its length, which is all that is asked of one."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise _damaged(self.path, f"a value has the unknown type {kind}")
        inner, length = self.scalar("<I"), self.scalar("<Q")
        if inner in _SCALARS:
            self.at += length * struct.calcsize(_SCALARS[inner])
        else:
            for _ in range(length):
                self.skip(inner)
        return length

    def skip(self, kind: int) -> None:
        """Pass over the value of a type that comes next."""
        if kind == _STRING:
            length = self.scalar("<Q")
            self.at += length
            if self.at > len(self.data):
                raise IndexError
        else:
            self.value(kind)
