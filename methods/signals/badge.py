"""The `badge` signal: pairs whose gradients are large and unlike each other (Ash et al., arXiv 1906.03671).

An item's gradient is that of the LM head on the labels that the target itself would give (§3: hallucinated labels); a
set is chosen by k-means++ on these gradients: the first by the largest norm, each further one with a chance in
proportion to its squared distance from the nearest chosen. The chance is drawn for item and step by hashing, so the
pool's order does not matter.

Two departures for language models. The label at each place is the likeliest token *after the pair's own answer up to
there*, not a token of an answer that the target decodes by itself (`label`); and a gradient has V·d numbers, so by
default it is projected, (P e) ⊗ (Q h) with normal P and Q, whose products are those of the gradients on average.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field

from harness.errors import StageError
from harness.facts import Fact
from harness.training.checks import Check
from harness.types import Score, Seed, derive_seed, stable_hash
from methods.signals.base import Item, ModelUse
from methods.signals.items import UNLABELLED, unlabelled
from methods.signals.loss import LossSettings
from methods.signals.sets import SetItem, SetSignal
from methods.signals.target.base import Passes, TargetReader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evals.coverage import Mask, SetFunction
    from methods.signals.target.head import HeadGradient

    Column: TypeAlias = NDArray[np.float64]

EXACT = 2**26
"""Most weights of a head whose gradients are kept exactly, by their factors, which are [T, V] and [T, d]."""


class BadgeSettings(LossSettings):
    """The gradients that are compared, and their comparison."""

    label: Literal["argmax", "answer"] = "argmax"
    """The labels that the loss is of: the target's likeliest token at each place of the answer, or the answer's own."""
    projection: int = Field(64, ge=0)
    """Rows of each of the two random matrices that project a gradient; 0 compares exact gradients, for small heads."""


class BadgeSignal(SetSignal[BadgeSettings], TargetReader[BadgeSettings]):
    """Squared distance of the head's gradient to the nearest chosen one's, or to 0 where nothing is chosen."""

    name = "badge"
    summary = "chooses sets: head gradients that are large and unlike each other, by k-means++ (BADGE)"
    range = (0.0, None)
    items = frozenset({"sample", "seed"})
    Settings = BadgeSettings

    @classmethod
    def needs(cls, settings: BadgeSettings) -> frozenset[str]:
        """The target, warmed up or as it is."""
        return frozenset({"warm_target" if settings.checkpoint == "warm" else "target"})

    @classmethod
    def uses(cls, settings: BadgeSettings) -> tuple[ModelUse, ...]:
        """One forward pass."""
        return (ModelUse("target"),)

    @classmethod
    def unscorable(cls, seed: Seed) -> str:
        """It reads the target after the reference answer."""
        return unlabelled(seed)

    def checks(self) -> list[Check]:
        """Whether padding changes no score, and the closed form holds of this model's head."""
        from methods.signals.target.head import check_head

        return [*super().checks(), check_head(self.model, "Choose by coreset or facility_location")]

    def ready(self) -> list[Fact]:
        """The projections, by the run's seed. Raises `StageError` for exact gradients of a large head."""
        import torch

        vocabulary, width = self.model.get_output_embeddings().weight.shape
        size = self.settings.projection
        if not size and vocabulary * width > EXACT:
            raise StageError(
                f"exact gradients of a head of {vocabulary:,} x {width:,} are too large; set signal.projection=64"
            )
        if size:
            draw = torch.Generator().manual_seed(derive_seed("badge", self.context.seed))
            device = next(self.model.parameters()).device
            self._left = (torch.randn(vocabulary, size, generator=draw) / size**0.5).to(device)
            self._right = (torch.randn(width, size, generator=draw) / size**0.5).to(device)
        return [
            Fact("labels", self.settings.label, "labels that gradients are of"),
            Fact("gradient_size", size * size or vocabulary * width, "numbers of a gradient that are compared"),
            Fact("checkpoint", self.settings.checkpoint, "checkpoint that is read"),
        ]

    def represent(self, items: Sequence[Item]) -> list[SetItem | str]:
        """Gradients, projected or by their factors."""
        from methods.signals.target.head import head_gradients

        started = time.perf_counter()
        turns = [self.conversation(item) for item in items]
        codes = [self.encode(messages) if messages else None for messages in turns]
        usable = [i for i, code in enumerate(codes) if code is not None and code.completion_length]
        found: list[SetItem | str] = ["no completion token left" if m else UNLABELLED for m in turns]
        if usable:
            own = [code for code in codes if code is not None and code.completion_length]
            pad, tokens = self.tokenizer.pad_token_id, self.context.scoring.batch_tokens
            for at, g in head_gradients(self.model, pad, tokens, own, self.settings.label):
                found[usable[at]] = SetItem(self._kept(g), own[at].counts)
            self.spend(started, Passes(own))
        return found

    def _kept(self, g: HeadGradient) -> Any:
        from methods.signals.target.head import HeadGradient as Factors

        if self.settings.projection:
            whole = (g.errors @ self._left).T @ (g.states @ self._right) / len(g.errors)
            return whole.flatten().double().cpu().numpy()
        return Factors(g.errors.cpu(), g.states.cpu())

    def function(self, ids: Sequence[str], rows: Sequence[SetItem], taken: Sequence[SetItem]) -> SetFunction:
        """k-means++ on the gradients."""
        import numpy as np

        from methods.signals.target.head import product

        data = [row.data for row in rows]
        if self.settings.projection:
            matrix = np.stack(data)
            space = Space(lambda one: matrix @ one, lambda one: float(one @ one))
        else:
            space = Space(lambda one: np.array([product(g, one) for g in data]), lambda one: product(one, one))
        return PlusPlus(data, space, ids, self.context.seed, [row.data for row in taken])

    def _scored(self, item: Item, gain: float, parts: Mapping[str, float]) -> Score:
        return Score(
            item_id=item.id,
            signal=self.name,
            value=gain,
            status="ok",
            reason="",
            parts=parts,
            target_rev=self.target.revision,
        )


@dataclass(frozen=True, slots=True)
class Space:
    """Products of gradients: the products of all rows with one, and one's squared norm."""

    products: Callable[[Any], Column]
    norm: Callable[[Any], float]


class PlusPlus:
    """k-means++ seeding (Arthur & Vassilvitskii 2007) on vectors that are known by their products.

    The chance is the Gumbel-max trick on log D², with noise by hashing seed, step and id.
    """

    def __init__(
        self, rows: Sequence[Any], space: Space, ids: Sequence[str], seed: int, taken: Sequence[Any] = ()
    ) -> None:
        import numpy as np

        self.size, self._rows, self._space = len(rows), rows, space
        self._ids, self._seed, self._step = ids, seed, 0
        self._norms = np.array([space.norm(row) for row in rows])
        self._nearest = self._norms.copy()
        self._empty = True
        for one in taken:
            self._near(one)

    def gain(self, index: int) -> float:
        """D²: see `SetFunction`."""
        return float(self._nearest[index])

    def next(self, allowed: Mask) -> int:
        """The longest where nothing is taken; else at random in proportion to D²."""
        import numpy as np

        if self._empty:
            return int(np.argmax(np.where(allowed, self._norms, -np.inf)))
        noise = np.array([-math.log(-math.log(self._uniform(key))) for key in self._ids])
        with np.errstate(divide="ignore"):
            drawn = np.log(self._nearest) + noise
        # Where all are repeats of what is taken, the first of them.
        return int(np.argmax(np.where(allowed, np.maximum(drawn, -1e300), -np.inf)))

    def take(self, index: int) -> None:
        """See `SetFunction`."""
        self._step += 1
        self._near(self._rows[index])
        self._nearest[index] = 0.0

    def _near(self, one: Any) -> None:
        import numpy as np

        distance = np.maximum(self._norms + self._space.norm(one) - 2.0 * self._space.products(one), 0.0)
        self._nearest = distance if self._empty else np.minimum(self._nearest, distance)
        self._empty = False

    def _uniform(self, key: str) -> float:
        """In (0, 1), by item and step."""
        return (int(stable_hash(self._seed, self._step, key, length=13), 16) + 0.5) / 16**13
