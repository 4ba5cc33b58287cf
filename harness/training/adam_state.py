"""Adam's moments of a LoRA warm-up, ours or another trainer's, by parameter name.

Optimizers key their state by position; a position says nothing once a library reorders its groups, so the moments
are named when they are saved, and checked by name, shape, number and value when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import StageError
from harness.training.adam_files import bare_parameter_name, find_moments, read_moments

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
    """Save `exp_avg` and `exp_avg_sq` of every trainable parameter, in float32, with step, betas, ε and peak rate."""
    inner = getattr(optimizer, "optimizer", optimizer)
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    first, second = {}, {}
    steps: set[int] = set()
    group = inner.param_groups[0]
    for parameter, state in inner.state.items():
        name = names.pop(id(parameter))
        first[name], second[name] = state["exp_avg"], state["exp_avg_sq"]
        steps.add(int(state["step"]))
    if names or len(steps) != 1:
        raise StageError(f"the warm-up's optimizer holds no state for {len(names)} parameters; did it take a step?")
    beta1, beta2 = group["betas"]
    # The peak: a schedule has usually taken the rate itself to zero by the end.
    rate = float(group.get("initial_lr", group["lr"]))
    write_adam_state(
        path,
        AdamState(
            first=first, second=second, step=steps.pop(), beta1=beta1, beta2=beta2, eps=group["eps"], learning_rate=rate
        ),
    )


def write_adam_state(path: Path, state: AdamState) -> None:
    """Write moments to a safetensors file that `load_adam_state` reads by name."""
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for kind, moments in (("first", state.first), ("second", state.second)):
        tensors |= {f"{kind}.{name}": tensor.float().contiguous().cpu() for name, tensor in moments.items()}
    facts = {"step": state.step, "beta1": state.beta1, "beta2": state.beta2, "eps": state.eps}
    if state.learning_rate is not None:
        facts["learning_rate"] = state.learning_rate
    save_file(tensors, path, metadata={key: str(value) for key, value in facts.items()})


def load_adam_state(path: Path, modules: Mapping[str, Any], where: Path) -> AdamState:
    """Read the moments for `modules` (name to linear, or to parameter, in the model's order) of the adapter at `where`.

    `path` is a file or a checkpoint folder (`harness.training.adam_files` says which). Raises `InputError` for a file
    that cannot be mapped, and `StageError` where names, shapes or values are not exactly such an adapter's.
    """
    if not path.exists():
        raise StageError(f"there are no Adam moments at {path}; delete the warm-up stage's folder and resume")
    found = read_moments(find_moments(path), list(modules))
    first, second = _by_plain_name(path, found.first), _by_plain_name(path, found.second)
    matched: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, module in modules.items():
        plain = bare_parameter_name(name)
        if plain not in first or plain not in second:
            raise StageError(f"{path} holds no Adam moments for {name}; they belong to another adapter than {where}")
        weight = getattr(module, "weight", module)
        pair = first.pop(plain), second.pop(plain)
        for moment in pair:
            if moment.shape != weight.shape:
                raise StageError(
                    f"{path}: moments of {name} have shape {tuple(moment.shape)}, the adapter's have "
                    f"{tuple(weight.shape)}; they belong to another adapter than {where}"
                )
        matched[name] = pair[0].to(weight.device), pair[1].to(weight.device)
    if first:
        raise StageError(
            f"{path} holds Adam moments for {len(first)} more parameters than the adapter at {where} has (for "
            f"example {min(first)}); they belong to another adapter"
        )
    state = AdamState(
        first={name: pair[0] for name, pair in matched.items()},
        second={name: pair[1] for name, pair in matched.items()},
        step=found.step,
        beta1=found.beta1,
        beta2=found.beta2,
        eps=found.eps,
        learning_rate=found.learning_rate,
    )
    _check_values(path, state)
    return state


def _by_plain_name(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    plain = {bare_parameter_name(name): tensor for name, tensor in tensors.items()}
    if len(plain) != len(tensors):
        raise StageError(f"{path} holds Adam moments of several adapters; save the state of one")
    return plain


def _check_values(path: Path, state: AdamState) -> None:
    """Refuse moments that Adam cannot have left.

    By Cauchy and Schwarz |m| ≤ √v · (1 − β1) · √(Σ_{k<t} (β1²/β2)^k / (1 − β2)), element by element; moments whose
    squares were rounded to zero, or that other betas made, do not keep to it.
    """
    if not (0.0 <= state.beta1 < 1.0 and 0.0 <= state.beta2 < 1.0 and state.step >= 1):
        raise StageError(f"{path}: step {state.step} and betas {state.beta1}, {state.beta2} are not Adam's")
    ratio = state.beta1**2 / state.beta2 if state.beta2 else 0.0
    terms = state.step if ratio == 1.0 else (1.0 - ratio**state.step) / (1.0 - ratio)
    bound = (1.0 - state.beta1) * (terms / (1.0 - state.beta2)) ** 0.5
    for name, m in state.first.items():
        v = state.second[name]
        if not bool(m.isfinite().all() and v.isfinite().all()):
            raise StageError(f"{path}: moments of {name} are not finite; the warm-up has diverged")
        if bool((v < 0).any()):
            raise StageError(f"{path}: exp_avg_sq of {name} has negative values; it is no mean of squares")
        # Two percent for moments stored in 16 bits; the constant for squares below the smallest float.
        if bool((m.abs() > 1.02 * bound * v.sqrt() + 1e-17).any()):
            raise StageError(
                f"{path}: exp_avg of {name} is larger than Adam can make it beside this exp_avg_sq; the squares were "
                "rounded away in 16 bits, or the moments were made under other betas"
            )
