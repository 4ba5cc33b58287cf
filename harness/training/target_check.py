"""Whether a model is trained as its settings say, measured on the model itself before any training.

The parts: the same tokens in training, scoring and testing, and an end that is taught (`token_check`); a batch gives
each sequence the scores it has alone (`layouts`); an adapter's layers take part in the forward pass, and scores see all
of them. `doctor` shows the checks, and a run begins with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.training.checks import Check
from harness.training.layouts import check_layout
from harness.training.lora_modules import adapted, count_parameters, layers_of
from harness.training.recipe import LoraSettings

if TYPE_CHECKING:
    from harness.training.batches import Layout

VERSION = 1
"""Raised with every change of what is checked, so that stored results are not taken for it."""

ADAPTER = "LoRA layers"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run does with a model: its batch layouts with what to change where one fails, and its adapter.

    `setting` names the adapter's modules. `hooked`: a signal has to see every adapted layer by hooks.
    """

    layouts: tuple[tuple[Layout, str], ...]
    adapter: LoraSettings | None = None
    setting: str = ""
    hooked: bool = False


def check_target(
    path: Path | str, dtype: str, revision: str | None, attention: str | None, asked: Asked
) -> list[Check]:
    """All checks of the model at `path`. Raises `ConfigError` where an adapter's modules do not fit the model."""
    import torch

    from harness.models.transformers_backend import load_causal_lm

    # A check draws no random number that a stage would have drawn.
    with torch.random.fork_rng():
        model, _ = load_causal_lm(path, dtype, revision, attention=attention)
        model.eval()
        checks = [check_layout(model, layout, remedy) for layout, remedy in asked.layouts]
        if asked.adapter is not None:
            checks.append(check_adapter(model, asked.adapter, asked.setting, hooked=asked.hooked))
    return checks


def check_adapter(model: Any, settings: LoraSettings, setting: str, *, hooked: bool) -> Check:
    """Whether every layer that an adapter would be put on is computed with, and, where `hooked`, seen by hooks."""
    chosen = adapted(model, settings.modules, setting)
    layers = layers_of(model, chosen)
    idle = _idle(model, layers)
    counted = f"{count_parameters(model, chosen, settings.rank):,} parameters of rank {settings.rank}"
    if idle:
        detail = f"{len(idle)} of {len(layers)} layers are never called, such as {idle[0]}; an adapter would not train"
        return Check(ADAPTER, "failed", None, None, detail, f"Set {setting}=attention, or leave them out")
    if hooked and chosen.parameters:
        detail = f"experts ({', '.join(chosen.parameters)}) are one parameter, whose gradients influence cannot see"
        return Check(ADAPTER, "failed", None, None, detail, f"Set {setting}=attention")
    return Check(ADAPTER, "passed", None, None, f"{', '.join(chosen.names)}: {counted}")


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
