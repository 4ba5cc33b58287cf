"""The target's own answers, and its distributions while it gave them.

Tokens are chosen by a hook on the decoding loop, so that every row has random numbers of its own: a question's answers
depend on its seed and on nothing that is computed beside it. A question is decoded alone, all its answers in one batch
of equal prompts, where nothing is padded. That costs throughput on a GPU: rounding of a padded batch would turn one of
two equally likely tokens into the other, and with it all that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.models.transformers_backend import decode


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its ids, the token that ended it included, and by token what the distribution was, float64 [tokens].

    `log_p` is the chosen token's log-probability, `entropy` that of the distribution in nats, `margin` the difference
    of the two largest probabilities, `lead` that of the chosen token and the best other one. All are at temperature 1.
    """

    ids: tuple[int, ...]
    ended: bool
    log_p: torch.Tensor
    entropy: torch.Tensor
    margin: torch.Tensor
    lead: torch.Tensor


class _Chooser:
    """Chooses the next token of every row, greedily or by inverting the distribution function, and keeps figures.

    `uniforms` [rows, tokens] are the random numbers, used where `temperature` is above 0.
    """

    def __init__(self, temperature: float, uniforms: torch.Tensor) -> None:
        self.temperature, self.uniforms = temperature, uniforms
        self.kept: list[torch.Tensor] = []

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        exact = logits.double()
        log_p = exact.log_softmax(-1)
        p = log_p.exp()
        best = p.topk(2, dim=-1)
        chosen = best.indices[:, :1]
        if self.temperature > 0:
            summed = (exact / self.temperature).softmax(-1).cumsum(-1)
            drawn = self.uniforms[:, len(self.kept), None].to(summed) * summed[:, -1:]
            chosen = torch.searchsorted(summed, drawn, right=True).clamp(max=logits.shape[-1] - 1)
        other = torch.where(chosen == best.indices[:, :1], best.values[:, 1:], best.values[:, :1])
        entropy = -torch.where(p > 0, p * log_p, 0.0).sum(-1, keepdim=True)
        figures = (
            log_p.gather(1, chosen),
            entropy,
            best.values[:, :1] - best.values[:, 1:],
            p.gather(1, chosen) - other,
        )
        self.kept.append(torch.cat(figures, dim=1).cpu())
        return torch.full_like(logits, float("-inf")).scatter_(1, chosen, 0.0)


def answer(
    model: Any, tokenizer: Any, prompt: Sequence[int], max_tokens: int, temperature: float, seeds: Sequence[int]
) -> list[Answer]:
    """The target's answers to one prompt of ids, one for each seed; greedy at temperature 0."""
    uniforms = torch.stack(
        [torch.rand(max_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    )
    chooser = _Chooser(temperature, uniforms)
    rows = [list(prompt)] * len(seeds)
    found = decode(model, tokenizer, rows, max_tokens, do_sample=False, logits_processor=[chooser])
    kept = torch.stack(chooser.kept, dim=1)
    return [Answer(done.ids, done.ended, *kept[row, : len(done.ids)].unbind(dim=1)) for row, done in enumerate(found)]
