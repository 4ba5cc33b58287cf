"""Outputs of a check of files: cleaned and removed rows, evidence, numbers, a table in open-instruct's shape, a page.

Kept rows are copied byte by byte, in the form of their file. Everything is written under a temporary name and renamed,
and `report.json` comes last: where it lies, the folder is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decontam.check import ContaminationCheck
from decontam.corpus import FileCorpus
from decontam.evidence import Shown, evidence
from decontam.fields import PARTS
from decontam.report import ContaminationReport
from decontam.tokens import clean
from decontam.verdict import KINDS, Pairs, Verdicts, shown_score
from harness.shards import replace_into, write_text
from harness.synthesis.tables import copy_rows
from harness.types import stable_hash

REPORT = "report.json"
EVIDENCE = "evidence.jsonl"
DOUBT = 0.2
"""How far above its threshold the score of n-grams is still doubtful."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence for which a row was removed, or reported. `row` counts rows of `file` from 1; `score` is in `unit`.

    `removes`: this pair is reason enough. `removed`: the text is gone, for this pair or another.
    """

    file: str
    row: int
    source: str
    part: str
    mode: str
    score: float
    unit: str
    threshold: float | None
    removes: bool
    removed: bool
    short: bool
    benchmark: str
    item: str
    document: Shown
    fields: tuple[Shown, ...]


def strongest(check: ContaminationCheck, pairs: Pairs) -> Pairs:
    """Of the hits, the best pair of each document, kind and benchmark; those that remove go before all others.

    A match with a short item may score as high as the one that a text is removed for, and must not hide it.
    """
    hits = pairs.select(pairs.hit)
    # Within a document and kind, pairs come by falling score, so the first of a benchmark is its best.
    order = np.argsort(~hits.removes, kind="stable")
    key = np.stack((hits.document, hits.kind, check.side.benchmark_of[hits.item]))[:, order]
    _, first = np.unique(key, axis=1, return_index=True)
    keep = np.zeros(len(hits), np.bool_)
    keep[order[first]] = True
    return hits.select(keep)


def collect_evidence(check: ContaminationCheck, corpus: FileCorpus, verdicts: Verdicts) -> Iterator[Evidence]:
    """Evidence for all hits, in order of documents; reads the corpus once more."""
    pairs = strongest(check, verdicts.pairs)
    settings = check.settings
    bounds = np.concatenate(([0], np.cumsum(corpus.rows_in)))
    values = {"ngram": settings.ngram_threshold, "embedding": settings.embedding_threshold}
    units = {"ngram": "share of tokens", "embedding": settings.embedding_unit}
    begin = 0
    for shard in corpus.shards():
        end = int(np.searchsorted(pairs.document, shard.first + len(shard.texts)))
        for k in range(begin, end):
            document, item = int(pairs.document[k]), check.side.items[pairs.item[k]]
            kind = KINDS[pairs.kind[k]]
            shown, sides = evidence(kind, shard.text(document), item.fields, settings.ngram_size)
            row = int(corpus.row_of[document])
            file = int(np.searchsorted(bounds, row, side="right")) - 1
            yield Evidence(
                file=clean(corpus.paths[file]),
                row=row - int(bounds[file]) + 1,
                source=clean(corpus.sources[corpus.source_of[document]]),
                part=PARTS[corpus.part_of[document]],
                mode=kind,
                score=round(float(shown_score(kind, pairs.score[k : k + 1], settings)[0]), 6),
                unit=units.get(kind, "whole"),
                threshold=values.get(kind),
                removes=bool(pairs.removes[k]),
                removed=bool(verdicts.removed[document]),
                short=bool(check.side.short[pairs.item[k]]),
                benchmark=clean(item.benchmark),
                item=clean(item.id),
                document=shown,
                fields=sides,
            )
        begin = end


@dataclass(frozen=True, slots=True)
class Listed:
    """The evidence that a page shows: of `total` pairs, the strongest, and of `doubted` doubtful ones a sample."""

    total: int
    strongest: tuple[Evidence, ...]
    doubted: int
    doubtful: tuple[Evidence, ...]


def doubtful(one: Evidence) -> bool:
    """Whether a removal rests on n-grams little above their threshold, so that a person should look at it."""
    return one.mode == "ngram" and one.removes and one.threshold is not None and one.score <= one.threshold + DOUBT


def write_evidence(path: Path, found: Iterator[Evidence], keep: int) -> Listed:
    """Write one JSON object a line; returns the `keep` strongest, and as many of the doubtful, evenly drawn.

    Whole copies are the strongest, then n-grams, then embeddings, each by falling score; what was removed comes first.
    """
    strong: list[Evidence] = []
    doubt: list[Evidence] = []
    total = doubted = 0

    def strength(one: Evidence) -> tuple[bool, int, float]:
        return not one.removes, [str(kind) for kind in KINDS].index(one.mode), -one.score

    def lot(one: Evidence) -> str:
        return stable_hash(one.file, one.row, one.part, one.benchmark, one.item)

    def write(temporary: Path) -> None:
        nonlocal total, doubted
        with open(temporary, "w", encoding="utf-8") as stream:
            for one in found:
                total += 1
                doubted += doubtful(one)
                kept, order = (doubt, lot) if doubtful(one) else (strong, strength)
                kept.append(one)
                if len(kept) >= 2 * keep:
                    kept.sort(key=order)
                    del kept[keep:]
                stream.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")

    replace_into(path, write)
    strong.sort(key=strength)
    doubt.sort(key=lot)
    shown = sorted(doubt[:keep], key=lambda one: (one.score, one.file, one.row))
    return Listed(total, tuple(strong[:keep]), doubted, tuple(shown))


def write_rows(corpus: FileCorpus, removed: NDArray[np.bool_], folder: Path) -> None:
    """Every file's rows, kept ones in `cleaned/`, the others in `removed/`, under the file's name."""
    gone = np.zeros(corpus.rows, np.bool_)
    gone[corpus.row_of[removed]] = True
    before = 0
    names: set[str] = set()
    for path, count in zip(corpus.paths, corpus.rows_in, strict=True):
        mine = gone[before : before + count]
        before += count
        own = Path(path).name if Path(path).is_file() else path.replace("/", "--").partition(":")[0] + ".jsonl"
        name, number = own, 2
        while name in names:
            name, number = f"{number}-{own}", number + 1
        names.add(name)
        # The removed file first: a cleaned file without it would hide what is gone.
        for part, wanted in (("removed", mine), ("cleaned", ~mine)):
            replace_into(folder / part / name, lambda p, path=path, wanted=wanted: copy_rows(path, wanted, p))  # type: ignore[misc]


def write_summary_tables(report: ContaminationReport, folder: Path) -> None:
    """One table per mode as open-instruct's `contamination_results.tsv`: the share of items found, by benchmark."""
    name = "; ".join(report.train)
    for mode in report.settings["modes"]:
        cells = []
        for rate in report.benchmarks:
            asked = rate.items - rate.empty
            cells.append(f"{rate.found.get(mode, 0) / asked:.4f}" if asked else "")
        lines = ["\t".join(["", *report.against]), "\t".join([name, *cells])]
        write_text(folder / f"contamination_results_{mode}.tsv", "\n".join(lines) + "\n")


def read_report(folder: Path) -> Mapping[str, Any] | None:
    """The report of a complete folder, as JSON; None where there is none."""
    path = folder / REPORT
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
