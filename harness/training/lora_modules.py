"""Parts of a model that a LoRA adapter is put on: from a setting's names or words to what PEFT is told.

Two words stand for any architecture, read off its modules: `attention` (or what a model has in its place: a mixer, a
linear attention) and `all-linear` (that, the MLPs, and the experts). What is listed by name must be there: a name that
matches nothing is an error, because the rest would be trained without a word. Routers, output layers and what reads
images are adapted only where they are named.

Experts are one parameter a layer in transformers 5, not linear layers; PEFT adapts such a parameter as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.estimate import ModelShape, shape_from_folder
from harness.models.known import known_shape

ATTENTION, ALL_LINEAR = "attention", "all-linear"

_ATTENTION_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP_NAMES = ("gate_proj", "up_proj", "down_proj")
_EXPERT_NAMES = ("experts.gate_up_proj", "experts.down_proj")

_MIXES = re.compile(r"attn|attention|mixer|mamba|ssm|temporal_block", re.I)
_ELSEWHERE = re.compile(r"vision|visual|image|audio|multi_modal", re.I)
_ROUTES = re.compile(r"(router|^gate$|_gate$)", re.I)

_EXPERTS_OWN = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""Names that PEFT takes for the experts' weights, as they were called before transformers 5, where a model has such:
a shared expert's layers of these names cannot be adapted beside them."""

_BYPASSED = ("out_proj", "dt_proj", "conv1d")
"""Layers of Mamba whose weights its kernels read themselves, past any adapter."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """The arguments for PEFT: names of linear `modules`, names of whole `parameters` (experts), each as a suffix."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, for people."""
        return (*self.modules, *self.parameters)


def plain_names(names: Sequence[str], shape: ModelShape | None) -> tuple[str, ...]:
    """The names that words stand for in a model of a known architecture, for sizes; of any other the words."""
    return tuple(names) if shape is None else _plain(names, experts=shape.experts > 0)


def _plain(names: Sequence[str], *, experts: bool) -> tuple[str, ...]:
    mlp = _EXPERT_NAMES if experts else _MLP_NAMES
    words = {ATTENTION: _ATTENTION_NAMES, ALL_LINEAR: (*_ATTENTION_NAMES, *mlp)}
    return tuple(dict.fromkeys(plain for name in names for plain in words.get(name, (name,))))


def settled_names(names: Sequence[str], model_id: str) -> tuple[str, ...]:
    """`names` as they stand in identities: without words where the model is known to be dense and usual."""
    if model_id.startswith("lab:"):
        return _plain(names, experts=False)
    shape = known_shape(model_id) or shape_from_folder(Path(model_id))
    return _plain(names, experts=False) if shape and not shape.experts else tuple(names)


def adapted(model: Any, names: Sequence[str], setting: str) -> Adapted:
    """The modules for which `names`, the value of `setting`, stand in `model` (which may lie on the meta device).

    Raises `ConfigError` for names that match nothing, or nothing that LoRA can adapt.
    """
    linears, experts = _linears(model), _experts(model)
    modules: dict[str, None] = {}
    parameters: dict[str, None] = {}
    missing = []
    for name in names:
        if name in (ATTENTION, ALL_LINEAR):
            modules |= dict.fromkeys(_of_word(model, linears, name, setting))
            parameters |= dict.fromkeys(experts if name == ALL_LINEAR else ())
        elif experts and name.split(".")[-1] in _EXPERTS_OWN:
            missing.append(name)
        elif any(_matches(full, name) for full in linears):
            modules[name] = None
        elif name in experts:
            parameters[name] = None
        else:
            missing.append(name)
    if missing:
        raise ConfigError(_missing(model, missing, linears, experts, setting))
    return Adapted(tuple(modules), tuple(parameters))


def meta_model(path: Path | str, revision: str | None = None) -> Any:
    """The model at `path` without any weights, on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, revision=revision)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def layers_of(model: Any, chosen: Adapted) -> list[str]:
    """Full names of the linear layers that an adapter is put on."""
    return [name for name in _linears(model) if any(_matches(name, n) for n in chosen.modules)]


def count_parameters(model: Any, chosen: Adapted, rank: int) -> int:
    """Trained parameters of an adapter: rank times (inputs + outputs) of every adapted layer and expert."""
    total = sum(rank * int(sum(model.get_submodule(name).weight.shape)) for name in layers_of(model, chosen))
    for name, parameter in model.named_parameters():
        if any(_matches(name, n) for n in chosen.parameters):
            total += rank * parameter.shape[0] * (parameter.shape[1] + parameter.shape[2])
    return total


def _linears(model: Any) -> dict[str, Any]:
    """Layers that LoRA can adapt, by full name."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}


def _experts(model: Any) -> list[str]:
    """Suffixes of the parameters that hold all experts of a layer, [experts, ., .]."""
    found = [name for name, p in model.named_parameters() if p.dim() == 3 and "experts" in name.split(".")[:-1]]
    return list(dict.fromkeys(".".join(name.split(".")[-2:]) for name in found))


def _of_word(model: Any, linears: dict[str, Any], word: str, setting: str) -> list[str]:
    """Suffixes of the linear layers that a word stands for, in the model's order, as short as is unambiguous."""
    head = model.get_output_embeddings()
    experts = _experts(model)
    kernels = "mamba" in str(getattr(model.config, "model_type", "")) or any("mamba" in n.split(".") for n in linears)

    def chosen(name: str) -> bool:
        parts = name.split(".")
        mixes = any(_MIXES.search(part) for part in parts[:-1])
        if kernels and parts[-1] in _BYPASSED and any(part in ("mixer", "mamba") for part in parts):
            return False
        if experts and parts[-1] in _EXPERTS_OWN:
            return False
        if linears[name] is head or _ELSEWHERE.search(name) or _ROUTES.search(parts[-1]):
            return False
        return mixes or (word == ALL_LINEAR and any(part.isdigit() for part in parts))

    wanted = [name for name in linears if chosen(name)]
    if not wanted:
        raise ConfigError(
            f"{setting}={word} finds no such layers in {type(model).__name__}; name some of its linear layers: "
            f"{_listed(linears)}"
        )
    suffixes: dict[str, None] = {}
    for name in wanted:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            suffix = ".".join(parts[-length:])
            if all(other in wanted for other in linears if _matches(other, suffix)):
                suffixes[suffix] = None
                break
    return list(suffixes)


def _matches(full: str, suffix: str) -> bool:
    return full == suffix or full.endswith(f".{suffix}")


def _missing(model: Any, names: list[str], linears: dict[str, Any], experts: list[str], setting: str) -> str:
    taken = [n for n in names if experts and n.split(".")[-1] in _EXPERTS_OWN]
    others = {n: type(m).__name__ for n in names for full, m in model.named_modules() if _matches(full, n)}
    if taken and any(_matches(full, n) for n in taken for full in linears):
        why = f"{', '.join(taken)} would be taken for the experts' weights"
    elif others:
        name, kind = next(iter(others.items()))
        why = f"{name} is a {kind}, which LoRA cannot adapt"
    else:
        why = f"{', '.join(names)} {'matches' if len(names) == 1 else 'match'} nothing"
    whole = f" and the experts' {', '.join(experts)}" if experts else ""
    return (
        f"{setting} does not fit {type(model).__name__}: {why}. It has {_listed(linears)}{whole}; name those, or say "
        f"{ATTENTION} or {ALL_LINEAR}"
    )


def _listed(linears: dict[str, Any]) -> str:
    """The last parts of the names of linear layers."""
    return ", ".join(dict.fromkeys(name.split(".")[-1] for name in linears))
