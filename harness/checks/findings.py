"""Findings of `doctor` and of the check before a run: a problem that stops a run, a line of the report, the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that would stop a run: what is missing, what is needed, what is there, and what to do."""

    what: str
    need: str
    have: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.need} needed, {self.have}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `problem` says what to do where something is wrong."""

    section: str
    name: str
    value: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, in order."""

    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {"ok": not self.problems, "findings": [asdict(f) for f in self.findings]}

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that need something done."""
        return tuple(f for f in self.findings if f.problem)
