"""Settings of the contamination check: what counts as test text, and what is removed for it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from harness.config_models import Section


class DecontamConfig(Section):
    """The rule of what counts as contaminated (`decontam/`); the same settings for every arm of a comparison.

    Texts are compared as `decontam.tokens.plain` writes them: Unicode form, width, case, markup do not matter. An
    n-gram that stands in E unrelated training texts and T test texts beside the first counts 1 / (1 + E / L + T / 3),
    L being `common_share` of the documents and at least `common_documents`; the longer the shared run, the more fully,
    and wholly from `common_run` tokens on (`decontam.rarity`).
    """

    modes: tuple[Literal["text", "ngram", "embedding"], ...] = Field(("text", "ngram"), min_length=1)
    """Which checks remove: the whole item as text, shared n-grams, embeddings."""
    parts: Literal["prompt", "answer", "both"] = "both"
    """Which turns of a training row are compared."""
    ngram_size: int = Field(5, ge=1, le=64)
    """Tokens of an n-gram."""
    ngram_threshold: float = Field(0.3, ge=0, lt=1)
    """A row goes where more than this share of a test item's tokens is covered by shared n-grams."""
    ngram_tokenizer: Literal["standard", "spacy"] = "standard"
    """How texts become tokens: Elasticsearch's standard rules, or spaCy's."""
    embedding_threshold: float = Field(0.85, ge=-1, le=1)
    """A row goes where it is more similar to a test item than this."""
    embedding_unit: Literal["cosine", "es_score"] = "cosine"
    """The unit of that threshold: the cosine, or Elasticsearch's score (1 + cosine) / 2."""
    min_tokens: int = Field(8, ge=1)
    """Shorter test items are reported, and not removed for, in tokens."""
    remove_short: bool = False
    """Removes for shorter test items, too."""
    contained: bool = True
    """Also removes a row that stands whole in a test item."""
    common_share: float | None = Field(0.001, gt=0, le=1)
    """Share of the documents that may hold an n-gram before it counts less (docs/decontamination.md); null has all
    count alike."""
    common_documents: int = Field(10, ge=1)
    """At least so many documents, for small corpora."""
    common_run: int = Field(13, ge=1)
    """Shared runs of so many tokens count whole, however common."""
    compat: Literal["none", "open-instruct"] = "none"
    """Keeps the rules of another toolkit instead."""
    search_size: int = Field(100, ge=1)
    """Candidates that a search returns for an item."""
    thresholds: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Thresholds that the calibration table has."""
    backend: Literal["embedded", "elasticsearch"] = "embedded"
    """Who searches; the verdicts are the same."""

    @field_validator("modes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a mode twice")
        return value


OPEN_INSTRUCT: dict[str, Any] = {
    "parts": "prompt",
    "ngram_tokenizer": "spacy",
    "embedding_unit": "es_score",
    "min_tokens": 1,
    "remove_short": True,
    "contained": False,
    "common_share": None,
}
"""What `compat: open-instruct` sets, whatever stands beside it."""
