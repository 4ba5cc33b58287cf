"""Loading a tokenizer so that every stage can use it: something to pad with, and no token types.

What a tokenizer lacks is chosen here and nowhere else. Padding is always masked by position, so that padding and end of
turn may be one token; a token's id never says that it is padding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import PrerequisiteError
from harness.models.decoding import neutral_decoding
from harness.training.template import traits


def load_tokenizer(path: str | Path, revision: str | None = None, *, padding_side: str = "left") -> Any:
    """The tokenizer at `path`, as `complete` leaves it."""
    from transformers import AutoTokenizer

    return complete(AutoTokenizer.from_pretrained(path, revision=revision, padding_side=padding_side), str(path))


def complete(tokenizer: Any, name: str) -> Any:
    """`tokenizer` with a padding token, with the end token that its template names if it has none, without token types.

    Causal models are trained on ids alone, so that types would be other inputs in generation than in training.
    Raises `PrerequisiteError` for a tokenizer without any special token.
    """
    tokenizer.model_input_names = [n for n in tokenizer.model_input_names if n != "token_type_ids"]
    if tokenizer.pad_token_id is None:
        ids = tokenizer.eos_token_id, tokenizer.unk_token_id
        own = next((i for i in ids if i is not None), None)
        tokenizer.pad_token = _spare(tokenizer, name) if own is None else tokenizer.convert_ids_to_tokens(own)
    if tokenizer.eos_token_id is None and tokenizer.chat_template and traits(tokenizer).stop is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(traits(tokenizer).stop)
    return tokenizer


def declared_stops(model: Any) -> list[int]:
    """Ids at which `model.generation_config` says that it stops."""
    declared = model.generation_config.eos_token_id
    return list(declared) if isinstance(declared, list) else [] if declared is None else [declared]


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids at which a text ends: those that the model declares, then its tokenizer's own."""
    return list(dict.fromkeys(i for i in (*declared_stops(model), tokenizer.eos_token_id) if i is not None))


def declare_stop(model: Any, tokenizer: Any) -> None:
    """Have the model, and what is saved of it, stop where its template closes an assistant's turn.

    A base model's own end token stays beside it. Nothing else that the model declares for generation is kept.
    """
    neutral_decoding(model)
    stop = traits(tokenizer).stop if tokenizer.chat_template else None
    ids = declared_stops(model)
    if stop is not None and stop not in ids:
        model.generation_config.eos_token_id = [stop, *ids] if ids else stop
        model.config.eos_token_id = model.generation_config.eos_token_id


def save_beside(model: Any, tokenizer: Any, folder: Path) -> None:
    """The tokenizer, and where `model` stops, beside its weights or its adapter, which names no end by itself."""
    tokenizer.save_pretrained(folder)
    if not (folder / "generation_config.json").exists():
        model.generation_config.save_pretrained(folder)


def fit_padding(model: Any, tokenizer: Any) -> None:
    """Choose another padding token where the model has no row for the tokenizer's: padding is masked but looked up."""
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.pad_token_id < rows:
        return
    usable = (tokenizer.eos_token_id, tokenizer.unk_token_id, *sorted(tokenizer.all_special_ids))
    found = next((i for i in usable if i is not None and i < rows), None)
    if found is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(found)


def _spare(tokenizer: Any, name: str) -> str:
    """A special token to pad with: one that closes no turn where there is such a one."""
    special = [(i, str(t.content)) for i, t in sorted(tokenizer.added_tokens_decoder.items()) if t.special]
    if not special:
        raise PrerequisiteError(
            f"the tokenizer of {name} has no special token to pad with; name a pad_token in its tokenizer_config.json"
        )
    stop = traits(tokenizer).stop if tokenizer.chat_template else None
    return next((token for i, token in special if i != stop), special[0][1])
