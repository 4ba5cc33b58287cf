"""Base of routes on which the generator drafts: about a document, or after a labelled seed that it is shown."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, TypeVar

from pydantic import Field

from harness.config_models import Section
from harness.models.prompts import Prompt
from harness.synthesis.route import Asked, Route, reference_of, variables_of
from harness.types import Seed
from methods.routes.prompts import EXAMPLE, KNOWN, route_prompt


class ExampleSettings(Section):
    """Prompts for the two kinds of seeds, and what becomes of near copies."""

    document_prompt: str | None = None
    """A file in place of the packaged prompt about a document ('harness prompts')."""
    example_prompt: str | None = None
    """A file in place of the packaged prompt that shows a labelled seed."""
    copy_limit: float = Field(0.7, ge=0, le=1)
    """Highest ROUGE-L of a question with its labelled seed's, and with those of earlier pairs of its seed; 1: any."""


E_ = TypeVar("E_", bound=ExampleSettings)


class ExampleRoute(Route[E_]):
    """A route of the generator. Its packaged prompts are `{packaged}_document` and `{packaged}_example`."""

    packaged: ClassVar[str]
    drafts = "generator"
    writes_after_labelled = True

    def draft_prompts(self, needed: Collection[str]) -> dict[str, Prompt]:
        """The two prompts, of which the second must use the variables `needed`."""
        s, end = self.settings, "" if self.wording.json else "_compact"
        return {
            "document": route_prompt(s.document_prompt, f"{self.packaged}_document{end}", ("document",), KNOWN),
            "example": route_prompt(s.example_prompt, f"{self.packaged}_example{end}", needed, (*KNOWN, *EXAMPLE)),
        }

    @property
    def copy_limit(self) -> float:
        """As set."""
        return self.settings.copy_limit

    def ask(self, seed: Seed) -> Asked:
        """By the prompt for the seed's kind; of a labelled seed the answer is cut where it does not fit."""
        variables = {**variables_of(seed), "system_message": self.system_message}
        if reference_of(seed):
            return Asked(self.prompts["example"], variables, cut="answer")
        return Asked(self.prompts["document"], variables)
