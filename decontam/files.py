"""A check of files from beginning to end: read, check shard by shard, decide, write what it leaves.

The work of a check lies in the output folder under the check's identity (texts, items, rules, embedder) until the
report is there, so that a second call after a kill goes on, and one with other rules cannot take its shards for its
own. The engine is no part of the identity, since it changes no answer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decontam.check import VERSION, ContaminationCheck, run_check
from decontam.corpus import EmbeddedCorpus, FileCorpus
from decontam.html import render_page
from decontam.outputs import (
    EVIDENCE,
    REPORT,
    collect_evidence,
    read_report,
    write_evidence,
    write_rows,
    write_summary_tables,
)
from decontam.report import CorpusOrigin, make_report
from decontam.tokens import clean
from decontam.verdict import decide
from harness.errors import ConfigError
from harness.screen import ProgressCallback, no_progress
from harness.shards import write_json, write_text
from harness.types import stable_hash

SHOWN = 300
"""Pairs of each list on the page; the others are in the evidence file."""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """A finished check of files: its report as JSON, and whether it was there already."""

    report: dict[str, Any]
    folder: Path
    reused: bool


def identity_of(check: ContaminationCheck, corpus: FileCorpus, against: Sequence[str]) -> str:
    """The identity of what decides a check's results."""
    settings = check.settings.model_dump(mode="json", exclude={"backend"})
    items = stable_hash([[i.benchmark, clean(i.id), list(map(clean, i.fields))] for i in check.side.items])
    embedder = check.embedder.identity if check.embedder and "embedding" in check.settings.modes else None
    rows = stable_hash(list(corpus.paths), list(corpus.sources), corpus.rows_in)
    return stable_hash(VERSION, corpus.digest, rows, settings, items, embedder, list(against))


def check_files(
    check: ContaminationCheck,
    corpus: FileCorpus,
    folder: Path,
    *,
    against: Sequence[str],
    missing: Sequence[str] = (),
    progress: ProgressCallback = no_progress,
    say: Callable[[str], None] = lambda line: None,
) -> FileCheck:
    """Check `corpus` and write everything into `folder`; `missing` are test sets that could not be read.

    Raises `ConfigError` where the folder holds the report of another check.
    """
    identity = identity_of(check, corpus, against)
    before = read_report(folder)
    if before is not None:
        if before.get("identity") != identity:
            raise ConfigError(
                f"{folder} holds the report of another check ({before.get('pair', '?')}); name another with --out"
            )
        return FileCheck(dict(before), folder, True)
    work = folder / f".check-{identity}"
    work.mkdir(parents=True, exist_ok=True)
    for stale in work.glob(".*.tmp"):
        stale.unlink(missing_ok=True)
    embedding = "embedding" in check.settings.modes and check.embedder is not None
    checked: FileCorpus | EmbeddedCorpus = corpus
    if embedding and check.embedder is not None:
        checked = EmbeddedCorpus(corpus, check.embedder, work, progress)
    results = run_check(check, checked, work, progress)
    say("deciding, and writing what was found")
    verdicts = decide(check, results, corpus.size)
    names = [Path(path).name for path in corpus.paths]
    report = make_report(
        check,
        verdicts,
        CorpusOrigin(
            row_of=corpus.row_of,
            part_of=corpus.part_of,
            source_of=corpus.source_of,
            sources=corpus.sources,
            rows=corpus.rows,
        ),
        pair=f"{', '.join(names)} × {', '.join(against)}",
        train=names,
        rows_without_text=corpus.without_text,
        fields=corpus.fields,
        identity=identity,
        missing=missing,
    )
    write_rows(corpus, verdicts.removed, folder)
    shown = write_evidence(folder / EVIDENCE, collect_evidence(check, corpus, verdicts), SHOWN)
    write_summary_tables(report, folder)
    write_text(folder / "report.html", render_page(report, shown))
    write_json(folder / REPORT, report.to_json())
    shutil.rmtree(work, ignore_errors=True)
    return FileCheck(report.to_json(), folder, False)
