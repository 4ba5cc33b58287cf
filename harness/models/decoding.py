"""Decoding is what the settings say: a model's own `generation_config.json` gives its token ids and nothing else.

Publishers put their taste there (repetition penalties, top_k, a longest length), and libraries take it for every value
that a caller does not give: rollouts would be drawn from another distribution than is trained, and test answers would
be another model's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.texts import read_text

FILE = "generation_config.json"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""What is kept: which tokens begin, end and pad."""
SERVED: Mapping[str, float] = MappingProxyType(
    {"repetition_penalty": 1.0, "top_k": 0, "min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
)
"""What a vLLM server is told with every request, since one that others started may have read the model's wishes."""
_NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {
        **SERVED,
        **dict.fromkeys(("temperature", "top_p", "typical_p", "length_penalty", "num_beams", "num_beam_groups"), 1),
        **dict.fromkeys(("no_repeat_ngram_size", "min_length", "epsilon_cutoff", "eta_cutoff", "diversity_penalty"), 0),
        **dict.fromkeys(("encoder_repetition_penalty", "num_return_sequences"), 1),
        **dict.fromkeys(("encoder_no_repeat_ngram_size", "top_h"), 0),
    }
)
_OLDER = (*_NEUTRAL, "max_length", "bad_words_ids", "suppress_tokens", "forced_eos_token_id", "forced_bos_token_id")
"""Names that stood in `config.json` before there was a file of their own."""
_NO_DECODING = ("transformers_version", "use_cache", "cache_implementation", "do_sample", "disable_compile")


def neutral_decoding(model: Any) -> None:
    """Reset all that the loaded `model` has for generation, its token ids apart; what is saved of it has no more.

    In place: adapters and trainers hold the same object. `use_cache` stays, which changes no token.
    """
    from transformers import GenerationConfig

    config = model.generation_config
    fresh = vars(GenerationConfig())
    for name in list(vars(config)):
        if name in (*TOKEN_IDS, "use_cache") or name.startswith("_"):
            continue
        if name in fresh:
            setattr(config, name, fresh[name])
        else:
            delattr(config, name)


def set_aside(folder: Path) -> dict[str, Any]:
    """The settings of the `generation_config.json` in a model's folder that nothing here uses; empty where none.

    A folder without one is asked for what its `config.json` says of generation, which libraries take instead.
    """
    asked = _read(folder / FILE)
    if asked is None:
        asked = {name: value for name, value in (_read(folder / "config.json") or {}).items() if name in _OLDER}
    return {
        name: value
        for name, value in asked.items()
        if name not in (*TOKEN_IDS, *_NO_DECODING)
        and not name.startswith(("_", "output_", "return_"))
        and value not in (None, False, [])
        and value != _NEUTRAL.get(name)
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
