"""The validation set as a few directions: what a candidate's update is multiplied with.

Every part of the set (a subtask's half, the withheld items) gives one vector; scores on the whole set, on each half of
it and on the withheld items are linear in them, so one pass over a candidate yields all. Two passes over the validation
items, norms first and then a weighted sum, so that no per-item gradient is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from harness.errors import StageError
from harness.training.chat import Encoded
from methods.signals.target.engine import LoraGradients, gradient_norms

Aggregate = Literal["mean_cosine", "cosine_of_mean", "max_subtask", "mean_dot"]


@dataclass(frozen=True, slots=True)
class GuidancePart:
    """The vector that an item belongs to: its subtask, which half of the rewarded items, or the withheld ones."""

    subtask: str
    half: Literal["a", "b", "withheld"]


@dataclass(frozen=True)
class Guidance:
    """A validation set at one checkpoint.

    `vectors` holds by parameter name one row per part, [J, parameter size], float32: the mean over the part's items of
    the unit gradient, or of the gradient itself where the aggregate takes raw ones. `counts` [J] are the items behind
    each, `gram` [J, J] the vectors' inner products. `norms` are the items' gradient norms (0 or not finite: dropped).
    `coherence` is |mean unit gradient| over the rewarded items: 1 where all agree, about 1/√n where none do.
    `subtasks` are those of all items, usable here or not, so that the columns of two checkpoints are the same ones.
    """

    parts: tuple[GuidancePart, ...]
    vectors: Mapping[str, torch.Tensor]
    counts: torch.Tensor
    gram: torch.Tensor
    norms: torch.Tensor
    coherence: float
    subtasks: tuple[str, ...]

    def combine(self, dots: torch.Tensor, aggregate: Aggregate, halves: Sequence[str]) -> torch.Tensor:
        """Scores by subtask, [N, S], of the items in `halves`, from the products with every part, `dots` [N, J].

        A subtask's direction is its items' mean; `cosine_of_mean` makes it a unit vector. For aggregates that do not
        part subtasks S is 1. A column is NaN where no item of `halves` is usable (`best` leaves it out).
        """
        names = self.subtasks if aggregate == "max_subtask" else (None,)
        columns = []
        for name in names:
            share = torch.tensor(
                [float(c) if p.half in halves and name in (None, p.subtask) else 0.0 for p, c in self._counted()],
                dtype=torch.float64,
            )
            if not share.sum():
                columns.append(torch.full((len(dots),), float("nan"), dtype=torch.float64))
                continue
            share /= share.sum()
            if aggregate == "cosine_of_mean":
                share /= (share @ self.gram @ share).sqrt()
            columns.append(dots @ share)
        return torch.stack(columns, dim=1)

    def _counted(self) -> list[tuple[GuidancePart, float]]:
        return list(zip(self.parts, self.counts.tolist(), strict=True))


def best(scores: torch.Tensor) -> torch.Tensor:
    """The best subtask's score [N] of scores by subtask [N, S], without those that are NaN; NaN where all are."""
    highest = torch.where(scores.isnan(), -torch.inf, scores).max(dim=1).values
    return torch.where(scores.isnan().all(dim=1), torch.nan, highest)


def guidance(
    gradients: LoraGradients, items: Sequence[Encoded], parts: Sequence[GuidancePart], aggregate: Aggregate
) -> Guidance:
    """The directions of `items`, each of which belongs to the part at its place.

    Items with a zero or non-finite gradient are dropped and counted; no rewarded one left is a `StageError`, and so are
    gradients that cancel to nothing.
    """
    norms = gradient_norms(gradients, items)
    usable = [i for i, n in enumerate(norms.tolist()) if 0.0 < n < float("inf")]
    if not any(parts[i].half != "withheld" for i in usable):
        raise StageError(
            "no validation item has a usable gradient; are all of them truncated? raise the target's max_length"
        )
    distinct = sorted({parts[i] for i in usable}, key=lambda p: (p.subtask, p.half))
    place = [distinct.index(parts[i]) for i in usable]
    counts = torch.zeros(len(distinct), dtype=torch.float64)
    for j in place:
        counts[j] += 1
    unit = aggregate in ("mean_cosine", "max_subtask")
    scale = [float(norms[i]) if unit else 1.0 for i in usable]
    weights = [1.0 / (float(counts[j]) * s) for j, s in zip(place, scale, strict=True)]
    rewarded = [distinct[j].half != "withheld" for j in place]
    total = sum(rewarded)
    # What turns a weighted gradient into its share of the mean unit gradient of all rewarded items.
    to_unit = [r / (total * w * float(norms[i])) for i, w, r in zip(usable, weights, rewarded, strict=True)]
    vectors: dict[str, torch.Tensor] = {}
    mean_unit: dict[str, torch.Tensor] = {}

    def visit(indices: Sequence[int], name: str, g: torch.Tensor) -> None:
        flat = g.flatten(1)
        if name not in vectors:
            vectors[name] = torch.zeros(len(distinct), flat.shape[1], device=flat.device)
            mean_unit[name] = torch.zeros(flat.shape[1], device=flat.device)
        vectors[name].index_add_(0, torch.tensor([place[i] for i in indices], device=flat.device), flat)
        mean_unit[name] += torch.tensor([to_unit[i] for i in indices], device=flat.device) @ flat

    gradients.stream([items[i] for i in usable], weights, visit)
    gram = torch.stack([(v.double() @ v.double().T).cpu() for v in vectors.values()]).sum(dim=0)
    coherence = float(sum(v.double().square().sum() for v in mean_unit.values())) ** 0.5
    share = torch.where(torch.tensor([p.half != "withheld" for p in distinct]), counts, 0.0)
    if coherence == 0.0 or not float(share @ gram @ share) > 0.0:
        raise StageError("the validation items' gradients cancel to nothing; use other validation items")
    subtasks = tuple(sorted({p.subtask for p in parts}))
    return Guidance(
        parts=tuple(distinct),
        vectors=vectors,
        counts=counts,
        gram=gram,
        norms=norms,
        coherence=coherence,
        subtasks=subtasks,
    )


def halves(ids: Sequence[str], subtasks: Sequence[str], withheld: Sequence[bool]) -> list[GuidancePart]:
    """The part of every item: rewarded items of a subtask go to the halves a and b in turn, in order of their ids.

    Two halves that score candidates alike say that the set is large enough to be read; ids are hashes or numbers, so
    that their order says nothing of the items.
    """
    parts: dict[int, GuidancePart] = {}
    seen: dict[str, int] = {}
    for i in sorted(range(len(ids)), key=lambda i: ids[i]):
        if withheld[i]:
            parts[i] = GuidancePart(subtasks[i], "withheld")
            continue
        seen[subtasks[i]] = seen.get(subtasks[i], 0) + 1
        parts[i] = GuidancePart(subtasks[i], "a" if seen[subtasks[i]] % 2 else "b")
    return [parts[i] for i in range(len(ids))]
