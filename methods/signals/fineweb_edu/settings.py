"""The settings of the `fineweb-edu` signal: which of its readings, and what that reads."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from methods.signals.rated import RaterSettings

Reading: TypeAlias = Literal["classifier", "cosine", "dsir", "linear"]


class FinewebEduSettings(RaterSettings):
    """The reading, and what it compares with."""

    reading: Reading = "classifier"
    """`classifier`: the published regression of educational value; likeness to the texts of `reference` by mean
    `cosine`, by the log-ratio of hashed n-grams (`dsir`), or by a `linear` classifier of embeddings."""
    rater: tuple[str, ...] = ("fineweb-edu",)
    """The classifier by registered name (`harness rater list`), or the folder of a trained one."""
    reference: str = ""
    """A file of texts of the wanted kind, such as a sample of FineWeb-Edu; all readings but `classifier` need it."""
    raw: str = ""
    """A file of texts as they come, which `dsir` and `linear` tell the reference from; by default the run's
    documents."""
    reference_items: int = Field(2000, ge=2)
    """Most texts of either file that are read, drawn by a hash of their content; `dsir` reads all."""
    nearest: int = Field(10, ge=0)
    """`cosine`: the mean over so many nearest reference texts; 0: the cosine to their centroid."""
    buckets: int = Field(10_000, ge=2)
    """`dsir`: features that n-grams are hashed into."""
    ngrams: int = Field(2, ge=1)
    """`dsir`: longest n-gram, in words."""
