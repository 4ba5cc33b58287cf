"""A stage for tests of what stages are stored and run by: it costs nothing and loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.costs.records import Cost
from harness.costs.sizer import no_models
from harness.stage import Stage, StageRun


def plain_stage(
    name: str,
    version: int,
    settings: Mapping[str, Any],
    inputs: tuple[Stage, ...],
    work: Callable[[StageRun], Mapping[str, Any] | None],
    signal: str = "",
) -> Stage:
    """A stage called `name` that leaves pairs."""
    return Stage(
        name=name,
        version=version,
        settings=settings,
        inputs=inputs,
        work=work,
        kind="pairs",
        estimate=lambda estimator, before: Cost(rows=None, out=None),
        loads=no_models,
        signal=signal,
    )
