"""Judgments of texts, from which raters are trained: comparisons of two texts, or grades of one.

A file has one judgment a row, of one kind: `{"a": ..., "b": ..., "p": 0.9}` says with which probability b is the better
text, `{"text": ..., "grade": 4}` how good one is. A text is a string, or question and answer; `p` and `grade` are a
number, or one for each head, where null means not judged.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import InputError
from harness.raters.declaration import RaterDeclaration
from harness.synthesis.json_rows import open_json
from harness.types import derive_seed

Kind = Literal["pairs", "grades"]

HEAD = "quality"
"""The head of a judgment that names none."""

_TEMPLATE = str(RaterDeclaration.model_fields["text"].default)


@dataclass(frozen=True, slots=True)
class Judgment:
    """One text and its grades, or two texts (a, b) and the probabilities that b is the better; by head, NaN: none."""

    texts: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Judgments:
    """Judgments of one kind on some heads."""

    kind: Kind
    heads: tuple[str, ...]
    rows: tuple[Judgment, ...]

    def column(self, head: int) -> list[float]:
        """What was judged on one head."""
        return [row.values[head] for row in self.rows if not math.isnan(row.values[head])]


def read_judgments(path: Path, heads: Sequence[str] = ()) -> Judgments:
    """The judgments of a JSONL or JSON file; `heads` chooses among its heads, and their order.

    Raises `InputError` with the line of a row that is no judgment, for a mixture of both kinds, and where none is left.
    """
    kinds: set[Kind] = set()
    found: list[tuple[tuple[str, ...], Mapping[str, float]]] = []
    for row in open_json(path).rows():
        where = f"{path}, line {row.number}"
        kind, texts, value = _row(row.value, where)
        kinds.add(kind)
        found.append((texts, _values(value, kind, where)))
    if not found:
        raise InputError(f"{path} has no judgments; give one a row, such as {{'a': TEXT, 'b': TEXT, 'p': 0.9}}")
    if len(kinds) > 1:
        raise InputError(f"{path} has comparisons and grades; give one kind a file")
    known = list(dict.fromkeys(head for _, values in found for head in values))
    if missing := [head for head in heads if head not in known]:
        raise InputError(f"{path} has no judgments on head '{missing[0]}'; it has {', '.join(known)}")
    chosen = tuple(heads or known)
    rows = [Judgment(texts, tuple(values.get(head, math.nan) for head in chosen)) for texts, values in found]
    return Judgments(kinds.pop(), chosen, tuple(row for row in rows if not all(map(math.isnan, row.values))))


def _row(row: Mapping[str, Any], where: str) -> tuple[Kind, tuple[str, ...], Any]:
    if "text" in row and "grade" in row:
        return "grades", (_text(row["text"], where),), row["grade"]
    if "a" in row and "b" in row and "p" in row:
        return "pairs", (_text(row["a"], where), _text(row["b"], where)), row["p"]
    if ("a" in row) != ("b" in row):
        has, lacks = ("a", "b") if "a" in row else ("b", "a")
        raise InputError(
            f"{where}: a judgment of one side only, '{has}' without '{lacks}'; a comparison needs both texts"
        )
    raise InputError(f"{where}: no judgment; it needs 'a', 'b' and 'p' (a comparison), or 'text' and 'grade'")


def _text(value: Any, where: str) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("question"), str) and isinstance(value.get("answer"), str):
        value = _TEMPLATE.replace("{question}", value["question"]).replace("{answer}", value["answer"])
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: a text is a string with words, or an object with question and answer")
    return value


def _values(value: Any, kind: Kind, where: str) -> dict[str, float]:
    named = value if isinstance(value, Mapping) else {HEAD: value}
    found = {}
    for head, number in named.items():
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise InputError(f"{where}: {str(number)[:40]!r} is no number; give a number, or null for not judged")
        if kind == "pairs" and not 0 <= number <= 1:
            raise InputError(f"{where}: p is {number}; it is the probability that b is the better text, from 0 to 1")
        found[str(head)] = float(number)
    return found


def confident(judgments: Judgments, confidence: float) -> tuple[Judgments, int]:
    """Comparisons of which |2p - 1| is at least `confidence`, head by head, and how many were dropped.

    QuRating (arXiv 2402.09739 §3) trains on those of |p - 0.5| >= 0.25, a confidence of 0.5. Grades stay as they are.
    """
    if judgments.kind == "grades":
        return judgments, 0
    rows = [
        Judgment(row.texts, tuple(p if abs(2 * p - 1) >= confidence - 1e-9 else math.nan for p in row.values))
        for row in judgments.rows
    ]
    before = sum(len(judgments.column(head)) for head in range(len(judgments.heads)))
    kept = tuple(row for row in rows if not all(map(math.isnan, row.values)))
    left = sum(not math.isnan(p) for row in kept for p in row.values)
    return replace(judgments, rows=kept), before - left


def require_contrast(judgments: Judgments) -> None:
    """Raise `InputError` for a head on which nothing can be learned: no judgment, or grades that are all the same."""
    for place, head in enumerate(judgments.heads):
        column = judgments.column(place)
        if not column:
            raise InputError(f"no judgment of head '{head}' is left to train on; lower --confidence, or leave it out")
        if judgments.kind == "grades" and len(set(column)) < 2:
            raise InputError(
                f"every grade of head '{head}' is {column[0]:g}, so there is nothing to learn; leave it out"
            )


def split(judgments: Judgments, share: float, seed: int) -> tuple[Judgments, Judgments, bool]:
    """Judgments to train on, about `share` of them held out, and whether no held-out text was trained on.

    Judgments that share a text, directly or through others, stay together; where most hang together so, single ones
    are held out instead, and the third value is False.
    """
    groups = _connected(judgments.rows)
    random.Random(derive_seed("held-out judgments", seed)).shuffle(groups)
    wanted = max(1, round(share * len(judgments.rows)))
    apart = max(map(len, groups)) <= max(1, len(judgments.rows) // 2)
    if not apart:
        groups = [[index] for group in groups for index in group]
        random.Random(derive_seed("held-out judgments", seed)).shuffle(groups)
    held: set[int] = set()
    for group in groups:
        if len(held) >= wanted:
            break
        if len(held) + len(group) < len(judgments.rows):
            held.update(group)
    rows = list(enumerate(judgments.rows))
    train = replace(judgments, rows=tuple(row for index, row in rows if index not in held))
    return train, replace(judgments, rows=tuple(row for index, row in rows if index in held)), apart


def _connected(rows: Sequence[Judgment]) -> list[list[int]]:
    """Indices of rows by what they hang together with through shared texts, in order of their first row."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        while parent.setdefault(text, text) != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for row in rows:
        for other in row.texts[1:]:
            parent[root(other)] = root(row.texts[0])
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(root(row.texts[0]), []).append(index)
    return list(groups.values())
