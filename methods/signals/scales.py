"""Grades as shares of the scale that their rater declares, for signals that read grades."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.raters.declaration import RaterDeclaration

if TYPE_CHECKING:
    from methods.signals.rated import Matrix


def ungraded(raters: Sequence[RaterDeclaration]) -> str:
    """The reason why these raters cannot be read as grades, as the rest of a sentence about a signal; else empty."""
    bare = next((rater for rater in raters if not rater.grades), None)
    if bare is None:
        return ""
    return f"reads grades, and rater '{bare.name}' compares texts (output {bare.output}); take signal qurating for it"


def grade_ranges(raters: Sequence[RaterDeclaration]) -> tuple[Matrix, Matrix]:
    """The lowest and the highest grade of every head of all raters, both [heads]."""
    import numpy as np

    low = [min(rater.grades) for rater in raters for _ in rater.heads]
    high = [max(rater.grades) for rater in raters for _ in rater.heads]
    return np.array(low), np.array(high)


def to_shares(raw: Matrix, low: Matrix, high: Matrix) -> Matrix:
    """(grade - lowest) / (highest - lowest), cut to 0 to 1: a regression may give more than its scale has."""
    shares: Matrix = ((raw - low) / (high - low)).clip(0.0, 1.0)
    return shares
