"""Checks that a model is trained as its settings say, measured on the model itself before any training.

The parts: the same tokens in training, scoring and testing, and an end that is taught (`token_check`); a batch gives
each sequence the scores it has alone (`layouts`); an adapter's layers take part in the forward pass, and scores see all
of them. `doctor` shows the checks, and a run begins with them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config_runtime import TrainingConfig
from harness.training.chat import Encoded
from harness.training.checks import Check
from harness.training.layouts import check_layout
from harness.training.lora_modules import adapted, count_parameters, layers_of
from harness.training.master_check import check_master
from harness.training.recipe import Job, LoraSettings, Recipe
from harness.training.token_check import check_tokens
from harness.training.trainer import loaded_dtype

if TYPE_CHECKING:
    from harness.training.batches import Layout

VERSION = 1
"""Raised with every change of what is checked, so that stored results are not taken for it."""

ADAPTER = "LoRA layers"


@dataclass(frozen=True, slots=True)
class TrainingDemands:
    """The demands of a run on a model: its batch layouts with what to change where one fails, and its adapter.

    `setting` names the adapter's modules. `hooked`: a signal has to see every adapted layer by hooks. `recipe` is how
    it is fine-tuned.
    """

    layouts: tuple[tuple[Layout, str], ...]
    adapter: LoraSettings | None = None
    setting: str = ""
    hooked: bool = False
    recipe: Recipe | None = None


def check_target(
    path: Path | str, dtype: str, revision: str | None, attention: str | None, asked: TrainingDemands
) -> list[Check]:
    """All checks of the model at `path`. Raises `ConfigError` where an adapter's modules do not fit the model."""
    import torch

    from harness.models.transformers_backend import load_causal_lm

    # A check draws no random number that a stage would have drawn.
    with torch.random.fork_rng():
        model, tokenizer = load_causal_lm(path, dtype, revision, attention=attention)
        model.eval()
        checks = check_tokens(model, tokenizer)
        checks += [check_layout(model, layout, remedy) for layout, remedy in asked.layouts]
        if asked.adapter is not None:
            checks.append(check_adapter(model, asked.adapter, asked.setting, hooked=asked.hooked))
        if asked.recipe is not None:
            # As it is loaded for fine-tuning; nothing of it is kept, so it may be changed.
            model.to(getattr(torch, loaded_dtype(dtype, adapter=asked.recipe.lora is not None)))
            checks += _check_trainer(model, tokenizer, asked.recipe, str(path), dtype)
    return checks


def _check_trainer(model: Any, tokenizer: Any, recipe: Recipe, path: str, dtype: str) -> list[Check]:
    """The checks of the trainer itself, as fine-tuning makes it, on a made-up row; it takes no step."""
    from harness.training.sft import make_trainer

    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            model_path=path,
            samples=(),
            recipe=recipe,
            seed=0,
            folder=folder,
            output="checked",
            dtype=dtype,
            revision=None,
            save_every=1,
            save_adam=False,
            keep_epochs=False,
            training=TrainingConfig(),
        )
        trainer = make_trainer(job, model, tokenizer, [Encoded((0, 1, 2), 1)] * recipe.batch_size)
        trainer.create_optimizer()
        return check_master(trainer)


def check_adapter(model: Any, settings: LoraSettings, setting: str, *, hooked: bool) -> Check:
    """Whether every layer that an adapter would be put on is computed with, and, where `hooked`, seen by hooks."""
    chosen = adapted(model, settings.modules, setting)
    layers = layers_of(model, chosen)
    idle = _idle(model, layers)
    counted = f"{count_parameters(model, chosen, settings.rank):,} parameters of rank {settings.rank}"
    if idle:
        detail = f"{len(idle)} of {len(layers)} layers are never called, such as {idle[0]}; an adapter would not train"
        return Check(
            name=ADAPTER,
            status="failed",
            measured=None,
            limit=None,
            detail=detail,
            remedy=f"Set {setting}=attention, or leave them out",
        )
    if hooked and chosen.parameters:
        detail = f"experts ({', '.join(chosen.parameters)}) are one parameter, whose gradients hooks cannot see"
        return Check(
            name=ADAPTER, status="failed", measured=None, limit=None, detail=detail, remedy=f"Set {setting}=attention"
        )
    return Check(
        name=ADAPTER, status="passed", measured=None, limit=None, detail=f"{', '.join(chosen.names)}: {counted}"
    )


def _idle(model: Any, layers: Sequence[str]) -> list[str]:
    """Those of `layers` whose forward a pass over a few tokens does not call."""
    import torch

    called: set[str] = set()
    named = dict(model.named_modules())
    handles = [
        named[name].register_forward_pre_hook(lambda module, args, name=name: called.add(name)) for name in layers
    ]
    try:
        with torch.no_grad():
            model(input_ids=torch.arange(8, device=next(model.parameters()).device)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in layers if name not in called]
