"""Models by short name: hub id, licence, gate, architecture; read from `known.yaml`, which says where they come from.

One table serves targets, writers and generators, and the sizes that `plan` prints before any weight is here. A model
that is not in it is named by its hub id or folder and works alike; only its size is then unknown until it is here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.estimate import ModelShape

_FILE = Path(__file__).with_name("known.yaml")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REPACKED = ("fp8", "awq", "gptq", "gguf", "int4", "int8", "4bit", "8bit", "bnb", "mlx")


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A GGUF file in a package of the index: `file` within site-packages, and the SHA-256 of its content."""

    distribution: str
    version: str
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model's entry. `context` is the most tokens that a run gives it; `track` the track it is a target of.

    `package` brings a copy of it where the hub cannot be reached.
    """

    name: str
    id: str
    licence: str
    gated: bool
    template: str
    context: int
    track: str
    shape: ModelShape
    package: PackagedFile | None = None


@cache
def _table() -> dict[str, Any]:
    import yaml

    value: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return value


@cache
def known_shapes() -> dict[str, ModelShape]:
    """Architectures by family name."""
    return {name: ModelShape(**entry) for name, entry in _table()["shapes"].items()}


@cache
def known_models() -> dict[str, KnownModel]:
    """All models by short name."""
    shapes = known_shapes()
    return {
        name: KnownModel(
            name=name,
            id=entry["id"],
            licence=entry["licence"],
            gated=bool(entry.get("gated", False)),
            template=entry["template"],
            context=entry["context"],
            track=entry["track"],
            shape=shapes[entry["shape"]],
            package=PackagedFile(**entry["package"]) if "package" in entry else None,
        )
        for name, entry in _table()["models"].items()
    }


def by_id(model_id: str) -> KnownModel | None:
    """The entry of a hub id, or None."""
    return next((m for m in known_models().values() if m.id == model_id), None)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/name`."""
    return bool(_HUB_ID.fullmatch(name))


def known_shape(model_id: str) -> ModelShape | None:
    """Architecture of a hub id by its family, or None for an unknown family or a re-packed (quantised) variant.

    A variant keeps its family's numbers: `Qwen/Qwen3-8B-Base` and `someone/Qwen3-8B-medical` are Qwen3-8B, and Qwen3's
    embedding models are their family, less a head.
    """
    name = model_id.rstrip("/").split("/")[-1].lower().removeprefix("meta-").replace("llama-3-", "llama3-")
    name = name.replace("-embedding", "")
    if any(mark in name for mark in _REPACKED):
        return None
    shapes = known_shapes()
    for family in sorted(shapes, key=len, reverse=True):
        if name == family or name.startswith(f"{family}-"):
            return shapes[family]
    return None
