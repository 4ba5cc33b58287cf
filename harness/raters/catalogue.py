"""Raters by name: declarations that packages register in `harness.raters`, and folders with weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness import plugins
from harness.choice import first_fault
from harness.errors import ConfigError, HarnessError, InputError
from harness.models.model_files import folder_digest
from harness.raters.declaration import FILE, RaterDeclaration
from harness.texts import read_text
from harness.yaml_text import parse_yaml


def find_rater(name: str, like: RaterDeclaration | None = None) -> RaterDeclaration:
    """The rater that is registered as `name`, or that lies in the folder `name`.

    A folder without a declaration is a copy of the checkpoint of `like`, where that is given. Raises `ConfigError` with
    the nearest name, and `InputError` for a folder that is none.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() or name.startswith((".", "/", "~")):
        return _in_folder(folder, like)
    entry = plugins.find(plugins.RATERS, name)
    found = read_declaration(plugins.resource(entry), name)
    if found.name != name:
        raise ConfigError(f"rater '{name}' ({entry.source}) calls itself '{found.name}'; repair the package")
    return found


def _in_folder(folder: Path, like: RaterDeclaration | None) -> RaterDeclaration:
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder} with a rater; correct the path, or train one: harness rater train"
        )
    if (folder / FILE).is_file():
        return read_declaration(folder / FILE, folder.resolve().name)
    if like is not None and (folder / "config.json").is_file():
        return like.model_copy(update={"checkpoint": str(folder.resolve()), "revision": None})
    raise InputError(
        f"{folder} is no rater: it has no {FILE}, which says how its outputs are read; write one (docs/raters.md), or "
        "train one: harness rater train"
    )


def read_declaration(path: Path, name: str) -> RaterDeclaration:
    """The declaration in a file; a folder that it names is found from the file's own. Raises `ConfigError`."""
    try:
        value: Any = parse_yaml(read_text(path), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error}); check the file") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} declares no rater: a mapping is expected")
    try:
        found = RaterDeclaration(**{"name": name, **value})
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_fault(error)}") from None
    if found.checkpoint.startswith("."):
        found = found.model_copy(update={"checkpoint": str((path.parent / found.checkpoint).resolve())})
    return found


def raters() -> tuple[list[RaterDeclaration], list[str]]:
    """All registered raters by name, and one line for each that cannot be used."""
    usable, faults = [], []
    for name in plugins.names(plugins.RATERS):
        try:
            usable.append(find_rater(name))
        except HarnessError as error:
            faults.append(str(error))
    return usable, faults


def weights_identity(declaration: RaterDeclaration, commit: str | None = None) -> str:
    """The identity of a rater's weights without loading them: a folder's files, or the hub's id and revision."""
    folder = Path(declaration.checkpoint)
    if folder.is_dir():
        return f"files:{folder_digest(folder)}"
    return f"{declaration.checkpoint}@{commit or declaration.revision or 'main'}"


def rater_identity(declaration: RaterDeclaration) -> str:
    """What decides a rater's scores of pairs, for the identity of a stage: its weights, and how it is asked."""
    texts = f"{declaration.text}\0{declaration.document}"
    return f"{declaration.identity(weights_identity(declaration))}:{texts}"
