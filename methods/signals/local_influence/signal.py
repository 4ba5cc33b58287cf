"""The `local_influence` signal: how far one optimizer step on the pair lowers the loss of the validation items.

The exact form is computed in float32 whatever the target's type: a step of 1e-5 is lost in bfloat16's three digits, and
what is left would be rounding noise. Withheld validation items are a second reference set, scored beside the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.config_models import Section
from harness.errors import StageError
from harness.facts import Fact
from harness.training.chat import Encoded
from harness.training.checks import Check
from harness.types import Score
from methods.signals.base import ModelUse
from methods.signals.diagnostics import follows, mean_of
from methods.signals.target.base import Passes, TargetSignal

if TYPE_CHECKING:
    import torch

    from methods.signals.local_influence.forms import Gradients
    from methods.signals.local_influence.warm import WarmPoint


class LocalInfluenceSettings(Section):
    """The measurement of local influence."""

    form: Literal["exact", "first_order"] = "exact"
    """By one real optimizer step on the pair, or by its first-order form."""
    learning_rate: float | None = Field(None, gt=0)
    """The step's learning rate; by default the peak of the warm-up's."""


class LocalInfluenceSignal(TargetSignal[LocalInfluenceSettings]):
    """Reference loss before minus after one AdamW step on the sample; higher is better."""

    name = "local_influence"
    summary = "how far one optimizer step on the pair lowers the target's validation loss (Montessori-Instruct)"
    reads_validation = True
    unmeasured = "gradient is zero or not finite"
    Settings = LocalInfluenceSettings
    presets = MappingProxyType({"exact": {"form": "exact"}, "first-order": {"form": "first_order"}})

    @classmethod
    def needs(cls, settings: LocalInfluenceSettings) -> frozenset[str]:
        """Warm-up checkpoints with Adam's moments."""
        return frozenset({"warm_target"})

    @classmethod
    def uses(cls, settings: LocalInfluenceSettings) -> tuple[ModelUse, ...]:
        """The exact form reads all validation items again after every step, in float32."""
        if settings.form == "exact":
            return (ModelUse("target", backward=1, validation=1, every_checkpoint=True, dtype="float32"),)
        return (ModelUse("target", backward=1, every_checkpoint=True),)

    def checks(self) -> list[Check]:
        """Whether padded batches change no loss, and gradients are autograd's.

        They are the engine's, or, where hooks do not see the adapter whole, autograd's own one by one.
        """
        from methods.signals.target.engine import LoraGradients
        from methods.signals.target.one_by_one import OneByOne
        from methods.signals.target.selfcheck import engine_checks

        trained = [name for name, p in self.model.named_parameters() if p.requires_grad]
        checks = super().checks()
        self._order()
        self._gradients: Gradients
        try:
            context = self.context
            gradients = LoraGradients(self.model, self.tokenizer.pad_token_id, context.batch_size, context.scoring)
            checks += engine_checks(gradients, self._items)
            self._gradients, self._how = gradients, "batched"
        except StageError as error:
            self._gradients, self._how = OneByOne(self.model, trained), f"one by one: {error}"
        return checks

    def _order(self) -> None:
        """The reference items: the rewarded ones, then the withheld ones where there are any."""
        groups = [[code for item, code in self.validation if item.withheld == part] for part in (False, True)]
        self._groups = [group for group in groups if group]
        self._sizes = [len(group) for group in self._groups]
        self._items = [code for group in self._groups for code in group]

    def ready(self) -> list[Fact]:
        """The checkpoints with their moments, and what is read of the reference items at each."""
        from methods.signals.local_influence.forms import NOISE_DRAWS
        from methods.signals.local_influence.warm import warm_point

        rate, trained = self.settings.learning_rate, self._gradients.modules
        self._points: list[WarmPoint] = [warm_point(self.model, c, trained, rate) for c in self.target.checkpoints]
        points = len(self._points)
        if self._exact:
            facts = self._prepare_exact()
            self.spend(self.started, Passes(self._items, points * (1 + 2 * NOISE_DRAWS)))
        else:
            facts = self._prepare_first_order()
            self.spend(self.started, Passes(self._items, points, points))
        return [
            Fact("form", self.settings.form, "form"),
            Fact("computed_in", "float32" if self._exact else self.target.dtype, "type that it is computed in"),
            Fact("gradients", self._how, "gradients and probes"),
            Fact("learning_rate", [point.learning_rate for point in self._points], "learning rate of the step"),
            Fact("adam_steps", [point.state.step for point in self._points], "steps that Adam had taken"),
            *facts,
        ]

    @property
    def _exact(self) -> bool:
        return self.settings.form == "exact"

    def _prepare_exact(self) -> list[Fact]:
        from methods.signals.local_influence.forms import ExactProbe, check_stacking
        from methods.signals.target.losses import ReferenceLoss
        from methods.signals.target.warm import put

        reference = ReferenceLoss(self.model, self.tokenizer.pad_token_id, self.context.scoring.batch_tokens)
        stacked, worst = self._how == "batched", None
        if stacked:
            try:
                worst = check_stacking(self._gradients, reference, self._items, self._points[0])
            except StageError as error:
                stacked, self._how = False, f"batched, probes one by one: {error}"
        self._probe = ExactProbe(self._gradients, reference, self._items, stacked=stacked)
        self._before = []
        rounding = []
        for point in self._points:
            put(point.adapter, self._gradients.modules)
            self._before.append(self._probe.before(point))
            noise = self._means(self._probe.noise(point, self._before[-1]))
            # Two standard deviations, of the worse reference set: what a score's rounding seldom exceeds.
            rounding.append(2 * float(noise.square().mean(dim=0).sqrt().max()))
        losses = [float(self._means(b[None])[0, 0]) for b in self._before]
        return [
            Fact("stacking_error", worst, "largest share by which stacked losses differ from plain ones"),
            Fact("reference_loss", losses, "loss of the validation items before any step"),
            Fact("reference_loss_rounding", rounding, "what rounding alone does to a score"),
        ]

    def _prepare_first_order(self) -> list[Fact]:
        from methods.signals.local_influence.forms import mean_gradient
        from methods.signals.target.warm import put

        self._directions = []
        for point in self._points:
            put(point.adapter, self._gradients.modules)
            self._directions.append([mean_gradient(self._gradients, group) for group in self._groups])
        return []

    def _means(self, losses: torch.Tensor) -> torch.Tensor:
        """Means over each reference set, [K, sets], of item losses [K, N]."""
        import torch

        return torch.stack([part.mean(dim=1) for part in losses.split(self._sizes, dim=1)], dim=1)

    def measure(self, codes: Sequence[Encoded]) -> list[Mapping[str, float]]:
        """The value, the one for withheld items, and the gradient's norm, all summed or meant over the checkpoints."""
        import torch

        from methods.signals.local_influence.forms import first_order
        from methods.signals.target.warm import put

        values = torch.zeros(len(codes), len(self._sizes), dtype=torch.float64)
        norms = torch.zeros(len(codes), dtype=torch.float64)
        for number, point in enumerate(self._points):
            put(point.adapter, self._gradients.modules)
            if not self._exact:
                found, size = first_order(self._gradients, codes, point, self._directions[number])
                values += point.weight * found
                norms += size / len(self._points)
                continue
            chunk = self._probe.chunk(point, self.context.batch_size)
            for at in range(0, len(codes), chunk):
                losses, size = self._probe.after(codes[at : at + chunk], point)
                values[at : at + chunk] += point.weight * self._means(self._before[number] - losses)
                norms[at : at + chunk] += size / len(self._points)
        return [_reading(v, n) for v, n in zip(values.tolist(), norms.tolist(), strict=True)]

    @classmethod
    def diagnose(cls, scores: Sequence[Score]) -> list[Fact]:
        """As every signal of the target; and whether the gradient's norm leads."""
        return [
            *super().diagnose(scores),
            mean_of(scores, "gradient_norm", "gradient_norm", "mean gradient norm"),
            follows(scores, "gradient_norm", "correlation_gradient_norm", "with the gradient's norm"),
        ]


def _reading(values: Sequence[float], norm: float) -> Mapping[str, float]:
    """Value, withheld value and norm under their names; nothing where one of them is no number, or the norm is 0."""
    if not all(abs(v) < float("inf") for v in values) or not 0.0 < norm < float("inf"):
        return {}
    return {"gradient_norm": norm, **dict(zip(("value", "withheld"), values, strict=False))}
