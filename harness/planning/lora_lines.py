"""`plan`'s lines on LoRA: which layers each adapter of a run is put on, and how many parameters it trains.

From architecture numbers where those are known; else from the model's own modules, built without weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.models.role_model import RoleModel
from harness.resolve.role_models import needs_of_signals, role_models
from harness.training.lora_modules import adapted, count_parameters, meta_model, plain_names
from harness.training.policy import policy_training

if TYPE_CHECKING:
    from harness.config import RunConfig


def lora_lines(config: RunConfig) -> list[tuple[str, str]]:
    """A label and a line for every adapter. Raises `ConfigError` for modules that do not fit a model that is here."""
    return [(label, _line(model, rank, names, by)) for label, model, rank, names, by in _adapters(config)]


def _adapters(config: RunConfig) -> Iterator[tuple[str, RoleModel, int, Sequence[str], str]]:
    models = role_models(config)
    target = models["target"]
    warms = any(needs & {"warm_target", "ensemble"} for needs in needs_of_signals(config))
    w, training = config.warmup, policy_training(config.driver)
    if warms and not w.adapter:
        yield "warm-up", target, w.lora_rank, w.lora_modules, "warmup.lora_modules"
    if training is not None and training.lora is not None:
        policy, lora = models[config.drafting_role], training.lora
        yield training.label, policy, lora.rank, lora.modules, "driver.lora_modules"
    if config.sft.tune == "lora":
        yield "fine-tuning", target, config.sft.lora_rank, w.lora_modules, "warmup.lora_modules"


def _line(model: RoleModel, rank: int, names: Sequence[str], setting: str) -> str:
    shape = model.shape
    if shape is not None and not shape.experts:
        modules = plain_names(names, shape)
        if shape.lora_parameters(1, modules) and all(shape.lora_parameters(1, (name,)) for name in modules):
            return _said(rank, modules, shape.lora_parameters(rank, modules))
    if model.folder is None or not model.folder.is_dir():
        return f"LoRA rank {rank} on {', '.join(names)} (the model is not here, so its layers are not known)"
    bare = meta_model(model.folder)
    chosen = adapted(bare, names, setting)
    return _said(rank, chosen.names, count_parameters(bare, chosen, rank))


def _said(rank: int, names: Sequence[str], count: int) -> str:
    return f"LoRA rank {rank} on {', '.join(names)}: {count:,} parameters"
