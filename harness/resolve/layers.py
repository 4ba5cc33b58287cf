"""From names and flags to resolved settings: the layers method < preset < target < file < command line.

The models that a preset names come after the target, unless that is a lab.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import plugins
from harness.choice import NONE
from harness.errors import ConfigError
from harness.models.packaged import is_gguf, model_id
from harness.resolve.contexts import NAME as CONTEXT
from harness.resolve.contexts import context_limits
from harness.resolve.registry import MethodInfo, TargetInfo, find_method, lookup, preset_settings
from harness.resolve.role_models import used_signals
from harness.resolve.targets import find_target
from harness.synthesis.tables import is_pattern
from methods.drivers.catalogue import driver_class
from methods.signals.catalogue import declares, signal_class

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.settings import Layer, Resolved

_MODEL_IDS = tuple(f"models.{role}.id" for role in ("target", "writer", "generator", "answerer", "labeller"))


def resolve_run(
    *,
    method: str | None = None,
    preset: str | None = None,
    driver: str | None = None,
    route: str | None = None,
    signal: str | None = None,
    target: str | None = None,
    generator: str | None = None,
    also_tune: Sequence[str] | None = None,
    suite: str | None = None,
    scale: str | None = None,
    seeds: str | Sequence[str] | None = None,
    guide: str | None = None,
    match: str | None = None,
    budget: float | None = None,
    seed: int | None = None,
    config_file: str | None = None,
    writer_from: str | None = None,
    iteration: int | None = None,
    sets: Mapping[str, Any] | None = None,
) -> Resolved:
    """Resolve a run's settings; None means "not given". `guide` is a validation set, or SET:COUNT.

    A config file may name method, preset, target and scale too; flags win over it. Raises `ConfigError`.
    """
    from harness.settings import Layer, chosen_name, read_config_file

    file = read_config_file(config_file) if config_file else Layer("file", {})
    # Files and folders are named in full, so that the names hold from anywhere.
    sets, suite = _named_in_full(sets or {}), suite_path(suite) if suite else None
    target = find_target(target).name if target else None
    names = {"method": method, "preset": preset, "target": target, "scale": scale}
    _check_names(file, names)
    named_driver = chosen_name([file, Layer("", {"driver": driver} if driver else {}), Layer("", sets)], "driver")
    info = _method(method or file.values.get("method"), named_driver)
    aim = find_target(_first(target, file.values.get("target"), "a target: --target NAME"))
    size = scale or file.values.get("scale") or aim.default_scale
    named_route = chosen_name([file, Layer("", {"route": route} if route else {}), Layer("", sets)], "route")
    layers = _method_layers(info, preset or file.values.get("preset") or info.preset)
    # A preset may have a driver and a route of its own.
    own_driver, own_route = (str(chosen_name(layers, place)) for place in ("driver", "route"))
    documents = seeds_source(seeds) if seeds else None
    source = documents or sets.get("seeds.source") or _value([file], "seeds.source")
    aims = _track_layers(aim, size, suite or file.values.get("suite"), source, named_route or own_route)
    layers += [_for_driver(layer, named_driver or own_driver, own_driver) for layer in aims]
    layers += _models_of_preset(info, preset or file.values.get("preset") or info.preset, aim)
    layers += [file] if file.values else []
    flags = {
        # What a file names too, the flags name anew, as they did in choosing the layers.
        **{key: value for key, value in names.items() if key in file.values},
        **{"driver": driver, "route": route, "signal": signal, "suite": suite, "match": match, "budget": budget},
        **{"seeds.source": documents, "seed": seed, "writer_from": writer_from, "iteration": iteration},
        **_guide(guide),
        **_models(generator, also_tune),
    }
    layers.append(Layer("command line", {**{k: v for k, v in flags.items() if v is not None}, **sets}))
    layers.insert(-1 if not file.values else -2, _guide_layer(layers))
    # A driver that is named beside a file takes the file's signal or leaves it, as the driver needs.
    return _checked(layers, layers[-1:] if driver else [file, layers[-1]])


def _models(generator: str | None, students: Sequence[str] | None) -> dict[str, Any]:
    """The settings of models that flags name."""
    return {
        "models.generator.id": _model(generator) if generator else None,
        "models.students": [_student(name) for name in students] if students else None,
    }


def _checked(layers: list[Layer], said: list[Layer]) -> Resolved:
    """The settings that `layers` give, with seeds and pairing checked; `said` are those that may name a signal."""
    from harness.settings import chosen_name

    _check_seeds(layers)
    named = chosen_name(said, "signal")
    _check_pairing(layers, named or next((key for key in said[-1].values if key.startswith("signal.")), None))
    resolved = _within_context(_with_signal_of_driver(layers))
    _check_truth(resolved.config)
    return resolved


def _check_truth(config: RunConfig) -> None:
    """Refuse signals of the lab's truth where the documents are not the lab's."""
    for used in used_signals(config):
        if declares(used, "lab_only") and config.seeds.source != "lab":
            raise ConfigError(
                f"signal '{used.name}' reads the lab's planted truth; it needs lab seeds (--target nano, suite lab)"
            )


def _within_context(layers: list[Layer]) -> Resolved:
    """The settings that `layers` give, their lengths lowered to what the models take."""
    from harness.settings import Layer, resolve

    resolved = resolve(layers)
    lowered = context_limits(resolved)
    return resolve([*layers, Layer(CONTEXT, lowered)]) if lowered else resolved


def _method_layers(info: MethodInfo, preset: str | None) -> list[Layer]:
    """The method's layers: its settings, the names of its driver, signal and route, and what its preset sets."""
    from harness.settings import Layer

    pairing = {"method": info.name, **info.settings, "driver.name": info.driver, "signal.name": info.signal}
    pairing |= {"route.name": info.route}
    layers = [Layer(f"method {info.name}" if info.folder else "driver", pairing)]
    if preset:
        layers.append(Layer(f"preset {preset}", {"preset": preset, **preset_settings(info, preset)}))
    return layers


def _models_of_preset(info: MethodInfo, preset: str | None, aim: TargetInfo) -> list[Layer]:
    """A layer of the models that a preset names, which take the place of a track's; a lab has its own in any case."""
    from harness.settings import Layer

    models = preset_settings(info, preset).get("models") if preset and aim.lab is None else None
    return [Layer(f"preset {preset}", _with_models({"models": models}))] if models else []


def _named_in_full(sets: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the command line with models, files and suites by the names that hold from anywhere."""
    kinds = {**dict.fromkeys(_MODEL_IDS, _model), "eval.suite": suite_path, "seeds.source": seeds_source}
    named = {key: v for key, v in sets.items() if key in kinds and v not in (None, "")}
    several = {
        key: seeds_source(v)
        for key, v in named.items()
        if key == "seeds.source" and isinstance(v, list) and all(isinstance(name, str) for name in v)
    }
    return {**sets, **{key: kinds[key](v) for key, v in named.items() if isinstance(v, str)}, **several}


def _model(name: str) -> str:
    """A model by the id that holds from anywhere: that of a short name, and a GGUF file by its whole path."""
    if is_gguf(name) and Path(name).expanduser().is_file():
        return str(Path(name).expanduser().resolve())
    return model_id(name)


def _student(name: str) -> dict[str, Any]:
    """Another student by any name that a target may have: its id, and the most tokens that it takes."""
    if name.startswith("lab:"):
        return {"id": name}
    own = find_target(name).settings["models"]["target"]
    return {"id": own["id"], **({"max_length": own["max_length"]} if "max_length" in own else {})}


def _check_seeds(layers: list[Layer]) -> None:
    if _value(layers, "seeds.source") is None:
        raise ConfigError(
            f"suite '{_value(layers, 'suite')}' comes without documents to write pairs from; give them with --seeds: "
            "files (JSON, CSV or parquet), a folder of them, or the name of a hub data set"
        )


def _check_names(file: Layer, flags: Mapping[str, str | None]) -> None:
    """A settings file that is resolved in full holds every value of its method, target and scale.

    Another name beside it would change the label and nothing else. Raises `ConfigError`.
    """
    if "models" not in file.values or "driver" not in file.values:
        return
    for name, flag in flags.items():
        if flag and flag != file.values.get(name):
            raise ConfigError(
                f"--{name} {flag} beside the {file.name}, which holds all settings of {name} "
                f"'{file.values.get(name)}'; leave --{name} out and change single settings (--driver, --signal, "
                "--budget, --set), or leave the file out"
            )


def _method(name: Any, driver: str | None) -> MethodInfo:
    """The method that is named, or a driver's pairing on neutral defaults, which is called by the driver."""
    known = plugins.names(plugins.METHODS)
    if driver is not None and (name is None or (name == driver and name not in known)):
        return MethodInfo(
            name=driver, summary="", driver=driver, signal=NONE, preset=None, presets=(), folder=None, settings={}
        )
    if name and name not in known and name in plugins.names(plugins.DRIVERS):
        raise ConfigError(f"there is no method '{name}', but a driver: --driver {name}")
    return find_method(_first(None, name, "a method or a driver: --method NAME, or --driver NAME"))


def _for_driver(layer: Layer, driver: str, methods_own: str) -> Layer:
    """A target's layer with what it says of the driver in use, and nothing of others.

    Its section `drivers` has a driver's own settings, `with_driver` those of the run beside them.
    """
    from harness.settings import Layer, flatten, nest

    values = dict(layer.values)
    beside = dict(values.pop("with_driver", {})).get(driver)
    values = nest({**dict(flatten(values)), **dict(flatten(beside))}) if beside else values
    own = dict(values.pop("drivers", {}).get(driver, {}))
    if own and driver != methods_own:
        # Named here, so that the settings of the method's own driver go and these stay.
        own = {"name": driver, **own}
    return Layer(layer.name, {**values, **({"driver": own} if own else {})})


def _for_route(layer: Layer, route: str) -> Layer:
    """A target's layer with what it says for the route in use, and nothing of others (its section `routes`)."""
    from harness.settings import Layer, flatten, nest

    values = dict(layer.values)
    own = dict(dict(values.pop("routes", {})).get(route, {}))
    if "route" in own:
        # Named here, so that the settings stay when the name comes again on the command line.
        own["route"] = {"name": route, **own["route"]}
    own = _with_models(own)
    return Layer(layer.name, nest({**dict(flatten(values)), **dict(flatten(own))}) if own else values)


def _first(flag: str | None, value: Any, what: str) -> str:
    name = flag or value
    if not name:
        raise ConfigError(f"a run needs {what} (see 'harness methods' and 'harness targets')")
    return str(name)


def _target_layers(aim: Any, size: str, suite: str | None, source: Any) -> list[Layer]:
    """The target's own settings, what changes inside and outside the lab, and its scale.

    Outside the lab is where another suite is the test, or where the documents are not the lab's.
    """
    from harness.settings import Layer

    layers = [Layer(f"target {aim.name}", {"target": aim.name, "suite": aim.suite, **aim.settings})]
    other_suite = suite is not None and suite != aim.suite
    rehearsal = dict(aim.rehearsal or {}) if other_suite or source not in (None, "lab") else {}
    own = rehearsal.pop("scales", {}).get(size, {})
    if aim.lab is not None and not other_suite:
        layers.append(Layer(f"target {aim.name} in the lab", aim.lab))
    if rehearsal:
        layers.append(Layer(f"target {aim.name} on real text", rehearsal))
    layers = [Layer(layer.name, _with_models(layer.values)) for layer in layers]
    scale = _with_models(lookup(f"scale of target {aim.name}", size, aim.scales))
    # The sizes of a planted world mean nothing where another suite is the test.
    sizes = {key: value for key, value in scale.items() if not (other_suite and key == "lab")}
    layers.append(Layer(f"scale {size}", {"scale": size, **sizes}))
    if own:
        layers.append(Layer(f"scale {size} on real text", own))
    return layers


def _track_layers(aim: TargetInfo, size: str, suite: str | None, source: Any, route: str) -> list[Layer]:
    """The layers of a track and its scale for a route.

    What is about documents or a suite that others took the place of is left out.
    """
    own = _of_own(_target_layers(aim, size, suite, source), source, other_suite=suite not in (None, aim.suite))
    return [_for_route(layer, route) for layer in own]


def _of_own(layers: list[Layer], source: Any, *, other_suite: bool) -> list[Layer]:
    """A target's layers, less what they say of its own documents and suite where others are given.

    Columns, domain, licence and limit are the documents'; validation sets are the suite's.
    """
    from harness.settings import Layer, flatten, nest

    own = _value(layers, "seeds.source")
    theirs: set[str] = set()
    if source is not None and own not in (None, source):
        theirs |= {f"seeds.{name}" for name in ("source", "text_field", "question_field", "answer_field")}
        theirs |= {f"seeds.{name}" for name in ("domain", "licence", "limit")}
    if other_suite:
        theirs |= {"guide.set", "guide.rendering"}
    return [Layer(layer.name, nest({k: v for k, v in flatten(layer.values) if k not in theirs})) for layer in layers]


def _with_models(values: Mapping[str, Any]) -> dict[str, Any]:
    """A track's settings, with models that it calls by their short names as they are to be had here."""
    from harness.settings import flatten, nest

    return nest({key: _model(v) if key in _MODEL_IDS else v for key, v in flatten(values)})


def _guide(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    name, _, count = text.partition(":")
    if count and not re.fullmatch(r"[0-9]{1,15}", count):
        raise ConfigError(f"--guide {text!r}: expected SET or SET:COUNT, for example cv:100")
    return {"guide.set": name, "guide.n": int(count) if count else None}


def _value(layers: list[Layer], key: str) -> Any:
    from harness.settings import flatten

    value = None
    for layer in layers:
        value = dict(flatten(layer.values)).get(key, value)
    return value


def _guide_layer(layers: list[Layer]) -> Layer:
    """The suite's first validation set and its domain, where nothing names one."""
    from evals.catalogue import load_suite
    from harness.settings import Layer

    name = _value(layers, "guide.set")
    declared = load_suite(str(_value(layers, "suite"))).validation_set(name)
    return Layer("suite", {} if name else {"guide.set": declared.name})


def _check_pairing(layers: list[Layer], given: str | None) -> None:
    """Driver and signal must exist and fit; a driver without feedback takes the signal `none`.

    `given` is the signal, or the setting of one, that was asked for beside the method's own.
    """
    from harness.settings import Layer, chosen_name

    driver = driver_class(str(chosen_name(layers, "driver")))
    if not driver.uses_signal:
        if given not in (None, NONE):
            shown = given if "." in str(given) else f"--signal {given}"
            raise ConfigError(
                f"driver '{driver.name}' uses no signal, but {shown} is given; drop it, or choose a "
                "driver that does (see 'harness drivers')"
            )
        layers.append(Layer(f"driver {driver.name}", {"signal": NONE}))
        return
    name = chosen_name(layers, "signal")
    if name in (None, NONE):
        raise ConfigError(f"driver '{driver.name}' needs a signal; give one with --signal (see 'harness signals')")


def _with_signal_of_driver(layers: list[Layer]) -> list[Layer]:
    """The layers with the settings that the driver gives its signal by default: under those that come with its name."""
    from harness.settings import Layer, chosen_name

    driver, name = driver_class(str(chosen_name(layers, "driver"))), chosen_name(layers, "signal")
    if name in (None, NONE):
        return layers
    known = signal_class(str(name)).Settings.model_fields
    own = {f"signal.{key}": value for key, value in driver.signal_settings.items() if key in known}
    if not own:
        return layers
    last = max(at for at, layer in enumerate(layers) if chosen_name([layer], "signal") is not None)
    return [*layers[:last], Layer(f"driver {driver.name}", {"signal.name": name, **own}), *layers[last:]]


def seeds_source(names: str | Sequence[str]) -> str | list[str]:
    """Sources of seeds, one as such; files and globs by their absolute paths, for the same reason as a suite's."""
    several = [names] if isinstance(names, str) else list(names)
    found = [str(Path(n).resolve()) if Path(n).exists() or is_pattern(n) else n for n in several]
    return found[0] if len(found) == 1 else found


def suite_path(name: str) -> str:
    """A suite's name, or the absolute path of a user's suite file, so that a stored config can be run from anywhere."""
    return str(Path(name).resolve()) if name.endswith((".yaml", ".yml")) else name
