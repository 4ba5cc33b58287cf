"""Γ: the Adam update direction that one more sample would cause at a warmed-up checkpoint.

With Adam's moments m, v after t steps and the candidate's own gradient g (OptimSyn App. B; LESS §3):

    m' = β1·m + (1 − β1)·g            v' = β2·v + (1 − β2)·g²
    Γ  = m̂ / (√v̂ + ε)                 m̂ = m' / (1 − β1^(t+1)),  v̂ = v' / (1 − β2^(t+1))

The paper's appendix corrects the bias and puts ε outside the root; its released code does neither (ε inside, a floor of
√ε on the denominator). Every choice is a setting. Under a cosine the bias correction is a scalar and matters only
through ε; where ε stands is not harmless, since most coordinates of v can lie below it.

All that does not depend on g is folded into the two moments once, so that Γ = (a + b·g) / (√(c + d·g²) + ε) costs
three passes over g and no memory beyond the moments themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.errors import StageError

if TYPE_CHECKING:
    from harness.training.adam_state import AdamState
    from methods.signals.influence.settings import InfluenceSettings


@dataclass(frozen=True)
class UpdateRule:
    """Γ as a function of g. `constant` (a) and `floor` (c) are tensors by parameter name, [*parameter shape], float32.

    `plain` is Γ = g, under SGD.
    """

    plain: bool
    constant: Mapping[str, torch.Tensor]
    floor: Mapping[str, torch.Tensor]
    slope: float = 1.0
    curve: float = 0.0
    eps: float = 0.0

    def apply_(self, g: torch.Tensor, name: str, scratch: torch.Tensor | None = None) -> torch.Tensor:
        """Γ of per-sample gradients `g`, [B, *parameter shape], of parameter `name`; `g` is overwritten and returned.

        `scratch`, of `g`'s shape, saves an allocation.
        """
        if self.plain:
            return g
        # The floor holds what does not depend on g, an ε inside the root included.
        root = torch.addcmul(self.floor[name], g, g, value=self.curve, out=scratch) if self.curve else None
        denominator = (torch.sqrt(self.floor[name]) if root is None else root.sqrt_()).add_(self.eps)
        if name in self.constant:
            torch.add(self.constant[name], g, alpha=self.slope, out=g)
        else:
            g.mul_(self.slope)
        return g.div_(denominator)


def update_rule(state: AdamState | None, settings: InfluenceSettings) -> UpdateRule:
    """The update rule of `settings` at the moments `state`, whose tensors it takes over and overwrites.

    With `update == "sgd"` no state is needed. Without `momentum` the numerator is g alone; without
    `own_second_moment` the denominator uses v as it is. Raises `StageError` where Adam has no moments.
    """
    if settings.update == "sgd":
        return UpdateRule(plain=True, constant={}, floor={})
    if state is None:
        raise StageError("influence under Adam needs the warm-up's moments; use them, or set signal.update=sgd")
    corrected = settings.bias_correction
    own = settings.own_second_moment
    first = 1.0 / (1.0 - state.beta1 ** (state.step + 1)) if corrected else 1.0
    second = 1.0 / (1.0 - state.beta2 ** (state.step + (1 if own else 0))) if corrected else 1.0
    inside = settings.eps if settings.eps_mode == "inside" else 0.0
    constant = {n: m.mul_(state.beta1 * first) for n, m in state.first.items()} if settings.momentum else {}
    floor = {n: v.mul_((state.beta2 if own else 1.0) * second).add_(inside) for n, v in state.second.items()}
    return UpdateRule(
        plain=False,
        constant=constant,
        floor=floor,
        slope=(1.0 - state.beta1) * first,
        curve=(1.0 - state.beta2) * second if own else 0.0,
        eps=0.0 if settings.eps_mode == "inside" else settings.eps,
    )
