"""`question`: the generator writes a new question after the seed, the answerer answers it (arXiv 2512.00884).

The answerer sees the question alone, so that its answer is what a model knows and not what a text says; it is the
generator's own weights as they are, unless `models.answerer` names another model. The generator is what a learner
trains.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.config import ModelConfig, SynthesisConfig
from harness.costs.lengths import CallLengths, Lengths
from harness.errors import ConfigError
from harness.models.backend import Completion
from harness.models.prompts import Prompt
from harness.synthesis.parsing import Failure
from harness.synthesis.reading import read_answer, read_question
from harness.synthesis.route import Asked, Attempt, Draft, failed, turns
from harness.types import Reject, stable_hash
from methods.routes.examples import ExampleRoute, ExampleSettings
from methods.routes.prompts import EXAMPLE, answer_prompt


class QuestionSettings(ExampleSettings):
    """Prompts of the route, and what becomes of near copies."""

    answer_prompt: str | None = None
    """A file in place of the packaged prompt for answers."""


class QuestionRoute(ExampleRoute[QuestionSettings]):
    """Generator → question → answerer → pair."""

    name = "question"
    summary = "the generator writes a new question after the seed, the answerer answers it step by step"
    Settings = QuestionSettings
    packaged = "question"
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
        answer = answer_prompt(self.settings.answer_prompt, compact=not self.wording.json)
        return {**self.draft_prompts(EXAMPLE[:1]), "answer": answer}

    @classmethod
    def calls(cls, sizes: Lengths) -> tuple[CallLengths, ...]:
        """The question, taken as a quarter of a pair, then its answer."""
        question = max(1, sizes.pair // 4)
        return (
            CallLengths("generator", sizes.generator_prompt, question, sizes.generator_shared),
            CallLengths("answerer", question + sizes.template + sizes.writer_shared, sizes.pair - question, 0),
        )

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
        read = read_answer(completion.text, completion.finish_reason, compact=not self.wording.json)
        parsed = read if isinstance(read, Failure) else turns(self.system_message, attempt.question, read)
        return self.ended(attempt, parsed, completion, sample_id, model)
