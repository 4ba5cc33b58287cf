"""What a run's models need: weights, and memory of each part of the run, from architecture numbers.

One list of facts serves both `plan`, which shows it, and the check before a run, which compares it with the machine.
Every stage puts its models on one GPU, so a part of a run needs the sum of what is loaded together there. Lengths of
real text are typical values, named in `LENGTHS`; a lab model's are in `LAB_LENGTHS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness import estimate
from harness.estimate import ModelShape
from harness.runtime import machine

if TYPE_CHECKING:
    from harness.config import ModelConfig, RunConfig

LAB_VOCABULARY = 1500
"""About how many tokens the lab's tokenizer has, for estimates before it is built."""


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

LAB_LENGTHS = Lengths(document=46, rubric=28, pair=28, writer_prompt=130, generator_prompt=86, template=12)
"""Measured on the lab's documents and models."""


@dataclass(frozen=True, slots=True)
class RoleModel:
    """A role's model: `folder` where its weights are here, `shape` where its architecture is known."""

    role: str
    id: str
    dtype: str
    kind: str
    folder: Path | None
    shape: ModelShape | None

    @property
    def weight_bytes(self) -> int | None:
        """Size of the weights, where the architecture is known."""
        return estimate.weight_bytes(self.shape, self.dtype) if self.shape else None


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
    size = LAB_LENGTHS if config.seeds.source == "lab" else LENGTHS
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


def locate(role: str, model: ModelConfig, world: int) -> RoleModel:
    """A role's model: what kind of name it has, whether its weights are here, and its architecture."""
    if model.backend == "extractive":
        return RoleModel(role, model.id, model.dtype, "built-in", None, None)
    if model.id.startswith("lab:"):
        folder, shape = _lab_model(model.id.removeprefix("lab:"), world)
        return RoleModel(role, model.id, model.dtype, "lab", folder, shape)
    path = Path(model.id).expanduser()
    if path.is_dir() or model.id.startswith((".", "/", "~")):
        here = path if machine.has_weights(path) else None
        return RoleModel(role, model.id, model.dtype, "folder", here, estimate.shape_from_folder(path))
    folder = machine.cached_model(model.id, model.revision)
    shape = estimate.shape_from_folder(folder) if folder else None
    return RoleModel(role, model.id, model.dtype, "hub", folder, shape or estimate.known_shape(model.id))


def _lab_model(role: str, world: int) -> tuple[Path | None, ModelShape | None]:
    from harness.lab.build import cache_root, lab_identity
    from harness.lab.world import World

    root = cache_root()
    home = root / f"world-{world}-{lab_identity(World(world))}"
    # The writer is shared by all worlds; any built one has its size.
    folders = [home / role] if role != "writer" else sorted(root.glob("shared-*/writer"))
    folder = next((f for f in folders if f.is_dir()), None)
    return folder, estimate.shape_from_folder(folder) if folder else _unbuilt_shape(role)


def _unbuilt_shape(role: str) -> ModelShape:
    """The architecture that a lab model will have; its vocabulary is only known when the tokenizer has been trained."""
    from harness.lab import build

    shape = {"writer": build.WRITER, "generator": build.GENERATOR, "target": build.TARGET}[role]
    return ModelShape(
        hidden=shape.hidden,
        intermediate=shape.inner,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.heads,
        head_dim=shape.hidden // shape.heads,
        vocab=LAB_VOCABULARY,
        tied=True,
    )


def role_models(config: RunConfig) -> tuple[RoleModel, ...]:
    """The models of target, writer and generator."""
    world = config.lab.world if config.lab else 0
    models = config.models
    return tuple(
        locate(role, model, world)
        for role, model in (("target", models.target), ("writer", models.writer), ("generator", models.generator))
    )


def embedder_model(config: RunConfig) -> RoleModel | None:
    """The embedder's model, where something in the run embeds texts."""
    from harness.config import ModelConfig

    if config.guide.strategy == "random" and not any("embedder" in needs for needs in _needs_of_signals(config)):
        return None
    own = config.models.embedder
    if own.kind == "sentence_transformers":
        return locate("embedder", ModelConfig(id=own.id, revision=own.revision, dtype=own.dtype), 0)
    return RoleModel("embedder", own.id, own.dtype, "built-in" if own.kind == "lexical" else own.kind, None, None)


def trains_writer(config: RunConfig) -> bool:
    """Whether the run trains its writer."""
    from methods.drivers.catalogue import DRIVERS

    return DRIVERS[config.driver].trains


def _needs_of_signals(config: RunConfig) -> list[frozenset[str]]:
    """What each signal that the run uses needs."""
    from methods.signals.catalogue import signal_needs

    used = {config.signal} if trains_writer(config) or config.driver == "best_of_n" else set()
    if config.select:
        used.add(config.select.signal or config.signal)
    return [signal_needs(name, config) for name in sorted(used) if name != "none"]


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


def loads(config: RunConfig) -> tuple[Load, ...]:
    """Memory of each part of the run, leaving out models of unknown size. Basis: the formulas of `harness.estimate`."""
    from methods.signals.catalogue import probes_validation

    size = lengths(config)
    batch = config.runtime.batch_size
    target, writer, generator = role_models(config)
    own = warm(config)

    def infer(model: RoleModel, tokens: int) -> list[Part]:
        if model.shape is None:
            return []
        return [Part(model.role, "weights, cache", estimate.inference_bytes(model.shape, model.dtype, tokens))]

    def lora(micro: int, what: str, dtype: str) -> list[Part]:
        if target.shape is None:
            return []
        tokens = micro * size.row
        need = estimate.lora_training_bytes(target.shape, dtype, tokens, own.rank, own.modules, checkpointing=False)
        return [Part("target", what, need)]

    trains = trains_writer(config)
    needs = frozenset[str]().union(*_needs_of_signals(config))
    embedder = embedder_model(config)
    embedding = infer(embedder, 0) if embedder else []
    result = [
        Load("choosing validation items", tuple(embedding) if config.guide.strategy != "random" else ()),
        Load(
            "synthesis",
            (
                *infer(writer, batch * (size.writer_prompt + size.rubric)),
                *infer(generator, batch * (size.generator_prompt + size.pair)),
            ),
        )
    ]
    if "warm_target" in needs:
        parts = infer(target, 0) if config.warmup.adapter else lora(1, "LoRA training", target.dtype)
        result.append(Load("warm-up", tuple(parts)))
    if trains and writer.shape is not None:
        tokens = config.grpo.micro_batch * (size.writer_prompt + size.rubric)
        full = estimate.full_training_bytes(writer.shape, writer.dtype, tokens, checkpointing=False)
        parts = [Part("writer", "training", full)]
        if config.grpo.kl_coefficient:
            parts.append(Part("writer", "reference", estimate.weight_bytes(writer.shape, writer.dtype)))
        scoring = infer(target, 0) if "target" in needs else []
        if "warm_target" in needs:
            # A probe's loss differences are below what bfloat16 can tell, so it computes in float32.
            scoring = lora(1, "scoring", "float32" if probes_validation(config.signal, config) else target.dtype)
        scoring += embedding if "embedder" in needs else []
        result.append(Load("GRPO", (*parts, *infer(generator, batch * (size.generator_prompt + size.pair)), *scoring)))
    if target.shape is not None:
        micro = config.sft.micro_batch or config.sft.batch_size
        tokens = micro * size.row
        if config.sft.tune == "full":
            need = estimate.full_training_bytes(target.shape, target.dtype, tokens, checkpointing=False)
        else:
            need = estimate.lora_training_bytes(
                target.shape,
                target.dtype,
                tokens,
                config.sft.lora_rank,
                config.warmup.lora_modules,
                checkpointing=False,
            )
        result.append(Load("fine-tuning", (Part("target", f"{config.sft.tune} training", need),)))
        result.append(Load("evaluation", tuple(infer(target, batch * 1500))))
    return tuple(load for load in result if load.parts)
