"""`doctor --signal NAME --target T`: a signal's self-check on a target before any run, with a made-up adapter.

A run repeats it on its own warmed-up adapter and validation items. Here a fresh adapter of the run's shape gets random
weights, since one whose B is zero has no gradient in A, and a few sentences stand in for the validation set: what is
tested (hooks, padding, types, attention) does not depend on either.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checks.weights import missing_weights, unreadable_weights
from harness.errors import ConfigError, PrerequisiteError
from harness.models.open import model_path
from harness.resolve.role_models import role_models
from harness.types import Message, WorldId
from methods.signals.base import Signal, SignalContext, TargetState, WarmCheckpoint
from methods.signals.catalogue import make_signal, signal_classes, signal_terms
from methods.signals.target.base import TargetReader

if TYPE_CHECKING:
    from harness.config import RunConfig, SignalChoice
    from harness.training.checks import Check

CONVERSATIONS = (
    ("What is two plus two?", "Four."),
    ("Name the largest planet of the solar system.", "Jupiter is the largest planet of the solar system."),
    (
        "A patient has had a fever for three days and a stiff neck since this morning. What has to be ruled out first?",
        "Meningitis: blood cultures and a lumbar puncture should not wait, and neither should antibiotics.",
    ),
    ("Which war ended with the Peace of Westphalia?", "The Thirty Years' War, in 1648."),
)


def check_signal(config: RunConfig) -> list[Check]:
    """The self-check of `config.signal`, or of its terms that read the target, on `config.models.target`.

    Raises `ConfigError` for a signal that does not read the target, and `PrerequisiteError` where the target cannot be
    loaded here.
    """
    readers = [own for term in signal_terms(config.signal) if isinstance(own := _made(term), TargetReader)]
    if not readers:
        having = [found.name for found in signal_classes()[0] if issubclass(found, TargetReader)]
        raise ConfigError(f"signal '{config.signal.name}' has no self-check; those that have one: {', '.join(having)}")
    world = _ready(config)
    from harness.training.trainer import quiet_libraries

    quiet_libraries()
    target = config.models.target
    path = model_path(target, world)
    texts = [(Message("user", question), Message("assistant", answer)) for question, answer in CONVERSATIONS]
    context = SignalContext(0, batch_size=config.runtime.batch_size, scoring=config.runtime.scoring)
    with tempfile.TemporaryDirectory() as folder:
        _adapter(config, path, Path(folder))
        made_up = (WarmCheckpoint(Path(folder), Path(folder)),)
        state = TargetState(
            model=path,
            revision="",
            max_length=target.max_length,
            dtype=target.dtype,
            hub_revision=target.revision,
            checkpoints=made_up,
            members=made_up,
        )
        checks = [check for reader in readers for check in reader.self_check(context, state, texts)]
    if not checks:
        raise ConfigError(
            f"models.target.max_length={target.max_length} cuts the answers of all conversations that the self-check "
            "computes with; raise it"
        )
    return checks


def _made(choice: SignalChoice) -> Signal[Any] | None:
    return make_signal(choice) if choice.chosen else None


def check_training(config: RunConfig) -> list[Check]:
    """The training check of `config.models.target`. Raises `PrerequisiteError` where it cannot be loaded here."""
    from harness.checks.training_check import run_checks, target_of
    from harness.training.trainer import quiet_libraries

    world = _ready(config)
    quiet_libraries()
    return run_checks(config, config.models.target, world, target_of(config))


def _ready(config: RunConfig) -> WorldId | None:
    """The lab's world, with its models built, where the target is one of the lab's; any other target has to be here."""
    target = [role_models(config)["target"]]
    if missing := [p for p in (*missing_weights(target), *unreadable_weights(target)) if p.what.startswith("weights")]:
        raise PrerequisiteError(f"the check computes with the target, and it is not here: {missing[0]}")
    if not config.models.target.id.startswith("lab:"):
        return None
    from harness.lab.build import ensure_lab
    from harness.lab.world import World

    world = config.lab.id if config.lab else None
    ensure_lab(World.of(world))
    return world


def _adapter(config: RunConfig, path: Any, folder: Path) -> None:
    import torch
    from peft import get_peft_model

    from harness.models.transformers_backend import load_causal_lm
    from harness.training.recipe import LoraSettings, lora_config

    base, _ = load_causal_lm(path, config.models.target.dtype, config.models.target.revision)
    w = config.warmup
    settings = LoraSettings(w.lora_rank, w.lora_alpha, w.lora_dropout, w.lora_modules)
    model = get_peft_model(base, lora_config(settings, 0, base, "warmup.lora_modules"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.02)
    model.save_pretrained(folder)
