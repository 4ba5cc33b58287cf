"""The forms of structured answers: one declaration gives the server's JSON schema and the check of what came.

A server that knows JSON schemas is given one; many accept the option and ignore it, so what comes back is validated
all the same. Text fields may be bounded: a bound makes every answer fit the token limit, and cuts off what is longer,
so it is off unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.types import well_formed


@dataclass(frozen=True, slots=True)
class Form:
    """A named shape of an answer. `build` makes its pydantic model, given the most characters of a text field."""

    name: str
    build: Callable[[int | None], type[BaseModel]]

    def schema(self, characters: int | None) -> dict[str, Any]:
        """The JSON schema, closed to other keys."""
        return self.build(characters).model_json_schema(by_alias=True)

    def fault(self, text: str, characters: int | None) -> str:
        """The fault of an answer, in a sentence; empty where nothing is."""
        from harness.synthesis.parsing import read_object

        found = read_object(text)
        if found.escape:
            return f"'{found.escape}' is no escape of JSON, where a backslash is written as two"
        if found.value is None:
            return "there is no JSON object in it"
        try:
            self.build(characters).model_validate(found.value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the object"
            return well_formed(f"{where}: {first['msg']}")
        return ""
