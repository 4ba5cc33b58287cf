"""What models take in memory, from architecture numbers: the parts of loads that several stages share.

Every stage puts its models on one GPU, so it needs the sum of what is loaded together there. The formulas are those of
`harness.memory`. Each part is left out where a model's size is unknown or it runs elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import estimate, memory
from harness.costs.lengths import Lengths, decoding_batch
from harness.costs.records import SERVED, WHOLE, Load, Part
from harness.models.role_model import RoleModel

if TYPE_CHECKING:
    from harness.config import ModelConfig, RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizer:
    """The facts from which all stages' loads follow. `cuda`: the sizes are those of a GPU."""

    config: RunConfig
    sizes: Lengths
    target: RoleModel
    writer: RoleModel
    generator: RoleModel
    embedder: RoleModel | None
    cuda: bool

    @property
    def row(self) -> int:
        """Tokens of a training row, within what the target takes."""
        return min(self.sizes.row, self.config.models.target.max_length)

    def writes(self) -> list[Part]:
        """The writer, sampling rubrics."""
        s = self.sizes
        return self._generates(self.writer, self.config.models.writer, s.writer_prompt, s.rubric, WHOLE)

    def answers(self) -> list[Part]:
        """The generator."""
        s = self.sizes
        return self._generates(self.generator, self.config.models.generator, s.generator_prompt, s.pair, SERVED)

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
        """What compares pairs with test items."""
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

    def _generates(
        self, model: RoleModel, settings: ModelConfig, prompt: int, completion: int, divided: str
    ) -> list[Part]:
        if model.shape is None or settings.base_url:
            return []
        batch = decoding_batch(self.config, settings)
        if settings.served:
            # A server with less memory than its sequences could take lets some of them wait.
            batch = min(batch, self.config.runtime.batch_size)
        peak = memory.generation(model.shape, model.dtype, batch, prompt, completion)
        return [Part(model.role, "weights, cache, work space", peak.bytes, divided)]


def no_models(sizer: Sizer) -> Load:
    """The load of a stage that loads no model."""
    return Load("", ())
