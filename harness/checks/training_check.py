"""The training check of a run's models: what it asks of them by the settings, and the store of what was found.

A run begins with it, whatever stages are already there. What passed is kept in the store beside the stages, by the
model's identity, the settings that the check reads, and the versions of the libraries; what failed is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.models.open import model_identity, model_path
from harness.resolve.machine import versions
from harness.resolve.role_models import needs_of_signals, used_signals
from harness.shards import write_json
from harness.training.checks import Check, require, to_rows
from harness.training.policy import policy_training
from harness.training.recipe import LoraSettings
from harness.training.target_check import VERSION, TrainingDemands, check_target
from harness.types import WorldId, stable_hash
from methods.signals.catalogue import signal_uses
from methods.stages.target import sft_recipe

if TYPE_CHECKING:
    from harness.config import ModelConfig, RunConfig
    from harness.training.batches import Layout

FOLDER = ".checks"

_ONE_BY_ONE = "Set sft.micro_batch=1 and runtime.scoring.batch_tokens=1, which take sequences one by one"


def target_of(config: RunConfig) -> TrainingDemands:
    """The demands of the run on its target: warm-up, signals and fine-tuning."""
    warms = any(needs & {"warm_target", "ensemble"} for needs in needs_of_signals(config))
    return _demands(config, warms)


def _demands(config: RunConfig, warms: bool) -> TrainingDemands:
    """The demands of fine-tuning, and where it `warms` the model up those of warm-up and signals."""
    w, s, r = config.warmup, config.sft, config.runtime
    layouts: list[tuple[Layout, str]] = [("right", _ONE_BY_ONE)]
    if r.training.packing:
        layouts.append(("packed", "Set runtime.training.packing=false"))
    if warms and r.scoring.layout not in [layout for layout, _ in layouts]:
        layouts.append((r.scoring.layout, "Set runtime.scoring.layout=right"))
    adapter = None
    if warms and not w.adapter:
        adapter = LoraSettings(w.lora_rank, w.lora_alpha, w.lora_dropout, w.lora_modules)
    elif s.tune == "lora":
        adapter = LoraSettings(s.lora_rank, s.lora_alpha, 0.0, w.lora_modules)
    hooked = any(use.hooks for signal in used_signals(config) for use in signal_uses(signal))
    return TrainingDemands(
        layouts=tuple(layouts),
        adapter=adapter,
        setting="warmup.lora_modules",
        hooked=hooked and warms,
        recipe=sft_recipe(config),
    )


def policy_of(config: RunConfig) -> tuple[str, TrainingDemands] | None:
    """The role whose model the driver trains, and what it does with it; None where it trains none."""
    training = policy_training(config.driver)
    if training is None:
        return None
    return config.drafting_role, TrainingDemands(training.layouts, training.lora, "driver.lora_modules")


def check_models(config: RunConfig, world: WorldId | None, store: Path) -> list[dict[str, Any]]:
    """The checks of the models that the run trains, as rows with the model's role.

    Raises `StageError` naming the first that failed, and `ConfigError` where an adapter does not fit.
    """
    rows: list[dict[str, Any]] = []
    for role, model, asked in _models(config):
        path = store / FOLDER / f"{role}-{_key(config, model, world, asked)}.json"
        found: Sequence[Mapping[str, Any]] | None = _read(path)
        if found is None:
            checks = run_checks(config, model, world, asked)
            require(checks, f"the {role} {model.id}")
            found = to_rows(checks)
            write_json(path, {"model": model.id, "checks": found})
        rows += [{"role": role, **row} for row in found]
    return rows


def run_checks(config: RunConfig, model: ModelConfig, world: WorldId | None, asked: TrainingDemands) -> list[Check]:
    """The checks of one model, computed now."""
    attention = config.runtime.training.attention
    return check_target(model_path(model, world), model.dtype, model.revision, attention, asked)


def _models(config: RunConfig) -> Iterator[tuple[str, ModelConfig, TrainingDemands]]:
    yield "target", config.models.target, target_of(config)
    if (policy := policy_of(config)) is not None:
        role, asked = policy
        model = config.models.of(role)
        if model.backend != "openai":
            yield role, model, asked
    for role in config.models.student_roles:
        yield role, config.models.of(role), _demands(config.for_student(role), warms=False)


def _key(config: RunConfig, model: ModelConfig, world: WorldId | None, asked: TrainingDemands) -> str:
    computed = [model.dtype, config.runtime.training.attention]
    return stable_hash([VERSION, model_identity(model, world), computed, asdict(asked), versions()])


def _read(path: Path) -> list[Mapping[str, Any]] | None:
    """The rows that were found before; None where there are none, or they cannot be read."""
    try:
        found: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["checks"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found
