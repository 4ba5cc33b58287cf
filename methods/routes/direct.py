"""`direct`: the generator writes the whole pair in one go (AcquisitionSynthesis, arXiv 2605.13149).

From a document it asks about what stands there; from a labelled seed, which it is shown as a measure of difficulty, it
writes an original problem with reasoning and answer, in the tags of that work. The generator is what a learner trains.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from harness.config import SynthesisConfig
from harness.config_models import Section
from harness.costs.lengths import CallLengths, Lengths
from harness.models.prompts import Prompt
from harness.synthesis.reading import read_tags
from harness.synthesis.route import Asked, Attempt, Draft, Route, failed, reference_of, variables_of
from harness.types import Seed
from methods.routes.prompts import EXAMPLE, KNOWN, route_prompt


class DirectSettings(Section):
    """Prompts of the route, and what becomes of near copies and of reasoning."""

    document_prompt: str | None = None
    """A file in place of the packaged prompt for pairs about a document ('harness prompts')."""
    example_prompt: str | None = None
    """A file in place of the packaged prompt for pairs after a labelled seed."""
    reasoning: bool = True
    """Puts what stands in <reasoning> before the answer that is trained on; without, it is left out."""
    copy_limit: float = Field(0.7, ge=0, le=1)
    """Highest ROUGE-L of a question with its labelled seed's, and with those of earlier pairs of its seed; 1: any."""


class DirectRoute(Route[DirectSettings]):
    """Generator → pair."""

    name = "direct"
    summary = "the generator writes question, reasoning and answer from the seed in one go"
    Settings = DirectSettings
    drafts = "generator"
    writes_after_labelled = True

    def load(self, synthesis: SynthesisConfig) -> Mapping[str, Prompt]:
        """The prompt about a document, and the one after a labelled seed."""
        s, end = self.settings, "" if self.wording.json else "_compact"
        return {
            "document": route_prompt(s.document_prompt, f"direct_document{end}", ("document",), KNOWN),
            "example": route_prompt(s.example_prompt, f"direct_example{end}", EXAMPLE, (*KNOWN, *EXAMPLE)),
        }

    @classmethod
    def calls(cls, sizes: Lengths) -> tuple[CallLengths, ...]:
        """The pair."""
        return (CallLengths("generator", sizes.generator_prompt, sizes.pair, sizes.generator_shared),)

    @property
    def copy_limit(self) -> float:
        """As set."""
        return self.settings.copy_limit

    def ask(self, seed: Seed) -> Asked:
        """For a pair."""
        variables = {**variables_of(seed), "system_message": self.system_message}
        if reference_of(seed):
            return Asked(self.prompts["example"], variables, cut="answer")
        return Asked(self.prompts["document"], variables)

    def read(self, draft: Draft) -> Attempt:
        """The pair itself."""
        if draft.failure:
            return failed(draft, "generator", "sample")
        attempt = Attempt(draft)
        if self.wording.json:
            parsed = read_tags(draft.text, draft.finish_reason, self.system_message, reasoning=self.settings.reasoning)
        else:
            parsed = self.wording.read_pair(draft.text, draft.finish_reason, self.system_message)
        return self.ended(attempt, parsed, draft.completion, draft.id("sample"), draft.model)
