"""Keys of servers, read from the environment and written nowhere."""

from __future__ import annotations

import os

from harness.errors import PrerequisiteError


def read_key(variable: str) -> str | None:
    """The key that an environment variable holds, None where it holds none.

    Raises `PrerequisiteError` for what no HTTP header can hold: libraries refuse it by repeating it, in a form that no
    search for the key finds.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise PrerequisiteError(
            f"the environment variable {variable} holds blanks or characters that no key has; copy the key again"
        )
    return key or None
