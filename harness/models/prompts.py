"""Prompt files: plain text with `[system]`, `[user]` and `[assistant]` sections and `{{named variables}}`.

A prompt is part of a method, so it is a file that a user can read, copy and replace, and its hash goes into the
run's record. There is no template language: a variable is replaced by its value, once and literally, so a document
that contains `{{x}}` or a line `[user]` stays what it is. What this gives up is any condition or loop in a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError, suggest
from harness.texts import read_text
from harness.types import RUBRIC_PARTS, Message, stable_hash

RUBRIC_REQUIRED = ("document",)
"""Variables without which a writer's prompt makes no sense."""
RUBRIC_KNOWN = ("document", "domain")
"""Every variable that a writer's prompt may use."""
GENERATOR_REQUIRED = ("document", *RUBRIC_PARTS)
"""Variables without which a generator's prompt makes no sense."""
GENERATOR_KNOWN = (*GENERATOR_REQUIRED, "domain", "system_message")
"""Every variable that a generator's prompt may use."""

_SECTION = re.compile(r"^\[(\w+)\][ \t]*$", re.MULTILINE)
_VARIABLE = re.compile(r"\{\{\s*([^\s{}](?:[^{}\n]*[^\s{}])?)\s*\}\}")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A parsed prompt file: `sections` are the chat turns as (role, text with variables), in file order."""

    path: str
    text: str
    sections: tuple[tuple[str, str], ...]

    @property
    def variables(self) -> frozenset[str]:
        """The names used anywhere in the file."""
        return frozenset(name for _, body in self.sections for name in _VARIABLE.findall(body))

    @property
    def hash(self) -> str:
        """Hash of the file's text, as recorded with every sample that it produced."""
        return stable_hash(self.text)

    def render(self, variables: Mapping[str, str]) -> tuple[Message, ...]:
        """The chat with every variable replaced by its value; values are never expanded again.

        Names in `variables` that the file does not use are ignored. Raises `ConfigError` where the file uses a
        name that `variables` lacks.
        """
        unknown = sorted(self.variables - set(variables))
        if unknown:
            raise ConfigError(_unknown_message(self.path, unknown[0], variables))
        return tuple(
            Message(role, _VARIABLE.sub(lambda match: variables[match[1]], body)) for role, body in self.sections
        )


def builtin_prompt(name: str) -> Path:
    """The path of a prompt that comes with the package: `rubric` or `generator`, or either with `_compact`."""
    return Path(__file__).parent / "prompts" / f"{name}.txt"


def builtin_prompts() -> list[str]:
    """The names of the packaged prompts."""
    return sorted(path.stem for path in (Path(__file__).parent / "prompts").glob("*.txt"))


def load_prompt(path: str | Path, *, required: Collection[str] = (), known: Collection[str] | None = None) -> Prompt:
    """Read and check a prompt file.

    `required` are names that the file must use; `known` are all names that its renderer will have (None: anything,
    and `Prompt.render` checks). Raises `ConfigError` in one sentence for a file that cannot be read, has no
    `[user]` section last, lacks a required variable, or uses one that is not known.
    """
    text = _read(Path(path))
    prompt = Prompt(str(path), text, _sections(str(path), text))
    missing = sorted(set(required) - prompt.variables)
    if missing:
        raise ConfigError(f"prompt file {path} does not use the variable {{{{{missing[0]}}}}}; add it where it belongs")
    unknown = sorted(prompt.variables - set(known)) if known is not None else []
    if unknown:
        raise ConfigError(_unknown_message(str(path), unknown[0], known or ()))
    return prompt


def _unknown_message(path: str, name: str, known: Collection[str]) -> str:
    return f"prompt file {path} uses the unknown variable {{{{{name}}}}}{suggest(name, known)}"


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompt file {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"prompt file {path} cannot be read: {error.strerror}; check the path") from error


def _sections(path: str, text: str) -> tuple[tuple[str, str], ...]:
    marks = list(_SECTION.finditer(text))
    if not marks:
        raise ConfigError(f"prompt file {path} has no section; start one with a line [system] or [user]")
    if text[: marks[0].start()].strip():
        raise ConfigError(f"prompt file {path} has text before its first section; put it below [system] or [user]")
    sections = []
    for mark, after in zip(marks, [*marks[1:], None], strict=True):
        line = text.count("\n", 0, mark.start()) + 1
        if mark[1] not in _ROLES:
            raise ConfigError(f"prompt file {path}, line {line}: unknown section [{mark[1]}]{suggest(mark[1], _ROLES)}")
        body = text[mark.end() : after.start() if after else len(text)].strip()
        if not body:
            raise ConfigError(f"prompt file {path}, line {line}: section [{mark[1]}] is empty; fill it or remove it")
        sections.append((mark[1], body))
    if sections[-1][0] != "user":
        raise ConfigError(f"prompt file {path} ends with [{sections[-1][0]}]; the last section must be [user]")
    return tuple(sections)
