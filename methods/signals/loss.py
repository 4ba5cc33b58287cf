"""The `loss` signal: how badly the target predicts the pair's answer. High loss means that there is more to learn.

It is also high for answers that are wrong or unlearnable, which is why it is a control beside influence and not a
recommendation (Settles 2009 calls it the least informed of the uncertainty measures; Rho-loss, arXiv 2206.07137, takes
the noise floor out). By default it reads the last warm-up checkpoint, where influence is measured too, so that the two
differ in the signal alone; `checkpoint=base` reads the target before any training and needs no warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from harness.config_models import Section
from harness.facts import Fact
from harness.training.chat import Encoded
from harness.types import Seed
from methods.signals.base import ModelUse
from methods.signals.items import unlabelled
from methods.signals.target.base import TargetSignal


class LossSettings(Section):
    """The target that is read."""

    checkpoint: Literal["warm", "base"] = "warm"
    """The last warm-up checkpoint, or the base before any training, which needs no warm-up."""


class LossSignal(TargetSignal[LossSettings]):
    """Mean cross-entropy of the completion tokens, in nats, by one forward pass; higher is better.

    Of a labelled seed it is that of the reference answer.
    """

    name = "loss"
    summary = "control: mean loss of the pair's answer under the target, warmed up or base"
    range = (0.0, None)
    items = frozenset({"sample", "seed"})
    unmeasured = "loss is not finite"
    Settings = LossSettings

    @classmethod
    def needs(cls, settings: LossSettings) -> frozenset[str]:
        """The target, warmed up or as it is."""
        return frozenset({"warm_target" if settings.checkpoint == "warm" else "target"})

    @classmethod
    def uses(cls, settings: LossSettings) -> tuple[ModelUse, ...]:
        """One forward pass."""
        return (ModelUse("target"),)

    @classmethod
    def unscorable(cls, seed: Seed) -> str:
        """It reads the reference answer."""
        return unlabelled(seed)

    def ready(self) -> list[Fact]:
        """The facts about how losses are taken; nothing is measured beforehand."""
        from methods.signals.target.losses import ReferenceLoss

        self._loss = ReferenceLoss(self.model, self.tokenizer.pad_token_id, self.context.scoring.batch_tokens)
        return [Fact("checkpoint", self.settings.checkpoint, "checkpoint that is read")]

    def measure(self, codes: Sequence[Encoded]) -> list[Mapping[str, float]]:
        """The loss of every item."""
        return [{"value": value} for value in self._loss.plain(codes).tolist()]
