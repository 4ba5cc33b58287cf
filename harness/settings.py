"""Layers of settings, merged into one checked tree.

Layers are merged in the order method < preset < target (and its scale) < file < command line, each key remembering
which layer set it, so that `plan` can name every resolved default. Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from harness.config import INFLUENCE_PRESETS, RunConfig
from harness.config_models import Section
from harness.errors import ConfigError, suggest
from harness.types import well_formed
from harness.yaml_text import parse_yaml, read_yaml


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings: its name for messages, and a nested mapping of values."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Resolved:
    """Resolved settings, and for every dotted key the layer that set it (`default` where none did)."""

    config: RunConfig
    origin: Mapping[str, str]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and leaf values of a nested mapping."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in dotted.items():
        node = tree
        *parents, leaf = key.split(".")
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def parse_assignment(text: str) -> tuple[str, Any]:
    """`key=value` of `--set`; the value is read as YAML, with 1e-5 taken for the number that it is."""
    key, sep, value = text.partition("=")
    if not sep or not key.strip():
        raise ConfigError(f"--set {text!r}: expected KEY=VALUE, for example --set grpo.learning_rate=1e-3")
    return key.strip(), parse_yaml(value, f"--set {text!r}: the value")


def read_config_file(path: str | Path) -> Layer:
    """A user's YAML file as a layer; a `config.yaml` that a run wrote is such a file."""
    values = read_yaml(path, "the config file")
    if not isinstance(values, Mapping):
        raise ConfigError(f"the config file {path} must hold settings as 'key: value' lines")
    seen: set[str] = set()
    for key, _ in flatten(values):
        if key in seen:
            raise ConfigError(f"the config file {path} sets '{key}' twice, nested and by its dotted name; drop one")
        seen.add(key)
    return Layer(f"file {path}", values)


def known_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> set[str]:
    """Every dotted key of the settings tree."""
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        keys.add(prefix + name)
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys |= known_keys(kind, f"{prefix}{name}.")
    return keys


def resolve(layers: list[Layer]) -> Resolved:
    """Merge `layers` (later ones win) into a checked configuration.

    Raises `ConfigError` naming the key, the layer that set it, and the nearest known key or the permitted values.
    """
    known = known_keys()
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for layer in layers:
        for key, value in _with_influence_preset(dict(flatten(layer.values))).items():
            if key not in known:
                raise ConfigError(f"unknown setting '{key}' ({layer.name}){suggest(key, known)}")
            if _holds_halves(value):
                raise ConfigError(
                    f"setting '{key}' ({layer.name}) holds half a character (a lone surrogate, or a byte that is not "
                    "UTF-8), which no file can hold; write it anew"
                )
            for old in [k for k in merged if k.startswith(f"{key}.") or key.startswith(f"{k}.")]:
                del merged[old]
            merged[key] = value
            origin[key] = layer.name
    try:
        config = RunConfig.model_validate(_with_defaults(nest(merged)))
    except ValidationError as error:
        raise ConfigError(_explain(error, origin)) from None
    check_consistency(config)
    dumped = dict(flatten(config.model_dump(mode="json")))
    return Resolved(config, {key: origin.get(key, "default") for key in dumped})


def _holds_halves(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_halves, value))
    return isinstance(value, str) and well_formed(value) != value


def _with_influence_preset(values: dict[str, Any]) -> dict[str, Any]:
    """A layer that names `influence.preset` sets all that the preset says, over earlier layers and under its own."""
    preset = INFLUENCE_PRESETS.get(str(values.get("influence.preset")), {})
    return {**{f"influence.{key}": value for key, value in preset.items()}, **values}


def _with_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """Fill sections that are set in part from the defaults of that very place, which may differ from their class's."""
    for name, field in RunConfig.model_fields.items():
        if isinstance(field.default, Section) and isinstance(tree.get(name), dict):
            defaults = field.default.model_dump()
            given = dict(flatten(tree[name]))
            kept = {k: v for k, v in flatten(defaults) if not any(k == g or k.startswith(f"{g}.") for g in given)}
            tree[name] = nest({**kept, **given})
    return tree


def _explain(error: ValidationError, origin: Mapping[str, str]) -> str:
    """One sentence for the first fault: the key, the layer that set it, and what is wrong with the value."""
    fault = error.errors()[0]
    path = [str(part) for part in fault["loc"]]
    if fault["type"] == "missing":
        return f"setting '{'.'.join(path)}' is required and no layer sets it; set it in the file or with --set"
    # A union adds the type that it tried to the path; the key is the longest part of it that a layer set.
    key = next((k for n in range(len(path), 0, -1) if (k := ".".join(path[:n])) in origin), ".".join(path))
    where = f" ({origin[key]})" if key in origin else ""
    message = fault["msg"].removeprefix("Value error, ")
    got = "" if fault["type"] == "value_error" else f", got {_shown(fault['input'])}"
    more = error.error_count() - 1
    return f"setting '{key}'{where}: {message}{got}" + (f" (and {more} more)" if more else "")


def _shown(value: Any) -> str:
    """A wrong value as it was given, cut to the room of a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_consistency(config: RunConfig) -> None:
    """Refuse combinations that cannot mean what they say."""
    grpo = config.grpo
    if grpo.reward.scope == "none" and grpo.advantage_scale == "none":
        raise ConfigError(
            "grpo.reward.scope and grpo.advantage_scale are both 'none': raw scores would reach the learner without a "
            "scale; set one of them to 'batch' or 'group'"
        )
    if config.match == "samples" and config.budget != int(config.budget):
        raise ConfigError(f"budget {config.budget} is not a whole number of samples; give one, or set --match")
    _check_services(config)


def _check_services(config: RunConfig) -> None:
    """Refuse servers in roles that need the weights here, rollouts without what they need, and unpriced dollars."""
    models, grpo = config.models, config.grpo
    if models.target.served:
        raise ConfigError("models.target.backend must be transformers: the target is trained, its weights must be here")
    if grpo.rollouts == "server" and (models.writer.backend != "vllm" or grpo.tune != "lora"):
        raise ConfigError(
            "grpo.rollouts=server needs models.writer.backend=vllm and grpo.tune=lora: the server is given the trained "
            "adapter before every batch; full fine-tuning needs grpo.rollouts=transformers or colocate"
        )
    if config.runtime.max_usd is not None:
        for role, model in (("writer", models.writer), ("generator", models.generator)):
            if (model.backend == "openai" or model.remote_host) and model.price is None:
                raise ConfigError(
                    f"runtime.max_usd is set, and models.{role} ({model.id}) has no price, so that limit could not "
                    f"hold. Set models.{role}.price.input and .output (US dollars per million tokens), or limit tokens "
                    "with runtime.max_tokens"
                )


def dump_yaml(config: RunConfig) -> str:
    """The fully resolved settings as YAML that `harness run FILE` takes."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
