"""A LESS-style scoring loop, as the method was published: what one-at-a-time scoring with random projections costs.

From the paper and its description (arXiv 2402.04333, §3 and App. B): samples one by one, Γ of the whole flattened
gradient, a Rademacher projection to 8192 dimensions for 16 samples at a time, rows normalised, one matrix product with
the validation rows. The projection is drawn anew for every group of 16 in blocks, as the portable projector does, since
all of it at once would not fit: P × 8192 numbers. Its time is counted apart, so that nobody has to take it on trust.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.bench.oracle import gradient
from harness.training.adam_state import AdamState
from harness.training.chat import Encoded
from methods.signals.influence.settings import InfluenceSettings

DIMENSIONS = 8192
GROUP = 16
BLOCK = 1 << 24
"""Random numbers that are held at a time."""


@dataclass(frozen=True)
class LessScores:
    """Scores [N], and the seconds of the loop with and without its projections."""

    scores: torch.Tensor
    seconds: float
    seconds_without_projection: float


class LessLoop:
    """Scores samples of a model with LoRA weights that require gradients, against validation rows made at the start."""

    def __init__(
        self, model: Any, validation: Sequence[Encoded], state: AdamState | None, settings: InfluenceSettings
    ) -> None:
        self.model, self.settings = model, settings
        self.device = next(model.parameters()).device
        names = sorted(n for n, p in model.named_parameters() if p.requires_grad)
        self.state = state
        self.moments = [
            torch.cat([moment[n].flatten() for n in names]) for moment in ((state.first, state.second) if state else ())
        ]
        self.names = names
        rows = [self._rows(validation[i : i + GROUP], plain=True)[0] for i in range(0, len(validation), GROUP)]
        self.validation = torch.cat(rows)

    def score(self, items: Sequence[Encoded]) -> LessScores:
        """The mean over validation items of the cosine of the projected vectors, for every sample."""
        started = time.perf_counter()
        projecting = 0.0
        rows = []
        for i in range(0, len(items), GROUP):
            part, spent = self._rows(items[i : i + GROUP], plain=self.settings.update == "sgd")
            rows.append(part)
            projecting += spent
        scores = (torch.cat(rows) @ self.validation.T).mean(dim=1).cpu()
        seconds = time.perf_counter() - started
        return LessScores(scores, seconds, seconds - projecting)

    def _rows(self, items: Sequence[Encoded], *, plain: bool) -> tuple[torch.Tensor, float]:
        """Projected unit rows [len(items), 8192] of a group, and the seconds that projecting took."""
        vectors = []
        for item in items:
            g = gradient(self.model, item)
            flat = torch.cat([g[n].flatten() for n in self.names])
            vectors.append(flat if plain else self._gamma(flat))
        group = torch.stack(vectors)
        self._wait()
        started = time.perf_counter()
        projected = self._project(group)
        self._wait()
        spent = time.perf_counter() - started
        return projected / projected.norm(dim=1, keepdim=True), spent

    def _gamma(self, g: torch.Tensor) -> torch.Tensor:
        if self.state is None:
            return g
        (m, v), state, s = self.moments, self.state, self.settings
        top = state.beta1 * m + (1 - state.beta1) * g if s.momentum else (1 - state.beta1) * g
        bottom = state.beta2 * v + (1 - state.beta2) * g * g if s.own_second_moment else v
        if s.bias_correction:
            top = top / (1 - state.beta1 ** (state.step + 1))
            bottom = bottom / (1 - state.beta2 ** (state.step + int(s.own_second_moment)))
        return top / ((bottom + s.eps).sqrt() if s.eps_mode == "inside" else bottom.sqrt() + s.eps)

    def _project(self, group: torch.Tensor) -> torch.Tensor:
        """[n, P] x ±1 [P, 8192]: the same matrix for every group, from one seed."""
        draw = _Signs(self.device)
        step = max(1, BLOCK // DIMENSIONS)
        total = torch.zeros(len(group), DIMENSIONS, device=self.device)
        for at in range(0, group.shape[1], step):
            part = group[:, at : at + step]
            total += part @ draw(part.shape[1])
        return total

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class _Signs:
    """Rows of random signs [n, 8192], float32, the same sequence for every instance; by the fastest means at hand."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bits = np.random.default_rng(0)
        self.generator = torch.Generator(device).manual_seed(0)

    def __call__(self, rows: int) -> torch.Tensor:
        if self.device.type == "cpu":
            packed = np.frombuffer(self.bits.bytes(rows * DIMENSIONS // 8), dtype=np.uint8)
            signs = torch.from_numpy(np.unpackbits(packed)).view(rows, DIMENSIONS)
        else:
            signs = torch.randint(
                0, 2, (rows, DIMENSIONS), generator=self.generator, device=self.device, dtype=torch.uint8
            )
        return signs.float().mul_(2.0).sub_(1.0)
