"""Items as text: Jinja templates, rendered strictly and in a sandbox.

One renderer serves tests, demonstrations and validation items, so that a guide asks exactly as the test does.
A variable that is not there is an error, never an empty string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import Environment

HELPERS = frozenset({"choices", "letters", "lettered", "answer", "letter"})
"""Variables that every template may use beside the fields of its item."""


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


def template_variables(template: str, where: str) -> set[str]:
    """The variables that `template` reads; `ConfigError` naming `where` if it is not valid Jinja."""
    from jinja2 import TemplateSyntaxError, meta

    try:
        return set(meta.find_undeclared_variables(_environment().parse(template)))
    except TemplateSyntaxError as error:
        raise ConfigError(f"{where}: the template {template[:60]!r} is not valid Jinja: {error.message}.") from None


@lru_cache(maxsize=64)
def _compiled(template: str) -> Any:
    return _environment().from_string(template)


def letters(count: int) -> list[str]:
    """`A`, `B`, … for `count` choices."""
    return [chr(ord("A") + i) for i in range(count)]


def render_template(template: str, fields: Mapping[str, Any], choices: Sequence[str], gold: int | None) -> str:
    """Render `template` over an item's fields and the helpers (`HELPERS`)."""
    names = letters(len(choices))
    helpers: dict[str, Any] = {
        "choices": list(choices),
        "letters": names,
        "lettered": "\n".join(f"{name}. {choice}" for name, choice in zip(names, choices, strict=True)),
        "letter": "" if gold is None else names[gold],
    }
    return str(_compiled(template).render({**fields, **helpers}))
