"""Scores on the clean part of each benchmark: the test items that nothing which was used for the run matches."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.record import ColumnScore
from harness.statistics import standard_error


def with_clean_scores(
    columns: Sequence[ColumnScore], rows: Sequence[Mapping[str, Any]], touched: Mapping[str, Collection[str]]
) -> list[ColumnScore]:
    """`columns` with the score over the items of `rows` (`task`, `item_id`, `value`, `cluster`) not in `touched`."""
    scored = []
    for column in columns:
        mine = [row for row in rows if row["task"] == column.column]
        clean = [row for row in mine if row["item_id"] not in touched.get(column.column, ())]
        if column.score is None or not mine:
            scored.append(column)
        elif not clean:
            scored.append(replace(column, clean_n=0))
        else:
            values = [float(row["value"]) for row in clean]
            mean = sum(values) / len(values)
            error = standard_error(values, [row["cluster"] for row in clean]) if math.isfinite(mean) else None
            scored.append(replace(column, clean_n=len(clean), clean_score=mean, clean_stderr=error))
    return scored
