"""A check of a model, what it measured, and the one line in which one that failed ends the work.

Shared by the checks of training (same tokens, layouts, the type of the weights) and those of the signals' engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import StageError

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was measured, the limit it has to stay under, what it means, and what to do if it failed."""

    name: str
    status: Status
    measured: float | None
    limit: float | None
    detail: str
    remedy: str = ""

    def line(self) -> str:
        """For people."""
        figures = "" if self.measured is None or self.limit is None else f"{self.measured:.1e} (limit {self.limit:.0e})"
        detail = f"{self.detail}. {self.remedy}" if self.status == "failed" and self.remedy else self.detail
        return f"{self.name:<26} {self.status:<8} {figures:<26} {detail}".rstrip()


def judge(name: str, measured: float, limit: float, detail: str, remedy: str = "") -> Check:
    """The check that passes where `measured` is at most `limit`; NaN fails."""
    return Check(
        name=name,
        status="passed" if measured <= limit else "failed",
        measured=measured,
        limit=limit,
        detail=detail,
        remedy=remedy,
    )


def require(checks: Sequence[Check], subject: str) -> None:
    """Raise `StageError` naming the first check that failed; `subject` begins the sentence ('gradients of …')."""
    for check in checks:
        if check.status == "failed":
            figures = (
                f", measured {check.measured:.3g}, limit {check.limit:.3g}"
                if check.measured is not None and check.limit is not None
                else ""
            )
            remedy = f". {check.remedy}" if check.remedy else ""
            raise StageError(f"{subject} failed the check '{check.name}': {check.detail}{figures}{remedy}")


def to_rows(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The checks as plain rows, for manifests, events and `run.json`."""
    return [
        {"name": c.name, "status": c.status, "measured": c.measured, "limit": c.limit, "detail": c.detail}
        for c in checks
    ]
