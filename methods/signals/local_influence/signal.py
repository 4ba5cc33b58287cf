"""The `local_influence` signal: how far one optimizer step on the pair lowers the loss of the validation items.

The exact form is computed in float32 whatever the target's type: a step of 1e-5 is lost in bfloat16's three digits, and
what is left would be rounding noise. Withheld validation items are a second reference set, scored beside the value.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.config_models import Section
from harness.errors import StageError
from harness.training.chat import Encoded, encode
from harness.training.checks import require, to_rows
from harness.training.layouts import check_layout
from harness.types import Sample, Score, Usage
from methods.signals.base import Archive, Item, ModelUse, Signal, SignalContext, TargetState

if TYPE_CHECKING:
    import torch

    from methods.signals.local_influence.forms import Gradients
    from methods.signals.local_influence.warm import WarmPoint


class LocalInfluenceSettings(Section):
    """How local influence is measured."""

    form: Literal["exact", "first_order"] = "exact"
    """By one real optimizer step on the pair, or by its first-order form."""
    learning_rate: float | None = Field(None, gt=0)
    """The step's learning rate; by default the peak of the warm-up's."""


class LocalInfluenceSignal(Signal[LocalInfluenceSettings]):
    """Reference loss before minus after one AdamW step on the sample; higher is better."""

    name = "local_influence"
    summary = "how far one optimizer step on the pair lowers the target's validation loss (Montessori-Instruct)"
    reads_validation = True
    student_aware = True
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

    def prepare(self, context: SignalContext, target: TargetState | None) -> Mapping[str, Any]:
        """Load the warmed-up target, and measure the reference items at every checkpoint."""
        from methods.signals.influence.warm_target import open_warm
        from methods.signals.local_influence.forms import NOISE_DRAWS
        from methods.signals.local_influence.warm import warm_point

        if target is None or not target.checkpoints:
            raise StageError("local_influence needs a warmed-up target with Adam's moments; the driver provided none")
        if not any(not v.withheld for v in context.validation):
            raise StageError("local_influence needs validation items; name a validation set with --guide")
        self._exact = self.settings.form == "exact"
        self._context, self._max_length, self._revision = context, target.max_length, target.revision
        self._usage: list[Usage] = []
        dtype = "float32" if self._exact else target.dtype
        model, self._tokenizer = open_warm(target, dtype)
        self._parameters = float(model.num_parameters())
        facts: dict[str, Any] = {"form": self.settings.form, "computed_in": dtype}
        groups = self._encode_validation(context, facts)
        self._sizes = [len(group) for group in groups]
        self._items = [item for group in groups for item in group]
        started = time.perf_counter()
        self._gradients = self._open_gradients(model, facts)
        rate = self.settings.learning_rate
        self._points: list[WarmPoint] = [
            warm_point(model, c, self._gradients.modules, rate) for c in target.checkpoints
        ]
        facts["learning_rate"] = [point.learning_rate for point in self._points]
        facts["adam_steps"] = [point.state.step for point in self._points]
        if self._exact:
            self._prepare_exact(model, facts)
            self._spend(started, read=self._items, times=1 + 2 * NOISE_DRAWS)
        else:
            self._prepare_first_order(groups)
            self._spend(started, differentiated=self._items)
        return facts

    def _encode_validation(self, context: SignalContext, facts: dict[str, Any]) -> list[list[Encoded]]:
        """Reference items with a completion left: the rewarded ones, then the withheld ones where there are any."""
        groups = []
        for withheld in (False, True):
            items = [v for v in context.validation if v.withheld == withheld]
            encoded = [encode(self._tokenizer, v.messages, self._max_length) for v in items]
            scorable = [e for e in encoded if e.completion_length]
            if items and not scorable:
                raise StageError(
                    f"every validation item is longer than the target's max_length of {self._max_length} tokens; "
                    "raise models.target.max_length"
                )
            if items:
                groups.append(scorable)
                facts["withheld" if withheld else "rewarded"] = {
                    "validation_items": len(scorable),
                    "validation_truncated": sum(e.truncated > 0 for e in encoded),
                    "validation_unusable": len(items) - len(scorable),
                }
        return groups

    def _open_gradients(self, model: Any, facts: dict[str, Any]) -> Gradients:
        """The engine's gradients, or autograd's one by one where hooks do not see the adapter whole, and why.

        Raises `StageError` where a check fails: a layout that changes scores, or gradients that are not autograd's.
        """
        from methods.signals.influence.engine import LoraGradients
        from methods.signals.influence.selfcheck import REMEDY, engine_checks
        from methods.signals.local_influence.one_by_one import OneByOne

        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        pad, context = self._tokenizer.pad_token_id, self._context
        # Reference losses are read in padded batches, whichever way gradients are taken.
        checks = [check_layout(model, "right", REMEDY)]
        gradients: Gradients
        try:
            gradients = LoraGradients(model, pad, context.batch_size, context.scoring)
            checks += engine_checks(gradients, self._items)
            facts["gradients"] = "batched"
        except StageError as error:
            facts["gradients"] = f"one by one: {error}"
            gradients = OneByOne(model, trained)
        facts["checks"] = to_rows(checks)
        require(checks, "gradients of the warmed-up target")
        return gradients

    def _prepare_exact(self, model: Any, facts: dict[str, Any]) -> None:
        from methods.signals.influence.warm_target import put
        from methods.signals.local_influence.forms import ExactProbe, check_stacking
        from methods.signals.local_influence.reference import ReferenceLoss

        reference = ReferenceLoss(model, self._tokenizer.pad_token_id, self._context.scoring.batch_tokens)
        stacked = facts["gradients"] == "batched"
        if stacked:
            try:
                facts["stacking_error"] = check_stacking(self._gradients, reference, self._items, self._points[0])
            except StageError as error:
                stacked, facts["gradients"] = False, f"batched, probes one by one: {error}"
        self._probe = ExactProbe(self._gradients, reference, self._items, stacked=stacked)
        self._before = []
        rounding = []
        for point in self._points:
            put(point.adapter, self._gradients.modules)
            self._before.append(self._probe.before(point))
            noise = self._means(self._probe.noise(point, self._before[-1]))
            # Two standard deviations, of the worse reference set: what a score's rounding seldom exceeds.
            rounding.append(2 * float(noise.square().mean(dim=0).sqrt().max()))
        facts["reference_loss"] = [float(self._means(b[None])[0, 0]) for b in self._before]
        facts["reference_loss_rounding"] = rounding

    def _prepare_first_order(self, groups: Sequence[Sequence[Encoded]]) -> None:
        from methods.signals.influence.warm_target import put
        from methods.signals.local_influence.forms import mean_gradient

        self._directions = []
        for point in self._points:
            put(point.adapter, self._gradients.modules)
            self._directions.append([mean_gradient(self._gradients, group) for group in groups])

    def _means(self, losses: torch.Tensor) -> torch.Tensor:
        """Means over each reference set, [K, sets], of item losses [K, N]."""
        import torch

        return torch.stack([part.mean(dim=1) for part in losses.split(self._sizes, dim=1)], dim=1)

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per sample; a sample whose completion is empty after truncation is unscorable."""
        samples = [item for item in items if isinstance(item, Sample)]
        encoded = {s.id: encode(self._tokenizer, s.messages, self._max_length) for s in samples}
        scorable = [s for s in samples if encoded[s.id].completion_length]
        values: dict[str, tuple[list[float], float]] = {}
        if scorable:
            measured, norms = self._measure([encoded[s.id] for s in scorable])
            values = {s.id: (v, n) for s, v, n in zip(scorable, measured.tolist(), norms.tolist(), strict=True)}
        return [self._score(item, encoded.get(item.id), values.get(item.id)) for item in items]

    def _measure(self, codes: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        """Values [N, reference sets], summed over the checkpoints by their weights, and mean gradient norms [N]."""
        import torch

        from methods.signals.influence.warm_target import put
        from methods.signals.local_influence.forms import first_order

        started = time.perf_counter()
        values = torch.zeros(len(codes), len(self._sizes), dtype=torch.float64)
        norms = torch.zeros(len(codes), dtype=torch.float64)
        for number, point in enumerate(self._points):
            put(point.adapter, self._gradients.modules)
            if not self._exact:
                found, size = first_order(self._gradients, codes, point, self._directions[number])
                values += point.weight * found
                norms += size / len(self._points)
                continue
            chunk = self._probe.chunk(point, self._context.batch_size)
            for at in range(0, len(codes), chunk):
                losses, size = self._probe.after(codes[at : at + chunk], point)
                values[at : at + chunk] += point.weight * self._means(self._before[number] - losses)
                norms[at : at + chunk] += size / len(self._points)
        probed = self._items if self._exact else ()
        self._spend(started, differentiated=codes, read=probed, times=len(codes))
        return values, norms

    def _score(self, item: Item, code: Encoded | None, value: tuple[list[float], float] | None) -> Score:
        def unscorable(reason: str) -> Score:
            return Score(item.id, self.name, None, "unscorable", reason, {}, self._revision)

        if code is None:
            return unscorable("only samples have an influence")
        if value is None:
            return unscorable("no completion token left")
        values, norm = value
        if not all(abs(v) < float("inf") for v in values) or not 0.0 < norm < float("inf"):
            return unscorable("gradient is zero or not finite")
        parts = {"gradient_norm": norm, **code.counts}
        if len(values) > 1:
            parts["withheld"] = values[1]
        return Score(item.id, self.name, values[0], "ok", "", parts, self._revision)

    def usage(self) -> list[Usage]:
        """Cost since the last call: a forward and backward pass per sample, and what it reads of the reference set."""
        spent, self._usage = self._usage, []
        return spent

    def _spend(
        self, started: float, *, differentiated: Sequence[Encoded] = (), read: Sequence[Encoded] = (), times: int = 1
    ) -> None:
        """Account for a forward and backward pass over some items, and for `times` forward passes over others."""
        points = len(self._points)
        through = points * sum(len(c.ids) for c in differentiated)
        forward = points * times * sum(len(c.ids) for c in read)
        calls = points * (len(differentiated) + times * len(read))
        flops = self._parameters * (6.0 * through + 2.0 * forward)
        seconds = time.perf_counter() - started
        self._usage.append(Usage("target", self.name, through + forward, 0, calls, seconds, flops))
