"""`rubric`: the writer drafts a rubric for the document, the generator writes the pair by it (OptimSyn, §3.1)."""

from __future__ import annotations

from collections.abc import Mapping

from harness.choice import NoSettings
from harness.config import SynthesisConfig
from harness.costs.lengths import CallLengths, Lengths
from harness.models.backend import Completion
from harness.models.prompts import GENERATOR_KNOWN, RUBRIC_KNOWN, RUBRIC_REQUIRED, Prompt
from harness.synthesis.forms import PAIR_FORM, RUBRIC_FORM
from harness.synthesis.parsing import Failure
from harness.synthesis.route import Asked, Attempt, Draft, Route, document_of, failed
from harness.synthesis.rubric import question_type
from harness.types import Reject, Rubric, Seed, stable_hash
from methods.routes.prompts import route_prompt


class RubricRoute(Route[NoSettings]):
    """Writer → rubric → generator → pair, by `synthesis.rubric_prompt` and `synthesis.generator_prompt`."""

    name = "rubric"
    summary = "the writer drafts a rubric for the document, the generator writes a pair by it"
    drafts = "writer"
    answers = "generator"
    structured = frozenset({"writer", "generator"})

    def load(self, synthesis: SynthesisConfig) -> Mapping[str, Prompt]:
        """The writer's prompt and the generator's."""
        required = ("document", *self.wording.parts)
        return {
            "rubric": route_prompt(synthesis.rubric_prompt, self.wording.rubric, RUBRIC_REQUIRED, RUBRIC_KNOWN),
            "generator": route_prompt(synthesis.generator_prompt, self.wording.generator, required, GENERATOR_KNOWN),
        }

    @classmethod
    def calls(cls, sizes: Lengths) -> tuple[CallLengths, ...]:
        """The rubric, then the pair."""
        return (
            CallLengths("writer", sizes.writer_prompt, sizes.rubric, sizes.writer_shared),
            CallLengths("generator", sizes.generator_prompt, sizes.pair, sizes.generator_shared),
        )

    def ask(self, seed: Seed) -> Asked:
        """For a rubric of the document."""
        variables = {"document": document_of(seed), "domain": seed.domain}
        return Asked(self.prompts["rubric"], variables, form=RUBRIC_FORM if self.wording.json else None)

    def read(self, draft: Draft) -> Attempt:
        """The rubric's parts, and the question type that it names."""
        if draft.failure:
            return failed(draft, "writer", "rubric")
        found = draft.id("rubric")
        parsed = self.wording.read_rubric(draft.text, draft.finish_reason)
        if isinstance(parsed, Failure):
            return Attempt(draft, reject=Reject(found, parsed.reason, draft.text, parsed.detail))
        rubric = Rubric(found, draft.draw.seed.id, draft.text, parsed)
        return Attempt(draft, rubric, question_type=question_type(parsed) or "")

    def ask_rest(self, attempt: Attempt) -> Asked:
        """For a pair by the rubric."""
        assert attempt.rubric is not None
        seed = attempt.draft.draw.seed
        variables = {
            "document": document_of(seed),
            "domain": seed.domain,
            "system_message": self.system_message,
            **attempt.rubric.parts,
        }
        return Asked(self.prompts["generator"], variables, form=PAIR_FORM if self.wording.json else None)

    def read_rest(self, attempt: Attempt, completion: Completion, model: str) -> Attempt:
        """The pair."""
        assert attempt.rubric is not None
        sample_id = stable_hash("sample", attempt.rubric.id, completion.text)
        if completion.failure:
            failure = Failure(f"generator_{completion.failure}", completion.text)
            return self.ended(attempt, failure, completion, sample_id, model)
        parsed = self.wording.read_pair(completion.text, completion.finish_reason, self.system_message)
        return self.ended(attempt, parsed, completion, sample_id, model)
