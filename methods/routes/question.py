"""`question`: the generator writes a new question after the seed, the answerer answers it (arXiv 2512.00884).

The answerer sees the question alone, so that its answer is what a model knows and not what a text says; it is the
generator's own weights as they are, unless `models.answerer` names another model. The generator is what a learner
trains.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from harness.config import ModelConfig, SynthesisConfig
from harness.config_models import Section
from harness.costs.lengths import CallLengths, Lengths
from harness.errors import ConfigError
from harness.models.backend import Completion
from harness.models.prompts import Prompt
from harness.synthesis.parsing import Failure
from harness.synthesis.reading import read_answer, read_question
from harness.synthesis.route import Asked, Attempt, Draft, Route, failed, reference_of, turns, variables_of
from harness.types import Reject, Seed, stable_hash
from methods.routes.prompts import EXAMPLE, KNOWN, route_prompt


class QuestionSettings(Section):
    """Prompts of the route, and what becomes of near copies."""

    document_prompt: str | None = None
    """A file in place of the packaged prompt for questions about a document ('harness prompts')."""
    example_prompt: str | None = None
    """A file in place of the packaged prompt for questions after a labelled seed."""
    answer_prompt: str | None = None
    """A file in place of the packaged prompt for answers."""
    copy_limit: float = Field(0.7, ge=0, le=1)
    """Highest ROUGE-L of a question with its labelled seed's, and with those of earlier pairs of its seed; 1: any."""


class QuestionRoute(Route[QuestionSettings]):
    """Generator → question → answerer → pair."""

    name = "question"
    summary = "the generator writes a new question after the seed, the answerer answers it step by step"
    Settings = QuestionSettings
    drafts = "generator"
    writes_after_labelled = True
    answers = "answerer"

    def check(self, models: Mapping[str, ModelConfig]) -> None:
        """The extractive generator makes pairs of a text, and here questions are answered without one."""
        for role, model in models.items():
            if model.backend == "extractive":
                raise ConfigError(
                    f"route 'question' has a question answered without its text, which the extractive generator "
                    f"(models.{role}) cannot do; take --route direct or rubric, or a language model"
                )

    def load(self, synthesis: SynthesisConfig) -> Mapping[str, Prompt]:
        """The prompts for questions, about a document and after a labelled seed, and the one for answers."""
        s, end = self.settings, "" if self.wording.json else "_compact"
        asked = ("question", "domain", "system_message")
        return {
            "document": route_prompt(s.document_prompt, f"question_document{end}", ("document",), KNOWN),
            "example": route_prompt(s.example_prompt, f"question_example{end}", EXAMPLE[:1], (*KNOWN, *EXAMPLE)),
            "answer": route_prompt(s.answer_prompt, f"question_answer{end}", ("question",), asked),
        }

    @classmethod
    def calls(cls, sizes: Lengths) -> tuple[CallLengths, ...]:
        """The question, taken as a quarter of a pair, then its answer."""
        question = max(1, sizes.pair // 4)
        return (
            CallLengths("generator", sizes.generator_prompt, question, sizes.generator_shared),
            CallLengths("answerer", question + sizes.template + sizes.writer_shared, sizes.pair - question, 0),
        )

    @property
    def copy_limit(self) -> float:
        """As set."""
        return self.settings.copy_limit

    def ask(self, seed: Seed) -> Asked:
        """For a new question."""
        variables = {**variables_of(seed), "system_message": self.system_message}
        if reference_of(seed):
            return Asked(self.prompts["example"], variables, cut="answer")
        return Asked(self.prompts["document"], variables)

    def read(self, draft: Draft) -> Attempt:
        """The question."""
        if draft.failure:
            return failed(draft, "generator", "question")
        found = read_question(draft.text, draft.finish_reason)
        if isinstance(found, Failure):
            return Attempt(draft, reject=Reject(draft.id("question"), found.reason, draft.text, found.detail))
        return Attempt(draft, question=found)

    def ask_rest(self, attempt: Attempt) -> Asked:
        """For an answer to the question, which is all that the answerer sees."""
        variables = {
            "question": attempt.question,
            "domain": attempt.draft.draw.seed.domain,
            "system_message": self.system_message,
        }
        return Asked(self.prompts["answer"], variables, cut="question")

    def read_rest(self, attempt: Attempt, completion: Completion, model: str) -> Attempt:
        """The question with its answer."""
        sample_id = stable_hash("sample", attempt.draft.id("question"), completion.text)
        if completion.failure:
            failure = Failure(f"answerer_{completion.failure}", completion.text)
            return self.ended(attempt, failure, completion, sample_id, model)
        read = read_answer(completion.text, completion.finish_reason)
        parsed = read if isinstance(read, Failure) else turns(self.system_message, attempt.question, read)
        return self.ended(attempt, parsed, completion, sample_id, model)
