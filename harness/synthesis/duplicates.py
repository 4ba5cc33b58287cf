"""Exact duplicates among samples: the first stays, later ones become rejects that name it.

Two samples are duplicates when question and answer are equal after normalisation (Unicode compatibility form, case,
white space). Near-duplicates are deliberately left alone: how varied a method's output is belongs to what is measured.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace

from harness.types import Message, Reject, Sample

DUPLICATE = "duplicate"
"""Reason code of a removed sample; the reject's detail is the id of the sample that was kept."""


@dataclass(frozen=True, slots=True)
class Unique:
    """The result of removal: `kept` in input order, and one reject per removed sample."""

    kept: tuple[Sample, ...]
    rejects: tuple[Reject, ...]


def normalise_text(text: str) -> str:
    """`text` in compatibility form, case-folded, runs of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def duplicate_key(sample: Sample) -> str:
    """`Sample.content_hash` of the sample with normalised turns."""
    turns = tuple(Message(message.role, normalise_text(message.content)) for message in sample.messages)
    return replace(sample, messages=turns).content_hash


def drop_duplicates(samples: Iterable[Sample], seen: Iterable[Sample] = ()) -> Unique:
    """Remove exact duplicates; a sample that equals one of `seen` (earlier shards or rounds) is removed too."""
    first: dict[str, str] = {}
    for sample in seen:
        first.setdefault(duplicate_key(sample), sample.id)
    kept: list[Sample] = []
    rejects: list[Reject] = []
    for sample in samples:
        key = duplicate_key(sample)
        if key in first:
            rejects.append(Reject(sample.id, DUPLICATE, sample.raw, first[key]))
        else:
            first[key] = sample.id
            kept.append(sample)
    return Unique(tuple(kept), tuple(rejects))
