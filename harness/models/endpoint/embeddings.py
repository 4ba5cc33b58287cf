"""Vectors out of the reply of an OpenAI-compatible embeddings endpoint, however the server writes them."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping
from typing import Any

from harness.errors import StageError
from harness.models.endpoint.bodies import tokens_of


def read_embeddings(reply: Any, count: int, where: str) -> tuple[list[list[float]], int | None]:
    """One vector a text, in the order of the `count` texts, and the tokens that it took; None where it does not say.

    Numbers may be a list, or base64 of little-endian float32. Raises `StageError`, which begins with `where`, for
    anything else: a vector a token, missing vectors and numbers, places that are not those of the texts.
    """
    data = reply.get("data") if isinstance(reply, Mapping) else None
    if not isinstance(data, list) or not all(isinstance(row, Mapping) and "embedding" in row for row in data):
        raise StageError(f"{where} does not answer in the form of the OpenAI embeddings API")
    rows = [_vector(row["embedding"], where) for row in _in_order(data, where)]
    if len(rows) != count or len({len(row) for row in rows}) != 1:
        raise StageError(f"{where} gives {len(rows)} vectors for {count} texts, or of unequal length")
    return rows, tokens_of(reply.get("usage"))[0]


def _in_order(data: list[Mapping[str, Any]], where: str) -> list[Mapping[str, Any]]:
    """The rows in the order of their `index`; as they come where none has one."""
    places = [row.get("index") for row in data]
    if all(place is None for place in places):
        return data
    whole = [int(p) if isinstance(p, int | float) and not isinstance(p, bool) and p == p // 1 else -1 for p in places]
    if sorted(whole) != list(range(len(data))):
        raise StageError(f"{where} numbers its {len(data)} vectors {places[:8]}, which are not the places of the texts")
    return [row for _, row in sorted(zip(whole, data, strict=True), key=lambda pair: pair[0])]


def _vector(value: Any, where: str) -> list[float]:
    if isinstance(value, str) and value:
        try:
            raw = base64.b64decode(value, validate=True)
            return list(struct.unpack(f"<{len(raw) // 4}f", raw))
        except (binascii.Error, struct.error, ValueError):
            raise StageError(f"{where} gives a vector as text that is no base64 of float32") from None
    if not isinstance(value, list) or not value:
        raise StageError(f"{where} gives no vector for a text; check that the model is one for embeddings")
    if isinstance(value[0], list):
        if len(value) == 1:
            return _vector(value[0], where)
        raise StageError(f"{where} gives a vector a token and not one a text; start the server with pooling")
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in value):
        raise StageError(f"{where} gives a vector that holds something else than numbers (null stands for NaN)")
    return [float(x) for x in value]
