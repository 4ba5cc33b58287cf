"""Thresholds of the checks that every pair passes (`harness/synthesis/validity.py`)."""

from __future__ import annotations

from pydantic import Field

from harness.config_models import Section


class ValiditySettings(Section):
    """Thresholds of the checks that every pair passes; all lengths are in words."""

    short_answer_max: int = Field(80, ge=1)
    """Longest short answer, in words."""
    essay_min: int = Field(4, ge=0)
    """Shortest essay, in words; low, so that it refuses only what is no essay by any standard."""
    excerpt_max: int = Field(40, ge=1)
    """Longest run of words that a question or answer may share with the document."""
    excerpt_share: float = Field(0.6, ge=0, le=1)
    """Share of a longer answer that one such run may make up."""
    excerpt_share_from: int = Field(20, ge=0)
    """Answers of more words are held to `excerpt_share`."""
    passage_from: int = Field(60, ge=0)
    """Questions of so many words may carry a passage, and the answer may stand in it."""
