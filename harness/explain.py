"""Meaning, values and default of every setting: read off the settings' classes, for screens, docs and files.

A setting's meaning is the text below its field. Settings of plug-ins are found through their choices (`signal.KEY`), so
that an added plug-in explains itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness.choice import Choice, plugin_classes
from harness.config import RunConfig
from harness.config_models import Section
from harness.errors import ConfigError, suggest

_NOTHING = type(None)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """A setting: its dotted key, its meaning in one line, what it takes in words, and its default as it is typed.

    `default` is None where there is none. `owner` names the plug-in that it belongs to; `section` marks those that hold
    settings of their own.
    """

    key: str
    meaning: str
    takes: str
    default: str | None
    owner: str = ""
    section: bool = False


def settings() -> list[SettingDoc]:
    """All settings, a section before what it holds, in the order of their classes."""
    return list(_walk(RunConfig, "", None))


def _walk(model: type[BaseModel], prefix: str, defaults: Section | None, owner: str = "") -> Iterator[SettingDoc]:
    for name, field in model.model_fields.items():
        key = prefix + name
        kinds = sections_of(field)
        value = getattr(defaults, name) if defaults is not None else None if field.is_required() else field.default
        shown = None if defaults is None and field.is_required() else typed(value)
        held = bool(kinds) and not issubclass(kinds[0], Choice)
        yield SettingDoc(
            key=key,
            meaning=meaning(field),
            takes="" if held else takes(field),
            default=None if held else shown,
            owner=owner,
            section=held,
        )
        for kind in kinds:
            if issubclass(kind, Choice):
                # What is chosen elsewhere has the same settings there.
                yield from _of_plugins(kind, key) if "." not in key else ()
            else:
                yield from _walk(kind, f"{key}.", value if isinstance(value, Section) else None, owner)


def _of_plugins(kind: type[Choice], key: str) -> Iterator[SettingDoc]:
    for plugin in plugin_classes(kind.group)[0]:
        yield from _walk(plugin.Settings, f"{key}.", plugin.Settings(), f"{key} {plugin.name}")


def sections_of(field: FieldInfo) -> list[type[BaseModel]]:
    """The sections that a field may hold."""
    # A list's elements have no keys of their own.
    kinds = () if get_origin(field.annotation) is tuple else (field.annotation, *get_args(field.annotation))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def meaning(field: FieldInfo) -> str:
    """The text below the field, in one line."""
    return " ".join((field.description or "").split())


def takes(field: FieldInfo) -> str:
    """The values that may be given, in words: the kind of value and its bounds."""
    names = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "at least"}
    bounds = [
        f"{words} {getattr(item, name):g}" + (" long" if name == "min_length" else "")
        for item in field.metadata
        for name, words in names.items()
        if getattr(item, name, None) is not None
    ]
    parts = [part for part in get_args(field.annotation) if part is not _NOTHING]
    optional = len(parts) < len(get_args(field.annotation))
    kind = " or ".join(map(_kind, parts)) if optional else _kind(field.annotation)
    return ", ".join([kind, *([" and ".join(bounds)] if bounds else []), *(["or null"] if optional else [])])


def _kind(annotation: Any) -> str:
    parts = [part for part in get_args(annotation) if part is not Ellipsis]
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, parts)) if len(parts) < 3 else f"one of {', '.join(map(str, parts))}"
    if get_origin(annotation) is tuple:
        return f"a list, a,b or [a,b], each {_kind(parts[0])}"
    if hasattr(annotation, "__metadata__"):
        return _kind(parts[0])
    if len(parts) > 1:
        return " or ".join(map(_kind, parts))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a name, with settings of its own" if issubclass(annotation, Choice) else "settings of its own"
    return _WORDS.get(annotation, str(annotation))


def typed(value: Any) -> str:
    """A value as it can be typed behind `--set KEY=`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(typed, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) and value else json.dumps(value, default=str, ensure_ascii=False)


def find_settings(words: Sequence[str]) -> list[SettingDoc]:
    """The settings that the words mean: one key, a section with what it holds, or all that mention every word.

    Raises `ConfigError` with the nearest key where there is none.
    """
    known = settings()
    if not words:
        return [setting for setting in known if "." not in setting.key]
    if len(words) == 1:
        key = words[0].rstrip(".")
        exact = [s for s in known if s.key == key or s.key.startswith(f"{key}.")]
        if exact:
            return exact
    lowered = [word.lower() for word in words]
    found = [s for s in known if all(w in f"{s.key} {s.meaning} {s.takes} {s.owner}".lower() for w in lowered)]
    if not found:
        near = suggest(words[0], [s.key for s in known])
        raise ConfigError(f"no setting mentions {' '.join(words)!r}{near if 'did you mean' in near else ''}")
    return found


def comments() -> Mapping[str, str]:
    """Meanings by key, of settings and sections; those of plug-ins under their name: `influence:signal.update`."""
    return {(f"{s.owner.partition(' ')[2]}:{s.key}" if s.owner else s.key): s.meaning for s in settings()}


def markdown() -> str:
    """The reference page of all settings."""
    lines = ["# Settings", "", _PAGE, ""]
    known = settings()
    seen: dict[tuple[str, ...], str] = {}
    top = [s for s in known if "." not in s.key]
    lines += ["## At the top", "", *_table([s for s in top if not s.section]), ""]
    for section in (s for s in top if s.section or any(o.owner.startswith(f"{s.key} ") for o in known)):
        lines += [f"## {section.key}", "", section.meaning, ""]
        below = [s for s in known if s.key.startswith(f"{section.key}.") and not s.section]
        for group, rows in _groups(below).items():
            form = tuple(f"{s.key.rpartition('.')[2]} {s.takes} {s.default}" for s in rows)
            title = f"### {group}"
            if form in seen:
                lines += [title, "", f"As {seen[form]}.", ""]
                continue
            seen[form] = f"`{group}`"
            lines += [*([title, ""] if group != section.key else []), *_table(rows), ""]
    return "\n".join(lines).rstrip() + "\n"


_PAGE = (
    "Every setting of a run: given in a file (`harness run FILE`), or as `--set KEY=VALUE`. `harness explain KEY` "
    "prints one, `harness explain WORD` searches, and a run's `config.yaml` has them all with their meanings. This "
    "page is what `harness explain --markdown` prints. A default that is not named is set by the method or target."
)


def _groups(rows: Sequence[SettingDoc]) -> dict[str, list[SettingDoc]]:
    """Settings by the section that holds them, or by their plug-in."""
    groups: dict[str, list[SettingDoc]] = {}
    for row in rows:
        groups.setdefault(row.owner or row.key.rpartition(".")[0], []).append(row)
    return groups


def _table(rows: Sequence[SettingDoc]) -> list[str]:
    cells = [(f"`{s.key}`", s.meaning, s.takes, "" if s.default is None else f"`{s.default}`") for s in rows]
    return [
        "| setting | meaning | takes | default |",
        "|---|---|---|---|",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells),
    ]
