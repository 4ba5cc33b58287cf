"""Checks of the weights of a run's models: that they are here and can be read, before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.checks.findings import Problem
from harness.errors import PrerequisiteError
from harness.estimate import gigabytes
from harness.models import packaged
from harness.models.context import folder_config
from harness.models.known import by_id
from harness.models.role_model import RoleModel
from harness.raters.declaration import RaterDeclaration
from harness.resolve import machine


def missing_weights(models: Sequence[RoleModel]) -> list[Problem]:
    """Models whose weights are not on this machine, and what brings them."""
    problems = []
    for model in {m.id: m for m in reversed(models)}.values():
        if model.kind in ("lab", "built-in", "service", "endpoint", "vectors") or model.folder is not None:
            continue
        size = gigabytes(model.weight_bytes) if model.weight_bytes else "an unknown size"
        roles = " and ".join(m.role for m in models if m.id == model.id)
        where, fix = _where_weights_lack(model)
        problems.append(Problem(f"weights of the {roles}, {model.id}", size, where, fix))
    return problems[::-1]


def missing_raters(raters: Sequence[RaterDeclaration]) -> list[Problem]:
    """Raters whose checkpoint is not on this machine, and what brings it or takes its place."""
    problems = []
    for rater in raters:
        if Path(rater.checkpoint).is_dir() or machine.cached_model(rater.checkpoint, rater.revision):
            continue
        fix = (
            f"hf download {rater.checkpoint}, or train one (harness rater train) and name its folder: "
            "--set signal.rater=DIR"
        )
        size = gigabytes(rater.weight_bytes) if rater.parameters else "an unknown size"
        what = f"weights of the rater {rater.name}, {rater.checkpoint}"
        problems.append(Problem(what, size, f"not in {machine.hub_cache()}", fix))
    return problems


def unfit_raters(raters: Sequence[RaterDeclaration]) -> list[Problem]:
    """Raters whose checkpoint, as far as it is here, has no head that rates, or other heads than are declared."""
    problems = []
    fix = "name the folder of another rater with --set signal.rater=DIR, or train one: harness rater train"
    for rater in raters:
        own = Path(rater.checkpoint)
        folder = own if own.is_dir() else machine.cached_model(rater.checkpoint, rater.revision)
        config = folder_config(folder) if folder else {}
        kind = next(iter(config.get("architectures") or ()), "")
        if rater.output == "digits" or not kind:
            continue
        what, need = f"heads of the rater {rater.name}", f"{rater.logits} ({', '.join(rater.heads)})"
        # transformers writes no labels where there are two, its default.
        count = len(config.get("id2label") or (0, 1))
        if _CLASSIFIER not in kind:
            problems.append(Problem(what, need, f"{rater.checkpoint} is a {kind}, which has none", fix))
        elif count != rater.logits:
            problems.append(Problem(what, need, f"{rater.checkpoint} has {count}", fix))
    return problems


_CLASSIFIER = "ForSequenceClassification"
"""What the class of a model with a head that rates is called, as its configuration names it."""


def unreadable_weights(models: Sequence[RoleModel]) -> list[Problem]:
    """GGUF files that still have to be converted and cannot be, for their architecture or for want of room."""
    from harness.models.dequantise import converted_folder, unreadable

    problems = []
    for model in {m.id: m for m in models if m.kind == "gguf"}.values():
        folder = converted_folder(model.id)
        if folder.is_dir():
            continue
        if reason := unreadable(packaged.header_of(model.id)):
            what = f"weights of the {model.role}, {model.id}"
            problems.append(Problem(what, "a model that transformers reads", *reason))
        need, free = 4 * packaged.header_of(model.id).parameters, machine.disk_free(folder)
        if free < need:
            fix = "make room, or set HARNESS_CACHE to a folder on another disk"
            what = f"{gigabytes(need)} for the converted {model.id}"
            problems.append(Problem("disk", what, f"{gigabytes(free)} free in {folder.parent}", fix))
    return problems


def _where_weights_lack(model: RoleModel) -> tuple[str, str]:
    """The fault of the place where a model's weights should be, and what to do."""
    if model.kind == "package":
        try:
            packaged.gguf_path(model.id)
        except PrerequisiteError as error:
            what, _, fix = str(error).partition("; ")
            return what, fix
    if model.kind != "hub":
        return "no config.json with weights there", "correct the path"
    entry = by_id(model.id)
    instead = f", or {packaged.SETUP} for a quantised copy" if entry and entry.package else ""
    return f"not in {machine.hub_cache()}", f"hf download {model.id}{instead}"
