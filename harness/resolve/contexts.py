"""Length limits of a run within what its models can take, as far as their configurations are here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import ConfigError
from harness.models.context import Context, folder_context
from harness.resolve.role_models import role_models

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.settings import Resolved

NAME = "the model's context"
"""Origin of a limit that a model sets."""


def context_limits(resolved: Resolved) -> dict[str, int]:
    """The limits that models lower, by setting: of fine-tuning, and of models whose positions have an end.

    A model with rotary positions is asked for more where its `max_length` says so. Raises `ConfigError` for a limit
    that was given (in a file or on the command line) and that the model has no positions for.
    """
    lowered = {}
    for key, value, model, context in _limits(resolved.config):
        if value <= context.tokens:
            continue
        given = resolved.origin.get(key, "").startswith(("command line", "file"))
        if given and context.fixed:
            raise ConfigError(
                f"{key}={value} is more than the {context.tokens} tokens that {model} has positions for "
                f"({context.name} in its config.json); set it to at most {context.tokens}"
            )
        if not given and (context.fixed or key == "sft.max_length"):
            lowered[key] = max(16, context.tokens)
    return lowered


def _limits(config: RunConfig) -> list[tuple[str, int, str, Context]]:
    """Every limit with the model that it is for and that model's context, where both are known."""
    found = []
    for own in role_models(config).values():
        context = folder_context(own.folder) if own.kind in ("folder", "hub") and own.folder is not None else None
        if context is None or own.role in config.models.student_roles:
            # A student's length is its own from the start, and that of the recipe is the target's.
            continue
        found.append((f"models.{own.role}.max_length", config.models.of(own.role).max_length, own.id, context))
        if own.role == "target":
            found.append(("sft.max_length", config.sft.max_length, own.id, context))
    return found
