"""The one AdamW step of a probe, for a whole batch of candidates at once.

Adam works element by element, so a stack of candidates' gradients takes one step each when the moments are repeated
along the stack. The step is torch's own, not a formula of ours: what is measured is what a trainer would do.
"""

from __future__ import annotations

import torch

from harness.training.adam_state import AdamState


def adam_step(state: AdamState, name: str, gradients: torch.Tensor, learning_rate: float) -> torch.Tensor:
    """The change of parameter `name` by one AdamW step (weight decay 0), by candidate; both [B, *shape], float32.

    Taken from zero, so that a small step is not rounded to the weight's own precision.
    """
    change = torch.nn.Parameter(torch.zeros_like(gradients))
    optimizer = torch.optim.AdamW(
        [change], lr=learning_rate, betas=(state.beta1, state.beta2), eps=state.eps, weight_decay=0.0
    )
    optimizer.state[change] = {
        "step": torch.tensor(float(state.step)),
        "exp_avg": state.first[name].expand_as(gradients).clone(),
        "exp_avg_sq": state.second[name].expand_as(gradients).clone(),
    }
    change.grad = gradients
    optimizer.step()
    return change.detach()
