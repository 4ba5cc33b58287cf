"""GRPO's loss over an optimizer step, whatever micro batches it is cut into.

TRL takes two means over the tokens of a micro batch: `bnpo`'s loss and the entropy bonus. Completions differ in length,
so that both depend on which of them share a forward pass. Here they are means over the tokens of the optimizer step.
TRL's other losses are means over completions, or divide by a number that is the same in all micro batches.
"""

from __future__ import annotations

from typing import Any


class WholeStep:
    """Mixed in before TRL's GRPO trainer, in one process."""

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        """TRL's loss of a micro batch, its means over tokens weighted by its share of the step's tokens."""
        own: Any = self
        share, coefficient = self._share(), own.entropy_coef
        if own.loss_type == "bnpo":
            return super()._compute_loss(model, inputs) * share  # type: ignore[misc]
        own.entropy_coef = coefficient * share
        try:
            return super()._compute_loss(model, inputs)  # type: ignore[misc]
        finally:
            own.entropy_coef = coefficient
            logged = own._metrics["train"]["entropy_coef"]
            logged[-1:] = [coefficient] * len(logged[-1:])

    def _share(self) -> float:
        """The completion tokens of this micro batch over the mean of the step's micro batches."""
        own: Any = self
        count = int(own.current_gradient_accumulation_steps)
        if count == 1:
            return 1.0
        at = int(own._step % own.args.steps_per_generation)
        tokens = [int(batch["completion_mask"].sum()) for batch in own._buffered_inputs]
        window = tokens[at - at % count :][:count]
        return count * tokens[at] / max(1, sum(window))
