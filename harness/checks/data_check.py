"""Checks of a run's documents, validation items and tests against its settings, before any model is loaded.

What lies on this machine is read as the run will read it; data sets that a hub would send are left to the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InputError

if TYPE_CHECKING:
    from evals.suite import Benchmark, Rows, Suite
    from harness.config import RunConfig
    from harness.types import Seed
    from methods.plan import Plan

LAB_TESTS = (
    "the documents are not the lab's, but its tests ask about the lab's made-up world, of which they say nothing: "
    "scores will not rise; name a suite of theirs with --suite"
)
"""Said where documents from outside are tested by the lab."""


def check_data(config: RunConfig) -> int | None:
    """The number of documents that share no text with tests or validation items; None where they are not all here.

    Raises `InputError` or `ConfigError` for documents or items that cannot be read, that are not as many as declared,
    or that leave fewer validation items than are asked for.
    """
    from evals.catalogue import load_suite
    from evals.data import load_items, load_validation, unlimited
    from evals.overlap import split_without_overlaps
    from methods.plan import Plan

    tests = load_suite(config.eval.suite) if config.eval.suite else None
    plan = Plan(config, load_suite(config.suite), other_tests=tests)
    guide = plan.suite.validation_set(config.guide.set)
    documents = _documents(plan)
    for suite in {id(s): s for s in (plan.suite, plan.tests)}.values():
        for benchmark in _measured(plan, suite):
            load_items(benchmark, unlimited(plan.data), suite.folder)
    if not _is_here(guide.rows, plan, plan.suite):
        return None
    seed, rendering = config.synthesis_seed, config.guide.rendering
    if len(_measured(plan, plan.suite)) < sum(b.scorer == "lm_eval" for b in plan.suite.benchmarks):
        load_validation(plan.suite, guide.name, config.guide.n, seed, plan.data, rendering=rendering)
        return None
    split = split_without_overlaps(
        plan.suite, guide.name, config.guide.n, seed, documents or (), plan.data, rendering=rendering
    )
    return len(split.seeds) if documents is not None else None


def _documents(plan: Plan) -> tuple[Seed, ...] | None:
    """The documents, where they are all here."""
    from harness.synthesis.tables import find_tables
    from methods.stages.sources import local_training, read_documents

    source = plan.config.seeds
    if not all(Path(table).exists() for table in find_tables(source.tables)) or not local_training(plan):
        return None
    report = read_documents(plan)
    if not report.seeds:
        raise InputError(f"{', '.join(source.sources)}: none of {report.read} rows is a document that can be used")
    return report.seeds


def _measured(plan: Plan, suite: Suite) -> list[Benchmark]:
    """The benchmarks of `suite` that are evaluated and whose items are here."""
    return [b for b in suite.benchmarks if b.scorer == "lm_eval" and _is_here(b.rows, plan, suite)]


def _is_here(rows: Rows, plan: Plan, suite: Suite) -> bool:
    from evals.read import find_source

    return find_source(rows, f"suite {suite.name}", plan.data, suite.folder)[0].hub is None
