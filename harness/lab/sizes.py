"""Sizes of a world: how many classes its things have, and how much longer its models are trained to know them.

The noise between two equal runs is mostly which pairs were drawn, and it falls with the number of rules; more relations
did not help. Six classes keep tests and the demo quick; eighteen are meant to tell signals apart, at several times the
price.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import InputError
from harness.lab.words import ALL_BACKGROUND, ALL_CLASSES
from harness.types import SMALL_WORLD

PARTS = ("writer", "base", "generator", "target", "author")
"""The models that are trained: the first two for all worlds of a size."""


@dataclass(frozen=True, slots=True)
class Size:
    """The classes of a world's things, those of its target's pretraining alone, and by part the length of training.

    A length is a multiple of the smallest worlds' (`PARTS`), of steps and of examples alike.
    """

    classes: tuple[str, ...]
    background: tuple[str, ...]
    length: Mapping[str, float]


SIZES: Mapping[int, Size] = {
    SMALL_WORLD: Size(ALL_CLASSES[:6], ALL_BACKGROUND[:3], dict.fromkeys(PARTS, 1.0)),
    # A generator of eighteen classes states a false value in one of seven pairs at the length that serves six.
    18: Size(
        ALL_CLASSES,
        ALL_BACKGROUND,
        {"writer": 1.25, "base": 1.0, "generator": 3.0, "target": 2.0, "author": 3.0},
    ),
}
"""Sizes by their number of classes. Every relation gives its six values to the same number of classes each."""


def size_of(classes: int) -> Size:
    """The size with that many classes. Raises `InputError` where there is none."""
    if classes not in SIZES:
        raise InputError(f"the lab has no worlds of {classes} classes; it has {' and '.join(map(str, SIZES))}")
    return SIZES[classes]
