"""A chat template as all stages use it: one date whatever the day, and a system turn where the template knows none.

A template that writes today's date would make equal runs on two days train on different texts, so it is told `DATE`.
One that refuses a system turn, or leaves it out, is given its text at the head of the next user turn. Where it still
refuses, since it insists on alternation, neighbouring turns of one role are joined.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from harness.errors import PrerequisiteError
from harness.training.literal import longest_first, mark, neutralise, special_tokens
from harness.types import Message, chat, stable_hash

DATE = datetime(2024, 7, 26)
"""The day that templates are told: the one that Llama 3.1's template falls back on where it is told none."""

_OTHER_DATE = datetime(2031, 3, 9)
_MARKER = re.compile(r"[<\[{].*[>\]}]")
"""What an added token that is not declared special looks like where it opens or closes turns."""
_TEXT = "probedturn"
"""A turn's text that no template has of its own."""


@dataclass(frozen=True, slots=True)
class Traits:
    """The traits of a tokenizer's template.

    `controls` are the tokens that mean something to tokenizer or template: its special ones, and added ones that open
    or close turns. `closing` is what the template writes after an assistant's text, up to line ends; `stop` the first
    added token in it, None where there is none. `system` is False where it takes no system turn. `dated`: it reads the
    date.
    """

    controls: tuple[str, ...]
    closing: str
    stop: int | None
    system: bool
    dated: bool


_KNOWN: WeakKeyDictionary[Any, tuple[object, Traits]] = WeakKeyDictionary()


def require_template(tokenizer: Any, name: str) -> None:
    """Raise `PrerequisiteError` for a tokenizer without a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise PrerequisiteError(
            f"the tokenizer of {name} has no chat template; use a model that ships one, or add chat_template.jinja to "
            "a local copy and pass its folder"
        )


def template_hash(tokenizer: Any) -> str:
    """Hash of the chat template, recorded with every run."""
    return stable_hash(tokenizer.chat_template)


def traits(tokenizer: Any) -> Traits:
    """The traits of the tokenizer's template. Raises `PrerequisiteError` without one that can render a question."""
    require_template(tokenizer, tokenizer.name_or_path or "the model")
    key = (str(tokenizer.chat_template), {name: str(token) for name, token in tokenizer.special_tokens_map.items()})
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != key:
        known = (key, _probe(tokenizer))
        _KNOWN[tokenizer] = known
    return known[1]


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The texts that tokenizer and template, where there is one, take for more than text."""
    return traits(tokenizer).controls if tokenizer.chat_template else special_tokens(tokenizer)


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The text after which the model answers, with marks (see `literal`).

    Raises `PrerequisiteError` where the template refuses the conversation.
    """
    return _prompt(tokenizer, _marked(tokenizer, messages))[1]


def render_answered(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, str]:
    """The text before the last turn's answer, and the text of that answer with what closes it, up to line ends.

    Both have marks. Raises `PrerequisiteError` where the template refuses the conversation, and where it renders the
    question differently once an answer follows.
    """
    *before, answer = _marked(tokenizer, messages)
    turns, prompt = _prompt(tokenizer, before)
    whole = _apply(tokenizer, [*turns, answer], prompt=False)
    if not whole.startswith(prompt):
        raise PrerequisiteError(
            "the chat template renders the prompt differently once the answer follows; loss masks would be wrong. "
            "Use a template whose prompt is a prefix of the conversation"
        )
    return prompt, whole[len(prompt) :].rstrip("\n")


def turns_for_server(tokenizer: Any, messages: Sequence[Message]) -> list[Message]:
    """The turns as a server that renders and encodes them by itself is to be sent them."""
    turns, _ = _prompt(tokenizer, messages)
    return [Message(m.role, neutralise(m.content, traits(tokenizer).controls)) for m in turns]


def dateless(tokenizer: Any, name: str) -> str | None:
    """The template with `DATE` where it reads today's date, for a server that renders by itself; None if it does not.

    Raises `PrerequisiteError` for a date in a form that is not written down in the template.
    """
    if not traits(tokenizer).dated:
        return None
    call = r"strftime_now\(\s*(?P<quote>['\"])(?P<form>.*?)(?P=quote)\s*\)"
    text = re.sub(call, lambda m: f"{m['quote']}{DATE.strftime(m['form'])}{m['quote']}", tokenizer.get_chat_template())
    if "strftime_now(" in text:
        raise PrerequisiteError(
            f"the chat template of {name} writes today's date, and a server would write it into every prompt; serve a "
            "copy of the model whose chat_template.jinja has a fixed date"
        )
    return text


def fold(messages: Sequence[Message]) -> list[Message]:
    """Every system turn at the head of the user turn that follows it, a blank line between them."""
    turns: list[Message] = []
    waiting: list[str] = []
    for m in messages:
        if m.role == "system":
            waiting.append(m.content)
            continue
        if waiting and m.role != "user":
            turns.append(Message("user", "\n\n".join(waiting)))
            waiting = []
        turns.append(Message(m.role, "\n\n".join([*waiting, m.content])))
        waiting = []
    return [*turns, Message("user", "\n\n".join(waiting))] if waiting else turns


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Neighbouring turns of one role as one, a blank line between them."""
    turns: list[Message] = []
    for m in messages:
        if turns and turns[-1].role == m.role:
            turns[-1] = Message(m.role, f"{turns[-1].content}\n\n{m.content}")
        else:
            turns.append(m)
    return turns


def _marked(tokenizer: Any, messages: Sequence[Message]) -> list[Message]:
    controls = traits(tokenizer).controls
    return [Message(m.role, mark(m.content, controls)) for m in messages]


def _prompt(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[Message], str]:
    """The turns in the form that the template takes, and their text with the answer's opening."""
    from jinja2 import TemplateError

    turns = list(messages) if traits(tokenizer).system else fold(messages)
    try:
        return turns, _apply(tokenizer, turns, prompt=True)
    except TemplateError:
        turns = _joined(fold(messages))
    try:
        return turns, _apply(tokenizer, turns, prompt=True)
    except TemplateError as error:
        roles = ", ".join(m.role for m in messages)
        raise PrerequisiteError(
            f"the chat template refuses a conversation of the turns {roles} ({error}); use another template or model"
        ) from None


def _apply(tokenizer: Any, turns: Sequence[Message], *, prompt: bool, date: datetime = DATE) -> str:
    text: str = tokenizer.apply_chat_template(
        chat(turns), add_generation_prompt=prompt, tokenize=False, strftime_now=date.strftime
    )
    return text


def _probe(tokenizer: Any) -> Traits:
    from jinja2 import TemplateError

    def text(*roles: str, prompt: bool = True, date: datetime = DATE) -> str:
        turns = [Message(role, f"{_TEXT}{i}") for i, role in enumerate(roles)]
        return _apply(tokenizer, turns, prompt=prompt, date=date)

    try:
        plain, answered = text("user"), text("user", "assistant", prompt=False)
        dated = plain != text("user", date=_OTHER_DATE)
    except TemplateError as error:
        raise PrerequisiteError(
            f"the chat template cannot render a question and its answer ({error}); use another template or model"
        ) from None
    try:
        with_system = text("system", "user", "assistant", "user")
        system = f"{_TEXT}0" in with_system
        dated = dated or with_system != text("system", "user", "assistant", "user", date=_OTHER_DATE)
    except TemplateError:
        with_system, system = answered, False
    closing = answered.rpartition(f"{_TEXT}1")[2].rstrip("\n") if f"{_TEXT}1" in answered else ""
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items()}
    ids = tokenizer(closing, add_special_tokens=False)["input_ids"] if closing else []
    written = [t for t in added.values() if _MARKER.fullmatch(t) and t in with_system]
    return Traits(
        controls=longest_first([*special_tokens(tokenizer), *written]),
        closing=closing,
        stop=next((i for i in ids if i in added), None),
        system=system,
        dated=dated,
    )
