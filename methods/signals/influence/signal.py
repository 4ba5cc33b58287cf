"""The `influence` signal: checks the engine, collapses the validation set at every checkpoint, then scores batches.

A score is the sum over warm-up checkpoints, by weights that sum to 1, of the aggregate over validation items (OptimSyn
Eq. 1, LESS §2); a maximum over subtasks is taken last, after that sum. Beside it stand the scores on the two halves of
the validation items (do they agree?) and on withheld ones, which never enter the value, so that a reward that
over-optimises the others shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.facts import Fact
from harness.training.chat import Encoded
from harness.training.checks import Check
from harness.types import Score
from methods.signals.base import ModelUse
from methods.signals.diagnostics import agreement, follows, mean_of
from methods.signals.influence.settings import InfluenceSettings
from methods.signals.target.base import Passes, TargetSignal

if TYPE_CHECKING:
    import torch

    from methods.signals.influence.directions import Guidance
    from methods.signals.influence.gamma import UpdateRule

_READINGS = {"value": ("a", "b"), "half_a": ("a",), "half_b": ("b",), "withheld": ("withheld",)}


_RELEASED: Mapping[str, Any] = {
    "update": "adam",
    "eps": 1e-8,
    "eps_mode": "inside",
    "bias_correction": False,
    "momentum": True,
    "own_second_moment": True,
}
_PAPER: Mapping[str, Any] = {**_RELEASED, "eps_mode": "outside", "bias_correction": True, "aggregate": "mean_cosine"}


class InfluenceSignal(TargetSignal[InfluenceSettings]):
    """Adam-aware influence on the validation loss at the warm-up's checkpoints; higher is better.

    The presets are published choices: LESS's code (arXiv 2402.04333), OptimSyn's code, and OptimSyn's paper (App. B).
    The two codes share Γ: ε inside the root, no bias correction. LESS takes the best subtask, OptimSyn's code has one.
    """

    name = "influence"
    summary = "Adam-aware influence of the pair on the target's validation loss (OptimSyn Eq. 1)"
    range = (-1.0, 1.0)
    reads_validation = True
    unmeasured = "gradient is zero or not finite"
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

    def open(self) -> tuple[Any, Any]:
        """The target at its first checkpoint, with the gradients of its adapter."""
        from methods.signals.target import warm

        self._warm = warm.WarmTarget(self.target, self.context.batch_size, self.context.scoring)
        return self._warm.model, self._warm.tokenizer

    def checks(self) -> list[Check]:
        """Whether the gradients are autograd's, in the layout and the type of the run."""
        from methods.signals.target.selfcheck import self_check

        return self_check(self._warm, [code for _, code in self.validation])

    def ready(self) -> list[Fact]:
        """The validation items' directions and Γ at every checkpoint."""
        self._guidance: list[Guidance] = []
        self._rules: list[UpdateRule] = []
        facts = [self._prepare_checkpoint(index) for index in range(len(self.target.checkpoints))]
        passes = 2 * len(self.target.checkpoints)
        self.spend(self.started, Passes([code for _, code in self.validation], passes, passes))
        return [replace(fact, value=[own[i].value for own in facts]) for i, fact in enumerate(facts[0])]

    def _prepare_checkpoint(self, index: int) -> list[Fact]:
        """The findings at one checkpoint; the values of all become the lists that are reported."""
        from methods.signals.influence.directions import guidance, halves
        from methods.signals.influence.gamma import update_rule

        self._warm.enter(index)
        items = [item for item, _ in self.validation]
        parts = halves([i.id for i in items], [i.subtask for i in items], [i.withheld for i in items])
        found = guidance(self._warm.gradients, [code for _, code in self.validation], parts, self.settings.aggregate)
        self._guidance.append(found)
        state = self._warm.adam_state(index) if self.settings.update == "adam" else None
        below = total = 0
        for v in state.second.values() if state else ():
            below, total = below + int((v < self.settings.eps).sum()), total + v.numel()
        self._rules.append(update_rule(state, self.settings))
        norms = found.norms[found.norms.isfinite() & (found.norms > 0.0)]
        subtasks = len({p.subtask for p in found.parts})
        return [
            Fact("weight", self.target.checkpoints[index].weight, "weight of the checkpoint"),
            Fact("adam_steps", state.step if state else None, "steps that Adam had taken"),
            Fact("share_v_below_eps", below / total if total else None, "share of v below ε"),
            Fact("validation_coherence", found.coherence, "length of the mean unit validation gradient"),
            Fact("validation_gradient_norm", float(norms.mean()), "mean norm of the validation gradients"),
            Fact("subtasks", subtasks, "subtasks of the validation set"),
        ]

    def usable(self) -> Sequence[bool]:
        """The items that have a gradient at every checkpoint."""
        import torch

        norms = torch.stack([found.norms for found in self._guidance])
        usable: list[bool] = (norms.isfinite() & (norms > 0.0)).all(dim=0).tolist()
        return usable

    def measure(self, codes: Sequence[Encoded]) -> list[Mapping[str, float]]:
        """Value, halves, withheld score and gradient norm of every candidate; what is not finite is left out."""
        import torch

        from methods.signals.influence import products
        from methods.signals.influence.directions import best

        aggregate = self.settings.aggregate
        sums: dict[str, torch.Tensor] = {}
        norm = torch.zeros(len(codes), dtype=torch.float64)
        for index, checkpoint in enumerate(self.target.checkpoints):
            self._warm.enter(index)
            found, rule = self._guidance[index], self._rules[index]
            dots, norms = products.influence(
                self._warm.gradients, codes, found.vectors, rule, cosine=aggregate != "mean_dot"
            )
            # A zero at any checkpoint leaves nothing to score by: momentum alone would still give a value.
            norm = torch.where(norms > 0.0, norm + checkpoint.weight * norms, torch.nan)
            for name, parts in _READINGS.items():
                by_subtask = checkpoint.weight * found.combine(dots, aggregate, parts)
                sums[name] = sums[name] + by_subtask if name in sums else by_subtask
        columns = {"gradient_norm": norm.tolist(), **{name: best(rows).tolist() for name, rows in sums.items()}}
        return [_finite({name: column[i] for name, column in columns.items()}) for i in range(len(codes))]

    @classmethod
    def diagnose(cls, scores: Sequence[Score]) -> list[Fact]:
        """As every signal of the target; and whether the gradient's norm leads, and the halves agree.

        Halves of the validation set that disagree say that the set is too small or too mixed to be read.
        """
        return [
            *super().diagnose(scores),
            mean_of(scores, "gradient_norm", "gradient_norm", "mean gradient norm"),
            follows(scores, "gradient_norm", "correlation_gradient_norm", "with the gradient's norm"),
            agreement(scores, "half_a", "half_b", "halves_agreement", "between halves of the validation set"),
        ]


def _finite(reading: Mapping[str, float]) -> Mapping[str, float]:
    """The finite numbers of a reading; none where it has no gradient norm."""
    known = {name: value for name, value in reading.items() if abs(value) < float("inf")}
    return known if "gradient_norm" in known else {}
