"""Products of every candidate's gradients: Γ, its products with the validation directions, and its norm.

The score of a candidate z against validation items V is mean over V of cos(∇ℓ(z'), Γ(z)) (OptimSyn Eq. 1 at one
checkpoint). Since mean cos(g', Γ) = ⟨mean g'/|g'|, Γ/|Γ|⟩, the validation set collapses into one direction, exactly,
and no random projection is needed. Γ, its norm and its products are taken in pieces that fit the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from harness.training.chat import Encoded
from methods.signals.influence.gamma import UpdateRule
from methods.signals.target.engine import LoraGradients

CACHE_ELEMENTS = 1 << 18
"""Elements of G that are worked on at once on a processor: a megabyte, so that all passes but the first hit the
second-level cache. Measured on one thread (7 million parameters, rank 16 on all linears) these passes were 2.7 % of
scoring time, at 1 << 16 3.3 %, and at 1 << 14, where calls cost more than work, 6.8 %."""

GPU_ELEMENTS = 1 << 27
"""The same on a GPU, where it bounds the memory of the one temporary."""


def influence(
    gradients: LoraGradients,
    items: Sequence[Encoded],
    directions: Mapping[str, torch.Tensor],
    rule: UpdateRule,
    *,
    cosine: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """⟨u_j, Γ(z)⟩ [N, J], over |Γ(z)| where `cosine`, and gradient norms [N], float64.

    `directions` holds u_j by parameter name, [J, parameter size]. Values are not finite where an item cannot be
    scored.
    """
    some = next(iter(directions.values()))
    sums = torch.zeros(len(items), some.shape[0] + 2, dtype=torch.float64)
    limit = CACHE_ELEMENTS if gradients.device.type == "cpu" else GPU_ELEMENTS
    part: dict[tuple[int, ...], torch.Tensor] = {}
    batch: list[torch.Tensor] = []

    def visit(indices: Sequence[int], name: str, g: torch.Tensor) -> None:
        if not batch:
            batch.append(torch.zeros(len(indices), sums.shape[1], dtype=torch.float64, device=g.device))
        target = directions[name]
        shape = g.shape[1:]
        step = max(1, limit // shape.numel())
        for at in range(0, len(indices), step):
            piece = g[at : at + step]
            key = tuple(piece.shape)
            if key not in part and not rule.plain and rule.curve:
                part[key] = torch.empty(key, device=g.device)
            rows = batch[0][at : at + step]
            rows[:, -2] += torch.linalg.vector_norm(piece, dim=(1, 2)).double().square_()
            gamma = rule.apply_(piece, name, part.get(key)).flatten(1)
            rows[:, -1] += torch.linalg.vector_norm(gamma, dim=1).double().square_()
            rows[:, :-2] += gamma @ target.T
        seen[0] += 1
        if seen[0] == len(gradients.modules):
            sums[list(indices)] = batch.pop().cpu()
            seen[0] = 0

    seen = [0]
    gradients.stream(items, None, visit)
    dots, squares, norms = sums[:, :-2], sums[:, -1], sums[:, -2]
    return dots / squares.sqrt().unsqueeze(1) if cosine else dots, norms.sqrt()
