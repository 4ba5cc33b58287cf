"""Imports point one way: who reads records knows nothing of who makes runs, and no part knows the command line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = ("harness.experiments", "harness.bench", "harness.cli")
MAKERS = ("harness.resolve", "harness.checks", "harness.planning", "harness.runtime", *TOP)
FORBIDDEN = {
    "results": (*MAKERS, "harness.training", "harness.models", "harness.synthesis", "methods", "evals", "decontam"),
    "decontam": (*MAKERS, "harness.training", "methods", "evals", "results"),
    "evals": (*MAKERS, "methods", "results"),
    "methods": (*MAKERS, "results"),
    "harness/costs": (*MAKERS, "harness.training", "harness.synthesis", "methods", "evals", "results"),
    "harness/synthesis": (*MAKERS, "harness.training", "methods", "evals", "results"),
    "harness/models": (*MAKERS, "methods", "evals", "results"),
    "harness/training": (*MAKERS, "harness.synthesis", "methods", "evals", "results"),
    "harness/lab": (*MAKERS, "harness.training", "methods", "evals", "results"),
    "harness/resolve": MAKERS[1:],
    "harness/checks": MAKERS[2:],
    "harness/planning": MAKERS[3:],
    "harness/runtime": ("harness.planning", *TOP),
    "harness/experiments": ("harness.planning", *TOP[1:]),
    "harness/bench": ("harness.planning", "harness.experiments", "harness.cli"),
}
"""By folder, what its modules do not import, at their top or inside of functions."""


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_imports_point_one_way(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong = [n for n in names if any(n == f or n.startswith(f"{f}.") for f in FORBIDDEN[folder])]
            assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(wrong)}"
