"""The gate on what may be trained on: first exact duplicates go, then what the contamination check finds.

The same check looks at validation items before they are drawn, so that nothing that guides a run is a test item unless
its set declares it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decontam.backend import Backend, Vectors
from decontam.check import Check
from decontam.conversations import Checked, Conversation, Hit, check_conversations
from decontam.engines import open_backend
from evals.data import contamination_items
from harness.models.embedder import Embedder, embedder_identity, open_embedder
from harness.synthesis.duplicates import drop_duplicates
from harness.types import Reject, Sample, Usage
from methods.plan import Plan

DATA = "synthetic data"


@dataclass(frozen=True, slots=True)
class Gated:
    """Samples that passed, in order, one reject for every other, and the check behind it (None: there was nothing)."""

    kept: tuple[Sample, ...]
    rejects: tuple[Reject, ...]
    checked: Checked | None


class _Remembering:
    """An embedder that embeds no text twice: a gate sees its first samples again with every shard."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: dict[str, Vectors] = {}

    @property
    def name(self) -> str:
        """See `Embedder`."""
        return self._embedder.name

    @property
    def identity(self) -> str:
        """See `Embedder`."""
        return self._embedder.identity

    @property
    def truncated(self) -> int:
        """See `Embedder`."""
        return self._embedder.truncated

    def embed(self, texts: Sequence[str], ids: Sequence[str] | None = None) -> Vectors:
        """See `Embedder`."""
        new = [i for i, text in enumerate(texts) if text not in self._known]
        if new:
            rows = self._embedder.embed([texts[i] for i in new], None if ids is None else [ids[i] for i in new])
            self._known.update({texts[i]: row for i, row in zip(new, rows, strict=True)})
        return np.stack([self._known[text] for text in texts]) if texts else self._embedder.embed(texts)

    def usage(self) -> list[Usage]:
        """See `Embedder`."""
        return self._embedder.usage()


class Gate:
    """Duplicate removal and the contamination check against the run's suite.

    `columns` are the benchmarks that are checked against (None: all that are evaluated).
    """

    def __init__(self, plan: Plan, *, columns: Sequence[str] | None = None, backend: Backend | None = None) -> None:
        settings = plan.config.decontam
        embedding = "embedding" in settings.modes
        self.suite = plan.suite.name
        self.embedder = _Remembering(open_embedder(plan.config.models.embedder)) if embedding else None
        self.backend = backend or open_backend(settings.model_copy(update={"backend": "embedded"}))
        items = tuple(contamination_items(plan.suite, plan.data, columns))
        self.check = Check(items, settings, self.backend, self.embedder)

    def look(self, rows: Sequence[Conversation], what: str) -> Checked:
        """Check conversations; `what` names them in the report."""
        return check_conversations(self.check, rows, pair=f"{what} × {self.suite}", source=what)

    def accept(self, samples: Sequence[Sample]) -> Gated:
        """What may be trained on."""
        unique = drop_duplicates(samples)
        if not unique.kept:
            return Gated((), tuple(unique.rejects), None)
        checked = self.look(unique.kept, DATA)
        why: dict[str, Hit] = {}
        for hit in checked.hits:
            if hit.removes:
                why.setdefault(hit.id, hit)
        gone = [s for s in unique.kept if s.id in checked.removed]
        rejects = [Reject(s.id, "contaminated", s.raw, why[s.id].detail) for s in gone]
        kept = tuple(s for s in unique.kept if s.id not in checked.removed)
        return Gated(kept, (*unique.rejects, *rejects), checked)


def gate_settings(plan: Plan) -> dict[str, Any]:
    """The settings of the gate that change what passes; the engine changes nothing."""
    c = plan.config
    settings: dict[str, Any] = {
        "decontam": c.decontam.model_dump(mode="json", exclude={"backend", "thresholds"}),
        "suite": plan.suite_identity,
    }
    if "embedding" in c.decontam.modes:
        settings["embedder"] = embedder_identity(c.models.embedder)
    return settings


def leaks(plan: Plan, rows: Sequence[Conversation], columns: Collection[str]) -> Mapping[str, str]:
    """Which of `rows` match a test item of `columns`, by id, and how; only what they ask is compared.

    An answer such as a letter or a drug's name is no test text.
    """
    if not rows or not columns:
        return {}
    checked = prompt_gate(plan, list(columns)).look(rows, "validation")
    found: dict[str, str] = {}
    for hit in checked.hits:
        if hit.removes:
            found.setdefault(hit.id, f"{hit.mode}:{hit.benchmark} {hit.item_id}")
    return found


def prompt_gate(plan: Plan, columns: Sequence[str] | None) -> Gate:
    """A gate that looks at prompts alone, for validation items."""
    asked = plan.config.decontam.model_copy(update={"parts": "prompt"})
    return Gate(plan.with_config(decontam=asked), columns=columns)
