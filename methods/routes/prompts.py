"""The prompt files of a route: the packaged one, one of the lab's, or a user's own."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from harness.models.prompts import Prompt, builtin_prompt, load_prompt

EXAMPLE = ("question", "answer")
"""Variables of a labelled seed, which a prompt that shows it needs."""
KNOWN = ("document", "domain", "system_message")
"""Variables that prompts about any seed may use."""


def route_prompt(path: str | None, builtin: str, required: Collection[str], known: Collection[str]) -> Prompt:
    """The prompt in `path`, or the packaged one; `lab:NAME` is one of the lab's. Raises `ConfigError` as reading it."""
    if path is None:
        where = builtin_prompt(builtin)
    elif path.startswith("lab:"):
        import harness.lab

        where = Path(harness.lab.__file__).parent / "prompts" / f"{path.removeprefix('lab:')}.txt"
    else:
        where = Path(path)
    return load_prompt(where, required=required, known=known)


def answer_prompt(path: str | None, *, compact: bool) -> Prompt:
    """The prompt by which a question is answered alone. Raises `ConfigError` as reading it."""
    builtin = "question_answer_compact" if compact else "question_answer"
    return route_prompt(path, builtin, ("question",), ("question", "domain", "system_message"))
