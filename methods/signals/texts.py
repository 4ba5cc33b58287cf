"""Texts of a file that a signal compares with: documents, conversations, or labelled questions, one a row."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from harness.synthesis.seeds import SeedLimits, load_seeds
from harness.types import Seed, file_hash


def read_texts(source: str) -> list[Seed]:
    """The rows of a file as they are read for seeds, however short. Raises `InputError` where none has text."""
    return list(_read(source, file_hash(Path(source).expanduser())))


@lru_cache(maxsize=4)
def _read(source: str, content: str) -> tuple[Seed, ...]:
    """Read once in a process for as long as the content is the same: before a run, and by its signal."""
    return load_seeds(source, limits=SeedLimits(min_words=1)).seeds
