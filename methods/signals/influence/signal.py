"""The `influence` signal: checks the engine, collapses the validation set at every checkpoint, then scores batches.

A score is the sum over warm-up checkpoints, by weights that sum to 1, of the aggregate over validation items (OptimSyn
Eq. 1, LESS §2); a maximum over subtasks is taken last, after that sum. Beside it stand the scores on the two halves of
the validation items (do they agree?) and on withheld ones, which never enter the value, so that a reward that
over-optimises the others shows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.config_models import Section
from harness.errors import StageError
from harness.training.chat import Encoded
from harness.training.checks import require, to_rows
from harness.types import Sample, Score, Usage
from methods.signals.base import Archive, Item, ModelUse, Signal, SignalContext, TargetState, ValidationExample

if TYPE_CHECKING:
    import torch

    from methods.signals.influence.directions import Guidance
    from methods.signals.influence.gamma import UpdateRule

_READINGS = {"value": ("a", "b"), "half_a": ("a",), "half_b": ("b",), "withheld": ("withheld",)}


class InfluenceSettings(Section):
    """Which update direction Γ (`methods.signals.influence.gamma`) and which aggregate over validation items."""

    update: Literal["adam", "sgd"] = "adam"
    """The pair's update direction: Adam's, from the warm-up's moments, or the plain gradient."""
    eps: float = Field(1e-8, gt=0)
    """Adam's ε."""
    eps_mode: Literal["inside", "outside"] = "outside"
    """Where ε stands: beside the root of the second moment, or inside it as in LESS's code."""
    bias_correction: bool = True
    """Divides the moments by 1 − βᵗ, as Adam does."""
    momentum: bool = True
    """Puts the first moment into the direction."""
    own_second_moment: bool = True
    """Puts the pair's own squared gradient into the second moment."""
    aggregate: Literal["mean_cosine", "cosine_of_mean", "max_subtask", "mean_dot"] = "mean_cosine"
    """What is taken over validation items: mean of cosines, cosine of the mean gradient, the best subtask's, or
    mean of products."""


_RELEASED: Mapping[str, Any] = {
    "update": "adam",
    "eps": 1e-8,
    "eps_mode": "inside",
    "bias_correction": False,
    "momentum": True,
    "own_second_moment": True,
}
_PAPER: Mapping[str, Any] = {**_RELEASED, "eps_mode": "outside", "bias_correction": True, "aggregate": "mean_cosine"}


class InfluenceSignal(Signal[InfluenceSettings]):
    """Adam-aware influence on the validation loss at the warm-up's checkpoints; higher is better.

    The presets are published choices: LESS's code (arXiv 2402.04333), OptimSyn's code, and OptimSyn's paper (App. B).
    The two codes share Γ: ε inside the root, no bias correction. LESS takes the best subtask, OptimSyn's code has one.
    """

    name = "influence"
    summary = "Adam-aware influence of the pair on the target's validation loss (OptimSyn Eq. 1)"
    range = (-1.0, 1.0)
    reads_validation = True
    student_aware = True
    Settings = InfluenceSettings
    presets = MappingProxyType(
        {
            "less": {**_RELEASED, "aggregate": "max_subtask"},
            "optimsyn-code": {**_RELEASED, "aggregate": "mean_cosine"},
            "optimsyn-paper": _PAPER,
            "plain-gradient": {**_PAPER, "update": "sgd"},
        }
    )

    @classmethod
    def needs(cls, settings: InfluenceSettings) -> frozenset[str]:
        """Warm-up checkpoints with Adam's moments."""
        return frozenset({"warm_target"})

    @classmethod
    def uses(cls, settings: InfluenceSettings) -> tuple[ModelUse, ...]:
        """A forward and backward pass at every checkpoint; the validation items were collapsed before."""
        return (ModelUse("target", backward=1, every_checkpoint=True, hooks=True),)

    def prepare(self, context: SignalContext, target: TargetState | None) -> Mapping[str, Any]:
        """Load the target, check the engine on it, and build the validation directions of every checkpoint.

        Raises `StageError` where there is no warmed-up target, no usable validation item, or a check fails.
        """
        import torch

        from methods.signals.influence.selfcheck import self_check
        from methods.signals.influence.warm_target import WarmTarget

        if target is None or not target.checkpoints:
            raise StageError("influence needs a warmed-up target with Adam's moments; the driver did not provide one")
        if not context.validation:
            raise StageError("influence needs validation items; name a validation set with --guide")
        self._revision = target.revision
        self._warm = WarmTarget(target, context.batch_size, context.scoring)
        self._flops = 6.0 * self._warm.model.num_parameters()
        self._usage: list[Usage] = []
        started = time.perf_counter()
        items, encoded = self._read(context.validation, target.max_length)
        checks = self_check(self._warm, encoded)
        require(checks, "gradients of the warmed-up target")
        facts: dict[str, Any] = {"checks": to_rows(checks), "checkpoints": []}
        self._guidance: list[Guidance] = []
        self._rules: list[UpdateRule] = []
        for index in range(len(target.checkpoints)):
            facts["checkpoints"].append(self._prepare_checkpoint(index, items, encoded))
        self._spend(encoded, 2 * len(target.checkpoints), started)
        norms = torch.stack([found.norms for found in self._guidance])
        usable = (norms.isfinite() & (norms > 0.0)).all(dim=0)
        for label, withheld in (("rewarded", False), ("withheld", True)):
            mine = [i for i, item in enumerate(items) if item.withheld == withheld]
            asked = sum(v.withheld == withheld for v in context.validation)
            if not asked:
                continue
            used = int(usable[mine].sum())
            facts[label] = {
                "validation_items": used,
                "validation_truncated": sum(encoded[i].truncated > 0 for i in mine),
                "validation_unusable": asked - used,
            }
        return facts

    def _read(
        self, validation: Sequence[ValidationExample], limit: int
    ) -> tuple[list[ValidationExample], list[Encoded]]:
        """The validation items that have a completion token left, and their tokens."""
        both = [(item, self._warm.encode(item.messages)) for item in validation]
        kept = [(item, code) for item, code in both if code.completion_length]
        if not any(not item.withheld for item, _ in kept):
            raise StageError(
                f"every validation item is longer than the target's max_length of {limit} tokens; raise "
                "models.target.max_length"
            )
        return [item for item, _ in kept], [code for _, code in kept]

    def _prepare_checkpoint(
        self, index: int, items: Sequence[ValidationExample], encoded: Sequence[Encoded]
    ) -> dict[str, Any]:
        from methods.signals.influence.directions import guidance, halves
        from methods.signals.influence.gamma import update_rule

        self._warm.enter(index)
        parts = halves([i.id for i in items], [i.subtask for i in items], [i.withheld for i in items])
        found = guidance(self._warm.gradients, encoded, parts, self.settings.aggregate)
        self._guidance.append(found)
        state = self._warm.adam_state(index) if self.settings.update == "adam" else None
        below = total = 0
        for v in state.second.values() if state else ():
            below, total = below + int((v < self.settings.eps).sum()), total + v.numel()
        self._rules.append(update_rule(state, self.settings))
        norms = found.norms[found.norms.isfinite() & (found.norms > 0.0)]
        return {
            "weight": self._warm.target.checkpoints[index].weight,
            "adam_steps": state.step if state else None,
            "share_v_below_eps": below / total if total else None,
            "validation_coherence": found.coherence,
            "validation_gradient_norm": float(norms.mean()),
            "subtasks": len({p.subtask for p in found.parts}),
        }

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per sample; a sample whose completion is empty after truncation is unscorable."""
        started = time.perf_counter()
        encoded = {item.id: self._warm.encode(item.messages) for item in items if isinstance(item, Sample)}
        scorable = [key for key, code in encoded.items() if code.completion_length]
        codes = [encoded[key] for key in scorable]
        readings: dict[str, Mapping[str, float]] = {}
        if codes:
            readings = dict(zip(scorable, self._readings(codes), strict=True))
            self._spend(codes, len(self._rules), started)
        return [self._score(item, encoded.get(item.id), readings.get(item.id)) for item in items]

    def _readings(self, codes: Sequence[Encoded]) -> list[dict[str, float]]:
        """Value, halves, withheld score and gradient norm of every candidate; NaN where there is none."""
        import torch

        from methods.signals.influence.directions import best
        from methods.signals.influence.engine import influence

        aggregate = self.settings.aggregate
        sums: dict[str, torch.Tensor] = {}
        norm = torch.zeros(len(codes), dtype=torch.float64)
        for index, checkpoint in enumerate(self._warm.target.checkpoints):
            self._warm.enter(index)
            found, rule = self._guidance[index], self._rules[index]
            dots, norms = influence(
                self._warm.gradients, codes, found.vectors, rule, cosine=aggregate != "mean_dot"
            )
            # A zero at any checkpoint leaves nothing to score by: momentum alone would still give a value.
            norm = torch.where(norms > 0.0, norm + checkpoint.weight * norms, torch.nan)
            for name, parts in _READINGS.items():
                by_subtask = checkpoint.weight * found.combine(dots, aggregate, parts)
                sums[name] = sums[name] + by_subtask if name in sums else by_subtask
        columns = {name: best(by_subtask).tolist() for name, by_subtask in sums.items()}
        return [
            {"gradient_norm": n, **{name: column[i] for name, column in columns.items()}}
            for i, n in enumerate(norm.tolist())
        ]

    def _score(self, item: Item, code: Encoded | None, reading: Mapping[str, float] | None) -> Score:
        if code is None:
            return Score(item.id, self.name, None, "unscorable", "only samples have an influence", {}, self._revision)
        if reading is None:
            return Score(item.id, self.name, None, "unscorable", "no completion token left", {}, self._revision)
        finite = {name: value for name, value in reading.items() if abs(value) < float("inf")}
        if "value" not in finite or "gradient_norm" not in finite:
            return Score(item.id, self.name, None, "unscorable", "gradient is zero or not finite", {}, self._revision)
        parts = {**code.counts, **finite}
        return Score(item.id, self.name, parts.pop("value"), "ok", "", parts, self._revision)

    def usage(self) -> list[Usage]:
        """Scoring cost since the last call: one forward and backward pass per sample and checkpoint."""
        spent, self._usage = self._usage, []
        return spent

    def _spend(self, codes: Sequence[Encoded], passes: int, started: float) -> None:
        tokens = passes * sum(len(c.ids) for c in codes)
        seconds = time.perf_counter() - started
        self._usage.append(Usage("target", "influence", tokens, 0, passes * len(codes), seconds, self._flops * tokens))
