"""A local Ray, and an observer for stages that are executed outside of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.config_runtime import RayConfig


class SilentObserver:
    """Ignores everything."""

    def event(self, kind: str, **fields: Any) -> None:
        """Nothing."""

    def spend(self, stage: str, signal: str, usage: Sequence[Any]) -> None:
        """Nothing."""

    def progress(self, label: str, done: int, total: int, note: str = "") -> None:
        """Nothing."""

    def call_log(self, stage: str, signal: str) -> Any:
        """Nothing is called here."""


def executor(workers: int = 2) -> Any:
    """A local Ray of two workers."""
    from harness.ray_executor import RayExecutor

    return RayExecutor(RayConfig(workers=workers), threads=1)
