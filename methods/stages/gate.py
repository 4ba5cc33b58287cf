"""The gate on what may be trained on: first exact duplicates go, then what contains or is contained in a test item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.synthesis.duplicates import drop_duplicates
from harness.types import Reject, Sample
from methods.plan import Plan


@dataclass(frozen=True, slots=True)
class Gated:
    """Samples that passed, in order, and one reject for every other."""

    kept: tuple[Sample, ...]
    rejects: tuple[Reject, ...]


class Gate:
    """Duplicate removal and the exact-text contamination check against the run's suite."""

    def __init__(self, plan: Plan) -> None:
        from decontam.text import TextIndex
        from evals.data import contamination_texts

        self.index = TextIndex.from_items(contamination_texts(plan.suite, plan.data))

    def accept(self, samples: Sequence[Sample]) -> Gated:
        """What may be trained on."""
        from decontam.text import gate

        unique = drop_duplicates(samples)
        kept, found = gate(unique.kept, self.index)
        raw = {s.id: s.raw for s in unique.kept}
        contaminated = tuple(
            Reject(
                c.id,
                "contaminated",
                raw[c.id],
                f"{c.part}: {c.match.tokens} tokens shared with {c.match.benchmark} {c.match.item_id}: "
                f"{c.match.excerpt}",
            )
            for c in found
        )
        return Gated(tuple(kept), (*unique.rejects, *contaminated))
