"""Memory of models, from architecture numbers: the parts of loads that several stages share.

Every stage puts its models on one GPU, so it needs the sum of what is loaded together there. The formulas are those of
`harness.memory`. Each part is left out where a model's size is unknown or it runs elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness import estimate, memory
from harness.costs.lengths import CallLengths, Lengths, decoding_batch
from harness.costs.records import SERVED, WHOLE, Load, Part
from harness.models.role_model import RoleModel

if TYPE_CHECKING:
    from harness.config import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizer:
    """The facts from which all stages' loads follow. `way`, `students`: see `Estimator`. `cuda`: the sizes are those of
    a GPU.
    """

    config: RunConfig
    sizes: Lengths
    target: RoleModel
    way: tuple[tuple[CallLengths, RoleModel], ...]
    labels: tuple[CallLengths, RoleModel] | None
    embedder: RoleModel | None
    cuda: bool
    students: Mapping[str, RoleModel] = field(default_factory=dict)

    def as_student(self, role: str) -> Sizer:
        """The same with a student in the target's place."""
        return replace(self, config=self.config.for_student(role), target=self.students[role])

    @property
    def row(self) -> int:
        """Tokens of a training row, within what the target takes."""
        return min(self.sizes.row, self.config.models.target.max_length)

    @property
    def drafter(self) -> RoleModel:
        """The model that drafts on the run's route."""
        return self.way[0][1]

    def writes(self) -> list[Part]:
        """The drafting model, sampling drafts; nothing where the seeds hold the pairs."""
        if not self.way:
            return []
        return self._generates(*self.way[0], WHOLE if len(self.way) > 1 else SERVED)

    def answers(self) -> list[Part]:
        """The model that makes pairs of drafts, where the route has one."""
        return [part for call, model in self.way[1:] for part in self._generates(call, model, SERVED)]

    def labels_pairs(self, *, trained: bool = False) -> list[Part]:
        """The labelling model, where no call of the route has loaded it; a `trained` drafting model is another."""
        loaded = [model.role for _, model in (self.way[1:] if trained else self.way)]
        if self.labels is None or self.labels[1].role in loaded:
            return []
        return self._generates(*self.labels, SERVED)

    def makes(self, *, trained: bool = False) -> list[Part]:
        """All models of a trajectory, one that has two roles once; a `trained` drafting model is one of its own."""
        one = len(self.way) > 1 and self.way[0][1].role == self.way[1][1].role and not trained
        return self.writes() if one else [*self.writes(), *self.answers()]

    def reads(self) -> list[Part]:
        """The target's weights, for what only reads its losses."""
        target = self.target
        if target.shape is None:
            return []
        return [Part("target", "weights, cache", estimate.weight_bytes(target.shape, target.dtype))]

    def embeds(self) -> list[Part]:
        """The embedder, where it is a model that runs here."""
        model = self.embedder
        if model is None or model.shape is None:
            return []
        return [Part("embedder", "weights", estimate.weight_bytes(model.shape, model.dtype), SERVED)]

    def gates(self) -> list[Part]:
        """The parts that compare pairs with test items."""
        return self.embeds() if "embedding" in self.config.decontam.modes else []

    def tests(self, prompt: int, answer: int) -> list[Part]:
        """The target answering prompts of a suite, by what it writes or by the likelihood of options: the larger."""
        shape, dtype = self.target.shape, self.target.dtype
        if shape is None:
            return []
        batch = self.config.runtime.batch_size
        writing = memory.generation(shape, dtype, batch, prompt, answer).bytes
        choosing = memory.likelihood(shape, dtype, batch, prompt).bytes
        if choosing > writing:
            return [Part("target", "weights, logits", choosing)]
        return [Part("target", "weights, cache, work space", writing)]

    def _generates(self, call: CallLengths, model: RoleModel, divided: str) -> list[Part]:
        settings = self.config.models.of(model.role)
        if model.shape is None or settings.base_url:
            return []
        batch = decoding_batch(self.config, settings)
        if settings.served:
            # A server with less memory than its sequences could take lets some of them wait.
            batch = min(batch, self.config.runtime.batch_size)
        peak = memory.generation(model.shape, model.dtype, batch, call.prompt, call.completion)
        return [Part(model.role, "weights, cache, work space", peak.bytes, divided)]


def no_models(sizer: Sizer) -> Load:
    """The load of a stage that loads no model."""
    return Load("", ())
