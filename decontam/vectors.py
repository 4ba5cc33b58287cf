"""Vectors of many texts, computed and stored part by part, so that a killed check goes on behind its last part.

A part is small enough that a line of progress comes every minute or so even where a large model runs on processors. A
model's vectors change in their last digits with the texts that share a batch, so parts are cut the same way every time.
What this gives up: sorting by length over more texts than a part has, which would save some padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from decontam.backend import Vectors
from harness.models.embedder import Embedder
from harness.shards import replace_into

PART = 256
"""Texts of a part."""

Done = Callable[[int], None]


def stored_vectors(
    embedder: Embedder,
    texts: Sequence[str],
    ids: Sequence[str] | None,
    folder: Path,
    name: str,
    done: Done = lambda count: None,
) -> Vectors:
    """One vector a text (n, d), from the files `NAME-*.npy` of `folder` where they are there, else written there.

    `done` is told after each part how many texts have their vectors. `name` must stand for the texts and the embedder.
    """
    parts = []
    for start in range(0, len(texts), PART):
        path = folder / f"{name}-part{start // PART:06d}.npy"
        stop = min(start + PART, len(texts))
        if path.is_file():
            parts.append(np.asarray(np.load(path), np.float32))
        else:
            found = embedder.embed(texts[start:stop], None if ids is None else ids[start:stop])

            def save(temporary: Path, found: Vectors = found) -> None:
                with open(temporary, "wb") as stream:
                    np.save(stream, found)

            replace_into(path, save)
            parts.append(found)
        done(stop)
    # A part of blank texts alone may not know its width.
    width = max((part.shape[1] for part in parts), default=0)
    return np.concatenate(
        [np.zeros((0, width), np.float32)]
        + [part if part.shape[1] == width else np.zeros((len(part), width), np.float32) for part in parts]
    )
