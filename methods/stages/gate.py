"""The gate on what may be trained on: first duplicates go, then what the contamination check finds.

The same check looks at validation items before they are drawn, so that nothing that guides a run is a test item unless
its set declares it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decontam.backend import SearchBackend
from decontam.check import VERSION, ContaminationCheck, resolved
from decontam.conversations import Checked, Conversation, Hit, check_conversations, turn_documents
from decontam.engines import open_engine
from decontam.tokens import clean
from evals.data import contamination_items
from harness.identity import identity
from harness.models.embedder import embedder_identity
from harness.stage import StageRun
from harness.synthesis.copies import drop_near_copies
from harness.synthesis.duplicates import drop_duplicates
from harness.types import Reject, Sample
from methods.plan import Plan
from methods.stages.embedding import stage_embedder

DATA = "synthetic data"


@dataclass(frozen=True, slots=True)
class Gated:
    """Samples that passed, in order, one reject for every other, and the check behind it (None: there was nothing)."""

    kept: tuple[Sample, ...]
    rejects: tuple[Reject, ...]
    checked: Checked | None


class Gate:
    """Removal of duplicates, and of near copies on routes that limit them, and the check against the run's suite.

    `columns` are the benchmarks that are checked against (None: all that are evaluated).
    """

    def __init__(
        self, run: StageRun, plan: Plan, *, columns: Sequence[str] | None = None, backend: SearchBackend | None = None
    ) -> None:
        settings = plan.config.decontam
        self.suite = plan.suite.name
        self.copy_limit = plan.route.copy_limit
        self.embedder = stage_embedder(run, plan.config.models.embedder) if "embedding" in settings.modes else None
        self.backend = backend or open_engine(settings.model_copy(update={"backend": "embedded"}))
        items = tuple(contamination_items(plan.suite, plan.data, columns))
        self.check = ContaminationCheck(items, settings, self.backend, self.embedder)

    def prepare(self) -> None:
        """Embed the test items, where rows will be compared with them by meaning."""
        if self.embedder:
            self.check.queries()

    def look(self, rows: Sequence[Conversation], what: str) -> Checked:
        """Check conversations; `what` names them in the report."""
        return check_conversations(self.check, rows, pair=f"{what} × {self.suite}", source=what)

    def accept(self, samples: Sequence[Sample]) -> Gated:
        """The samples that may be trained on."""
        unique = drop_duplicates(samples)
        fresh, copies = drop_near_copies(unique.kept, self.copy_limit)
        repeated = (*unique.rejects, *copies)
        if not fresh:
            return Gated((), repeated, None)
        checked = self.look(fresh, DATA)
        why: dict[str, Hit] = {}
        for hit in checked.hits:
            if hit.removes:
                why.setdefault(hit.id, hit)
        gone = [s for s in fresh if s.id in checked.removed]
        rejects = [Reject(s.id, "contaminated", s.raw, why[s.id].detail) for s in gone]
        kept = tuple(s for s in fresh if s.id not in checked.removed)
        return Gated(kept, (*repeated, *rejects), checked)


def gate_settings(plan: Plan) -> dict[str, Any]:
    """The settings of the gate that change what passes; the engine changes nothing."""
    c = plan.config
    settings: dict[str, Any] = {
        "decontam": identity(c.decontam, exclude={"backend", "thresholds"}),
        "suite": plan.suite_identity,
    }
    # The lab's texts are plain words and compared whole, which no version has done otherwise.
    if c.seeds.source != "lab" or c.decontam.modes != ("text",):
        settings["check"] = VERSION
    if plan.route.copy_limit < 1:
        settings["copies"] = plan.route.copy_limit
    if "embedding" in c.decontam.modes:
        settings["embedder"] = embedder_identity(c.models.embedder)
    return settings


def embedded_texts(plan: Plan, samples: Sequence[Sample]) -> list[str]:
    """The texts of samples whose vectors the gate asks for."""
    return [clean(text) for _, _, text in turn_documents(samples, resolved(plan.config.decontam).parts)]


def leaks(run: StageRun, plan: Plan, rows: Sequence[Conversation], columns: Collection[str]) -> Mapping[str, str]:
    """The `rows` that match a test item of `columns`, by id, with how they match; only what they ask is compared.

    An answer such as a letter or a drug's name is no test text.
    """
    if not rows or not columns:
        return {}
    checked = prompt_gate(run, plan, list(columns)).look(rows, "validation")
    found: dict[str, str] = {}
    for hit in checked.hits:
        if hit.removes:
            found.setdefault(hit.id, f"{hit.mode}:{hit.benchmark} {hit.item_id}")
    return found


def prompt_gate(run: StageRun, plan: Plan, columns: Sequence[str] | None) -> Gate:
    """A gate that looks at prompts alone, for validation items."""
    asked = plan.config.decontam.model_copy(update={"parts": "prompt"})
    return Gate(run, plan.with_config(decontam=asked), columns=columns)
