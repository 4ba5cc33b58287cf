"""`best_of_n`: rejection sampling. Of n pairs of every seed by the untrained writer, keep the best-scored valid one.

The control for every training driver: it spends the signal on choosing instead of on learning.
"""

from __future__ import annotations

from pydantic import Field

from harness.config import SignalChoice
from harness.config_models import Section
from harness.errors import ConfigError
from harness.stage import Stage
from methods.drivers.base import Driver, common, finish
from methods.plan import Plan
from methods.stages.selection import Selection


class BestOfNSettings(Section):
    """The number of pairs that are drawn of each document, of which the best is kept."""

    n: int = Field(4, ge=2)
    """Pairs that are drawn of each document."""


class BestOfN(Driver[BestOfNSettings]):
    """Keep the best of `n` draws of each seed."""

    name = "best_of_n"
    summary = "rejection sampling: the best-scored of n pairs of each seed"
    Settings = BestOfNSettings

    def stages(self, plan: Plan, signal: SignalChoice) -> list[Stage]:
        """The shared tail with `n` draws a seed and a selection."""
        if plan.config.select:
            raise ConfigError("driver 'best_of_n' selects already; drop select, or use another driver")
        if not plan.config.route_roles:
            raise ConfigError(
                f"driver 'best_of_n' chooses among several drafts of a seed, and on route '{plan.route.name}' a seed "
                "is one pair; take --driver static with select.signal"
            )
        selection = Selection(per_seed=self.settings.n, rule="best_of_seed", signal=signal)
        return finish(plan, common(plan, signal), None, selection)
