"""The `influence` signal: loads the warmed-up target once, collapses the validation set, then scores batches.

Withheld validation items give a second direction; its score is reported beside the value (`parts["withheld"]`) and
never enters it, so that a reward that over-optimises the other half shows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from harness.config import InfluenceConfig
from harness.errors import StageError
from harness.training.chat import Encoded, encode
from harness.types import Sample, Score, Usage
from methods.signals.base import Archive, Item, SignalContext, TargetState


class InfluenceSignal:
    """Adam-aware influence on the validation loss at the warm-up checkpoint; higher is better."""

    name = "influence"

    def prepare(self, context: SignalContext, target: TargetState | None) -> Mapping[str, Any]:
        """Load the adapter and its moments, check hook coverage, and build the validation directions."""
        import torch
        from peft import PeftModel

        from harness.models.transformers_backend import load_causal_lm
        from harness.training.adam_state import load_adam_state
        from methods.signals.influence.engine import LoraGradients, validation_direction

        if target is None or not target.checkpoints:
            raise StageError("influence needs a warmed-up target with Adam's moments; the driver did not provide one")
        if not context.validation:
            raise StageError("influence needs validation items; name a validation set with --guide")
        self._settings: InfluenceConfig = context.settings
        self._max_length, self._revision = target.max_length, target.revision
        torch.manual_seed(0)
        base, self._tokenizer = load_causal_lm(target.model, target.dtype, target.hub_revision)
        model = PeftModel.from_pretrained(base, target.checkpoints[0].adapter, is_trainable=True)
        self._flops = 6.0 * model.num_parameters()
        self._usage: list[Usage] = []
        self._gradients = LoraGradients(model, self._tokenizer.pad_token_id, context.batch_size)
        self._state = load_adam_state(
            target.checkpoints[0].adam, self._gradients.modules, target.checkpoints[0].adapter
        )
        facts: dict[str, Any] = {}
        self._directions = []
        for withheld in (False, True):
            items = [v for v in context.validation if v.withheld == withheld]
            if not items:
                continue
            started = time.perf_counter()
            encoded = [encode(self._tokenizer, v.messages, self._max_length) for v in items]
            scorable = [e for e in encoded if e.completion_length]
            if not scorable:
                raise StageError(
                    f"every validation item is longer than the target's max_length of {self._max_length} tokens; "
                    "raise models.target.max_length"
                )
            direction, diagnostics = validation_direction(self._gradients, scorable, self._settings)
            self._directions.append(direction)
            diagnostics["validation_truncated"] = float(sum(e.truncated > 0 for e in encoded))
            diagnostics["validation_unusable"] = float(len(items) - diagnostics["validation_items"])
            facts["withheld" if withheld else "rewarded"] = diagnostics
            self._spend(scorable, 2, started)
        facts["adam_steps"] = self._state.step
        facts["share_v_below_eps"] = self._state_share_below_eps()
        return facts

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per sample; a sample whose completion is empty after truncation is unscorable."""
        from methods.signals.influence.engine import influence

        started = time.perf_counter()
        samples = [item for item in items if isinstance(item, Sample)]
        encoded = {s.id: encode(self._tokenizer, s.messages, self._max_length) for s in samples}
        scorable = [s for s in samples if encoded[s.id].completion_length]
        codes = [encoded[s.id] for s in scorable]
        values: dict[str, tuple[list[float], float]] = {}
        if codes:
            dots, norms = influence(self._gradients, codes, self._directions, self._state, self._settings)
            values = {s.id: (d, n) for s, d, n in zip(scorable, dots.tolist(), norms.tolist(), strict=True)}
            self._spend(codes, 1, started)
        return [self._score(item, encoded.get(item.id), values.get(item.id)) for item in items]

    def _score(self, item: Item, code: Encoded | None, value: tuple[list[float], float] | None) -> Score:
        if code is None:
            return Score(item.id, self.name, None, "unscorable", "only samples have an influence", {}, self._revision)
        if value is None:
            return Score(item.id, self.name, None, "unscorable", "no completion token left", {}, self._revision)
        dots, norm = value
        if not all(abs(d) < float("inf") for d in dots) or not 0.0 < norm < float("inf"):
            return Score(item.id, self.name, None, "unscorable", "gradient is zero or not finite", {}, self._revision)
        parts = {"gradient_norm": norm, "completion_tokens": float(code.completion_length)}
        if len(dots) > 1:
            parts["withheld"] = dots[1]
        return Score(item.id, self.name, dots[0], "ok", "", parts, self._revision)

    def usage(self) -> list[Usage]:
        """Scoring cost since the last call: one forward and backward pass per sample."""
        spent, self._usage = self._usage, []
        return spent

    def _spend(self, codes: Sequence[Encoded], passes: int, started: float) -> None:
        tokens = passes * sum(len(c.ids) for c in codes)
        seconds = time.perf_counter() - started
        self._usage.append(Usage("target", "influence", tokens, 0, passes * len(codes), seconds, self._flops * tokens))

    def _state_share_below_eps(self) -> float:
        below = sum(int((v < self._settings.eps).sum()) for v in self._state.second.values())
        return below / max(1, sum(v.numel() for v in self._state.second.values()))
