"""The `qurating` signal: quality as a pairwise rater sees it, in standard deviations of a frozen reference.

QuRating (arXiv 2402.09739): a rater trained on pairwise judgments has one unbounded logit per criterion, of which only
differences mean anything. So each is taken as z = (s - mean) / sd over a reference that is not the pool: the run's
documents, or the texts of a file. The published selection standardises over the pool itself, which would move every
score when the pool does, and cannot be a reward. Reference mean and deviation are stored with the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.errors import StageError
from harness.facts import Fact
from harness.types import Score, stable_hash
from methods.signals.base import SignalContext, Use
from methods.signals.diagnostics import mean_of
from methods.signals.rated import Rated, RaterSettings, declarations, heads_of
from methods.signals.texts import read_texts

if TYPE_CHECKING:
    from methods.signals.rated import Matrix


class QuratingSettings(RaterSettings):
    """The rater, which of its heads counts, and what its logits are compared with."""

    rater: tuple[str, ...] = ("qurating",)
    """The rater by registered name (`harness rater list`), or the folder of a trained one; several are averaged."""
    head: str = ""
    """The one head that counts, such as `educational`; by default the mean of all."""
    reference: str = ""
    """A file of texts or pairs whose mean and deviation are the scale; by default the run's documents."""
    reference_items: int = Field(1000, ge=2)
    """Most reference texts that are rated, drawn by a hash of their content."""
    clip: float = Field(3.0, gt=0)
    """Largest size of a head's z."""


class QuratingSignal(Rated[QuratingSettings]):
    """Mean over heads of clip((s_h - mean_h) / sd_h), mean and sd over a frozen reference; higher is better."""

    name = "qurating"
    summary = "quality by a pairwise rater's heads, in deviations of a frozen reference (QuRating)"
    reads_seeds = True
    Settings = QuratingSettings
    constant_below = 0.1

    @classmethod
    def unfit(cls, settings: QuratingSettings, use: Use) -> str:
        """A head that the rater does not have. Raises `InputError` for a reference without texts."""
        heads = heads_of(declarations(settings))
        if settings.head and settings.head not in heads:
            return f"has no head '{settings.head}' (signal.head); its rater has {', '.join(heads)}"
        if settings.reference:
            read_texts(settings.reference)
        return ""

    @classmethod
    def files(cls, settings: QuratingSettings) -> tuple[str, ...]:
        """The reference, where one is named."""
        return (settings.reference,) if settings.reference else ()

    def scale(self, context: SignalContext) -> list[Fact]:
        """Rate the reference. Raises `StageError` where it has no two different texts, or a head is constant on it."""
        import numpy as np

        named = self.settings.reference
        items = read_texts(named) if named else list(context.seeds)
        drawn = sorted(items, key=lambda item: stable_hash(item.id))[: self.settings.reference_items]
        rows = self.panel.rate(drawn)
        rows = rows[np.isfinite(rows).all(axis=1)]
        where = named or "the run's documents"
        if len(rows) < 2:
            raise StageError(f"{self.name} needs at least two reference texts and {where} has {len(rows)} that count")
        self._mean, self._sd = rows.mean(axis=0), rows.std(axis=0, ddof=1)
        if flat := [head for head, sd in zip(self.panel.heads, self._sd, strict=True) if sd < 1e-9]:
            raise StageError(
                f"{self.name}: head '{flat[0]}' gives all {len(rows)} texts of {where} the same number, so there is no "
                "scale; name another reference with signal.reference=FILE, or another rater"
            )
        return [
            Fact("reference", where, "reference of the scale"),
            Fact("reference_items", len(rows), "texts of the reference", "items"),
            Fact("reference_mean", self._mean.tolist(), "mean of each head on the reference"),
            Fact("reference_sd", self._sd.tolist(), "standard deviation of each head on the reference"),
        ]

    def scaled(self, raw: Matrix) -> Matrix:
        """z per head, clipped."""
        clip = self.settings.clip
        z: Matrix = ((raw - self._mean) / self._sd).clip(-clip, clip)
        return z

    def beside(self, raw: Any) -> Mapping[str, float]:
        """The share of heads whose z was clipped."""
        import numpy as np

        beyond = np.abs((raw - self._mean) / self._sd) > self.settings.clip
        return {"clipped": float(beyond.mean())}

    @classmethod
    def diagnose(cls, scores: Sequence[Score]) -> list[Fact]:
        """As `Rated.diagnose`, with how often the scale was left: then another reference is needed."""
        clipped = mean_of(scores, "clipped", "clipped", "mean share of heads that were clipped")
        return [*super().diagnose(scores), clipped]

    def weights(self, heads: Sequence[str]) -> Sequence[float]:
        """Equal ones, or all for the head that counts."""
        own = self.settings.head
        return [float(head == own) if own else 1 / len(heads) for head in heads]
