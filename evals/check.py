"""Checks of a suite that types alone cannot make, at load time rather than after an hour of training.

Templates are compiled and their variables compared with the declared fields; names that refer to other parts of
the suite are resolved; settings that contradict each other are refused.
"""

from __future__ import annotations

import re
from pathlib import Path

from evals.render import HELPERS, template_variables
from evals.suite import Benchmark, Rows, Suite, ValidationSet
from harness.errors import ConfigError, suggest


def check_suite(suite: Suite, path: Path) -> None:
    """Raise `ConfigError`, naming `path` and the place, for the first contradiction in `suite`."""
    ids = [b.id for b in suite.benchmarks]
    if not ids:
        raise ConfigError(f"{path}: 'benchmarks' is empty; declare at least one.")
    for what, names in _named(suite):
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{path}: two entries declare the {what} '{name}'; give each its own name.")
    for benchmark in suite.benchmarks:
        _check_benchmark(benchmark, f"{path}: benchmark '{benchmark.id}'")
    for validation in suite.validation:
        _check_validation(validation, suite, f"{path}: validation set '{validation.name}'")
    for training in suite.training:
        _check_validation(training, suite, f"{path}: training set '{training.name}'")


def _named(suite: Suite) -> list[tuple[str, list[str]]]:
    """The declarations of a suite that have names, by kind."""
    sets = [("validation set", suite.validation), ("training set", suite.training)]
    return [("benchmark", [b.id for b in suite.benchmarks]), *((what, [v.name for v in own]) for what, own in sets)]


def _fields(rows: Rows) -> set[str]:
    """The fields that every source of `rows` declares."""
    return set.intersection(*(set(s.fields) for s in rows.sources))


def _check_rows(rows: Rows, where: str, needed: set[str]) -> None:
    if not rows.sources:
        raise ConfigError(f"{where}: 'sources' is empty; name a file or a hub data set.")
    for source in rows.sources:
        if sum(x is not None for x in (source.file, source.hub, source.lab)) != 1:
            raise ConfigError(f"{where}: a source needs exactly one of 'file', 'hub' and 'lab'.")
        if source.hub and not source.split:
            raise ConfigError(f"{where}: the source '{source.hub}' needs a 'split'.")
        if missing := sorted(needed - set(source.fields)):
            raise ConfigError(
                f"{where}: the source '{source.label}' maps no column to '{missing[0]}'; add it to 'fields'."
            )
    for name in rows.where:
        if name not in _fields(rows):
            raise ConfigError(
                f"{where}: 'where' uses the field '{name}', which its sources do not map{suggest(name, _fields(rows))}"
            )


def _check_known(names: list[str], known: set[str], where: str, what: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: {what} '{name}', which is not a field{suggest(name, known)}")


def _check_benchmark(b: Benchmark, where: str) -> None:
    needed = {"id", "question", "answer"} if b.scorer == "lm_eval" else {"id", "question"}
    _check_rows(b.rows, where, needed)
    known = _fields(b.rows)
    template = b.template
    _check_known(sorted(template_variables(template.prompt, where) - HELPERS), known, where, "the prompt uses")
    _check_known(list(b.contamination), known | {"choices"}, where, "'contamination' lists")
    _check_known([b.cluster_key] if b.cluster_key else [], known, where, "'cluster_key' is")
    _check_known(list(b.keys.values()), known, where, "'keys' uses")
    if not b.contamination:
        raise ConfigError(f"{where}: 'contamination' is empty; list the fields that are test text.")
    if b.scorer == "none":
        return
    if (template.output == "loglikelihood") != (b.metric == "loss"):
        raise ConfigError(f"{where}: the metric loss and 'output: loglikelihood' go together; set both, or neither.")
    if template.output == "loglikelihood":
        read = sorted(template_variables(template.reference, where) - HELPERS)
        _check_known(read, known, where, "'reference' uses")
    elif template.output == "multiple_choice":
        if b.metric == "exact_match":
            raise ConfigError(f"{where}: the metric exact_match needs 'output: generate_until'; use acc or acc_norm.")
        if not template.choices and "choices" not in known:
            raise ConfigError(f"{where}: multiple choice needs a 'choices' field, or fixed 'choices' in its template.")
    elif b.metric != "exact_match":
        raise ConfigError(f"{where}: generated answers are scored by exact_match; set 'metric: exact_match'.")
    _check_extract(template.extract, where)
    if b.shots and b.pool is None:
        raise ConfigError(f"{where}: 'shots' is {b.shots} but there is no 'pool' to draw demonstrations from.")
    if b.pool is not None:
        _check_rows(b.pool, f"{where}, pool", {"id", "question", "answer"})
        pool_fields = _fields(b.pool)
        used = template_variables(template.prompt, where) | template_variables(template.shot_target or "", where)
        _check_known(sorted(used - HELPERS), pool_fields, f"{where}, pool", "a template uses")


def _check_extract(pattern: str | None, where: str) -> None:
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ConfigError(f"{where}: 'extract' is not a valid regular expression: {error}.") from None
    if groups != 1:
        raise ConfigError(f"{where}: 'extract' must have exactly one group, not {groups}.")


def _check_validation(v: ValidationSet, suite: Suite, where: str) -> None:
    ids = {b.id for b in suite.benchmarks}
    for name in (v.like, *v.guides, *v.same_items_as):
        if name not in ids:
            raise ConfigError(f"{where} refers to the benchmark '{name}'{suggest(name, ids)}")
    if v.like not in v.guides or not set(v.same_items_as) <= set(v.guides):
        raise ConfigError(f"{where}: the benchmarks of 'like' and 'same_items_as' must be listed in 'guides' too.")
    _check_rows(v.rows, where, {"id", "question", "answer"})
    known = _fields(v.rows)
    template = suite.benchmark(v.like).template
    _check_known(
        sorted(template_variables(template.prompt, where) - HELPERS), known, where, f"the prompt of '{v.like}' uses"
    )
    _check_known(list(v.keys.values()), known, where, "'keys' uses")
    _check_known([v.subtask] if v.subtask else [], known, where, "'subtask' is")
    if v.rendering == "reasoning":
        _check_known(sorted(template_variables(v.reasoning, where) - HELPERS), known, where, "'reasoning' uses")
