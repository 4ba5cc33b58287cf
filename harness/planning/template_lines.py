"""`plan`'s lines on chat templates: what a run would say of them at its start, where the tokenizers are here.

Of the models that the run trains. Tokenizers are loaded, models are not; the lab's own are known to be plain.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import PrerequisiteError
from harness.models.role_model import RoleModel
from harness.resolve.role_models import role_models, trained_role

if TYPE_CHECKING:
    from harness.config import RunConfig


def template_lines(config: RunConfig) -> list[tuple[str, str]]:
    """A label and a line for everything that a user should know of a template, or that would stop the run."""
    known = role_models(config)
    models = [known[role] for role in ("target", trained_role(config)) if role is not None]
    return [("template", f"{model.role}: {line}") for model in models for line in _lines(model)]


def _lines(model: RoleModel) -> list[str]:
    folder = _folder(model)
    if folder is None:
        return []
    from harness.models.tokenizers import load_tokenizer
    from harness.training.token_check import notices

    try:
        return [check.detail for check in notices(load_tokenizer(folder))]
    except (PrerequisiteError, OSError, ValueError) as error:
        return [f"a run would stop at its start: {' '.join(str(error).split())[:300]}"]


def _folder(model: RoleModel) -> Path | None:
    """The folder of the model's tokenizer; None where it is not here yet."""
    if model.kind == "lab" or model.folder is None:
        return None
    if model.kind == "gguf":
        from harness.models.dequantise import converted_folder

        folder = converted_folder(model.id)
        return folder if folder.is_dir() else None
    return model.folder
