"""The files of a model's folder that change what the model does, and their hash.

Named by what they are and not by what they are not, so that logs, optimizer states and READMEs move no identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from harness.errors import InputError
from harness.texts import read_text
from harness.types import file_hash

_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack")
_OTHERS = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py", ".tiktoken", ".vocab", ".spm", ".bpe", ".merges")
_INERT = ("readme", "license", "licence", "notice", "requirements", "changelog")
_TRAINING = ("optimizer", "scheduler", "scaler", "rng_state", "training_args", "pytorch_model_fsdp")
_ADAPTER = "adapter_config.json"

PROVENANCE = "provenance.json"
"""A fine-tuned model's account of where it comes from (`harness.resolve.provenance`), which changes nothing in it."""


def folder_digest(folder: Path, *, deep: bool = False) -> str:
    """Hex hash (16 characters) of the names and contents of the files in `folder` that change what the model does.

    Weights, adapters with the base that they name, tokenizers, templates, settings, code; `deep` takes whole
    subfolders, as sentence-transformers has them. Other forms of weights count only where there are no safetensors,
    which are loaded before them. Raises `InputError` for a file that cannot be read.
    """
    named = "".join(str(path.relative_to(folder)) + file_hash(path) for path in _model_files(folder, deep=deep))
    return hashlib.sha256((named + _base_of_adapter(folder)).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _model_files(folder: Path, *, deep: bool) -> list[Path]:
    found = folder.rglob("*") if deep else _shallow(folder)
    files = sorted(path for path in found if path.is_file() and _counts(path))
    safe = any(p.suffix == ".safetensors" and p.name.startswith("model") for p in files)
    return [p for p in files if deep or not safe or p.suffix not in _WEIGHTS]


def _shallow(folder: Path) -> Iterator[Path]:
    """The folder's own files, and what is loaded from below it: code, and templates beside the first."""
    yield from folder.iterdir()
    for pattern in ("*/*.py", "*/*/*.py", "additional_chat_templates/*.jinja"):
        yield from folder.glob(pattern)


def _counts(path: Path) -> bool:
    name = path.name.lower()
    if path.suffix.lower() not in (*_WEIGHTS, *_OTHERS) or name.startswith(".") or name == PROVENANCE:
        return False
    if path.suffix.lower() in _WEIGHTS and name.startswith(_TRAINING):
        return False
    return not (path.suffix == ".txt" and name.startswith(_INERT))


def _base_of_adapter(folder: Path) -> str:
    """The base of an adapter's folder, where it is one: its base's digest, or its name on the hub."""
    path = folder / _ADAPTER
    if not path.is_file():
        return ""
    try:
        config = json.loads(read_text(path))
        base = str(config["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {path} ({error}); save the adapter again") from None
    if Path(base).is_dir():
        return "" if Path(base).samefile(folder) else folder_digest(Path(base))
    return f"{base}@{config.get('revision') or 'main'}"
