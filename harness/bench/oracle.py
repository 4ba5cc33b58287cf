"""Influence by its definition, one sample and one gradient at a time: what the engine is measured against.

Written apart from the engine: the loss is the model's own, the gradient autograd's, Adam is spelled out, and the
cosines are taken pair by pair. Slow, and nowhere in the product's path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from harness.training.adam_state import AdamState
from harness.training.chat import Encoded
from methods.signals.influence.settings import InfluenceSettings

Gradient = Mapping[str, torch.Tensor]
"""A gradient or an update by parameter name."""


def loss_of(model: Any, item: Encoded) -> torch.Tensor:
    """The model's own loss on one unpadded sequence: the mean over its completion tokens."""
    ids = torch.tensor([item.ids], device=next(model.parameters()).device)
    labels = ids.clone()
    labels[:, : item.prompt_length] = -100
    loss: torch.Tensor = model(input_ids=ids, labels=labels, use_cache=False).loss
    return loss


def gradient(model: Any, item: Encoded) -> Gradient:
    """Autograd's gradient of one sample with respect to every trainable parameter, float32."""
    model.eval()
    model.zero_grad()
    loss_of(model, item).backward()
    return {name: p.grad.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad}


def adam_direction(g: Gradient, state: AdamState, options: InfluenceSettings) -> dict[str, torch.Tensor]:
    """m̂' / (√v̂' + ε) and its variants, in float64 (OptimSyn App. B; LESS §3)."""
    direction = {}
    for name, value in g.items():
        own, m, v = value.double(), state.first[name].double(), state.second[name].double()
        top = state.beta1 * m + (1 - state.beta1) * own if options.momentum else (1 - state.beta1) * own
        bottom = state.beta2 * v + (1 - state.beta2) * own**2 if options.own_second_moment else v.clone()
        if options.bias_correction:
            seen = state.step + 1 if options.own_second_moment else state.step
            top, bottom = top / (1 - state.beta1 ** (state.step + 1)), bottom / (1 - state.beta2**seen)
        root = torch.sqrt(bottom + options.eps) if options.eps_mode == "inside" else torch.sqrt(bottom) + options.eps
        direction[name] = top / root
    return direction


def flat(vector: Gradient) -> torch.Tensor:
    """One vector, float64, parameters in order of name."""
    return torch.cat([vector[name].double().flatten() for name in sorted(vector)])


def scores(
    candidates: Sequence[Gradient],
    validation: Sequence[Gradient],
    state: AdamState | None,
    options: InfluenceSettings,
    subtasks: Sequence[str] | None = None,
) -> list[float]:
    """The influence of every candidate, pair by pair; `subtasks` names each validation item's group."""
    return [
        _score(flat(g if state is None or options.update == "sgd" else adam_direction(g, state, options)), targets)
        for targets in [_targets(validation, options, subtasks)]
        for g in candidates
    ]


def _targets(
    validation: Sequence[Gradient], options: InfluenceSettings, subtasks: Sequence[str] | None
) -> list[list[tuple[torch.Tensor, bool]]]:
    """Validation vectors by subtask, and whether their products are divided by both lengths."""
    vectors = [flat(g) for g in validation]
    if options.aggregate == "cosine_of_mean":
        return [[(torch.stack(vectors).mean(dim=0), True)]]
    if options.aggregate == "max_subtask" and subtasks is not None:
        return [
            [(v, True) for v, s in zip(vectors, subtasks, strict=True) if s == name] for name in sorted(set(subtasks))
        ]
    return [[(v, options.aggregate != "mean_dot") for v in vectors]]


def _score(update: torch.Tensor, targets: Sequence[Sequence[tuple[torch.Tensor, bool]]]) -> float:
    means = []
    for group in targets:
        values = []
        for target, cosine in group:
            dot = float(target @ update)
            if cosine:
                dot /= math.sqrt(float(target @ target)) * math.sqrt(float(update @ update))
            values.append(dot)
        means.append(sum(values) / len(values))
    return max(means)
