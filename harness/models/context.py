"""The number of tokens that a model can take, from its configuration, under whichever of the names it has there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INNER = ("text_config", "llm_config", "language_config")
"""Where models with several parts keep the language model's own settings."""

_FIXED = ("n_positions", "max_seq_len", "max_sequence_length", "n_ctx")
"""Names of contexts that end in a table of positions, as in GPT-2 and MPT."""

NAMES = ("max_position_embeddings", *_FIXED, "model_max_length")

_LEARNED = ("opt", "gpt_neo", "gpt_bigcode", "biogpt", "xglm", "gptj", "codegen", "openai-gpt", "ctrl")
"""Model types whose positions end in a table though the name does not say so."""


@dataclass(frozen=True, slots=True)
class Context:
    """Most tokens, and the name of that number. `fixed`: there are no positions beyond; rotary ones reach further."""

    tokens: int
    name: str
    fixed: bool


def language_parts(config: Any) -> Iterator[Any]:
    """A configuration (transformers' object, or config.json as a mapping), and those of language models inside it."""
    yield config
    for name in _INNER:
        if (inner := setting(config, name)) is not None:
            yield inner


def setting(config: Any, name: str) -> Any:
    """A field of a configuration; None where it has none of that name."""
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def model_context(config: Any) -> Context | None:
    """The smallest context that a configuration names; None where positions have no end (Bloom, Mamba)."""
    found = []
    for part in language_parts(config):
        learned = str(setting(part, "model_type")) in _LEARNED
        for name in NAMES:
            value = setting(part, name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                found.append(Context(value, name, learned or name in _FIXED))
    return min(found, key=lambda context: (context.tokens, not context.fixed), default=None)


def folder_context(folder: Path) -> Context | None:
    """The context that a model folder's config.json names; None where it names none, or cannot be read."""
    return model_context(folder_config(folder))


def folder_config(folder: Path) -> Mapping[str, Any]:
    """A model folder's config.json; empty where it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, Mapping) else {}
