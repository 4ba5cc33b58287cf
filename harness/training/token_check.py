"""Checks that a target is trained, scored and tested on the same tokens, and taught to stop, before any of it.

Conversations of the shapes that runs have (with and without a system turn, several turns, blanks and special tokens in
the text) go through the tokenizer and template once as training encodes them, and once as a model is prompted.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from harness.models.tokenizers import declared_stops
from harness.training.chat import encode, prompt_ids
from harness.training.checks import Check
from harness.training.template import DATE, render_answered, template_hash, traits
from harness.types import Message

SAME, STOP, SYSTEM, DATED = "same tokens", "stop token", "system turn", "date in template"

ANSWERS = ("Four.", "no", " a blank before", "two\nlines", "12 %", "(b) both", "Ünïcode 東京")


def check_tokens(model: Any, tokenizer: Any) -> list[Check]:
    """The checks of a model as `load_causal_lm` gives it, with its tokenizer.

    Raises `PrerequisiteError` for a template that cannot render a question and its answer.
    """
    stop = [] if traits(tokenizer).stop is None else [_stop(model, tokenizer)]
    return [_same(tokenizer), *stop, *notices(tokenizer)]


def notices(tokenizer: Any) -> list[Check]:
    """The notices about the tokenizer's template for a user although nothing is wrong: no end, no system turn, a date.

    Raises `PrerequisiteError` for a template that cannot render a question and its answer.
    """
    known, found = traits(tokenizer), []
    if known.stop is None:
        after = f"writes {known.closing!r}, which is no token of its own," if known.closing else "writes nothing"
        detail = f"the template {after} after an answer: nothing teaches the model to stop"
        remedy = "add the end token to the template's assistant turn"
        found.append(
            Check(name=STOP, status="skipped", measured=None, limit=None, detail=f"{detail}; {remedy}", remedy=remedy)
        )
    if not known.system:
        detail = "the template takes no system turn: its text is put at the head of the next user turn, in every stage"
        found.append(Check(name=SYSTEM, status="passed", measured=None, limit=None, detail=detail))
    if known.dated:
        detail = f"the template writes today's date: it is told {DATE:%d %B %Y} in every stage"
        found.append(Check(name=DATED, status="passed", measured=None, limit=None, detail=detail))
    return found


def is_notice(row: Mapping[str, Any]) -> bool:
    """Whether a check, as a row, is one of `notices`."""
    return row["name"] in (SYSTEM, DATED) or (row["name"] == STOP and row["status"] == "skipped")


def conversations(tokenizer: Any) -> list[list[Message]]:
    """The conversations that are compared: short conversations, in one of which special tokens are written out."""
    ask = Message("user", "Is it two, or three?")
    talks = [[ask, Message("assistant", answer)] for answer in ANSWERS]
    talks.append([Message("system", "Be brief."), *talks[0]])
    talks.append([*talks[0], Message("user", "Why?"), Message("assistant", "It is the sum.")])
    written = " ".join(traits(tokenizer).controls[:8])
    talks.append([Message("user", f"What is {written}?"), Message("assistant", f"{written} are tokens.")])
    return talks


def _same(tokenizer: Any) -> Check:
    """Training's ids begin with those of the prompt; begin tokens stand once; written-out tokens are text."""
    talks = conversations(tokenizer)
    faults = [fault for talk in talks if (fault := _fault(tokenizer, talk))]
    if ANSWERS[0] not in render_answered(tokenizer, talks[0])[1]:
        faults.append(f"the template leaves out the answer {ANSWERS[0]!r}")
    if _ends(tokenizer, talks[-1]) != _ends(tokenizer, talks[0]):
        faults.append("special tokens that a turn writes out are encoded as tokens, not as text")
    opening, begin = prompt_ids(tokenizer, talks[0][:1]), tokenizer.bos_token_id
    # Some tokenizers call the token that opens every turn their begin token, so only two in a row are one too many.
    if begin is not None and (begin, begin) in itertools.pairwise(opening):
        faults.append(f"the template writes {tokenizer.bos_token} twice in a row")
    if faults:
        remedy = "Use another template, or the tokenizer that belongs to it"
        return Check(name=SAME, status="failed", measured=None, limit=None, detail=faults[0], remedy=remedy)
    how = f"with {tokenizer.bos_token}, as the template has it" if begin in opening else "without a begin token"
    detail = f"{len(talks)} conversations in training, scoring and testing, {how}; template {template_hash(tokenizer)}"
    return Check(name=SAME, status="passed", measured=None, limit=None, detail=detail)


def _fault(tokenizer: Any, talk: Sequence[Message]) -> str:
    """The fault of the ids of a conversation; empty where nothing is."""
    code, opened = encode(tokenizer, talk, sys.maxsize), encode(tokenizer, talk, sys.maxsize, closed=False)
    prompt = prompt_ids(tokenizer, talk[:-1])
    if list(code.ids[: code.prompt_length]) != prompt:
        return f"the prompt of {talk[-1].content!r} is encoded otherwise in training than in testing"
    if opened.ids != code.ids[: len(opened.ids)] and traits(tokenizer).stop is not None:
        return f"the answer {talk[-1].content!r} is encoded otherwise in training than as a choice in testing"
    return ""


def _ends(tokenizer: Any, talk: Sequence[Message]) -> list[int]:
    """The special ids of a conversation, in order."""
    special = {tokenizer.convert_tokens_to_ids(t) for t in traits(tokenizer).controls} - {tokenizer.unk_token_id}
    return [i for i in encode(tokenizer, talk, sys.maxsize).ids if i in special]


def _stop(model: Any, tokenizer: Any) -> Check:
    """An answer's tokens end with the one that the template closes it with, at which what is saved stops."""
    stop = traits(tokenizer).stop
    name = tokenizer.convert_ids_to_tokens(stop)
    code = encode(tokenizer, [Message("user", "Is it two?"), Message("assistant", "Yes.")], sys.maxsize)
    if stop not in code.ids[code.prompt_length :]:
        return Check(
            name=STOP,
            status="failed",
            measured=None,
            limit=None,
            detail=f"{name} closes an answer in the template and is not trained",
            remedy="",
        )
    if stop not in declared_stops(model):
        return Check(
            name=STOP,
            status="failed",
            measured=None,
            limit=None,
            detail=f"an answer ends with {name}, and what is saved would not stop there",
        )
    return Check(
        name=STOP,
        status="passed",
        measured=None,
        limit=None,
        detail=f"an answer ends with {name}, at which what is saved stops",
    )
