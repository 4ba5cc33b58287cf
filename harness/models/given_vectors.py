"""Files of vectors that were computed elsewhere: a matrix, and the row of every text's hash or row's id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.texts import read_text


def text_key(text: str) -> str:
    """The hash by which a text finds its given vector: SHA-256 of its UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def keys_file(path: Path) -> Path:
    """The list of keys beside an array: one text hash or row id per line."""
    return path.with_suffix(".keys")


def read_array(path: Path) -> tuple[Any, Mapping[str, int]]:
    """The matrix [rows, dimension] of a .npy or .safetensors file, and the row of every key."""
    import numpy as np

    if path.suffix == ".npy":
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        from safetensors.numpy import load_file

        tensors = load_file(path)
        if "vectors" not in tensors:
            raise InputError(f"{path} has no tensor 'vectors', only {', '.join(sorted(tensors))}; rename it")
        matrix = tensors["vectors"]
    beside = keys_file(path)
    if not beside.is_file():
        raise InputError(f"{path} needs {beside} beside it: one text hash (SHA-256) or row id per line")
    keys = read_text(beside).splitlines()
    if matrix.ndim != 2 or len(keys) != len(matrix):
        raise InputError(f"{path} has the shape {matrix.shape}, which does not fit the {len(keys)} keys of {beside}")
    return matrix, {key: i for i, key in enumerate(keys)}


def read_parquet(path: Path) -> tuple[Any, Mapping[str, int]]:
    """The matrix [rows, dimension] of a table's column `vector`, and the row of every key."""
    import numpy as np
    import pyarrow.parquet as pq

    names = set(pq.read_schema(path).names)
    columns = [name for name in ("text", "sha256", "id") if name in names]
    if "vector" not in names or not columns:
        raise InputError(f"{path} needs a column 'vector' and one of 'text', 'sha256' and 'id'; it has {sorted(names)}")
    table = pq.read_table(path, columns=["vector", *columns])
    widths = set(table["vector"].combine_chunks().value_lengths().to_pylist())
    if len(widths) != 1 or None in widths:
        raise InputError(f"{path}: column 'vector' has rows of unequal length or without a vector; write it again")
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows: dict[str, int] = {}
    for name in reversed(columns):
        keys = table[name].to_pylist()
        rows.update({text_key(str(k)) if name == "text" else str(k): i for i, k in enumerate(keys) if k is not None})
    return flat.astype(np.float32).reshape(len(table), widths.pop()), rows
