"""Typical lengths of a run's texts in tokens, for estimates of its cost and memory.

Lengths of real text are typical values, named in `LENGTHS`; a lab model's are in `LAB_LENGTHS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.config import ModelConfig, RunConfig


@dataclass(frozen=True, slots=True)
class CallLengths:
    """One call of a route for each draw: whose model, and typical tokens of prompt and completion.

    `shared` are prompt tokens that all prompts begin with, which a batch reads once.
    """

    role: str
    prompt: int
    completion: int
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Typical tokens: a document, a rubric (with its deliberation), a pair, each prompt, and a training row's frame.

    `writer_shared` and `generator_shared` are what all prompts of a role begin with, which a batch reads once.
    """

    document: int
    rubric: int
    pair: int
    writer_prompt: int
    generator_prompt: int
    template: int = 20
    writer_shared: int = 0
    generator_shared: int = 0

    @property
    def row(self) -> int:
        """A training row: the pair in the target's chat template."""
        return self.pair + self.template


LENGTHS = Lengths(document=1500, rubric=600, pair=800, writer_prompt=2150, generator_prompt=2400)
"""Real text: an abstract or a page, and the packaged prompts."""

COMPACT_LENGTHS = Lengths(
    document=270,
    rubric=20,
    pair=70,
    writer_prompt=550,
    generator_prompt=620,
    template=30,
    writer_shared=260,
    generator_shared=320,
)
"""An abstract and the packaged compact prompts, measured with SmolLM2's tokenizer."""

LAB_LENGTHS = Lengths(document=46, rubric=28, pair=28, writer_prompt=130, generator_prompt=86, template=12)
"""Measured on the lab's documents and models."""

TEST_PROMPT, LAB_TEST_PROMPT = 400, 40
"""Typical prompt tokens of a test item, of real suites and of the lab's."""


def decoding_batch(config: RunConfig, model: ModelConfig) -> int:
    """Completions that a model samples at once: what its server takes, or a whole shard in the process."""
    served = config.runtime.vllm.max_num_seqs if model.served else config.synthesis.shard_size
    return min(served, config.synthesis.shard_size)


def lengths(config: RunConfig) -> Lengths:
    """Typical lengths of the run's texts, within what its models take and its decoding allows."""
    size = COMPACT_LENGTHS if config.synthesis.prompts == "compact" else LENGTHS
    size = LAB_LENGTHS if config.seeds.source == "lab" else size
    writer, generator = config.synthesis.writer, config.synthesis.generator
    reads = config.models.writer.max_length - writer.max_tokens
    generator_reads = config.models.generator.max_length - generator.max_tokens
    return replace(
        size,
        rubric=min(size.rubric, writer.max_tokens),
        pair=min(size.pair, generator.max_tokens),
        writer_prompt=max(1, min(size.writer_prompt, reads)),
        generator_prompt=max(1, min(size.generator_prompt, generator_reads)),
    )
