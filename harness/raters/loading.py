"""Loading a rater's checkpoint as its declaration says, and refusing one that is not what is declared.

transformers gives a model without a head a random one, and one with other outputs than are expected is read at the
wrong place, both without an error: here either stops in one line. Golden tokens tell a tokenizer that a library reads
otherwise than the rater was trained with.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, InputError, PrerequisiteError, StageError
from harness.raters.declaration import RaterDeclaration


@dataclass(frozen=True)
class Frame:
    """All that surrounds the tokens of a text: begin and end tokens, padding, and how logits become ratings.

    `digits` are the tokens of the grades, where those are read; `positions` whether the model is told positions, which
    it needs where padding precedes a text.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    pad_id: int
    digits: tuple[int, ...]
    positions: bool
    grades: tuple[float, ...]

    @property
    def size(self) -> int:
        """The number of begin and end tokens of a window."""
        return len(self.before) + len(self.after)

    def around(self, ids: Sequence[int]) -> list[int]:
        """A window of these tokens."""
        return [*self.before, *ids, *self.after]

    def values(self, logits: Any) -> Any:
        """Ratings [rows, heads]: logits as they are, or the expected grade of logits over grades in the last place."""
        import torch

        if not self.grades:
            return logits
        return logits.softmax(-1) @ torch.tensor(self.grades, dtype=logits.dtype, device=logits.device)


def load_rater(declaration: RaterDeclaration) -> tuple[Any, Any, Frame]:
    """Model (on the GPU where there is one), tokenizer and frame of a rater.

    Raises `PrerequisiteError` where the checkpoint is not to be had, `InputError` for one without a head or with other
    heads than declared, and `StageError` for a tokenizer that does not give the golden tokens.
    """
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    d = declaration
    try:
        tokenizer = AutoTokenizer.from_pretrained(d.checkpoint, revision=d.revision)
        model = _load(d)
    # Offline, gated, misspelt and interrupted end here, each as another class of another package.
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise _unavailable(d, error) from None
    check_golden(d, tokenizer)
    frame = _frame(d, model, tokenizer)
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = frame.pad_id
    if torch.cuda.is_available():
        model.to("cuda")
    return model.eval(), tokenizer, frame


def _load(d: RaterDeclaration) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(d.checkpoint, revision=d.revision)
    kind = AutoModelForCausalLM if d.output == "digits" else AutoModelForSequenceClassification
    pooling = getattr(config, "classifier_pooling", None)
    if d.pooling is not None and pooling != d.pooling:
        raise InputError(
            f"rater '{d.name}' is declared with pooling {d.pooling} and {d.checkpoint} has {pooling}; correct the "
            "declaration"
        )
    if d.output != "digits" and config.num_labels != d.logits:
        raise InputError(
            f"the heads of rater '{d.name}' do not match: {', '.join(d.heads)} with output {d.output} take {d.logits} "
            f"outputs, and {d.checkpoint} has {config.num_labels}; name another checkpoint, or declare its heads"
        )
    model, loaded = kind.from_pretrained(
        d.checkpoint,
        config=config,
        revision=d.revision,
        dtype=getattr(torch, d.dtype),
        output_loading_info=True,
    )
    if missing := sorted(loaded["missing_keys"]):
        raise InputError(
            f"{d.checkpoint} is no rater: it has no weights for {missing[0]}, the head that rates; name the folder "
            "of a trained rater, or train one: harness rater train"
        )
    return model


def _unavailable(d: RaterDeclaration, error: Exception) -> Exception:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    if Path(d.checkpoint).is_dir():
        return InputError(f"the rater in {d.checkpoint} cannot be loaded ({reason}); save it again, with its tokenizer")
    return PrerequisiteError(
        f"the checkpoint {d.checkpoint} of rater '{d.name}' cannot be loaded ({reason}); hf download {d.checkpoint} "
        "where there is a network, or train one (harness rater train) and name its folder: --set signal.rater=DIR"
    )


def check_golden(d: RaterDeclaration, tokenizer: Any) -> None:
    """Raise `StageError` where the tokenizer gives a golden text other tokens than are declared."""
    for text, ids in d.golden.items():
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        if list(ids) != list(found):
            raise StageError(
                f"the tokenizer of rater '{d.name}' reads '{text}' as {list(found)}, and {list(ids)} is what it was "
                "trained with; install another release of transformers or tokenizers, or correct the declaration"
            )


def _frame(d: RaterDeclaration, model: Any, tokenizer: Any) -> Frame:
    before, after = special_tokens(tokenizer) if d.special_tokens else ((), ())
    if d.max_length <= len(before) + len(after):
        raise ConfigError(f"rater '{d.name}': max_length {d.max_length} leaves no room for a text")
    pads = (d.pad_id, tokenizer.pad_token_id, model.config.get_text_config().pad_token_id, tokenizer.eos_token_id)
    rows = model.get_input_embeddings().weight.shape[0]
    pad = next((token for token in pads if token is not None), 0)
    if pad >= rows:
        raise ConfigError(
            f"rater '{d.name}': pad_id {pad} is not among the {rows} tokens of {d.checkpoint}; set pad_id"
        )
    told = "position_ids" in inspect.signature(model.forward).parameters
    return Frame(
        before=before,
        after=after,
        pad_id=pad,
        digits=_digits(d, tokenizer),
        positions=told and d.padding_side == "left",
        grades=d.grades if d.output in ("classes", "digits") else (),
    )


def special_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that the tokenizer puts before and after a text by itself."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    at = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    return tuple(whole[:at]), tuple(whole[at + len(plain) :])


def _digits(d: RaterDeclaration, tokenizer: Any) -> tuple[int, ...]:
    """The tokens of the grades; declared ones are compared with the tokenizer's."""
    if d.output != "digits":
        return ()
    own = tuple(tokenizer(f"{grade:g}", add_special_tokens=False)["input_ids"][-1] for grade in d.grades)
    if len(set(own)) < len(own):
        raise ConfigError(f"rater '{d.name}': its tokenizer has no single token for each of the grades {d.grades}")
    if d.digit_ids and d.digit_ids != own:
        raise StageError(
            f"the tokenizer of rater '{d.name}' has the digits of its grades at {list(own)}, and {list(d.digit_ids)} "
            "is declared; correct digit_ids, or name the tokenizer that it was trained with"
        )
    return own
