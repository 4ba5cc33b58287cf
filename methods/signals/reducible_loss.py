"""The `reducible_loss` signal: what of the answer's loss a trained reference does not have, so that training can take.

RHO-loss (arXiv 2206.07137, Eq. 3): the loss under the model in training minus the loss under a reference that was
trained on other data of the same kind. The difference takes out what no training would learn: noise and wrong answers
are dear to both. Here the model in training is the base, as fine-tuning finds it, and the reference is the warm-up's
last checkpoint, which has learned from a share of the initial pairs. What this gives up: a reference that was trained
on real held-out answers, as in the paper; the warm-up has seen the generator's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.choice import NoSettings
from harness.facts import Fact
from harness.training.chat import Encoded
from methods.signals.base import ModelUse
from methods.signals.target.base import TargetSignal


class ReducibleLossSignal(TargetSignal[NoSettings]):
    """Loss under the base minus loss under the warmed-up target, in nats per answer token; higher is better."""

    name = "reducible_loss"
    summary = "loss of the answer under the base, minus its loss after the warm-up (RHO-loss)"
    unmeasured = "loss is not finite"

    @classmethod
    def needs(cls, settings: NoSettings) -> frozenset[str]:
        """The warmed-up target; the base is what its adapter lies on."""
        return frozenset({"warm_target"})

    @classmethod
    def uses(cls, settings: NoSettings) -> tuple[ModelUse, ...]:
        """Two forward passes, one without the adapter."""
        return (ModelUse("target", forward=2),)

    def ready(self) -> list[Fact]:
        """The facts about how losses are taken; nothing is measured beforehand."""
        from methods.signals.target.losses import ReferenceLoss

        self._loss = ReferenceLoss(self.model, self.tokenizer.pad_token_id, self.context.scoring.batch_tokens)
        return [Fact("reference", "last warm-up checkpoint", "reference")]

    def measure(self, codes: Sequence[Encoded]) -> list[Mapping[str, float]]:
        """The difference of every item, and both losses."""
        with self.model.disable_adapter():
            base = self._loss.plain(codes).tolist()
        reference = self._loss.plain(codes).tolist()
        return [{"value": b - r, "loss": b, "reference_loss": r} for b, r in zip(base, reference, strict=True)]
