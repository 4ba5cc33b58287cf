"""Texts of a file that a signal compares with: documents, conversations, or labelled questions, one a row."""

from __future__ import annotations

from harness.synthesis.seeds import SeedLimits, load_seeds
from harness.types import Seed


def read_texts(source: str) -> list[Seed]:
    """The rows of a file as they are read for seeds, however short. Raises `InputError` where none has text."""
    return list(load_seeds(source, limits=SeedLimits(min_words=1)).seeds)
