"""Learning rates: transformers' schedules, whose first step has a rate.

transformers counts a warm-up from zero, so that the first of N optimizer steps is made at rate 0: its samples are read
and not learned from, and a fine-tuning of one step returns the base.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

Start = Literal["half_step", "zero"]
"""Where a warm-up begins: at half of the rate of its second step, or at zero as transformers has it."""


def rising(rate: Callable[[int], float], warmup: int, total: int, start: Start) -> Callable[[int], float]:
    """`rate` (a multiple of the peak by step, from 0) with a first step that trains; other steps keep their rates.

    A warm-up of `warmup` steps rises by 1/`warmup` a step; its first has half of that. With `start` zero it has none,
    unless no later one of the `total` steps has any.
    """
    if rate(0) > 0 or (start == "zero" and any(rate(step) > 0 for step in range(1, total))):
        return rate
    return lambda step: 0.5 / max(1, warmup) if step == 0 else rate(step)


class FirstStepTrains:
    """Mixed in before a trainer: its schedule is `rising`."""

    warmup_start: Start = "half_step"

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The trainer's schedule, with the first step's rate as `rising` has it."""
        from torch.optim.lr_scheduler import LambdaLR

        own: Any = self
        made = own.lr_scheduler
        plain = super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]
        if made is not None:
            return plain
        warmup = own.args.get_warmup_steps(num_training_steps)
        rates = [rising(rate, warmup, num_training_steps, self.warmup_start) for rate in plain.lr_lambdas]
        own.lr_scheduler = LambdaLR(plain.optimizer, rates)
        return own.lr_scheduler
