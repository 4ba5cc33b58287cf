"""The `prrc` signal: professionalism, readability, reasoning and cleanliness by four graded raters.

Meta-rater (arXiv 2504.14194): each rater is a classifier over the grades 0 to 5. Its rating is the expected grade,
E = Σ k p(k), since the likeliest grade ties too often to learn from, and the score is the mean of E / 5 over the four,
or a weighted one. Meta-rater fits weights to proxy models; nearly equal ones came out, which are the default here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.facts import Fact
from methods.signals.base import SignalContext, Use
from methods.signals.rated import Rated, RaterSettings, declarations, heads_of
from methods.signals.scales import grade_ranges, to_shares, ungraded

if TYPE_CHECKING:
    from methods.signals.rated import Matrix


class PrrcSettings(RaterSettings):
    """The raters, and how much each of their heads counts."""

    rater: tuple[str, ...] = ("prrc-professionalism", "prrc-readability", "prrc-reasoning", "prrc-cleanliness")
    """Raters by registered name (`harness rater list`), or folders of trained ones."""
    weights: tuple[float, ...] = ()
    """Weights of the heads in their order, which are divided by their sum; by default all count the same."""


class PrrcSignal(Rated[PrrcSettings]):
    """Weighted mean over heads of the expected grade, as a share of its scale; higher is better."""

    name = "prrc"
    summary = "professionalism, readability, reasoning and cleanliness: expected grades of four raters (Meta-rater)"
    range = (0.0, 1.0)
    Settings = PrrcSettings

    @classmethod
    def unfit(cls, settings: PrrcSettings, use: Use) -> str:
        """Raters that give no grades, and weights that do not fit the heads."""
        own = declarations(settings)
        heads, weights = heads_of(own), settings.weights
        if weights and len(weights) != len(heads):
            return f"has {len(heads)} heads ({', '.join(heads)}) and signal.weights has {len(weights)} numbers"
        if weights and (min(weights) < 0 or not sum(weights)):
            return "takes weights from 0, of which one is larger; correct signal.weights"
        return ungraded(own)

    def scale(self, context: SignalContext) -> list[Fact]:
        """The grades' ranges, which the raters declare."""
        self._low, self._high = grade_ranges(declarations(self.settings))
        return [Fact("weights", list(self._weights), "weights of the heads")]

    def scaled(self, raw: Matrix) -> Matrix:
        """Grades as shares of their scales, 0 to 1."""
        return to_shares(raw, self._low, self._high)

    def weights(self, heads: Sequence[str]) -> Sequence[float]:
        """Those that are set, made to sum to 1; else equal ones."""
        own = self.settings.weights or (1.0,) * len(heads)
        return [weight / sum(own) for weight in own]
