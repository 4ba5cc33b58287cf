"""Settings of the labelling model that gives pairs their answers (`methods/stages/labels.py`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.config_models import Section


class LabelsConfig(Section):
    """Self-consistent labels: a model answers every question several times, and the answer that most agree on stays."""

    samples: int = Field(16, ge=2)
    """Answers that are drawn of each question."""
    temperature: float = Field(0.8, gt=0)
    """Temperature that they are drawn at."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Samples from the likeliest tokens that make up this probability."""
    max_tokens: int = Field(2048, ge=1)
    """Longest answer, in tokens."""
    marker: str = ""
    """What an answer's value stands behind, such as 'Answer:'; the whole answer is its value where it is not found."""
    group: Literal["exact", "embedding"] = "exact"
    """Takes answers for the same where their values are equal, or where their embeddings fall into one cluster."""
    agreement: float = Field(0.5, gt=0, le=1)
    """Smallest share of the answers that must agree; pairs below it are dropped as `no_agreement`."""
    prompt: str | None = None
    """A file in place of the packaged prompt for answers ('harness prompts', `question_answer`)."""
