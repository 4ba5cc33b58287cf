"""`corpus`: the seed's own question and answer are the pair. So an existing corpus is an arm beside what is generated.

No model is asked and nothing is trained to draft; checks, gate, budget, selection, fine-tuning and tests are those of
every other route.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness.choice import NoSettings
from harness.config import SynthesisConfig
from harness.costs.lengths import CallLengths, Lengths
from harness.models.prompts import Prompt
from harness.synthesis.parsing import Failure
from harness.synthesis.reading import NO_REFERENCE, content_fault
from harness.synthesis.route import Attempt, Draft, Route, first_exchange, turns
from harness.types import Message, Seed


class CorpusRoute(Route[NoSettings]):
    """Labelled seed → pair. Of a conversation the first exchange is taken, since what follows rests on it."""

    name = "corpus"
    summary = "the seed's own question and answer are the pair: an existing corpus as an arm"
    drafts: ClassVar[None] = None
    writes_after_labelled = True

    def load(self, synthesis: SynthesisConfig) -> Mapping[str, Prompt]:
        """No prompt."""
        return {}

    @classmethod
    def calls(cls, sizes: Lengths) -> tuple[CallLengths, ...]:
        """None."""
        return ()

    def unusable(self, seed: Seed) -> str:
        """A document has no pair in it."""
        return "" if first_exchange(seed) else "it is a document, with no question and answer"

    def read(self, draft: Draft) -> Attempt:
        """The pair, checked; a document without question and answer is rejected."""
        return self.ended(
            Attempt(draft), self._pair(draft.draw.seed), draft.completion, draft.id("sample"), draft.model
        )

    def _pair(self, seed: Seed) -> tuple[Message, ...] | Failure:
        found = first_exchange(seed)
        if found is None:
            return Failure(NO_REFERENCE, self.unusable(seed))
        faults = (content_fault(name, text) for name, text in zip(("question", "answer"), found, strict=True))
        return next(filter(None, faults), None) or turns(self.system_message, *found)
