"""The model that is tested, as lm-eval sees it: prompts become tokens as they do in training.

lm-eval renders a chat template and encodes the text by itself: with a beginning token that the template does not write,
a choice apart from the turn that it is part of, special tokens in a question as such, today's date in a template.
`Asked` (`evals.asked`) leaves batching, likelihoods and stopping to it and takes the tokens from
`harness.training.chat`.
"""

from __future__ import annotations

from typing import Any

from harness.errors import PrerequisiteError
from harness.models.attention import share_keys
from harness.models.context import model_context
from harness.models.rope import forget_lengths
from harness.models.tokenizers import complete, declare_stop, fit_padding


def load_model(path: str, batch_size: int, apply_chat_template: bool, dtype: str = "auto") -> Any:
    """The model as an `lm_eval` `HFLM`, on the GPU if there is one; `PrerequisiteError` if it cannot be loaded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    from evals.asked import ChatHFLM

    share_keys()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise PrerequisiteError(
            f"The model to evaluate, {path}, cannot be loaded ({reason}); name a folder with weights and tokenizer, "
            "or a hub model that this machine can reach."
        ) from None
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    if apply_chat_template and not tokenizer.chat_template:
        raise PrerequisiteError(f"The tokenizer in {path} has no chat template; add one, or evaluate without it.")
    complete(tokenizer, path)
    declare_stop(model, tokenizer)
    fit_padding(model, tokenizer)
    forget_lengths(model)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    # lm-eval knows fewer names of a context than there are.
    context = model_context(model.config)
    limit = {"max_length": context.tokens} if context else {}
    return ChatHFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, **limit)
