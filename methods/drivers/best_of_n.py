"""`best_of_n`: rejection sampling. Of n pairs of every seed by the untrained writer, keep the best-scored valid one.

The control for every training driver: it spends the signal on choosing instead of on learning.
"""

from __future__ import annotations

from harness.config import SignalChoice
from harness.errors import ConfigError
from harness.stage import Stage
from methods.drivers.base import common, finish
from methods.plan import Plan
from methods.stages.selection import Selection


class BestOfN:
    """Keep the best of `best_of` draws of each seed."""

    def stages(self, plan: Plan, signal: SignalChoice) -> list[Stage]:
        """The shared tail with `best_of` draws a seed and a selection."""
        if plan.config.select:
            raise ConfigError("driver 'best_of_n' selects already; drop select, or use another driver")
        selection = Selection(per_seed=plan.config.best_of, rule="best_of_seed", signal=signal)
        return finish(plan, common(plan, signal), None, selection)
