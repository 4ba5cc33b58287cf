"""The `bald` signal: how much the members of an ensemble disagree about the answer's tokens.

Bayesian active learning by disagreement (Houlsby et al., arXiv 1112.5745; Gal et al., arXiv 1703.02910): the
mutual information between what is predicted and which member predicts it, H(mean_k p_k) − mean_k H(p_k). It is taken at
every token of the pair's answer, given the tokens before it, and averaged. What every member finds uncertain, such as a
free choice of words, counts nothing: they have to be sure of different things. It is at most ln K for K members.

Members are warm-ups of different seeds. Dropout (`ensemble=dropout`) needs an adapter that was warmed up with it, since
today's base models have none of their own; a member is then a draw, and items are read one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from harness.facts import Fact
from harness.training.chat import Encoded
from harness.types import Score
from methods.signals.diagnostics import mean_of
from methods.signals.ensembled import EnsembleSettings, EnsembleSignal

if TYPE_CHECKING:
    import torch

    from methods.signals.target.ensemble import Kind


class BaldSettings(EnsembleSettings):
    """The ensemble, and what its members differ in."""

    ensemble: Literal["warmups", "dropout"] = "warmups"
    """What members differ in: the seed of their warm-up, or the draw of one warm-up's dropout
    (`warmup.lora_dropout`)."""


class BaldSignal(EnsembleSignal[BaldSettings]):
    """1/T Σ_t [H(mean_k p_k(·|x, y_<t)) − mean_k H(p_k(·|x, y_<t))], in nats; higher is better."""

    name = "bald"
    summary = "how much warm-ups of different seeds disagree about the answer's tokens (mutual information)"
    range = (0.0, None)
    Settings = BaldSettings

    @classmethod
    def kind(cls, settings: BaldSettings) -> Kind:
        """As the settings say."""
        return settings.ensemble

    @classmethod
    def diagnose(cls, scores: Sequence[Score]) -> list[Fact]:
        """As the base says, and how uncertain members are, of which disagreement is a part."""
        own = mean_of(scores, "member_entropy", "member_entropy", "mean entropy of a member's own prediction, in nats")
        return [*super().diagnose(scores), own]

    def measure(self, codes: Sequence[Encoded]) -> list[Mapping[str, float]]:
        """The disagreement about every item, and beside it the entropy that its members have each for themselves."""
        found: dict[int, Mapping[str, float]] = {}
        held: dict[int, Disagreement] = {}
        for member, index, logits in self.ensemble.read(codes, self.context.scoring.batch_tokens):
            if member == 0:
                held[index] = Disagreement(logits)
            held[index].add(logits)
            if member == self.settings.members - 1:
                found[index] = held.pop(index).mean(self.settings.members)
        return [found[index] for index in range(len(codes))]


class Disagreement:
    """Sums over members at T places: of the probabilities [T, V] and of the entropies [T], in float64."""

    def __init__(self, like: torch.Tensor) -> None:
        import torch

        self._p = torch.zeros(like.shape, dtype=torch.float64, device=like.device)
        self._h = torch.zeros(len(like), dtype=torch.float64, device=like.device)

    def add(self, logits: torch.Tensor) -> None:
        """Add a member's prediction."""
        import torch

        from methods.signals.target.ensemble import sliced

        def use(part: slice, p: torch.Tensor) -> None:
            self._p[part] += p
            self._h[part] += torch.special.entr(p).sum(-1)

        sliced(logits, use)

    def mean(self, members: int) -> dict[str, float]:
        """Means over the places: of the mutual information (`value`), and of the members' own entropy."""
        import torch

        own = self._h / members
        shared = torch.special.entr(self._p / members).sum(-1)
        # Rounding can leave less than nothing.
        return {"value": float((shared - own).clamp(min=0.0).mean()), "member_entropy": float(own.mean())}
