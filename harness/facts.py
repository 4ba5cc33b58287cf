"""Labelled values: what a part of a run has to say of itself, in a form that any screen can print.

Whoever measures a value knows what it means, so its meaning goes with it; screens and tables know no names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.types import Json


@dataclass(frozen=True, slots=True)
class Fact:
    """One value under a name, with its meaning in half a line, a noun with its article left out, and its unit.

    The value is a number, a word, or a list of them, one per checkpoint or whatever the meaning says. None is "there is
    none", and is not shown; nor is a count (a unit in the plural, such as `items`) of 0.
    """

    name: str
    value: Json
    meaning: str
    unit: str = ""

    @property
    def shown(self) -> str:
        """The value for people, in three digits; empty where there is nothing to show."""
        values = self.value if isinstance(self.value, list | tuple) else (self.value,)
        words = [_word(value) for value in values if value is not None]
        if not words or (self.unit.endswith("s") and set(words) == {"0"}):
            return ""
        return f"{', '.join(words)} {self.unit}".rstrip()


def _word(value: Json) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if math.isfinite(value) else str(value)


def facts_to_rows(facts: Iterable[Fact]) -> list[dict[str, Any]]:
    """The facts as plain rows, for manifests and events."""
    return [asdict(fact) for fact in facts]


def facts_from_rows(rows: Any) -> list[Fact]:
    """Facts as they were stored; none where they are of another form, as in runs from before values had labels."""
    if not isinstance(rows, Sequence):
        return []
    known = [row for row in rows if isinstance(row, Mapping) and {"name", "value", "meaning"} <= row.keys()]
    return [Fact(str(r["name"]), r["value"], str(r["meaning"]), str(r.get("unit", ""))) for r in known]
