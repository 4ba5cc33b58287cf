"""The `loss` signal: how badly the target predicts the pair's answer. High loss means that there is more to learn.

It is also high for answers that are wrong or unlearnable, which is why it is a control beside influence and not a
recommendation (Settles 2009 calls it the least informed of the uncertainty measures; Rho-loss, arXiv 2206.07137, takes
the noise floor out). By default it reads the last warm-up checkpoint, where influence is measured too, so that the two
differ in the signal alone; `checkpoint=base` reads the target before any training and needs no warm-up.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from harness.config_models import Section
from harness.errors import StageError
from harness.training.chat import encode
from harness.training.checks import require, to_rows
from harness.types import Sample, Score, Usage
from methods.signals.base import Archive, Item, ModelUse, Signal, SignalContext, TargetState


class LossSettings(Section):
    """Which target is read."""

    checkpoint: Literal["warm", "base"] = "warm"
    """The last warm-up checkpoint, or the base before any training, which needs no warm-up."""


class LossSignal(Signal[LossSettings]):
    """Mean cross-entropy of the completion tokens, in nats, by one forward pass; higher is better."""

    name = "loss"
    summary = "control: mean loss of the pair's answer under the target, warmed up or base"
    range = (0.0, None)
    student_aware = True
    Settings = LossSettings

    @classmethod
    def needs(cls, settings: LossSettings) -> frozenset[str]:
        """The target, warmed up or as it is."""
        return frozenset({"warm_target" if settings.checkpoint == "warm" else "target"})

    @classmethod
    def uses(cls, settings: LossSettings) -> tuple[ModelUse, ...]:
        """One forward pass."""
        return (ModelUse("target"),)

    def prepare(self, context: SignalContext, target: TargetState | None) -> Mapping[str, Any]:
        """Load the target, under its last warm-up checkpoint where the settings say so."""
        from harness.models.transformers_backend import load_causal_lm
        from harness.training.layouts import check_layout
        from methods.signals.local_influence.reference import ReferenceLoss

        settings = self.settings
        if target is None or (settings.checkpoint == "warm" and not target.checkpoints):
            raise StageError(f"loss reads the {settings.checkpoint} target; the driver did not provide one")
        self._max_length, self._revision = target.max_length, target.revision
        self._usage: list[Usage] = []
        model, self._tokenizer = load_causal_lm(target.model, target.dtype, target.hub_revision)
        self._flops = 2.0 * model.num_parameters()
        if settings.checkpoint == "warm":
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, target.checkpoints[-1].adapter)
        model.eval()
        checks = [check_layout(model, "right", "Set runtime.scoring.batch_tokens=1, which scores one by one")]
        require(checks, "losses of the target")
        self._loss = ReferenceLoss(model, self._tokenizer.pad_token_id, context.scoring.batch_tokens)
        return {"checkpoint": settings.checkpoint, "target": target.revision, "checks": to_rows(checks)}

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per sample; a sample whose completion is empty after truncation is unscorable."""
        started = time.perf_counter()
        codes = {i.id: encode(self._tokenizer, i.messages, self._max_length) for i in items if isinstance(i, Sample)}
        scorable = {key: code for key, code in codes.items() if code.completion_length}
        values: dict[str, float] = {}
        if scorable:
            values = dict(zip(scorable, self._loss.plain(list(scorable.values())).tolist(), strict=True))
            tokens = sum(len(code.ids) for code in scorable.values())
            seconds = time.perf_counter() - started
            self._usage.append(Usage("target", self.name, tokens, 0, len(scorable), seconds, self._flops * tokens))
        scores = []
        for item in items:
            value = values.get(item.id)
            if value is None or not value < float("inf"):
                why = "only samples have a loss" if item.id not in codes else "no completion token left"
                why = "loss is not finite" if value is not None else why
                scores.append(Score(item.id, self.name, None, "unscorable", why, {}, self._revision))
                continue
            scores.append(Score(item.id, self.name, value, "ok", "", codes[item.id].counts, self._revision))
        return scores

    def usage(self) -> list[Usage]:
        """Scoring cost since the last call: one forward pass per sample."""
        spent, self._usage = self._usage, []
        return spent
