"""From a role's settings to something that can be used: an identity for hashing, a path for loading, a backend.

Identities are cheap and need nothing loaded: a hub model is its id and revision, a folder the hash of its files, a
GGUF file the hash of its content, a lab model the lab's own identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import ModelConfig
from harness.errors import InputError
from harness.models.backend import Backend
from harness.models.model_files import folder_digest
from harness.models.packaged import is_gguf
from harness.types import WorldId

if TYPE_CHECKING:
    from harness.models.access import Access

AUTHOR = "lab:author"
"""The lab's model for routes without a rubric, which is built apart from the others."""
LAB_ROLES = ("writer", "generator", "target", "author")


def model_identity(model: ModelConfig, world: WorldId | None) -> str:
    """The identity of a role's weights in stage hashes."""
    if model.backend == "extractive":
        from harness.models.extractive.generator import ExtractiveGenerator

        return f"extractive-{ExtractiveGenerator.VERSION}"
    weights = _weights_identity(model, world)
    if model.served:
        from harness.models.access import served_identity

        return served_identity(model, weights)
    return weights


def _weights_identity(model: ModelConfig, world: WorldId | None) -> str:
    # In another type the same file holds other weights. float32 goes unnamed where it always did: stages that were
    # computed before stay valid.
    kind = "" if model.dtype == "float32" else f":{model.dtype}"
    if model.id.startswith("lab:"):
        from harness.lab.build import lab_identity
        from harness.lab.world import World

        planted = World.of(_world(model, world))
        if model.id == AUTHOR:
            from harness.lab.author import author_identity

            return f"{model.id}:{author_identity(planted)}{kind}"
        return f"{model.id}:{lab_identity(planted)}{kind}"
    # Servers of GGUF files name their models by them; such a file is theirs.
    if is_gguf(model.id) and not model.base_url:
        from harness.models.dequantise import gguf_identity

        return f"{gguf_identity(model.id)}{kind}"
    folder = Path(model.id)
    if folder.is_dir():
        return f"files:{folder_digest(folder)}{kind}"
    return f"{model.id}@{model.revision or 'main'}:{model.dtype}"


def model_path(model: ModelConfig, world: WorldId | None) -> str | Path:
    """The path that a role's weights are loaded from; lab models are built and GGUF files converted at first use."""
    if model.id.startswith("lab:"):
        from harness.lab.build import ensure_lab
        from harness.lab.world import World

        if model.id == AUTHOR:
            from harness.lab.author import ensure_author

            return ensure_author(World.of(_world(model, world)))
        role = model.id.removeprefix("lab:")
        path: Path = getattr(ensure_lab(World.of(_world(model, world))), role)
        return path
    if is_gguf(model.id):
        from harness.models.dequantise import ensure_converted

        return ensure_converted(model.id)
    return Path(model.id) if Path(model.id).is_dir() else model.id


def open_backend(
    model: ModelConfig,
    world: WorldId | None,
    corpus: Sequence[str],
    path: str | Path | None = None,
    *,
    role: str = "generator",
    access: Access | None = None,
) -> Backend:
    """A generation backend for a role; `path` replaces the weights (a trained policy).

    `access` is what a stage brings for models that a server answers for.
    """
    if model.backend == "extractive":
        from harness.models.extractive.generator import ExtractiveGenerator

        return ExtractiveGenerator(corpus)
    if model.served:
        from harness.models.access import served_backend

        identity = model_identity(model, world) + (f":{path}" if path is not None else "")
        weights = None if model.backend == "openai" else model_path(model, world)
        return served_backend(model, role, access, identity, weights, Path(path) if path is not None else None)
    from harness.models.transformers_backend import TransformersBackend

    where = path if path is not None else model_path(model, world)
    return TransformersBackend(
        where,
        name=model.id if path is None else f"{model.id} (trained)",
        dtype=model.dtype,
        revision=model.revision if path is None else None,
        max_length=model.max_length,
    )


def _world(model: ModelConfig, world: WorldId | None) -> WorldId | None:
    role = model.id.removeprefix("lab:")
    if role not in LAB_ROLES:
        raise InputError(f"there is no lab model '{model.id}'; the lab has {', '.join(f'lab:{r}' for r in LAB_ROLES)}")
    return world
