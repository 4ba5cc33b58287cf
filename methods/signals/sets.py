"""Base of the signals that choose sets: what an item is worth depends on what is chosen beside it.

Under a selection, `choose` takes items one after the other out of the whole pool, each for its gain to what was taken
before, and within the rule of the selection (a share of all, or one of every seed): so the pool is one shard. Under a
learner there is no pool: `score` is the marginal gain of each item alone against an archive that is frozen for the
step, so scores depend on neither the batch nor its order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from evals.coverage import SetFunction, greedy
from harness.config_models import Section
from harness.facts import Fact
from harness.types import Sample, Score
from methods.signals.base import Archive, Item, Signal

S = TypeVar("S", bound=Section)

PICK = "pick"
"""The part of a score that says as which an item was chosen, from 1; items that were not chosen have none."""


@dataclass(frozen=True, slots=True)
class SetItem:
    """The part of an item that a set function sees, and what is kept beside its score."""

    data: Any
    parts: Mapping[str, float] = field(default_factory=dict)


class SetSignal(Signal[S]):
    """A signal that chooses sets: `represent` says what it sees of an item, `function` what a set is worth."""

    unit = "set"
    stateful = True

    @abstractmethod
    def represent(self, items: Sequence[Item]) -> list[SetItem | str]:
        """Each item's row, or why it has none."""

    @abstractmethod
    def function(self, ids: Sequence[str], rows: Sequence[SetItem], taken: Sequence[SetItem]) -> SetFunction:
        """The set function of items with `rows`, of which those of the archive are `taken` already."""

    def choose(
        self, items: Sequence[Item], count: int, archive: Archive, groups: Sequence[Hashable] | None = None
    ) -> list[Score]:
        """One score per item: its gain when it was chosen, as the n-th (part `pick`); of the others, what is left.

        At most `count` items that have a row, and, with `groups`, one of each.
        """
        rows, reasons = self._rows(items)
        if not rows:
            return [self._without(item, reasons) for item in items]
        function, names = self._function(rows, archive), list(rows)
        own = None if groups is None else [g for item, g in zip(items, groups, strict=True) if item.id in rows]
        picks = {names[j]: (n, gain) for n, (j, gain) in enumerate(greedy(function, count, own), 1)}
        places = {key: j for j, key in enumerate(names)}
        scores = []
        for item in items:
            if item.id in picks:
                n, gain = picks[item.id]
                scores.append(self._scored(item, gain, {**rows[item.id].parts, PICK: float(n)}))
            elif item.id in rows:
                scores.append(self._scored(item, function.gain(places[item.id]), rows[item.id].parts))
            else:
                scores.append(self._without(item, reasons))
        return scores

    def score(self, items: Sequence[Item], archive: Archive) -> list[Score]:
        """One score per item: what it alone would add to the archive."""
        return self.choose(items, 0, archive)

    def _rows(self, items: Sequence[Item]) -> tuple[dict[str, SetItem], dict[str, str]]:
        """The items that have a row, and why the others have none."""
        own = [item for item in items if isinstance(item, Sample) or "seed" in self.items]
        found = dict(zip((item.id for item in own), self.represent(own) if own else (), strict=True))
        rows = {key: row for key, row in found.items() if isinstance(row, SetItem)}
        return rows, {key: row for key, row in found.items() if isinstance(row, str)}

    def _function(self, rows: Mapping[str, SetItem], archive: Archive) -> SetFunction:
        return self.function(list(rows), list(rows.values()), self._archived(archive))

    def _archived(self, archive: Archive) -> list[SetItem]:
        """The archive's rows, each computed once."""
        seen: dict[str, SetItem | str] = self.__dict__.setdefault("_seen", {})
        if new := [s for s in archive.samples if s.id not in seen]:
            seen |= zip((s.id for s in new), self.represent(new), strict=True)
        return [row for s in archive.samples if isinstance(row := seen[s.id], SetItem)]

    def _without(self, item: Item, reasons: Mapping[str, str]) -> Score:
        reason = reasons.get(item.id, "only samples can be scored")
        return Score.unscorable(item.id, self.name, reason)

    def _scored(self, item: Item, gain: float, parts: Mapping[str, float]) -> Score:
        return Score(item_id=item.id, signal=self.name, value=gain, status="ok", reason="", parts=parts)

    @classmethod
    def diagnose(cls, scores: Sequence[Score]) -> list[Fact]:
        """As the other base says, with how many were chosen, and what the last of them still added."""
        gains = {s.parts[PICK]: s.value for s in scores if PICK in s.parts and s.value is not None}
        if not gains:
            return super().diagnose(scores)
        return [
            *super().diagnose(scores),
            Fact("chosen", len(gains), "chosen one after the other", "items"),
            Fact("first_gain", gains[min(gains)], "gain of the first chosen"),
            Fact("last_gain", gains[max(gains)], "gain of the last chosen"),
        ]
