"""Imports point one way: who reads records knows nothing of who makes runs, and no part knows the command line."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from graphlib import TopologicalSorter
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
    "harness.costs": (*MAKERS, "harness.training", "harness.synthesis", "methods", "evals", "results"),
    "harness.synthesis": (*MAKERS, "harness.training", "methods", "evals", "results"),
    "harness.models": (*MAKERS, "methods", "evals", "results"),
    "harness.training": (*MAKERS, "harness.synthesis", "methods", "evals", "results"),
    "harness.raters": (*MAKERS, "methods", "evals", "results"),
    "harness.lab": (*MAKERS, "harness.training", "methods", "evals", "results"),
    "harness.resolve": MAKERS[1:],
    "harness.checks": MAKERS[2:],
    "harness.planning": MAKERS[3:],
    "harness.runtime": ("harness.planning", *TOP),
    "harness.experiments": ("harness.planning", *TOP[1:]),
    "harness.bench": ("harness.planning", "harness.experiments", "harness.cli"),
}
"""By package, what its modules do not import, at their top or inside of functions."""


@functools.cache
def imports() -> Mapping[str, set[str]]:
    """By module, the names that it imports, of modules and of what is in them."""
    found: dict[str, set[str]] = {}
    for top in ("harness", "methods", "evals", "decontam", "results"):
        for path in (ROOT / top).rglob("*.py"):
            names = found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = set()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_point_one_way(package: str) -> None:
    modules = {module: names for module, names in imports().items() if within(module, (package,))}
    assert modules
    for module, names in modules.items():
        wrong = sorted(name for name in names if within(name, FORBIDDEN[package]))
        assert not wrong, f"{module} imports {', '.join(wrong)}"


def test_no_modules_import_each_other() -> None:
    # A package's own module is imported with what lies in it, and holds nothing.
    modules = {module: names & imports().keys() for module, names in imports().items()}
    packages = {module for module in modules if any(other.startswith(f"{module}.") for other in modules)}
    TopologicalSorter({module: names - packages for module, names in modules.items()}).prepare()
