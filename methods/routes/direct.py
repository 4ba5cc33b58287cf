"""`direct`: the generator writes the whole pair in one go (AcquisitionSynthesis, arXiv 2605.13149).

From a document it asks about what stands there; from a labelled seed, which it is shown as a measure of difficulty, it
writes an original problem with reasoning and answer, in the tags of that work. The generator is what a learner trains.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.config import SynthesisConfig
from harness.costs.lengths import CallLengths, Lengths
from harness.models.prompts import Prompt
from harness.synthesis.reading import read_tags
from harness.synthesis.route import Attempt, Draft, failed
from methods.routes.examples import ExampleRoute, ExampleSettings
from methods.routes.prompts import EXAMPLE


class DirectSettings(ExampleSettings):
    """Prompts of the route, and what becomes of near copies and of reasoning."""

    reasoning: bool = True
    """Puts what stands in <reasoning> before the answer that is trained on; without, it is left out."""


class DirectRoute(ExampleRoute[DirectSettings]):
    """Generator → pair."""

    name = "direct"
    summary = "the generator writes question, reasoning and answer from the seed in one go"
    Settings = DirectSettings
    packaged = "direct"
    writes_tags = True

    def load(self, synthesis: SynthesisConfig) -> Mapping[str, Prompt]:
        """The prompt about a document, and the one after a labelled seed."""
        return self.draft_prompts(EXAMPLE)

    @classmethod
    def calls(cls, sizes: Lengths) -> tuple[CallLengths, ...]:
        """The pair."""
        return (CallLengths("generator", sizes.generator_prompt, sizes.pair, sizes.generator_shared),)

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
