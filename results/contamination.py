"""The screens' account of contamination: each checked pair by name, and scores on the items that nothing matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.record import ColumnScore, RunRecord
from results.text import Formatter, count, number, percent

_MODES = {"text": "holds an item whole", "contained": "stands in an item", "ngram": "n-grams", "embedding": "embedding"}


def contamination_lines(report: Mapping[str, Any]) -> list[str]:
    """A pair's report in two sentences: what was compared and removed, and which items were found."""
    (source,) = report["sources"] or [{"rows": 0, "removed": 0, "found": {}}]
    found = ", ".join(f"{_MODES[kind]} {count(n)}" for kind, n in source["found"].items() if n)
    matched = f"{count(source['removed'])} of {count(source['rows'])} match" + (f" ({found})" if found else "")
    lines = [f"{report['pair']}: {matched}"]
    items = ", ".join(
        f"{b['benchmark']} {count(b['touched'])} of {count(b['items'])}"
        + (f" ({count(b['short_touched'])} too short to remove for)" if b["short_touched"] else "")
        for b in report["benchmarks"]
    )
    lines[0] += ";" if items else "."
    return [*lines, f"items found: {items}."] if items else lines


def formatted(score: ColumnScore) -> Formatter:
    """The written form of a column's values: accuracies in percent, losses in nats a token."""
    return percent if score.higher_is_better else number


def any_unclean(records: Sequence[RunRecord]) -> bool:
    """Whether some column has items that something matches."""
    return any(c.clean_n is not None and c.clean_n < c.n for record in records for c in record.columns)


def clean_cell(score: ColumnScore | None) -> str:
    """`70.6 ± 4.9 (85)`: the score on clean items and how many there are; empty where it is not known."""
    if score is None or score.clean_n is None:
        return ""
    return f"{formatted(score)(score.clean_score, score.clean_stderr)} ({count(score.clean_n)})".strip()
