"""Checks of the engine against autograd, on this model and this machine, before anything is scored with it.

Every way in which per-sample gradients go wrong unnoticed changes a gradient by as much as it is long: an adapter that
hooks see in part, dropout that stays on, padding that leaks into attention, a type that under-flows. A few validation
items show it in seconds. The limits lie far above rounding and far below such faults.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from harness.estimate import gigabytes
from harness.training.batches import Layout
from harness.training.chat import Encoded
from harness.training.checks import Check, Status, judge
from harness.training.layouts import NOISE, check_layout
from methods.signals.target.base import REMEDY
from methods.signals.target.engine import LoraGradients, gradient_norms
from methods.signals.target.warm import WarmTarget

ITEMS = 4
"""Items that are compared; each costs a few passes."""

LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest |difference| / |gradient| between hooks and autograd on the same sequence. Seen on lab models: 1e-6 in
float32. bfloat16 rounds to 2⁻⁸ in every product."""

FLOOR = {torch.float32: 1e-4, torch.bfloat16: 2**-7}
"""|difference| / |gradient| by which a batch may differ from its items alone where shapes alone change nothing."""

TYPE_LIMIT = 0.3
"""Largest |difference| / |gradient| between the compute type and float32: a cosine of about 0.95."""


def self_check(warm: WarmTarget, items: Sequence[Encoded]) -> list[Check]:
    """Run all checks at the first checkpoint on up to `ITEMS` of `items`, of different lengths."""
    chosen = _spread(items)
    checks = [*engine_checks(warm.gradients, items), _against_float32(warm, chosen)]
    usable = sum(0.0 < n < float("inf") for n in gradient_norms(warm.gradients, chosen).tolist())
    status: Status = "passed" if usable else "failed"
    return [
        *checks,
        Check(
            name="gradients not zero",
            status=status,
            measured=None,
            limit=None,
            detail=f"{usable} of {len(chosen)} items",
            remedy=REMEDY,
        ),
    ]


def engine_checks(gradients: LoraGradients, items: Sequence[Encoded]) -> list[Check]:
    """Whether hooks and batches give autograd's gradients: the part that holds for any use of the engine."""
    chosen = _spread(items)
    limit = LIMITS.get(next(gradients.model.parameters()).dtype, LIMITS[torch.bfloat16])
    covered = f"{len(gradients.modules)} LoRA matrices, exactly the trained parameters"
    checks = [
        Check(name="hook coverage", status="passed", measured=None, limit=None, detail=covered),
        check_layout(gradients.model, gradients.scoring.layout, REMEDY),
    ]
    worst = max(
        distance(item_gradients(gradients, [item])[0], autograd(gradients.model, gradients, item)) for item in chosen
    )
    detail = f"{len(chosen)} items, one by one"
    checks.append(_judge("hooks against autograd", worst, limit, detail))
    checks.append(_alone_against_batched(gradients, chosen))
    return checks


def _alone_against_batched(gradients: LoraGradients, chosen: Sequence[Encoded]) -> Check:
    """Gradients from one batch against those one by one, both in the model's type.

    What a twin changes, beside which nothing is padded and nothing can leak unnoticed, is the noise of that type.
    """
    together = item_gradients(gradients, chosen)
    worst = noise = 0.0
    for item, got in zip(chosen, together, strict=True):
        alone = item_gradients(gradients, [item])[0]
        worst = max(worst, distance(got, alone))
        noise = max(noise, distance(item_gradients(gradients, [item, item], "right")[0], alone))
    dtype = next(gradients.model.parameters()).dtype
    limit = max(NOISE * noise, FLOOR.get(dtype, FLOOR[torch.bfloat16]))
    width = max(len(item.ids) for item in chosen)
    detail = f"{len(chosen)} items in one batch, {gradients.scoring.layout}, of {width} tokens at most"
    return _judge("alone against batched", worst, limit, detail)


def item_gradients(
    gradients: LoraGradients, items: Sequence[Encoded], layout: Layout | None = None
) -> list[dict[str, torch.Tensor]]:
    """The gradient of every item, whole, by parameter name; in another layout than the settings' where one is given."""
    found: list[dict[str, torch.Tensor]] = [{} for _ in items]

    def visit(indices: Sequence[int], name: str, g: torch.Tensor) -> None:
        for row, index in enumerate(indices):
            found[index][name] = g[row].clone()

    gradients.stream(items, None, visit, layout)
    return found


def autograd(model: Any, gradients: LoraGradients, item: Encoded) -> dict[str, torch.Tensor]:
    """The same gradient by the model's own loss on one sequence, and autograd."""
    weights = {name: module.weight for name, module in gradients.modules.items()}
    ids = torch.tensor([item.ids], device=gradients.device)
    labels = ids.clone()
    labels[:, : item.prompt_length] = -100
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        taken = torch.autograd.grad(loss, list(weights.values()))
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
    return {name: g.detach().float() for name, g in zip(weights, taken, strict=True)}


def norm(gradient: Mapping[str, torch.Tensor]) -> float:
    """|g| over all parameters."""
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradient.values()))


def distance(got: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> float:
    """|got − wanted| / |wanted|; 0 where both are zero, infinite where one is not finite."""
    length = norm(wanted)
    apart = norm({name: got[name] - g for name, g in wanted.items()})
    if length == 0.0:
        return 0.0 if apart == 0.0 else float("inf")
    return apart / length if apart == apart else float("inf")


def _judge(name: str, measured: float, limit: float, detail: str) -> Check:
    return judge(name, measured, limit, detail, REMEDY)


def made_up(model: Any) -> list[Encoded]:
    """Three sequences of chance tokens of different lengths, for signals that are given no validation items."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    draw = torch.Generator().manual_seed(0)
    return [Encoded(tuple(torch.randint(0, vocabulary, (n,), generator=draw).tolist()), 3) for n in (6, 14, 9)]


def _spread(items: Sequence[Encoded]) -> list[Encoded]:
    """Up to `ITEMS` items from the shortest to the longest."""
    ranked = sorted(items, key=lambda item: len(item.ids))
    count = min(ITEMS, len(ranked))
    return [ranked[round(i * (len(ranked) - 1) / max(1, count - 1))] for i in range(count)]


def _against_float32(warm: WarmTarget, chosen: Sequence[Encoded]) -> Check:
    name, dtype = "compute type vs float32", next(warm.model.parameters()).dtype
    if dtype == torch.float32:
        return Check(name=name, status="passed", measured=0.0, limit=TYPE_LIMIT, detail="computed in float32")
    need, free = warm.float32_bytes(), _free_memory(warm.gradients.device)
    if need > 0.9 * free:
        return Check(
            name=name,
            status="skipped",
            measured=None,
            limit=None,
            detail=f"float32 weights take {gigabytes(need)} more, {gigabytes(free)} are free",
        )
    narrow = item_gradients(warm.gradients, chosen)
    with warm.in_float32():
        wide = item_gradients(warm.gradients, chosen)
    worst = max(distance(n, w) for n, w in zip(narrow, wide, strict=True))
    return _judge(name, worst, TYPE_LIMIT, f"{str(dtype).removeprefix('torch.')}, {len(chosen)} items")


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
