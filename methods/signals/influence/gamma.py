"""Γ: the Adam update direction that one more sample would cause at a warmed-up checkpoint.

With Adam's moments m, v after t steps and the candidate's own gradient g (OptimSyn App. B; LESS §3):

    m' = β1·m + (1 − β1)·g            v' = β2·v + (1 − β2)·g²
    Γ  = m̂ / (√v̂ + ε)                 m̂ = m' / (1 − β1^(t+1)),  v̂ = v' / (1 − β2^(t+1))

The paper's appendix corrects the bias and puts ε outside the root; its released code does neither (ε inside, a floor of
√ε on the denominator). Every choice is a setting. Under a cosine the bias correction is a scalar and matters only
through ε; where ε stands is not harmless, since most coordinates of v can lie below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import StageError

if TYPE_CHECKING:
    import torch

    from harness.config import InfluenceConfig
    from harness.training.adam_state import AdamState


def update_direction(g: torch.Tensor, name: str, state: AdamState | None, settings: InfluenceConfig) -> torch.Tensor:
    """Γ for per-sample gradients `g` of parameter `name`, shape [B, *parameter shape]; same shape out.

    With `settings.update == "sgd"` it is `g` itself, and no state is needed. Without `momentum` the numerator is g
    alone; without `own_second_moment` the denominator uses v as it is.
    """
    if settings.update == "sgd":
        return g
    if state is None:
        raise StageError("influence under Adam needs the warm-up's moments; use them, or set influence.update=sgd")
    m, v = state.first[name], state.second[name]
    numerator = state.beta1 * m + (1 - state.beta1) * g if settings.momentum else (1 - state.beta1) * g
    second = state.beta2 * v + (1 - state.beta2) * g.square() if settings.own_second_moment else v
    if settings.bias_correction:
        steps = state.step + 1 if settings.own_second_moment else state.step
        numerator = numerator / (1 - state.beta1 ** (state.step + 1))
        second = second / (1 - state.beta2**steps)
    if settings.eps_mode == "inside":
        return numerator / (second + settings.eps).sqrt()
    return numerator / (second.sqrt() + settings.eps)
