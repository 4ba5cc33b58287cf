"""The `epig` signal: how much knowing a pair's answer would tell about the answers to validation items.

Expected predictive information gain (Bickford Smith et al., arXiv 2304.08151): the mutual information
between the answer y to x and the answer y* to a target input x*, in expectation over x*; here the x* are the validation
items. With members k of an ensemble the joint prediction is mean_k p_k(y|x) p_k(y*|x*). Unlike `bald` it counts only
the disagreement that concerns what is asked. It is meant for few possible answers, so a place of an answer has
`outcomes` of them: the likeliest tokens by the members' mean, and all others as one more; of longer answers every pair
of their first `positions` places counts, given the reference answer before it, and the mean is taken. It lies between 0
and ln min(outcomes + 1, members), and is too high by chance where there are few members.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from harness.facts import Fact
from harness.training.chat import Encoded
from methods.signals.ensembled import EnsembleSettings, EnsembleSignal
from methods.signals.target.base import Passes

if TYPE_CHECKING:
    import torch

_JOINT = 2**22
"""Most joint probabilities that are held at once, in float64: 32 MB."""


class EpigSettings(EnsembleSettings):
    """The ensemble, and how answers are told apart."""

    outcomes: int = Field(15, ge=1)
    """Tokens that are told apart at a place of an answer, the likeliest first; all others count as one."""
    positions: int = Field(8, ge=1)
    """Places of an answer that count, from the first on, of the pair and of a validation item."""


class EpigSignal(EnsembleSignal[EpigSettings]):
    """Mean over validation items of I(y; y*), in nats; higher is better."""

    name = "epig"
    summary = "information that the pair's answer carries about answers to validation items, by an ensemble"
    range = (0.0, None)
    reads_validation = True
    Settings = EpigSettings

    def ready(self) -> list[Fact]:
        """Predict the answers to the validation items by every member."""
        import torch

        codes = [code for _, code in self.validation]
        rows = self._predict(codes)
        self._targets: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, withheld in (("value", False), ("withheld", True)):
            mine = [row for row, (item, _) in zip(rows, self.validation, strict=True) if item.withheld == withheld]
            if mine:
                shares = [torch.full((row.shape[1],), 1 / (len(mine) * row.shape[1]), dtype=row.dtype) for row in mine]
                self._targets[name] = torch.cat(mine, dim=1), torch.cat(shares)
        self.spend(self.started, Passes(codes, self.settings.members))
        return super().ready()

    def measure(self, codes: Sequence[Encoded]) -> list[Mapping[str, float]]:
        """The information gain of every item, and beside it that about the withheld items."""
        return [
            {name: information(row, targets, shares) for name, (targets, shares) in self._targets.items()}
            for row in self._predict(codes)
        ]

    def _predict(self, codes: Sequence[Encoded]) -> list[torch.Tensor]:
        """Of every item the members' probabilities of its outcomes: [K, T, outcomes + 1], float64, on the CPU."""
        import torch

        held: dict[int, list[torch.Tensor]] = defaultdict(list)
        found: dict[int, torch.Tensor] = {}
        for _, index, logits in self.ensemble.read(codes, self.context.scoring.batch_tokens):
            held[index].append(torch.softmax(logits[: self.settings.positions].double(), dim=-1))
            if len(held[index]) == self.settings.members:
                found[index] = outcomes(torch.stack(held.pop(index)), self.settings.outcomes).cpu()
        return [found[index] for index in range(len(codes))]


def outcomes(p: torch.Tensor, most: int) -> torch.Tensor:
    """Probabilities [K, T, V] of the `most` tokens that are likeliest in the mean over K, and of the rest as one."""
    import torch

    likeliest = p.mean(0).topk(min(most, p.shape[-1]), dim=-1).indices
    kept = p.gather(-1, likeliest.expand(p.shape[0], -1, -1))
    return torch.cat([kept, (1 - kept.sum(-1, keepdim=True)).clamp(min=0.0)], dim=-1)


def information(own: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor) -> float:
    """Mean over T places of Σ_s shares[s] · I(y_t; y*_s), of `own` [K, T, A] and `targets` [K, S, B], in nats."""
    import torch

    members, places, count = own.shape
    here, there = (torch.special.entr(p.mean(0)).sum(-1) for p in (own, targets))
    step = max(1, _JOINT // (places * count * targets.shape[-1]))
    total = 0.0
    for start in range(0, targets.shape[1], step):
        part = slice(start, start + step)
        joint = torch.einsum("kta,ksb->tsab", own, targets[:, part]) / members
        both = torch.special.entr(joint).sum((-1, -2))
        # Rounding can leave less than nothing.
        gain = (here[:, None] + there[part] - both).clamp(min=0.0)
        total += float((gain * shares[part]).sum())
    return total / places
