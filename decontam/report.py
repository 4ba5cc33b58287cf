"""A check in numbers: rates by benchmark and source, what other thresholds would have done, which n-grams were common.

A report names its pair ("synthetic data × medical"), since the same tables about another pair mean something else.
Every rate has its denominator beside it, and items that could not be asked for, or are too short to remove for, are
counted apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decontam.backend import Floats, Ints
from decontam.check import ContaminationCheck
from decontam.fields import FieldUse
from decontam.tokens import clean
from decontam.verdict import KINDS, MatchKind, Verdicts, shown_score, thresholds

SCHEMA = 2
TOP_COMMON = 20
NEAR_STEPS = (-0.15, -0.1, -0.05, 0.0, 0.05, 0.1)
"""Similarities that are tabulated, beside the threshold."""


@dataclass(frozen=True, slots=True)
class CorpusOrigin:
    """The origins of documents: `row_of`, `part_of`, `source_of` (documents,), the sources' names, rows in all."""

    row_of: NDArray[np.integer[Any]]
    part_of: NDArray[np.integer[Any]]
    source_of: NDArray[np.integer[Any]]
    sources: Sequence[str]
    rows: int


@dataclass(frozen=True, slots=True)
class BenchmarkRate:
    """One benchmark: `items` of which `empty` could not be asked for and `short` are never removed for.

    `partial` are asked for by some of their fields, since the others hold no token. `found` counts items with a hit, by
    kind; `touched` those with any; `short_touched` the short ones among them.
    """

    benchmark: str
    items: int
    empty: int
    short: int
    found: Mapping[str, int]
    touched: int
    short_touched: int
    partial: int


@dataclass(frozen=True, slots=True)
class SourceRate:
    """One source of training rows: rows with text, and rows removed, by kind (a row may have several) and in all."""

    source: str
    rows: int
    found: Mapping[str, int]
    removed: int


@dataclass(frozen=True, slots=True)
class Step:
    """The effect of a threshold: items touched (by benchmark, and in all) and rows removed by this kind alone."""

    kind: str
    threshold: float
    touched: int
    by_benchmark: Mapping[str, int]
    removed: int


@dataclass(frozen=True, slots=True)
class CommonNgram:
    """An n-gram that counts for less than half, how many documents hold it, and how many unrelated texts do."""

    ngram: str
    documents: int
    unrelated: int


@dataclass(frozen=True, slots=True)
class ContaminationReport:
    """A check. `histogram` counts items by best score, by kind: edges (n + 1) and counts (n).

    `touched` lists the items with any hit, by benchmark: what a score on clean items has to leave out. `unasked` lists
    those that could not be asked for. `fields` says what of the training rows was read.
    """

    pair: str
    train: Sequence[str]
    against: Sequence[str]
    engine: str
    settings: Mapping[str, Any]
    embedder: str
    rows: int
    documents: int
    rows_without_text: int
    removed: int
    benchmarks: Sequence[BenchmarkRate]
    sources: Sequence[SourceRate]
    steps: Sequence[Step]
    histogram: Mapping[str, tuple[Sequence[float], Sequence[int]]]
    common_limit: int | None
    common: Sequence[CommonNgram]
    common_total: int
    touched: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unasked: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fields: Sequence[FieldUse] = ()
    identity: str = ""
    schema: int = SCHEMA
    notes: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """As `report.json` holds it."""
        return asdict(self)


def make_report(
    check: ContaminationCheck,
    verdicts: Verdicts,
    origin: CorpusOrigin,
    *,
    pair: str,
    train: Sequence[str],
    rows_without_text: int = 0,
    fields: Sequence[FieldUse] = (),
    identity: str = "",
    missing: Sequence[str] = (),
) -> ContaminationReport:
    """Count what a check found."""
    side = check.side
    return ContaminationReport(
        pair=clean(pair),
        train=tuple(map(clean, train)),
        against=tuple(map(clean, side.benchmarks)),
        engine=check.backend.name,
        settings=check.settings.model_dump(mode="json"),
        embedder=check.embedder.name if check.embedder is not None and "embedding" in check.settings.modes else "",
        rows=origin.rows,
        documents=verdicts.documents,
        rows_without_text=rows_without_text,
        removed=len(np.unique(origin.row_of[verdicts.removed])),
        benchmarks=benchmark_rates(check, verdicts),
        sources=_source_rates(check, verdicts, origin),
        steps=_steps(check, verdicts, origin),
        histogram=_histograms(check, verdicts),
        common_limit=verdicts.common_limit,
        common=_common(check, verdicts),
        common_total=int(verdicts.common.sum()),
        touched=_named(touched_items(check, verdicts.touched())),
        unasked=_named(touched_items(check, np.flatnonzero(side.empty))),
        fields=tuple(fields),
        identity=identity,
        notes=(*(f"not checked: {name}" for name in missing), *_notes(check)),
    )


def _named(items: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Items by benchmark, in names that can be written to a file."""
    return {clean(benchmark): list(map(clean, ids)) for benchmark, ids in items.items()}


def kinds_of(check: ContaminationCheck) -> tuple[MatchKind, ...]:
    """The kinds that a check can find."""
    modes = check.settings.modes
    inside: tuple[MatchKind, ...] = ("contained",) if "text" in modes and check.settings.contained else ()
    return tuple(kind for kind in KINDS if kind in modes or kind in inside)


def benchmark_rates(check: ContaminationCheck, verdicts: Verdicts) -> list[BenchmarkRate]:
    """Items found, by benchmark."""
    side, pairs = check.side, verdicts.pairs
    found = {kind: verdicts.touched((kind,)) for kind in kinds_of(check)}
    touched = np.zeros(len(side.items), np.bool_)
    touched[pairs.item[pairs.hit]] = True
    rates = []
    for number, name in enumerate(side.benchmarks):
        mine = side.benchmark_of == number
        rates.append(
            BenchmarkRate(
                benchmark=clean(name),
                items=int(mine.sum()),
                empty=int((mine & side.empty).sum()),
                short=int((mine & side.short).sum()),
                found={kind: int(mine[items].sum()) for kind, items in found.items()},
                touched=int((mine & touched).sum()),
                short_touched=int((mine & touched & side.short).sum()),
                partial=int((mine & side.partial).sum()),
            )
        )
    return rates


def touched_items(check: ContaminationCheck, items: Ints) -> dict[str, list[str]]:
    """The ids of items, given by their numbers, by benchmark."""
    found: dict[str, list[str]] = {}
    for number in items:
        item = check.side.items[number]
        found.setdefault(item.benchmark, []).append(item.id)
    return found


def _source_rates(check: ContaminationCheck, verdicts: Verdicts, origin: CorpusOrigin) -> list[SourceRate]:
    pairs = verdicts.pairs
    rates = []
    for number, name in enumerate(origin.sources):
        mine = origin.source_of == number
        found: dict[str, int] = {}
        for kind in kinds_of(check):
            document = pairs.document[pairs.removes & (pairs.kind == KINDS.index(kind))]
            found[kind] = _rows(origin, document[mine[document]])
        removed = _rows(origin, np.flatnonzero(verdicts.removed & mine))
        rates.append(SourceRate(clean(name), _rows(origin, np.flatnonzero(mine)), found, removed))
    return rates


def _rows(origin: CorpusOrigin, documents: Ints) -> int:
    return len(np.unique(origin.row_of[documents]))


def threshold_values(check: ContaminationCheck, kind: MatchKind) -> list[float]:
    """Thresholds that are tabulated, in the settings' unit, below 1; the one in force is among them."""
    settings = check.settings
    if kind == "ngram":
        return sorted({*settings.thresholds, settings.ngram_threshold})
    now = settings.embedding_threshold
    return [value for step in NEAR_STEPS if (value := round(now + step, 6)) < 1 or not step]


def _steps(check: ContaminationCheck, verdicts: Verdicts, origin: CorpusOrigin) -> list[Step]:
    side, pairs, settings = check.side, verdicts.pairs, check.settings
    steps = []
    for kind in thresholds(check):
        mine = pairs.kind == KINDS.index(kind)
        score = shown_score(kind, pairs.score, settings)
        removable = settings.remove_short | ~side.short[pairs.item]
        for value in threshold_values(check, kind):
            above = mine & (score > value)
            items = np.unique(pairs.item[above])
            counts = np.bincount(side.benchmark_of[items], minlength=len(side.benchmarks))
            by_benchmark = {clean(name): int(n) for name, n in zip(side.benchmarks, counts, strict=True)}
            removed = _rows(origin, pairs.document[above & removable])
            steps.append(
                Step(kind=kind, threshold=value, touched=len(items), by_benchmark=by_benchmark, removed=removed)
            )
    return steps


def _histograms(check: ContaminationCheck, verdicts: Verdicts) -> dict[str, tuple[list[float], list[int]]]:
    found = {}
    for kind in thresholds(check):
        edges = [0.0, *(e for e in threshold_values(check, kind) if 0 < e < 1), 1.0]
        best: Floats = shown_score(kind, verdicts.best[kind], check.settings)
        # A score at an edge is not above that threshold, so bins are closed on the right.
        bins = np.searchsorted(edges[1:-1], best[~np.isnan(best)], side="left")
        found[str(kind)] = (edges, np.bincount(bins, minlength=len(edges) - 1).tolist())
    return found


def _common(check: ContaminationCheck, verdicts: Verdicts) -> list[CommonNgram]:
    phrases = check.side.question.phrases
    which = np.flatnonzero(verdicts.common)
    frequency, evidence = verdicts.frequency, verdicts.evidence
    order = which[np.lexsort((which, -frequency[which], -evidence[which]))][:TOP_COMMON]
    return [CommonNgram(" ".join(phrases.words(int(p))), int(frequency[p]), round(evidence[p])) for p in order]


def _notes(check: ContaminationCheck) -> tuple[str, ...]:
    notes = []
    cut = check.embedder.truncated if check.embedder is not None else 0
    if cut:
        notes.append(f"{cut} texts were cut to fit the embedder: what lies beyond was not compared")
    if check.settings.compat == "open-instruct":
        notes.append(
            f"open-instruct's rules: prompts only, at most {check.settings.search_size} documents per phrase and five "
            "per embedded item, short items removed for"
        )
    return tuple(notes)
