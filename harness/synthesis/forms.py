"""The forms of the two things that models write here: a rubric of four parts, and a pair as chat messages."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model

from harness.models.forms import Form
from harness.types import RUBRIC_PARTS


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _text(characters: int | None) -> Any:
    return Annotated[str, StringConstraints(min_length=1, max_length=characters)]


@cache
def _rubric(characters: int | None) -> type[BaseModel]:
    parts: dict[str, Any] = {
        f"part_{number}": (_text(characters), Field(alias=name)) for number, name in enumerate(RUBRIC_PARTS)
    }
    return create_model("Rubric", __base__=_Closed, **parts)


@cache
def _pair(characters: int | None) -> type[BaseModel]:
    # The three turns that the generator's prompt asks for, in this order.
    turns = []
    for role in ("system", "user", "assistant"):
        fields: dict[str, Any] = {"role": (Literal[role], ...), "content": (_text(characters), ...)}
        turns.append(create_model(f"{role.capitalize()}Turn", __base__=_Closed, **fields))
    messages: Any = tuple.__class_getitem__(tuple(turns))
    return create_model("Pair", __base__=_Closed, messages=(messages, ...))


RUBRIC_FORM = Form("rubric", _rubric)
"""Four non-empty strings under the names of `RUBRIC_PARTS`."""

PAIR_FORM = Form("pair", _pair)
"""A system turn, a question and an answer, as `messages`."""
