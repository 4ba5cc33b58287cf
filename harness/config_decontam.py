"""Settings of the contamination check: what counts as test text, and what is removed for it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from harness.config_models import Section


class DecontamConfig(Section):
    """What counts as contaminated (`decontam/`); the same settings for every arm of a comparison.

    Texts are compared as `decontam.tokens.plain` writes them: Unicode form, width, case, markup do not matter.
    A training text is removed when it contains a test item whole (`text`), covers more than `ngram_threshold` of its
    tokens with shared n-grams of `ngram_size` (`ngram`), or has a similarity above `embedding_threshold` (`embedding`).
    `embedding_unit` says in which unit that threshold is given: the cosine, or Elasticsearch's score (1 + cosine) / 2.
    Items of fewer than `min_tokens` tokens are reported and, without `remove_short`, never removed for. An n-gram that
    stands in E unrelated training texts and T test texts beside the first counts 1 / (1 + E / L + T / 3), L being
    `common_share` of the documents and at least `common_documents`; the longer the shared run, the more fully, and
    wholly from `common_run` tokens on (`decontam.rarity`). `common_share` None has all count alike. `contained` also
    removes a text that stands whole in a test item. `compat: open-instruct` keeps that toolkit's rules instead
    (docs/decontamination.md). `backend` changes no verdict.
    """

    modes: tuple[Literal["text", "ngram", "embedding"], ...] = Field(("text", "ngram"), min_length=1)
    parts: Literal["prompt", "answer", "both"] = "both"
    ngram_size: int = Field(5, ge=1, le=64)
    ngram_threshold: float = Field(0.3, ge=0, lt=1)
    ngram_tokenizer: Literal["standard", "spacy"] = "standard"
    embedding_threshold: float = Field(0.85, ge=-1, le=1)
    embedding_unit: Literal["cosine", "es_score"] = "cosine"
    min_tokens: int = Field(8, ge=1)
    remove_short: bool = False
    contained: bool = True
    common_share: float | None = Field(0.001, gt=0, le=1)
    common_documents: int = Field(10, ge=1)
    common_run: int = Field(13, ge=1)
    compat: Literal["none", "open-instruct"] = "none"
    search_size: int = Field(100, ge=1)
    thresholds: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    backend: Literal["embedded", "elasticsearch"] = "embedded"

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
