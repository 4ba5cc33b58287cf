"""The gradient of an answer's loss with respect to the LM head's weight, in closed form, from a forward pass alone.

With hidden states h_t [d], the head's logits W h_t and e_t = softmax(W h_t) − onehot(label_t) [V], the mean loss over
the T answer tokens has the gradient (1/T) Σ_t e_t ⊗ h_t with respect to W [V, d], so that for two answers

    ⟨g, g'⟩ = 1/(T T') Σ_{t,s} (e_t · e'_s)(h_t · h'_s),

which never forms the V x d numbers. `W` is the head as a head: where embeddings are tied, what the loss says of the
same numbers as embeddings is no part of it, and neither is a head's bias. Models that change the head's logits
afterwards (soft caps, scales) have another gradient and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from harness.models.rope import rope_switch
from harness.training.batches import batches, collate
from harness.training.chat import Encoded
from harness.training.checks import Check, judge

Label = Literal["answer", "argmax"]
"""Which tokens the loss is of: the answer's own, or the likeliest one at each of their places."""


@dataclass(frozen=True, slots=True)
class HeadGradient:
    """(1/T) Σ_t e_t ⊗ h_t by its factors, float32: `errors` e [T, V] and `states` h [T, d]."""

    errors: torch.Tensor
    states: torch.Tensor


@dataclass(frozen=True, slots=True)
class AnswerLogits:
    """Item `index` at its T answer tokens: `labels` [T], hidden `states` [T, d] and `logits` [T, V]."""

    index: int
    labels: torch.Tensor
    states: torch.Tensor
    logits: torch.Tensor


def product(one: HeadGradient, other: HeadGradient) -> float:
    """⟨g, g'⟩ of two gradients."""
    errors, states = one.errors @ other.errors.T, one.states @ other.states.T
    return float((errors.double() * states.double()).sum()) / (len(one.errors) * len(other.errors))


def head_gradients(
    model: Any, pad_id: int, tokens: int, items: Sequence[Encoded], label: Label = "answer"
) -> Iterator[tuple[int, HeadGradient]]:
    """Index and gradient of every item, in batches of at most `tokens` tokens; items need a completion token."""
    for read in answer_logits(model, pad_id, tokens, items):
        scores = read.logits.float()
        labels = read.labels if label == "answer" else scores.argmax(dim=-1)
        errors = torch.softmax(scores, dim=-1)
        errors[torch.arange(len(labels), device=labels.device), labels] -= 1.0
        yield read.index, HeadGradient(errors, read.states.float())


def answer_logits(model: Any, pad_id: int, tokens: int, items: Sequence[Encoded]) -> Iterator[AnswerLogits]:
    """What the head gets and gives at every item's answer, in batches of at most `tokens` tokens."""
    device = next(model.parameters()).device
    switch = rope_switch(getattr(model, "config", None))
    for rows in batches([len(item.ids) for item in items], len(items), tokens, "right", switch):
        batch = collate([items[i] for i in rows], [1.0] * len(rows), pad_id, "right", device)
        states, logits = _forward(model, batch.ids, batch.attention, batch.positions, batch.predicting)
        counts = batch.predicting // batch.ids.shape[1]
        for number, index in enumerate(rows):
            own = counts == number
            yield AnswerLogits(index, batch.labels[own], states[own], logits[own])


def check_head(model: Any, remedy: str) -> Check:
    """Whether the model's logits are its head's own output, which the closed form takes for granted."""
    table = model.get_input_embeddings().weight
    ids = torch.arange(1, 9, device=table.device)[None] % table.shape[0]
    head: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda module, args, output: head.append(output))
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits.float()
    finally:
        handle.remove()
    apart = float((logits - head[0].float()).norm() / logits.norm())
    return judge("logits are the head's own", apart, 1e-3, "closed form of the head's gradient", remedy)


def _forward(
    model: Any, ids: torch.Tensor, attention: torch.Tensor | None, positions: torch.Tensor, predicting: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [K, d] at the flattened positions `predicting`, and the head's logits of them [K, V]."""
    kept: list[torch.Tensor] = []

    def restrict(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        kept.append(args[0].flatten(0, 1)[predicting])
        return (kept[0].unsqueeze(0), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(restrict)
    try:
        with torch.no_grad():
            out = model(input_ids=ids, attention_mask=attention, position_ids=positions, use_cache=False)
    finally:
        handle.remove()
    return kept[0], out.logits[0]
