"""The typed settings of a run: one frozen tree, in sections, closed to unknown keys.

Knobs that cannot change a row (paths, threads, batch sizes of scoring, checkpoint intervals) live in `runtime`, which
no stage identity reads. How the tree is put together from layers is in `harness/settings.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from harness import plugins
from harness.choice import Choice
from harness.config_decontam import DecontamConfig as DecontamConfig
from harness.config_models import EmbedderConfig as EmbedderConfig
from harness.config_models import ModelConfig as ModelConfig
from harness.config_models import ModelsConfig, Section, ServiceConfig, VllmConfig
from harness.config_validity import ValiditySettings


class SamplingConfig(Section):
    """Decoding: `temperature` 0 is greedy; `max_tokens` bounds the completion."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(512, ge=1)


class LabConfig(Section):
    """The embedded lab: which planted world, and how much of it."""

    world: int = Field(0, ge=0)
    seeds: int = Field(192, ge=1)
    test_items: int = Field(90, ge=2)
    validation_items: int = Field(48, ge=1)


class SeedsConfig(Section):
    """Where seeds come from: `lab`, or one or several files, folders, globs and hub data sets."""

    source: str | tuple[str, ...]
    text_field: str | None = None
    limit: int | None = Field(None, ge=1)
    domain: str = ""
    licence: str = ""
    min_words: int = Field(20, ge=1)
    max_words: int = Field(6000, ge=1)

    @property
    def sources(self) -> tuple[str, ...]:
        """`source` as it is read, in order."""
        return (self.source,) if isinstance(self.source, str) else self.source


class GuideConfig(Section):
    """The validation items that signals may read: which set of the suite, how many, and how many are withheld.

    `strategy` says how the `n` are chosen: drawn at random, spread over the embeddings of all (`coverage`, greedily for
    its objective), or along a tree of capabilities where the base target is weak (docs/validation-sets.md).
    `withhold` is the share that is kept from the reward and scored beside it (over-optimisation check).
    """

    set: str
    n: int | None = Field(None, ge=1)
    strategy: Literal["random", "coverage", "capability_tree"] = "random"
    coverage: Literal["facility_location", "k_center"] = "facility_location"
    rendering: Literal["letter", "answer", "reasoning"] | None = None
    withhold: float = Field(0.0, ge=0, le=0.9)


class SynthesisConfig(Section):
    """How pairs are made: prompts, decoding, and how many pairs a seed gives in each pass.

    `prompts` is the wording: `full` has rules and JSON, `compact` worked examples and plain lines, for models of some
    hundred million parameters. `rubric_prompt` and `generator_prompt` are files in place of the packaged prompts. An
    empty `system_message` leaves the system turn to the chat template.
    """

    prompts: Literal["full", "compact"] = "full"
    rubric_prompt: str | None = None
    generator_prompt: str | None = None
    system_message: str = "You are a helpful assistant."
    samples_per_seed: int = Field(1, ge=1)
    initial_samples: int | None = Field(None, ge=2)
    writer: SamplingConfig = SamplingConfig(temperature=0.7, top_p=0.9, max_tokens=8192)
    generator: SamplingConfig = SamplingConfig(temperature=0.7, max_tokens=8192)
    max_passes: int = Field(8, ge=1)
    shard_size: int = Field(256, ge=1)
    validity: ValiditySettings = ValiditySettings()


class WarmupConfig(Section):
    """LoRA warm-up of the target on a share of the initial pairs; Adam's moments are kept.

    `keep` says at which points: the end (`last`), or the end of every epoch (`epochs`), which signals then sum over by
    the epochs' mean learning rates (LESS §2.1). `adapter` names folders of your own LoRA checkpoints, with their
    optimizer's state, that take the place of training one. `lora_modules` are names of the model's linear layers, or
    the words `attention` and `all-linear`, which mean each architecture's own; fine-tuning an adapter uses them, too.
    """

    share: float = Field(0.1, gt=0, le=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    epochs: int = Field(1, ge=1)
    schedule: Literal["linear", "constant"] = "linear"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    lora_rank: int = Field(128, ge=1)
    lora_alpha: int = Field(512, ge=1)
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    lora_modules: tuple[str, ...] = ("attention",)
    keep: Literal["last", "epochs"] = "last"
    adapter: tuple[str, ...] = ()

    @field_validator("adapter", "lora_modules", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value or ()

    @model_validator(mode="after")
    def _one_source(self) -> WarmupConfig:
        if self.adapter and self.keep == "epochs":
            raise ValueError("keep=epochs is about our own training; with adapter, name every checkpoint's folder")
        return self


class SignalChoice(Choice):
    """Which signal says how good an item is, and its settings (`harness signals`); `none` where a driver needs none."""

    group: ClassVar[str] = plugins.SIGNALS
    optional: ClassVar[bool] = True


class RewardConfig(Section):
    """Shaping, which belongs to the driver: the scale of scores, and what an invalid sample gets."""

    scope: Literal["batch", "group", "none"] = "batch"
    invalid: Literal["penalty", "zero"] = "penalty"
    penalty: float = Field(0.1, ge=0)


class GrpoConfig(Section):
    """GRPO of the policy. `mini_batch_prompts` splits a rollout batch into several optimizer steps.

    `rollouts` is who samples: transformers in the trainer's process, a vLLM `server` that is given the LoRA adapter
    anew for every batch, or TRL's own vLLM in the trainer's process (`colocate`, CUDA only). `max_logprob_gap` is the
    largest mean difference between a token's log-probability where it was sampled and where it is trained on.

    `kl_bias_correction` multiplies the KL term (k3) by the ratio of probabilities, whose gradient is then that of the
    reverse KL divergence (TRL's default); without it the term is plain k3, as verl has it. `micro_batch` changes no
    result beyond rounding.
    """

    prompts_per_step: int = Field(256, ge=1)
    mini_batch_prompts: int | None = Field(None, ge=1)
    group_size: int = Field(5, ge=2)
    steps: int | None = Field(None, ge=1)
    epochs: float = Field(1.0, gt=0)
    learning_rate: float = Field(1e-6, gt=0)
    schedule: Literal["linear", "constant"] = "constant"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    temperature: float = Field(1.5, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(8192, ge=1)
    kl_coefficient: float = Field(0.001, ge=0)
    kl_bias_correction: bool = True
    clip_epsilon: float = Field(0.2, gt=0)
    entropy_coefficient: float = Field(0.0, ge=0)
    loss: Literal["grpo", "dapo", "bnpo", "dr_grpo"] = "grpo"
    advantage_scale: Literal["group", "batch", "none"] = "group"
    generator: SamplingConfig = SamplingConfig(temperature=0.0, max_tokens=8192)
    tune: Literal["full", "lora"] = "full"
    lora_rank: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    lora_modules: tuple[str, ...] = ("all-linear",)
    rollouts: Literal["transformers", "server", "colocate"] = "transformers"
    max_logprob_gap: float = Field(0.1, gt=0)
    micro_batch: int = Field(8, ge=1)
    reward: RewardConfig = RewardConfig()

    @field_validator("lora_modules", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value or ()

    @model_validator(mode="after")
    def _sizes(self) -> GrpoConfig:
        if self.mini_batch_prompts and self.prompts_per_step % self.mini_batch_prompts:
            raise ValueError("prompts_per_step must be a multiple of mini_batch_prompts")
        return self


class SelectConfig(Section):
    """Selection after regeneration: keep the best `keep` share of valid samples by `signal` (the run's by default)."""

    keep: float = Field(0.5, gt=0, lt=1)
    signal: SignalChoice | None = None


class SftConfig(Section):
    """The one fine-tuning recipe, the same for every arm of a comparison.

    `warmup_start` is the rate of the first step: half of the second's where a warm-up comes first, or, as transformers
    has it, zero, which leaves that step's samples unlearned.
    """

    tune: Literal["full", "lora"] = "full"
    learning_rate: float = Field(1e-5, gt=0)
    epochs: int = Field(3, ge=1)
    batch_size: int = Field(8, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    warmup_start: Literal["half_step", "zero"] = "half_step"
    weight_decay: float = Field(0.1, ge=0)
    adam_beta2: float = Field(0.95, gt=0, lt=1)
    max_length: int = Field(16384, ge=8)
    lora_rank: int = Field(128, ge=1)
    lora_alpha: int = Field(256, ge=1)


class EvalConfig(Section):
    """How the fine-tuned target is tested.

    `suite` names another suite to score on than the run's own, for a finished run: nothing before evaluation changes.
    `limit` scores only the first items and marks the record as partial.
    """

    suite: str | None = None
    apply_chat_template: bool = True
    limit: int | None = Field(None, ge=1)


class ScoringConfig(Section):
    """How candidates are batched for gradients: most tokens of a batch (padding included), and the layout.

    `packed` puts all items of a batch into one row, which needs attention that keeps them apart.
    """

    batch_tokens: int = Field(8192, ge=1)
    layout: Literal["right", "left", "packed"] = "right"
    activation_checkpointing: bool = False


class TrainingConfig(Section):
    """How the trainers use the machine. None of it changes what is trained on, and sums differ by rounding alone.

    `activation_checkpointing` keeps layer inputs and computes the rest again. `packing` puts the samples of a micro
    batch into one row without padding, kept apart by the attention. `attention` is transformers' implementation (its
    own choice by default). `processes` above 1, or an accelerate configuration, has `accelerate launch` run warm-up and
    fine-tuning; a configuration that divides the optimizer's state (FSDP, DeepSpeed) is for fine-tuning alone.
    """

    activation_checkpointing: bool = False
    packing: bool = False
    attention: Literal["sdpa", "flash_attention_2", "eager"] | None = None
    processes: int = Field(1, ge=1)
    accelerate_config: str | None = None


class RayConfig(Section):
    """A Ray cluster for `engine: ray`: its address (a local one by default), and what each worker takes of it."""

    address: str | None = None
    workers: int = Field(2, ge=1)
    cpus_per_worker: float = Field(1.0, ge=0)
    gpus_per_worker: float = Field(0.0, ge=0)


class RuntimeConfig(Section):
    """Knobs that change no row: where runs live, how often GRPO checkpoints, batch sizes, threads, servers.

    `engine` is who computes shards: this process, or workers on a Ray cluster.

    `max_usd` and `max_tokens` are hard limits on what the run may spend on endpoints; it stops before it oversteps one.
    """

    runs: str = "runs"
    checkpoint_every: int = Field(10, ge=1)
    batch_size: int = Field(64, ge=1)
    threads: int | None = Field(None, ge=1)
    engine: Literal["local", "ray"] = "local"
    ray: RayConfig = RayConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()
    service: ServiceConfig = ServiceConfig()
    vllm: VllmConfig = VllmConfig()
    max_usd: float | None = Field(None, gt=0)
    max_tokens: int | None = Field(None, ge=1)


class RunConfig(Section):
    """Everything that defines a run. `synth_seed` and `sft_seed` follow `seed` unless set."""

    method: str
    driver: str
    signal: SignalChoice
    target: str
    suite: str
    preset: str | None = None
    scale: str | None = None
    seed: int = Field(0, ge=0)
    synth_seed: int | None = Field(None, ge=0)
    sft_seed: int | None = Field(None, ge=0)
    match: Literal["samples", "sft_tokens", "teacher_tokens", "flops"] = "samples"
    budget: float = Field(gt=0)
    allow_shortfall: bool = False
    writer_from: str | None = None
    best_of: int = Field(4, ge=2)
    models: ModelsConfig
    lab: LabConfig | None = None
    seeds: SeedsConfig
    guide: GuideConfig
    synthesis: SynthesisConfig = SynthesisConfig()
    warmup: WarmupConfig = WarmupConfig()
    grpo: GrpoConfig = GrpoConfig()
    select: SelectConfig | None = None
    sft: SftConfig = SftConfig()
    decontam: DecontamConfig = DecontamConfig()
    eval: EvalConfig = EvalConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @property
    def synthesis_seed(self) -> int:
        """The seed of everything up to the data set."""
        return self.seed if self.synth_seed is None else self.synth_seed

    @property
    def tuning_seed(self) -> int:
        """The seed of the final fine-tuning."""
        return self.seed if self.sft_seed is None else self.sft_seed
