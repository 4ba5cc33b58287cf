"""Adam's moments of a LoRA warm-up, saved and read back by parameter name.

Optimizers key their state by position; a position says nothing once a library reorders its groups, so the moments
are named when they are saved and checked by name and shape when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import StageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AdamState:
    """Adam's moments by parameter name (shapes of the parameters, float32), the step count t, the betas and ε.

    `learning_rate` is the peak of the trainer's schedule; None where the file does not say.
    """

    first: Mapping[str, torch.Tensor]
    second: Mapping[str, torch.Tensor]
    step: int
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    learning_rate: float | None = None


def save_adam_state(path: Path, model: Any, optimizer: Any) -> None:
    """Save `exp_avg` and `exp_avg_sq` of every trainable parameter, in float32, with step and betas."""
    from safetensors.torch import save_file

    inner = getattr(optimizer, "optimizer", optimizer)
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    tensors: dict[str, torch.Tensor] = {}
    steps: set[int] = set()
    group = inner.param_groups[0]
    for parameter, state in inner.state.items():
        name = names.pop(id(parameter))
        tensors[f"first.{name}"] = state["exp_avg"].float().contiguous().cpu()
        tensors[f"second.{name}"] = state["exp_avg_sq"].float().contiguous().cpu()
        steps.add(int(state["step"]))
    if names or len(steps) != 1:
        raise StageError(f"the warm-up's optimizer holds no state for {len(names)} parameters; did it take a step?")
    facts = {
        "step": steps.pop(),
        "beta1": group["betas"][0],
        "beta2": group["betas"][1],
        "eps": group["eps"],
        # The peak: a schedule has usually taken the rate itself to zero by the end.
        "learning_rate": group.get("initial_lr", group["lr"]),
    }
    save_file(tensors, path, metadata={key: str(value) for key, value in facts.items()})


def load_adam_state(path: Path, modules: Mapping[str, Any], where: Path) -> AdamState:
    """Read the moments for the LoRA matrices `modules` (name to linear) of the adapter at `where`.

    Raises `StageError` where there are none, or where names or shapes are not exactly the adapter's.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise StageError(f"there are no Adam moments at {path}; delete the warm-up stage's folder and resume")
    first, second = {}, {}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        keys = set(file.keys())
        for name, module in modules.items():
            plain = name.replace(".default.", ".")
            found = next((n for n in (name, plain) if f"first.{n}" in keys), None)
            if found is None:
                raise StageError(
                    f"{path} holds no Adam moments for {name}; they belong to another adapter than {where}"
                )
            first[name], second[name] = file.get_tensor(f"first.{found}"), file.get_tensor(f"second.{found}")
            keys -= {f"first.{found}", f"second.{found}"}
            weight = getattr(module, "weight", module)
            shape = tuple(weight.shape)
            if tuple(first[name].shape) != shape or tuple(second[name].shape) != shape:
                raise StageError(
                    f"{path}: moments of {name} have shape {tuple(first[name].shape)}, the adapter's have {shape}; "
                    f"they belong to another adapter than {where}"
                )
            first[name], second[name] = first[name].to(weight.device), second[name].to(weight.device)
    if keys:
        raise StageError(
            f"{path} holds Adam moments for {len(keys) // 2} more parameters than the adapter at {where} has (for "
            f"example {min(keys)}); they belong to another adapter"
        )
    rate = metadata.get("learning_rate")
    return AdamState(
        first,
        second,
        int(metadata["step"]),
        float(metadata["beta1"]),
        float(metadata["beta2"]),
        float(metadata.get("eps", 1e-8)),
        float(rate) if rate else None,
    )
