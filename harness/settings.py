"""Layers of settings, merged into one checked tree.

Layers are merged in the order method < preset < target (and its scale) < file < command line, each key remembering
which layer set it, so that `plan` can name every resolved default. Unknown keys are refused with the nearest known one.
Where a plug-in is chosen (`driver`, `signal`), a later layer that names another one drops the settings of the former.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from harness import plugins
from harness.choice import Choice, NoSettings, preset_values
from harness.config import RunConfig
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
        raise ConfigError(f"--set {text!r}: expected KEY=VALUE, for example --set driver.learning_rate=1e-3")
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
    """Every dotted key of the settings tree; of a choice, only what every choice has."""
    keys: set[str] = set()
    for name, kinds in _sections(model):
        keys.add(prefix + name)
        for kind in kinds:
            below = f"{prefix}{name}."
            keys |= {f"{below}name", f"{below}preset"} if issubclass(kind, Choice) else known_keys(kind, below)
    return keys


def _sections(model: type[BaseModel]) -> Iterator[tuple[str, list[type[BaseModel]]]]:
    """Every field of a section, with the sections that it may hold."""
    for name, field in model.model_fields.items():
        # A list's elements have no keys of their own.
        listed = get_origin(field.annotation) is tuple
        kinds = () if listed else (field.annotation, *getattr(field.annotation, "__args__", ()))
        yield name, [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


@cache
def choices(model: type[BaseModel] = RunConfig, prefix: str = "") -> Mapping[str, type[Choice]]:
    """By dotted key, the places of the settings tree where a plug-in is chosen."""
    found: dict[str, type[Choice]] = {}
    for name, kinds in _sections(model):
        for kind in kinds:
            if issubclass(kind, Choice):
                found[prefix + name] = kind
            else:
                found |= choices(kind, f"{prefix}{name}.")
    return MappingProxyType(found)


def chosen_name(layers: list[Layer], place: str) -> str | None:
    """The name of the plug-in that the last of `layers` to name one chooses at `place`; None where none does."""
    name = None
    for layer in layers:
        values = dict(flatten(layer.values))
        name = values.get(f"{place}.name", values.get(place, name))
    return None if name is None else str(name)


def resolve(layers: list[Layer]) -> Resolved:
    """Merge `layers` (later ones win) into a checked configuration.

    Raises `ConfigError` naming the key, the layer that set it, and the nearest known key or the permitted values.
    """
    merged = _Merged()
    for layer in layers:
        merged.add(layer)
    tree = _with_defaults(nest(merged.values), RunConfig)
    for place, kind in choices().items():
        _settle(tree, place, kind, merged)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, merged.origin)) from None
    check_consistency(config)
    dumped = dict(flatten(config.model_dump(mode="json")))
    return Resolved(config, {key: merged.origin.get(key, "default") for key in dumped})


class _Merged:
    """The merged values of the layers so far: `values` and `origin` by dotted key."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origin: dict[str, str] = {}
        self._known = known_keys()

    def add(self, layer: Layer) -> None:
        """Put a layer over what there is."""
        values = dict(flatten(layer.values))
        for place, kind in choices().items():
            self._choose(place, kind, values, layer.name)
        _refuse_moved(values, layer.name)
        for key, value in values.items():
            if key not in self._known and not any(key.startswith(f"{place}.") for place in choices()):
                raise ConfigError(f"unknown setting '{key}' ({layer.name}){suggest(key, self._known)}")
            if _holds_halves(value):
                raise ConfigError(
                    f"setting '{key}' ({layer.name}) holds half a character (a lone surrogate, or a byte that is not "
                    "UTF-8), which no file can hold; write it anew"
                )
            for old in [k for k in self.values if _nested(k, key) or _nested(key, k)]:
                del self.values[old]
            self.values[key] = value
            self.origin[key] = layer.name

    def _choose(self, place: str, kind: type[Choice], values: dict[str, Any], layer: str) -> None:
        """Write a layer's choice out: its name as a key of its own, a preset as what it stands for.

        Settings of a plug-in that is no longer the chosen one are dropped.
        """
        name, key = values.get(place), f"{place}.name"
        if isinstance(name, str):
            if values.get(key, name) != name:
                raise ConfigError(f"'{place}' and '{key}' ({layer}) name two of them; leave one out")
            del values[place]
            # First, so that settings of the same layer are its own.
            rest = dict(values)
            values.clear()
            values.update({key: name, **rest})
        name = values.get(key)
        if isinstance(name, str) and self.values.get(key, name) != name:
            for old in [k for k in self.values if k.startswith(f"{place}.")]:
                del self.values[old]
        preset = values.pop(f"{place}.preset", None)
        if preset is None:
            return
        name = name or self.values.get(key)
        if name is None:
            raise ConfigError(_nameless(f"{place}.preset", layer, place, kind))
        plugin = kind.plugin_of(str(name))
        found = preset_values(plugin, str(preset)) if plugin else {}
        for own, value in flatten(found, f"{place}."):
            values.setdefault(own, value)


def _settle(tree: dict[str, Any], place: str, kind: type[Choice], merged: _Merged) -> None:
    """Replace a choice's values in `tree` by the choice itself, its settings checked by the class that is chosen."""
    *parents, leaf = place.split(".")
    node: Any = tree
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    given = node.get(leaf) if isinstance(node, dict) else None
    if not isinstance(given, dict):
        return
    name = given.get("name")
    if not isinstance(name, str):
        key = next(k for k in merged.values if k.startswith(f"{place}."))
        raise ConfigError(_nameless(key, merged.origin[key], place, kind))
    plugin = kind.plugin_of(name)
    settings = plugin.Settings if plugin else NoSettings
    own = {key: value for key, value in given.items() if key != "name"}
    known = known_keys(settings, f"{place}.")
    for key, _ in flatten(own, f"{place}."):
        if key not in known:
            near = suggest(key, known) or f"; it has no settings ({plugins.kind_of(kind.group)} '{name}')"
            raise ConfigError(f"unknown setting '{key}' ({merged.origin.get(key, 'default')}){near}")
    try:
        checked = settings.model_validate(_filled(_with_defaults(own, settings), settings()))
    except ValidationError as error:
        raise ConfigError(_explain(error, merged.origin, f"{place}.")) from None
    node[leaf] = kind(name=name, settings=checked)


_MOVED = {"best_of": ("best_of_n", "n")}
"""Settings of drivers that stood alone in earlier versions: the driver's name, and what the setting is called now."""


def _nameless(key: str, layer: str, place: str, kind: type[Choice]) -> str:
    what = plugins.kind_of(kind.group)
    return f"setting '{key}' ({layer}) is of a {what} that no layer names; set {place}=NAME, too"


def _refuse_moved(values: Mapping[str, Any], layer: str) -> None:
    """Refuse sections that are called as a plug-in is, and `_MOVED`: such settings stand with the choice of it now.

    Files of a run that an earlier version wrote have them for every plug-in, in use or not.
    """
    known = set(RunConfig.model_fields)
    moved = {key: "driver" for key in values if key in _MOVED}
    for place, kind in choices().items():
        names = set(plugins.names(kind.group)) - known if "." not in place else ()
        moved |= {key: place for key in values if "." in key and key.partition(".")[0] in names}
    if not moved:
        return
    key, place = next(iter(moved.items()))
    first, _, rest = key.partition(".")
    first, rest = _MOVED.get(key, (first, rest))
    sections = list(dict.fromkeys(key.partition(".")[0] for key in moved))
    if len(sections) == 1:
        raise ConfigError(f"setting '{key}' ({layer}) is '{place}.{rest}' now, beside {place} '{first}'")
    kinds = " or ".join(sorted(set(moved.values())))
    raise ConfigError(
        f"the {layer} is of an earlier version: settings of a {kinds} stand with the one in use now, as in "
        f"'{place}: {{name: {first}, {rest}: ...}}'; write those of the {kinds} in use so, delete the sections "
        f"{', '.join(sections)}, and start a new run from it, which takes over what is stored of equal stages"
    )


def _holds_halves(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_halves, value))
    return isinstance(value, str) and well_formed(value) != value


def _with_defaults(tree: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Fill sections that are set in part from the defaults of that very place, which may differ from their class's."""
    for name, field in model.model_fields.items():
        if isinstance(field.default, Section) and isinstance(tree.get(name), dict):
            tree[name] = _filled(tree[name], field.default)
    return tree


def _filled(tree: dict[str, Any], defaults: Section) -> dict[str, Any]:
    given = dict(flatten(tree))
    own = dict(flatten(defaults.model_dump()))
    kept = {k: v for k, v in own.items() if not any(_nested(k, g) or _nested(g, k) for g in given)}
    return nest({**kept, **given})


def _nested(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.")


def _explain(error: ValidationError, origin: Mapping[str, str], prefix: str = "") -> str:
    """One sentence for the first fault: the key, the layer that set it, and what is wrong with the value."""
    fault = error.errors()[0]
    path = [*prefix.split(".")[:-1], *(str(part) for part in fault["loc"])]
    if fault["type"] == "missing":
        return f"setting '{'.'.join(path)}' is required and no layer sets it; set it in the file or with --set"
    # A union adds the type that it tried to the path; the key is the longest part of it that a layer set.
    key = next((k for n in range(len(path), 0, -1) if (k := ".".join(path[:n])) in origin), ".".join(path))
    where = f" ({origin[key]})" if key in origin else ""
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "finite_number":
        message = f"expected a finite number, got {_shown(fault['input'])}"
    elif fault["type"] != "value_error":
        message = f"{_expected(key) or message}, got {_shown(fault['input'])}"
    more = error.error_count() - 1
    return f"setting '{key}'{where}: {message}" + (f" (and {more} more)" if more else "")


def _expected(key: str) -> str:
    """The values that the setting takes, and its meaning; nothing for a key that several plug-ins have."""
    from harness.explain import settings

    found = [s for s in settings() if s.key == key]
    if len(found) != 1:
        return ""
    takes = "settings of its own, such as KEY: VALUE below it" if found[0].section else found[0].takes
    return f"expected {takes} ({found[0].meaning.rstrip('.')})" if found[0].meaning else f"expected {takes}"


def _shown(value: Any) -> str:
    """A wrong value as it was given, cut to the room of a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_consistency(config: RunConfig) -> None:
    """Refuse combinations that cannot mean what they say."""
    if config.match == "samples" and config.budget != int(config.budget):
        raise ConfigError(f"budget {config.budget} is not a whole number of samples; give one, or set --match")
    _check_services(config)


def _check_services(config: RunConfig) -> None:
    """Refuse servers in roles that need the weights here, and unpriced dollars."""
    models = config.models
    if models.target.served:
        raise ConfigError("models.target.backend must be transformers: the target is trained, its weights must be here")
    if config.runtime.max_usd is not None:
        for role in config.model_roles[1:]:
            model = models.of(role)
            if (model.backend == "openai" or model.remote_host) and model.price is None:
                raise ConfigError(
                    f"runtime.max_usd is set, and models.{role} ({model.id}) has no price, so that limit could not "
                    f"hold. Set models.{role}.price.input and .output (US dollars per million tokens), or limit tokens "
                    "with runtime.max_tokens"
                )


def dump_yaml(config: RunConfig) -> str:
    """The fully resolved settings, each with its meaning as a comment, as YAML that `harness run FILE` takes."""
    from harness.explain import comments

    return "\n".join(_commented(config.model_dump(mode="json"), "", "", comments())) + "\n"


def _commented(values: Mapping[str, Any], prefix: str, owner: str, notes: Mapping[str, str]) -> Iterator[str]:
    """Lines of YAML; `owner` is the plug-in whose settings these are."""
    indent = "  " * prefix.count(".")
    for name, value in values.items():
        key = prefix + name
        # A choice in another place is explained where its kind is first.
        note = notes.get(f"{owner}:{key}" if owner else key) or notes.get(f"{owner}:{key.partition('.')[2]}", "")
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:" + (f"  # {note}" if note else "")
            chosen = choices().get(key)
            yield from _commented(value, f"{key}.", str(value["name"]) if chosen else owner, notes)
            continue
        style = isinstance(value, list | tuple)
        text = yaml.safe_dump({name: value}, allow_unicode=True, width=10**9, default_flow_style=style).strip()
        lines = (text[1:-1] if style else text).split("\n")
        if len(lines) == 1 and note:
            lines = [f"{lines[0]}  # {note}"]
        yield from (indent + line for line in lines)
