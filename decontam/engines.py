"""Which engine a setting means."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from decontam.backend import SearchBackend
from harness.config import DecontamConfig


def open_backend(
    settings: DecontamConfig,
    *,
    scratch: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> SearchBackend:
    """The engine that `settings.backend` names; a server is found by its environment variables.

    `scratch` is where an engine may keep what it has to buffer.
    """
    if settings.backend == "elasticsearch":
        from decontam.elastic import open_elastic

        return open_elastic(os.environ, scratch=scratch, progress=progress)
    from decontam.embedded import EmbeddedBackend

    return EmbeddedBackend()
