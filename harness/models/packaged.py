"""Models that a Python package brings as a GGUF file: which file, whether it is the right one, and when it is used.

A package of the index stands in where the hub cannot be reached. What it holds is a quantised copy, so it never goes by
the hub's name: its id is `package:NAME`, and identities, cards and records say what it was dequantised from.
"""

from __future__ import annotations

import importlib.metadata
import urllib.request
from functools import cache
from pathlib import Path

from harness.errors import InputError, PrerequisiteError
from harness.models.gguf import SUFFIX, Header, read_header
from harness.models.known import KnownModel, PackagedFile, known_models
from harness.types import file_hash

PREFIX = "package:"
SETUP = "make setup-model"
HUB_SECONDS = 3.0
"""How long the hub may take to say that it has a model."""


def model_id(name: str) -> str:
    """The model that a short name means here: the hub's id, or `package:NAME` where only a package has it.

    The order is the hub's cache, the hub if it answers, the package. Any other name is returned as it is.
    """
    entry = known_models().get(name)
    if entry is None:
        return name
    if entry.package is None or not installed(entry.package) or _in_hub_cache(entry.id) or _on_hub(entry.id):
        return entry.id
    return PREFIX + name


def is_gguf(model: str) -> bool:
    """Whether a model's id names a GGUF file: its path, or a package that brings one."""
    return model.startswith(PREFIX) or model.endswith(SUFFIX)


def entry_of(model: str) -> KnownModel:
    """The entry that the id `package:NAME` means. Raises `InputError` where there is none."""
    entry = known_models().get(model.removeprefix(PREFIX))
    if entry is None or entry.package is None:
        names = ", ".join(PREFIX + name for name, known in known_models().items() if known.package)
        raise InputError(f"no package is known for the model '{model}'; known: {names}")
    return entry


def installed(package: PackagedFile) -> bool:
    """Whether the package is here, in whatever version."""
    try:
        importlib.metadata.version(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def gguf_path(model: str) -> Path:
    """The file that an id names. A package's is compared with its known hash.

    Raises `PrerequisiteError` for a package that is missing, of another version or damaged, and `InputError` for a
    path without a file.
    """
    if not model.startswith(PREFIX):
        path = Path(model).expanduser()
        if not path.is_file():
            raise InputError(f"there is no GGUF file {path}; check the path")
        return path
    package = entry_of(model).package
    assert package is not None
    try:
        found = importlib.metadata.distribution(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise PrerequisiteError(
            f"the weights of {model} come in the package {package.distribution}, which is not installed; {SETUP}"
        ) from None
    path = Path(str(found.locate_file(package.file)))
    if found.version != package.version or not path.is_file():
        raise PrerequisiteError(
            f"the package {package.distribution} {found.version} is not the {package.version} that is known to hold "
            f"{package.file}; {SETUP}"
        )
    if file_hash(path) != package.sha256[:16]:
        raise PrerequisiteError(f"{path} is damaged: its hash is not the known one; {SETUP}")
    return path


def header_of(model: str) -> Header:
    """The header of the GGUF file that an id names."""
    return read_header(gguf_path(model))


def _in_hub_cache(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)


@cache
def _on_hub(hub_id: str) -> bool:
    """Whether the hub answers and has the model; it is not asked where the environment forbids it."""
    from huggingface_hub.constants import ENDPOINT, is_offline_mode

    if is_offline_mode():
        return False
    try:
        with urllib.request.urlopen(f"{ENDPOINT}/api/models/{hub_id}", timeout=HUB_SECONDS) as answer:
            return int(answer.status) == 200
    except (OSError, ValueError):
        return False
