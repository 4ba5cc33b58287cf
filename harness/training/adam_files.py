"""Adam's moments in the files that trainers leave: found, read safely, and brought to parameter names.

Four layouts are read: our own safetensors; a flattened optimizer state in safetensors; `optimizer.pt` of a Hugging Face
trainer, whose state is numbered in the order of its parameter groups (decayed parameters, then the others, each in the
model's order); and states keyed by name, as FSDP writes them. What cannot be mapped with certainty is refused: 8-bit
and sharded states, and optimizers that are not Adam. Files are loaded as tensors and plain values only, never as code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError

if TYPE_CHECKING:
    import torch

NAMES = ("adam.safetensors", "optimizer.pt", "optimizer.bin", "optimizer.safetensors")
"""Files with an optimizer's state in a checkpoint folder; the first one that is there is read."""

_SHARDS = ("*.distcp", "*/*.distcp", "*_optim_states.pt", "*/*_optim_states.pt", "optimizer_rank*.bin", "rank*-of-*-*")
_UNSHARD = "save it whole (FSDP: fsdp_state_dict_type FULL_STATE_DICT), or train the warm-up without DeepSpeed's ZeRO"
_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""Parameters that a Hugging Face trainer puts into its second group (transformers, `Trainer.get_decay_parameter_names`;
that layer norms are also told by their class makes no difference to adapter matrices)."""

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_ADAPTER = re.compile(r"\.(lora_[A-Za-z_]+)\.[^.]+\.weight$")


@dataclass(frozen=True)
class Moments:
    """Adam's state by the file's parameter names, float32, and the values of its first parameter group."""

    first: Mapping[str, torch.Tensor]
    second: Mapping[str, torch.Tensor]
    step: int
    beta1: float
    beta2: float
    eps: float
    learning_rate: float | None


def bare_parameter_name(name: str) -> str:
    """A parameter's name without wrappers, PEFT's prefix, and the adapter's own name (`.lora_A.default.weight`)."""
    name = _WRAPPERS.sub("", name).removeprefix("base_model.model.")
    return _ADAPTER.sub(r".\1.weight", name)


def find_moments(path: Path) -> Path:
    """The file with an optimizer's state at `path`, which is that file or a checkpoint folder.

    Raises `InputError` where there is none, or only shards of one.
    """
    if path.is_file():
        if any(path.match(pattern) for pattern in _SHARDS):
            raise InputError(f"{path} is one shard of an optimizer's state; {_UNSHARD}")
        return path
    found = next((path / name for name in NAMES if (path / name).is_file()), None)
    if found:
        return found
    shard = next((p for pattern in _SHARDS for p in sorted(path.glob(pattern))), None)
    if shard:
        raise InputError(
            f"the optimizer's state at {path} is sharded ({shard.relative_to(path)} and others); {_UNSHARD}"
        )
    if not path.exists():
        raise InputError(f"there are no Adam moments at {path}: no such file or folder")
    raise InputError(
        f"there are no Adam moments at {path}: none of {', '.join(NAMES)}; train with save_only_model=False"
    )


def read_moments(path: Path, trained: Sequence[str]) -> Moments:
    """Adam's state in a file that `find_moments` found; `trained` are the parameters' names in the model's order.

    The order is only used where the file numbers its parameters. Raises `InputError` for what cannot be mapped.
    """
    if path.suffix == ".safetensors":
        return _from_safetensors(path)
    content = _load(path)
    states, groups = content["state"], content["param_groups"]
    if not states:
        raise InputError(f"{path} holds the state of no parameter; it was saved before the first step")
    for entry in states.values():
        _require_adam(path, entry, groups[0])
    if all(isinstance(key, int) for key in states):
        names = _positions(path, groups, trained)
        unknown = sorted(set(states) - set(names))
        if unknown:
            raise InputError(f"{path} has a state for parameter {unknown[0]}, which is in none of its groups")
        states = {names[key]: entry for key, entry in states.items()}
    group = groups[0]
    return Moments(
        first={name: entry["exp_avg"].float() for name, entry in states.items()},
        second={name: entry["exp_avg_sq"].float() for name, entry in states.items()},
        step=_steps(path, [entry.get("step", group.get("step")) for entry in states.values()]),
        beta1=float(group["betas"][0]),
        beta2=float(group["betas"][1]),
        eps=float(group["eps"]),
        learning_rate=float(group.get("initial_lr", group["lr"])),
    )


def _load(path: Path) -> dict[str, Any]:
    """The content of a torch file, as tensors and plain values; a state dict or an `InputError`."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise a dozen kinds for files that are not what they seem
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path} cannot be read as tensors and plain values ({reason[0][:120]}); save the optimizer's own "
            "state_dict() with torch.save"
        ) from None
    whole = isinstance(content, dict) and isinstance(content.get("state"), dict) and content.get("param_groups")
    if not whole:
        raise InputError(f"{path} is no optimizer's state_dict: it has no 'state' with 'param_groups'")
    return dict(content)


def _require_adam(path: Path, entry: Mapping[str, Any], group: Mapping[str, Any]) -> None:
    """Refuse the state of anything but Adam or AdamW in full precision, naming what it is."""
    keys = set(entry)
    if keys & {"state1", "state2", "qmap1", "absmax1", "__bnb_optimizer_quant_state__"}:
        raise InputError(
            f"{path} holds bitsandbytes' moments (state1, state2), which are 8-bit or packed like them and are not "
            "read; train the warm-up with optim=adamw_torch"
        )
    if "max_exp_avg_sq" in keys or group.get("amsgrad"):
        raise InputError(f"{path} is AMSGrad's, whose step is not Adam's; train the warm-up with plain AdamW")
    odd = keys - {"step", "exp_avg", "exp_avg_sq"}
    if not {"exp_avg", "exp_avg_sq"} <= keys or odd or "betas" not in group:
        raise InputError(
            f"{path} is not Adam's: a parameter's state holds {', '.join(sorted(map(str, keys))) or 'nothing'}, and "
            "exp_avg with exp_avg_sq is needed; train the warm-up with AdamW"
        )


def _positions(path: Path, groups: Sequence[Mapping[str, Any]], trained: Sequence[str]) -> dict[int, str]:
    """Names of numbered parameters: as the groups say, else by the order in which a trainer numbers them."""
    numbers = [list(group["params"]) for group in groups]
    if all(len(group.get("param_names", ())) == len(group["params"]) for group in groups):
        return {n: name for group in groups for n, name in zip(group["params"], group["param_names"], strict=True)}
    decayed = [name for name in trained if not _NOT_DECAYED.search(name.lower())]
    others = [name for name in trained if _NOT_DECAYED.search(name.lower())]
    sizes = [len(group) for group in numbers]
    orders = {(len(trained),): [*trained], (len(decayed), len(others)): [*decayed, *others]}
    if tuple(sizes) not in orders:
        wanted = f"{len(decayed)} and {len(others)}"
        raise InputError(
            f"{path} numbers its parameters in groups of {', '.join(map(str, sizes))}, and a trainer of this adapter "
            f"has groups of {wanted}; it belongs to another adapter, or to an optimizer with groups of its own: save "
            "the state by parameter name"
        )
    return dict(zip((n for group in numbers for n in group), orders[tuple(sizes)], strict=True))


def _steps(path: Path, steps: Sequence[Any]) -> int:
    """The one number of steps that all parameters have taken."""
    if any(step is None for step in steps):
        raise InputError(f"{path} does not say how many steps Adam has taken; save the whole state_dict()")
    counts = {int(step) for step in steps}
    if len(counts) > 1:
        raise InputError(
            f"{path}: parameters have taken {min(counts)} to {max(counts)} steps; all must have taken part in each"
        )
    return counts.pop()


def _from_safetensors(path: Path) -> Moments:
    """`first.NAME` and `second.NAME` with metadata, as we write them, or `[state.]NAME.exp_avg` and so on."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is not a readable safetensors file ({error})") from None
    first: dict[str, Any] = {}
    second: dict[str, Any] = {}
    steps: list[Any] = []
    for key, tensor in tensors.items():
        name = key.removeprefix("state.")
        if key.startswith("first."):
            first[key.removeprefix("first.")] = tensor.float()
        elif key.startswith("second."):
            second[key.removeprefix("second.")] = tensor.float()
        elif name.endswith(".exp_avg"):
            first[name.removesuffix(".exp_avg")] = tensor.float()
        elif name.endswith(".exp_avg_sq"):
            second[name.removesuffix(".exp_avg_sq")] = tensor.float()
        elif name.endswith(".step"):
            steps.append(tensor)
    if not first or set(first) != set(second):
        raise InputError(f"{path} holds no exp_avg with an exp_avg_sq for every parameter; it is not Adam's state")
    facts = {}
    for key in ("beta1", "beta2", "step", "eps", "learning_rate"):
        if key in metadata:
            try:
                facts[key] = float(metadata[key])
            except ValueError:
                raise InputError(f"{path}: {key} is '{metadata[key]}' in its metadata; write a number there") from None
        elif key.startswith("beta"):
            raise InputError(f"{path} does not say Adam's {key}; write beta1, beta2 and step into its metadata")
    return Moments(
        first=first,
        second=second,
        step=_steps(path, [facts["step"]] if "step" in facts else steps or [None]),
        beta1=facts["beta1"],
        beta2=facts["beta2"],
        eps=facts.get("eps", 1e-8),
        learning_rate=facts.get("learning_rate"),
    )
