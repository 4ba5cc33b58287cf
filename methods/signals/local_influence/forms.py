"""The two forms of local data influence at one checkpoint, on the same gradients and the same step.

With θ the warm adapter, Δ(z) the one AdamW step on sample z and L_ref the mean over reference items of each one's mean
loss per completion token (Montessori-Instruct, local data influence):

    exact          I(z) = L_ref(θ) − L_ref(θ + Δ(z))
    first order    I(z) ≈ −⟨∇L_ref(θ), Δ(z)⟩

The published code averages the reference loss over batches of 8 and multiplies a sample's gradient by one over the
number of processes; here an item counts the same wherever it is, and the gradient is the sample's own. Exact costs a
forward pass over the whole reference set for every candidate, first order one product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from harness.errors import StageError
from harness.training.chat import Encoded
from methods.signals.local_influence.step import adam_step
from methods.signals.local_influence.warm import WarmPoint
from methods.signals.target.engine import Visit
from methods.signals.target.losses import ReferenceLoss
from methods.signals.target.warm import put

STACK_BYTES = 2**30
"""Memory for the stepped adapters of one chunk of candidates; one is always held."""

TOLERANCE = 1e-5
"""Largest difference between a stacked and a plain reference loss, relative to the loss, that passes the self-check.

Measured on float32 models it is below 1e-6; a module that a stack does not reach gives 1e-3 and more.
"""


NOISE_STEP = 1e-6
"""Size of the disturbances that rounding is measured under: far above float32's, far below what curvature shows at."""

NOISE_DRAWS = 8
"""Disturbances that rounding is measured under; its deviation is then known to a quarter."""


class Gradients(Protocol):
    """Per-sample gradients: the influence engine's, or `OneByOne`."""

    @property
    def modules(self) -> Mapping[str, Any]:
        """Trained linears, or parameters, by parameter name."""

    def stream(self, items: Sequence[Encoded], weights: Sequence[float] | None, visit: Visit) -> None:
        """As `LoraGradients.stream`."""


def mean_gradient(gradients: Gradients, items: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """∇L_ref by parameter name: the mean over `items` of each one's gradient."""
    total: dict[str, torch.Tensor] = {}

    def visit(indices: Sequence[int], name: str, g: torch.Tensor) -> None:
        total[name] = total.get(name, 0.0) + g.sum(dim=0)

    gradients.stream(items, [1.0 / len(items)] * len(items), visit)
    return total


def first_order(
    gradients: Gradients, items: Sequence[Encoded], point: WarmPoint, directions: Sequence[Mapping[str, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """−⟨∇L_ref, Δ⟩ for every candidate and reference set [N, sets], and gradient norms [N]; float64."""
    values = torch.zeros(len(items), len(directions), dtype=torch.float64)
    squares = torch.zeros(len(items), dtype=torch.float64)

    def visit(indices: Sequence[int], name: str, g: torch.Tensor) -> None:
        rows = list(indices)
        squares[rows] += g.flatten(1).square().sum(dim=1).double().cpu()
        step = adam_step(point.state, name, g, point.learning_rate).flatten(1)
        target = torch.stack([d[name].flatten() for d in directions], dim=1)
        values[rows] -= (step @ target).double().cpu()

    gradients.stream(items, None, visit)
    return values, squares.sqrt()


class ExactProbe:
    """Reference losses after one step on each candidate, many candidates in a forward pass where that is exact.

    `stacked=False` puts one stepped adapter after the other into the model instead.
    """

    def __init__(
        self, gradients: Gradients, reference: ReferenceLoss, items: Sequence[Encoded], *, stacked: bool
    ) -> None:
        self.gradients, self.reference, self.items, self.stacked = gradients, reference, items, stacked
        tokens = sum(len(item.ids) for item in items)
        self.copies = max(1, reference.tokens // tokens) if stacked else 1

    def chunk(self, point: WarmPoint, most: int) -> int:
        """The number of candidates whose stepped adapters are held at a time."""
        size = 4 * sum(w.numel() for w in point.adapter.values())
        return max(1, min(most, STACK_BYTES // size))

    def losses(self, adapters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Losses of all reference items under each of K adapters, [K, N], float64."""
        count = next(iter(adapters.values())).shape[0]
        if self.stacked:
            slices = [{n: a[i : i + self.copies] for n, a in adapters.items()} for i in range(0, count, self.copies)]
            return torch.cat([self.reference.stacked(self.items, self.gradients.modules, part) for part in slices])
        rows = []
        for k in range(count):
            put({n: a[k] for n, a in adapters.items()}, self.gradients.modules)
            rows.append(self.reference.plain(self.items))
        return torch.stack(rows)

    def before(self, point: WarmPoint) -> torch.Tensor:
        """Losses [N] of the reference items at the checkpoint, from the same batch layout as the losses after."""
        copies = self.copies
        return self.losses({n: w[None].expand(copies, *w.shape) for n, w in point.adapter.items()})[0]

    def noise(self, point: WarmPoint, before: torch.Tensor) -> torch.Tensor:
        """The noise of rounding alone in the losses after a step, [`NOISE_DRAWS`, N], on the scale of `before` − after.

        The second difference L(θ + δ) + L(θ − δ) − 2 L(θ) for random δ of size `NOISE_STEP`, over the root of 3: in
        real numbers it is of second order in δ and vanishes beside rounding, while each of its losses is rounded anew.
        Of three independent errors of variance σ² it keeps (1 + 1 + 4) σ², of which a difference of two has a third.
        """
        generator = torch.Generator().manual_seed(0)
        total = torch.zeros(NOISE_DRAWS, len(self.items), dtype=torch.float64)
        for draw in range(NOISE_DRAWS):
            steps = {n: NOISE_STEP * _signs(w, generator) for n, w in sorted(point.adapter.items())}
            both = {n: torch.stack([point.adapter[n] + step, point.adapter[n] - step]) for n, step in steps.items()}
            total[draw] = self.losses(both).sum(dim=0)
        if not self.stacked:
            put(point.adapter, self.gradients.modules)
        return (total - 2 * before) / 3**0.5

    def after(self, items: Sequence[Encoded], point: WarmPoint) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses [K, N] of the reference items after one step on each of the candidates, and gradient norms [K]."""
        stepped = {n: torch.empty(len(items), *w.shape, device=w.device) for n, w in point.adapter.items()}
        squares = torch.zeros(len(items), dtype=torch.float64)

        def visit(indices: Sequence[int], name: str, g: torch.Tensor) -> None:
            rows = list(indices)
            squares[rows] += g.flatten(1).square().sum(dim=1).double().cpu()
            stepped[name][rows] = point.adapter[name] + adam_step(point.state, name, g, point.learning_rate)

        self.gradients.stream(items, None, visit)
        losses = self.losses(stepped)
        if not self.stacked:
            put(point.adapter, self.gradients.modules)
        return losses, squares.sqrt()


def check_stacking(gradients: Gradients, reference: ReferenceLoss, items: Sequence[Encoded], point: WarmPoint) -> float:
    """Largest relative difference between stacked and plain losses of a few items under three different adapters.

    Raises `StageError` where it exceeds `TOLERANCE`: some module then takes part in the forward pass in a way that a
    stack does not reproduce. Leaves `point`'s adapter in the model.
    """
    generator = torch.Generator().manual_seed(0)
    few = list(items)[:3]
    adapters = {
        n: torch.stack([w, *(w + _noise(w, generator) for _ in range(2))]) for n, w in sorted(point.adapter.items())
    }
    stacked = reference.stacked(few, gradients.modules, adapters)
    plain = []
    for k in range(3):
        put({n: a[k] for n, a in adapters.items()}, gradients.modules)
        plain.append(reference.plain(few))
    put(point.adapter, gradients.modules)
    worst = float(((stacked - torch.stack(plain)).abs() / torch.stack(plain).abs()).max())
    if not worst <= TOLERANCE:
        raise StageError(f"reference losses under stacked adapters are off by {worst:.1e} of the loss")
    return worst


def _signs(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A tensor like `weight` of −1 and 1, drawn evenly."""
    return (torch.randint(0, 2, weight.shape, generator=generator) * 2.0 - 1.0).to(weight.device)


def _noise(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A disturbance that moves the loss far more than rounding does."""
    size = 0.1 * float(weight.square().mean().sqrt()) + 0.01
    return size * torch.randn(weight.shape, generator=generator).to(weight.device)
