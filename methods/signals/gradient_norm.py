"""The `gradient_norm` signal: how strongly the pair pulls at the target, as the norm of its loss's gradient.

Large where the target has much to change, and so also for wrong answers and for short ones (Settles, Craven & Ray 2007
call its expectation over the model's own labels expected gradient length; GraNd, arXiv 2107.07075). Two sets of
parameters are read: `lora`, the adapter at the last warm-up checkpoint, by the engine that influence uses, and `head`,
the LM head in closed form, which takes a forward pass alone (`methods.signals.target.head`).

AcquisitionSynthesis' code takes all parameters of the untrained target (`upstream`): a backward pass with every weight
gradient, an item at a time, in which the embeddings and the largest matrices lead. There, answers alone carry loss, as
here; its reward is not bounded, which is the driver's to shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import model_validator

from harness.config_models import Section
from harness.facts import Fact
from harness.training.chat import Encoded
from harness.training.checks import Check
from methods.signals.base import ModelUse
from methods.signals.target.base import TargetSignal


class GradientNormSettings(Section):
    """The parameters whose gradient is measured."""

    parameters: Literal["lora", "head"] = "lora"
    """The warm-up's adapter, or the LM head in closed form, without a backward pass."""
    checkpoint: Literal["warm", "base"] = "warm"
    """The last warm-up checkpoint, or, for `head`, the base before any training, which needs no warm-up."""
    upstream: bool = False
    """As AcquisitionSynthesis' code: all parameters of the base, in place of `parameters` and `checkpoint`."""

    @model_validator(mode="after")
    def _fits(self) -> GradientNormSettings:
        if self.upstream and (self.parameters, self.checkpoint) != ("lora", "warm"):
            raise ValueError("upstream=true reads all parameters of the base; leave out parameters and checkpoint")
        if self.parameters == "lora" and self.checkpoint == "base":
            raise ValueError("the base has no adapter; set checkpoint=warm, or parameters=head")
        return self


class GradientNormSignal(TargetSignal[GradientNormSettings]):
    """Euclidean norm of the gradient of the mean loss per answer token; higher is better."""

    name = "gradient_norm"
    summary = "norm of the loss's gradient, over the warm-up's adapter or the LM head (expected gradient length)"
    range = (0.0, None)
    unmeasured = "gradient is not finite"
    Settings = GradientNormSettings

    @classmethod
    def needs(cls, settings: GradientNormSettings) -> frozenset[str]:
        """The target, warmed up or as it is."""
        warm = settings.checkpoint == "warm" and not settings.upstream
        return frozenset({"warm_target" if warm else "target"})

    @classmethod
    def uses(cls, settings: GradientNormSettings) -> tuple[ModelUse, ...]:
        """One pass forward, and for all but the head one back."""
        if settings.upstream:
            return (ModelUse("target", backward=1, every_weight=True),)
        if settings.parameters == "head":
            return (ModelUse("target"),)
        return (ModelUse("target", backward=1, hooks=True),)

    def open(self) -> tuple[Any, Any]:
        """The target at its last checkpoint, or as it is."""
        if self.settings.upstream:
            from harness.models.transformers_backend import load_causal_lm

            model, tokenizer = load_causal_lm(self.target.model, self.target.dtype, self.target.hub_revision)
            return model.eval(), tokenizer
        if self.settings.parameters == "head":
            return super().open()
        from methods.signals.target.warm import WarmTarget

        last = replace(self.target, checkpoints=self.target.checkpoints[-1:])
        self._warm = WarmTarget(last, self.context.batch_size, self.context.scoring)
        return self._warm.model, self._warm.tokenizer

    def checks(self) -> list[Check]:
        """Whether gradients are autograd's, or the closed form holds of this model's head."""
        if self.settings.upstream:
            return [self._finite()]
        if self.settings.parameters == "head":
            from methods.signals.target.head import check_head

            return [*super().checks(), check_head(self.model, "Set signal.parameters=lora")]
        from methods.signals.target.selfcheck import made_up, self_check

        return self_check(self._warm, [code for _, code in self.validation] or made_up(self.model))

    def _finite(self) -> Check:
        """Whether autograd, which is what computes here, gives gradients that can be read."""
        from methods.signals.target.engine import gradient_norms
        from methods.signals.target.one_by_one import OneByOne
        from methods.signals.target.selfcheck import made_up

        self._all = OneByOne(self.model, [name for name, _ in self.model.named_parameters()])
        norms = gradient_norms(self._all, made_up(self.model)).tolist()
        usable = sum(0.0 < norm < float("inf") for norm in norms)
        detail = f"{usable} of {len(norms)} made-up items"
        return Check(
            name="gradients not zero",
            status="passed" if usable else "failed",
            measured=None,
            limit=None,
            detail=detail,
            remedy="Try float32",
        )

    def ready(self) -> list[Fact]:
        """The parameters that gradients are taken of, and their number."""
        if self.settings.upstream:
            what, count = "all", sum(p.numel() for p in self.model.parameters())
        elif self.settings.parameters == "head":
            what, count = "head", self.model.get_output_embeddings().weight.numel()
        else:
            what, count = "lora", sum(m.weight.numel() for m in self._warm.gradients.modules.values())
        where = "base" if self.settings.upstream else self.settings.checkpoint
        return [
            Fact("parameters", what, "parameters that gradients are of"),
            Fact("gradient_size", count, "numbers of a gradient"),
            Fact("checkpoint", where, "checkpoint that is read"),
        ]

    def measure(self, codes: Sequence[Encoded]) -> list[Mapping[str, float]]:
        """The norm of every item."""
        if self.settings.parameters == "head":
            from methods.signals.target.head import head_gradients, product

            norms = [0.0] * len(codes)
            tokens = self.context.scoring.batch_tokens
            for index, g in head_gradients(self.model, self.tokenizer.pad_token_id, tokens, codes):
                norms[index] = max(0.0, product(g, g)) ** 0.5
            return [{"value": norm} for norm in norms]
        from methods.signals.target.engine import gradient_norms

        found = gradient_norms(self._all if self.settings.upstream else self._warm.gradients, codes)
        return [{"value": norm} for norm in found.tolist()]
