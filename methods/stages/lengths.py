"""The amount that a sample counts against the declared line: one sample, or the tokens that fine-tuning sees of it.

Tokens are the target's own, template included, as the trainer encodes them: a generator's count would give arms with
different generators different amounts of training under the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.models.open import model_path
from harness.types import Sample
from methods.plan import Plan

Weigh = Callable[[Sample], float]


def line_settings(plan: Plan) -> dict[str, Any]:
    """The settings that say where the line is and how samples count against it."""
    c = plan.config
    counted = [plan.identity(c.models.target), c.sft.max_length] if c.match == "sft_tokens" else None
    return {"match": c.match, "budget": c.budget, **({"tokens_of": counted} if counted else {})}


def weigher(plan: Plan) -> Weigh | None:
    """The weight of a sample against the line (one epoch), as a function; None where the line counts spending."""
    c = plan.config
    if c.match == "samples":
        return lambda sample: 1.0
    if c.match != "sft_tokens":
        return None
    from harness.models.tokenizers import load_tokenizer
    from harness.training.chat import encode

    tokenizer = load_tokenizer(model_path(c.models.target, plan.world), c.models.target.revision)
    known: dict[str, float] = {}

    def tokens(sample: Sample) -> float:
        if sample.id not in known:
            code = encode(tokenizer, sample.messages, c.sft.max_length)
            known[sample.id] = float(len(code.ids)) if code.completion_length else 0.0
        return known[sample.id]

    return tokens
