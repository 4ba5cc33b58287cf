"""What a run's models need: weights, and memory of each part of the run, from architecture numbers.

One list of facts serves both `plan`, which shows it, and the check before a run, which compares it with the machine.
Every stage puts its models on one GPU, so a part of a run needs the sum of what is loaded together there. Lengths of
real text are typical values, named in `LENGTHS`; a lab model's are in `LAB_LENGTHS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness import estimate, memory
from harness.runtime import machine
from harness.runtime.role_models import (
    RoleModel,
    embedder_model,
    needs_of_signals,
    role_models,
    trains_writer,
    used_signals,
)
from harness.training.lora_modules import plain_names
from harness.training.recipe import largest_divisor

if TYPE_CHECKING:
    from harness.config import ModelConfig, RunConfig

GPU_FROM = 1_000_000_000
"""Parameters from which a model is refused without a GPU: on CPU cores one run would take months."""

EVAL_TOKENS = (1500, 1024)
"""Typical prompt of a test item with its demonstrations, and half of the longest answer that suites allow."""

@dataclass(frozen=True, slots=True)
class Lengths:
    """Typical tokens: a document, a rubric (with its deliberation), a pair, each prompt, and a training row's frame."""

    document: int
    rubric: int
    pair: int
    writer_prompt: int
    generator_prompt: int
    template: int = 20

    @property
    def row(self) -> int:
        """A training row: the pair in the target's chat template."""
        return self.pair + self.template


LENGTHS = Lengths(document=1500, rubric=600, pair=800, writer_prompt=2150, generator_prompt=2400)
"""Real text: an abstract or a page, and the packaged prompts."""

COMPACT_LENGTHS = Lengths(document=320, rubric=20, pair=70, writer_prompt=600, generator_prompt=760, template=30)
"""An abstract and the packaged compact prompts, measured with SmolLM2's tokenizer."""

LAB_LENGTHS = Lengths(document=46, rubric=28, pair=28, writer_prompt=130, generator_prompt=86, template=12)
"""Measured on the lab's documents and models."""


@dataclass(frozen=True, slots=True)
class Part:
    """One model's memory in one part of a run."""

    role: str
    what: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Load:
    """What is in memory together during one part of a run."""

    name: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """The sum over the parts."""
        return sum(part.bytes for part in self.parts)


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


@dataclass(frozen=True, slots=True)
class Warm:
    """The warm-up's LoRA shape, and at how many checkpoints gradients are taken."""

    rank: int
    modules: tuple[str, ...]
    checkpoints: int


def warm(config: RunConfig) -> Warm:
    """As the settings say, or as the user's own checkpoints are. Raises `InputError` where those are not there."""
    w = config.warmup
    if w.adapter:
        from harness.training.adapters import given_checkpoints

        given = given_checkpoints(w.adapter)
        return Warm(given[0].rank, given[0].modules, len(given))
    return Warm(w.lora_rank, w.lora_modules, w.epochs if w.keep == "epochs" else 1)


def runs_on_gpu(models: Sequence[RoleModel]) -> bool:
    """Whether the sizes are those of a GPU: where a model is too large for processor cores, or a GPU is here."""
    large = any(m.shape and m.shape.parameters >= GPU_FROM for m in models)
    return large or bool(machine.torch_cuda() and machine.gpus())


def loads(config: RunConfig) -> tuple[Load, ...]:
    """Memory of each part of the run, leaving out models of unknown size. Basis: the formulas of `harness.memory`."""
    models = role_models(config)
    sizer = _Sizer(config, lengths(config), models, runs_on_gpu(models))
    needs = frozenset[str]().union(*needs_of_signals(config))
    gate = sizer.embeds() if "embedding" in config.decontam.modes else []
    result = [Load("synthesis", (*sizer.writes(), *sizer.answers(), *gate))]
    if config.guide.strategy != "random":
        result.insert(0, Load("choosing validation items", tuple(sizer.embeds())))
    if "warm_target" in needs:
        result.append(Load("warm-up", tuple(sizer.warmup())))
    if trains_writer(config):
        scoring = sizer.scores() if "warm_target" in needs else sizer.reads() if "target" in needs else []
        scoring = [*scoring, *(sizer.embeds() if "embedder" in needs else [])]
        result.append(Load("GRPO", (*sizer.policy(), *sizer.answers(), *scoring)))
    result.append(Load("fine-tuning", tuple(sizer.finetunes())))
    result.append(Load("evaluation", tuple(sizer.evaluates())))
    return tuple(load for load in result if load.parts)


@dataclass(frozen=True, slots=True)
class _Sizer:
    """The parts of the loads; each is empty where a model's size is unknown or it runs elsewhere."""

    config: RunConfig
    sizes: Lengths
    models: tuple[RoleModel, ...]
    cuda: bool

    def _generates(self, model: RoleModel, settings: ModelConfig, prompt: int, completion: int) -> list[Part]:
        if model.shape is None or settings.base_url:
            return []
        batch = self.config.runtime.batch_size
        if settings.backend == "vllm":
            batch = min(batch, self.config.runtime.vllm.max_num_seqs)
        peak = memory.generation(model.shape, model.dtype, batch, prompt, completion)
        return [Part(model.role, "weights, cache, work space", peak.bytes)]

    def writes(self) -> list[Part]:
        """The writer, sampling rubrics."""
        s = self.sizes
        return self._generates(self.models[1], self.config.models.writer, s.writer_prompt, s.rubric)

    def answers(self) -> list[Part]:
        """The generator."""
        s = self.sizes
        return self._generates(self.models[2], self.config.models.generator, s.generator_prompt, s.pair)

    def warmup(self) -> list[Part]:
        """LoRA training of the target."""
        w, target = self.config.warmup, self.models[0]
        if target.shape is None:
            return []
        if w.adapter:
            return self.reads()
        micro = largest_divisor(w.batch_size, self.config.sft.micro_batch)
        adapter = memory.Lora(w.lora_rank, plain_names(w.lora_modules, target.shape), w.lora_dropout > 0)
        peak = memory.lora_training(
            target.shape,
            target.dtype,
            memory.Batch(micro, self._row(), micro > 1),
            adapter,
            accumulate=micro < w.batch_size,
            checkpointing=self.config.runtime.training.activation_checkpointing,
            cuda=self.cuda,
        )
        return [Part("target", "LoRA training", peak.bytes)]

    def scores(self) -> list[Part]:
        """The target under a signal that reads its gradients: as many rows as a batch takes."""
        from methods.signals.catalogue import signal_uses

        c, target = self.config, self.models[0]
        if target.shape is None:
            return []
        rows = max(1, min(c.runtime.batch_size, c.runtime.scoring.batch_tokens // self._row()))
        own = warm(c)
        # A probe's loss differences are below what bfloat16 can tell, so it computes in float32.
        own_types = [use.dtype for signal in used_signals(c) for use in signal_uses(signal) if use.role == "target"]
        dtype = "float32" if "float32" in own_types else target.dtype
        adapter = memory.Lora(own.rank, plain_names(own.modules, target.shape))
        peak = memory.scoring(
            target.shape,
            dtype,
            memory.Batch(rows, self._row(), rows > 1),
            adapter,
            # At most: what belongs to the questions has no logits.
            predicting=rows * self._row(),
            directions=2 if c.guide.withhold else 1,
            checkpoints=own.checkpoints,
            checkpointing=c.runtime.scoring.activation_checkpointing,
            cuda=self.cuda,
        )
        return [Part("target", "scoring", peak.bytes)]

    def reads(self) -> list[Part]:
        """The target's weights, for a signal that only reads its losses, and for checking checkpoints of the user's."""
        target = self.models[0]
        if target.shape is None:
            return []
        return [Part("target", "weights, cache", estimate.weight_bytes(target.shape, target.dtype))]

    def embeds(self) -> list[Part]:
        """The embedder, where it is a model that runs here."""
        model = embedder_model(self.config)
        if model is None or model.shape is None:
            return []
        return [Part("embedder", "weights", estimate.weight_bytes(model.shape, model.dtype))]

    def policy(self) -> list[Part]:
        """The writer under GRPO: the larger of its update and of its rollouts, which transformers draws in one call.

        A vLLM server of the writer is a part of its own: at least what its sequences take; it reserves what it is told.
        """
        g, writer, s = self.config.grpo, self.models[1], self.sizes
        if writer.shape is None:
            return []
        mini = (g.mini_batch_prompts or g.prompts_per_step) * g.group_size
        rows = largest_divisor(mini, g.micro_batch)
        modules = plain_names(g.lora_modules, writer.shape)
        adapter = memory.Lora(g.lora_rank, modules) if g.tune == "lora" else None
        update = memory.policy_training(
            writer.shape,
            writer.dtype,
            memory.Batch(rows, s.writer_prompt + s.rubric, rows > 1),
            adapter,
            accumulate=rows < mini,
            reference=g.kl_coefficient > 0,
            entropy=g.entropy_coefficient > 0,
            checkpointing=self.config.runtime.training.activation_checkpointing,
            cuda=self.cuda,
        )
        if g.rollouts != "transformers":
            return [Part("writer", f"{g.tune} training", update.bytes), *self.writes()]
        count = g.prompts_per_step * g.group_size
        size = (count, s.writer_prompt, s.rubric)
        sampling = memory.generation(writer.shape, writer.dtype, *size, trained=adapter is None).bytes
        held = sum(update.parts.get(name, 0) for name in ("Adam", "reference"))
        if sampling + held > update.bytes:
            return [Part("writer", f"sampling {count:,} rollouts at once, beside Adam's moments", sampling + held)]
        return [Part("writer", f"{g.tune} training", update.bytes)]

    def finetunes(self) -> list[Part]:
        """The final fine-tuning."""
        c, target = self.config.sft, self.models[0]
        if target.shape is None:
            return []
        micro = largest_divisor(c.batch_size, c.micro_batch)
        batch = memory.Batch(micro, self._row(), micro > 1)
        checkpointing = self.config.runtime.training.activation_checkpointing
        if c.tune == "full":
            peak = memory.full_training(
                target.shape,
                target.dtype,
                batch,
                accumulate=micro < c.batch_size,
                checkpointing=checkpointing,
                cuda=self.cuda,
            )
        else:
            adapter = memory.Lora(c.lora_rank, plain_names(self.config.warmup.lora_modules, target.shape))
            peak = memory.lora_training(
                target.shape,
                target.dtype,
                batch,
                adapter,
                accumulate=micro < c.batch_size,
                checkpointing=checkpointing,
                cuda=self.cuda,
            )
        return [Part("target", f"{c.tune} training", peak.bytes)]

    def evaluates(self) -> list[Part]:
        """The target answering test items: prompts with demonstrations and half of the longest answer."""
        prompt = EVAL_TOKENS[0] if self.config.suite != "lab" else LAB_LENGTHS.writer_prompt
        answer = EVAL_TOKENS[1] if self.config.suite != "lab" else LAB_LENGTHS.pair
        target = self.models[0]
        if target.shape is None:
            return []
        peak = memory.generation(target.shape, target.dtype, self.config.runtime.batch_size, prompt, answer)
        return [Part("target", "weights, cache, work space", peak.bytes)]

    def _row(self) -> int:
        return min(self.sizes.row, self.config.models.target.max_length)
