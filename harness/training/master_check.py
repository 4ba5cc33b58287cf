"""Check that what is trained is kept in float32, measured on the trainer itself; and whether training moved it.

At a rate of 1e-6 a bfloat16 weight does not move: a step has to be half the distance to the next number, 2^-9 of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from harness.training.checks import Check

MASTER, MOMENTS = "float32 master", "float32 moments"
_REMEDY = "load the model in float32 and compute in bfloat16 by autocast, or train an adapter"


def check_master(trainer: Any) -> list[Check]:
    """The types of the trained weights, and of the moments that the trainer's optimizer keeps of them.

    `measured` is the share of numbers that are kept in another type than float32. An optimizer that has not stepped yet
    is tried on one number of each weight's type. DeepSpeed keeps its float32 weights where they cannot be seen.
    """
    if trainer.is_deepspeed_enabled:
        return [
            Check(
                name=name, status="skipped", measured=None, limit=None, detail="DeepSpeed keeps its own float32 weights"
            )
            for name in _names()
        ]
    weights = list(_trained(trainer))
    own = Counter[str]()
    for weight in weights:
        own[_name(weight.dtype)] += weight.numel()
    computed = "bfloat16" if trainer.args.bf16 else "/".join(own) or "float32"
    detail = f"{sum(own.values()):,} trained weights in {_listed(own)}, computed in {computed}"
    return [_judged(MASTER, own, detail), _moments(trainer, weights)]


def weights_checksum(trainer: Any) -> tuple[int, ...]:
    """A sum of every trained tensor's bits (this process's part); equal sums mean that nothing has moved."""
    import torch

    sums = []
    for weight in _trained(trainer):
        whole = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[weight.element_size()]
        sums.append(int(weight.contiguous().view(whole).sum(dtype=torch.int64)))
    return tuple(sums)


def _names() -> tuple[str, str]:
    return MASTER, MOMENTS


def _trained(trainer: Any) -> Iterator[Any]:
    """The tensors that the optimizer changes, of a sharded one this process's part."""
    for weight in trainer.model_wrapped.parameters():
        if weight.requires_grad:
            whole = weight.detach()
            yield whole.to_local() if hasattr(whole, "to_local") else whole


def _moments(trainer: Any, weights: list[Any]) -> Check:
    """The types of Adam's moments, from its state, or from a step on one number of each type."""
    import torch

    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    if optimizer is None:
        return Check(
            name=MOMENTS, status="skipped", measured=None, limit=None, detail="the trainer has no optimizer yet"
        )
    states = [state for state in optimizer.state.values() if "exp_avg" in state]
    if not states:
        sizes = Counter[Any]()
        for weight in weights:
            sizes[weight.dtype] += weight.numel()
        trial = [torch.nn.Parameter(torch.ones(1, dtype=dtype, device=weights[0].device)) for dtype in sizes]
        for one in trial:
            one.grad = torch.ones_like(one)
        stepped = type(optimizer)(trial, **{k: v for k, v in optimizer.defaults.items() if k in ("lr", "betas", "eps")})
        stepped.step()
        states = [stepped.state[one] for one in trial]
    own = Counter[str]()
    for state in states:
        for name in ("exp_avg", "exp_avg_sq"):
            own[_name(state[name].dtype)] += state[name].numel()
    return _judged(MOMENTS, own, f"{type(optimizer).__name__}'s moments in {_listed(own)}")


def _judged(name: str, own: Counter[str], detail: str) -> Check:
    total = sum(own.values())
    share = 1.0 - own["float32"] / total if total else 0.0
    return Check(
        name=name, status="passed" if share == 0 else "failed", measured=share, limit=0.0, detail=detail, remedy=_REMEDY
    )


def _listed(own: Counter[str]) -> str:
    return " and ".join(sorted(name for name, count in own.items() if count)) or "float32"


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
