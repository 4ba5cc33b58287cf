"""The results of a loop's rounds: scores, cost and chosen seeds of each, and whether pairs score as their seeds did."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.record import Inheritance, RoundResult
from harness.resolve.assemble import Assembly
from harness.shards import Summary, read_records, write_table
from harness.stage import Kind, Stage, stage_folder
from harness.statistics import spearman
from harness.types import Sample, Score
from methods.stages.rounds import CHOSEN, ChosenSeed

SEEDS = "seeds.parquet"
"""Which seeds every round chose: a row for each, with its score and that of its pairs."""


def round_results(
    assembly: Assembly, store: Path, summaries: Mapping[str, Summary]
) -> tuple[list[RoundResult], Inheritance | None]:
    """Every round's account, first to last, and how pairs' scores follow their seeds'; nothing without rounds."""
    found, families = [], []
    for number in _numbers(assembly):
        own = [s for s in assembly.stages if s.round == number]
        mine = _families(own, store, number)
        families.append(mine)
        tokens: Counter[str] = Counter()
        for usage in (u for s in own for u in summaries[s.identity].usage):
            tokens[usage.role] += usage.prompt_tokens + usage.completion_tokens
        chosen, data, answers = (_only(own, kind) for kind in ("chosen", "dataset", "tuned_answers"))
        result = RoundResult(
            number=number,
            seeds=summaries[chosen.identity].kept,
            samples=summaries[data.identity].kept,
            scores={c["column"]: c["score"] for c in summaries[answers.identity].notes["columns"]},
            seconds=sum(summaries[s.identity].seconds for s in own),
            tokens=dict(tokens),
            seed_score=_median([x for x, _ in mine]),
            pair_score=_median([y for _, y in mine]),
        )
        found.append(result)
    return found, _inheritance(families)


def write_seeds(assembly: Assembly, store: Path, folder: Path) -> None:
    """Write `SEEDS` into the run's folder, where the run has rounds."""
    rows: list[dict[str, Any]] = []
    for number in _numbers(assembly):
        own = [s for s in assembly.stages if s.round == number]
        made: dict[str, list[str]] = defaultdict(list)
        for sample in _pairs(own, store, number):
            made[sample.seed_ids[0]].append(sample.id)
        values = _values(own, store)
        for seed in read_records(stage_folder(store, _only(own, "chosen")) / CHOSEN, ChosenSeed):
            scored = [value for key in made[seed.seed_id] if (value := values.get(key)) is not None]
            row = {"round": number, "place": seed.place, "seed_id": seed.seed_id, "score": seed.score}
            mean = sum(scored) / len(scored) if scored else None
            rows.append({**row, "pairs": len(made[seed.seed_id]), "pair_score": mean})
    if rows:
        write_table(folder / SEEDS, rows)


def _numbers(assembly: Assembly) -> list[int]:
    return sorted({s.round for s in assembly.stages} - {0})


def _only(stages: Sequence[Stage], kind: Kind) -> Stage:
    return next(s for s in stages if s.kind == kind)


def _pairs(own: Sequence[Stage], store: Path, number: int) -> list[Sample]:
    """The pairs that a round added to the data set."""
    data = read_records(stage_folder(store, _only(own, "dataset")), Sample)
    return [s for s in data if s.round == number]


def _values(own: Sequence[Stage], store: Path) -> dict[str, float | None]:
    """Scores of a round's pairs by id; none where they were not scored."""
    scored = (s for s in own if s.kind == "measurement")
    return {s.item_id: s.value for stage in scored for s in read_records(stage_folder(store, stage), Score)}


def _families(own: Sequence[Stage], store: Path, number: int) -> list[tuple[float, float]]:
    """Scores of seed and pair, for every pair of a round that has both."""
    chosen = read_records(stage_folder(store, _only(own, "chosen")) / CHOSEN, ChosenSeed)
    seeds, values = {c.seed_id: c.score for c in chosen}, _values(own, store)
    both = [(seeds[s.seed_ids[0]], values.get(s.id)) for s in _pairs(own, store, number)]
    return [(x, y) for x, y in both if x is not None and y is not None]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _inheritance(families: Sequence[Sequence[tuple[float, float]]]) -> Inheritance | None:
    pairs = [pair for round_ in families for pair in round_]
    if not pairs:
        return None
    medians = [(_median([x for x, _ in f]), _median([y for _, y in f])) for f in families if f]
    return Inheritance(
        pairs=len(pairs),
        of_pairs=spearman([x for x, _ in pairs], [y for _, y in pairs]),
        rounds=len(medians),
        of_medians=spearman([x or 0.0 for x, _ in medians], [y or 0.0 for _, y in medians]),
    )
