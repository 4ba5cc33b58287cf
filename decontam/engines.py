"""The engine that a setting means."""

from __future__ import annotations

import os
from pathlib import Path

from decontam.backend import SearchBackend
from harness.config import DecontamConfig
from harness.screen import ProgressCallback, no_progress


def open_engine(
    settings: DecontamConfig,
    *,
    scratch: Path | None = None,
    progress: ProgressCallback = no_progress,
) -> SearchBackend:
    """The engine that `settings.backend` names; a server is found by its environment variables.

    `scratch` is where an engine may keep what it has to buffer.
    """
    if settings.backend == "elasticsearch":
        from decontam.elastic import open_elastic

        return open_elastic(os.environ, scratch=scratch, progress=progress)
    from decontam.embedded import EmbeddedBackend

    return EmbeddedBackend()
