"""Thresholds of the checks that every pair passes (`harness/synthesis/validity.py`)."""

from __future__ import annotations

from pydantic import Field

from harness.config_models import Section


class ValiditySettings(Section):
    """Thresholds of the checks; all lengths are in words.

    `short_answer_max` is the longest short answer, `essay_min` the shortest essay (low, so that it refuses only what is
    no essay by any standard). Question or answer may share a run of `excerpt_max` words with the document, and one such
    run may make up `excerpt_share` of an answer of more than `excerpt_share_from` words. A question of `passage_from`
    words may carry a passage, and the answer may stand in it.
    """

    short_answer_max: int = Field(80, ge=1)
    essay_min: int = Field(4, ge=0)
    excerpt_max: int = Field(40, ge=1)
    excerpt_share: float = Field(0.6, ge=0, le=1)
    excerpt_share_from: int = Field(20, ge=0)
    passage_from: int = Field(60, ge=0)
