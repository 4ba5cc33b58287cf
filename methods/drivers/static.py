"""`static`: no feedback. The untrained writer (or, with `writer_from`, one that another run trained), nothing else."""

from __future__ import annotations

from harness.choice import NoSettings
from harness.config import SignalChoice
from harness.stage import Stage
from methods.drivers.base import Driver, common, finish, optional_selection
from methods.plan import Plan


class Static(Driver[NoSettings]):
    """Synthesize, fine-tune, evaluate."""

    name = "static"
    summary = "no feedback: pairs from the writer as it is"
    uses_signal = False

    def stages(self, plan: Plan, signal: SignalChoice) -> list[Stage]:
        """The shared tail on the untrained writer."""
        return finish(plan, common(plan, None), None, optional_selection(plan, signal))
