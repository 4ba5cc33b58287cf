"""Settings that change no row: where runs live, checkpoints, batches, threads, servers, workers, limits on spending."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.config_models import Section, ServiceConfig, VllmConfig


class ScoringConfig(Section):
    """The batches in which a signal that reads the target scores pairs."""

    batch_tokens: int = Field(8192, ge=1)
    """Most tokens of a batch, padding included."""
    layout: Literal["right", "left", "packed"] = "right"
    """Where rows are padded, or `packed`: all pairs of a batch in one row, for models whose attention keeps them
    apart."""
    activation_checkpointing: bool = False
    """Keeps layer inputs alone and computes the rest again: less memory, more time."""


class TrainingConfig(Section):
    """The trainers' use of the machine. None of it changes what is trained on, and sums differ by rounding alone."""

    activation_checkpointing: bool = False
    """Keeps layer inputs alone and computes the rest again: less memory, more time."""
    packing: bool = False
    """Puts the pairs of a micro batch into one row without padding, kept apart by the attention."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] | None = None
    """Implementation of attention in transformers; by default its own choice."""
    processes: int = Field(1, ge=1)
    """Processes that `accelerate launch` divides warm-up and fine-tuning over."""
    accelerate_config: str | None = None
    """A file of `accelerate config`; one that divides the optimizer's state (FSDP, DeepSpeed) is for fine-tuning
    alone."""


class RayConfig(Section):
    """A Ray cluster for `engine: ray`, and what each worker takes of it."""

    address: str | None = None
    """Address of a running cluster; by default one is started here."""
    workers: int = Field(2, ge=1)
    """Workers that compute shards."""
    cpus_per_worker: float = Field(1.0, ge=0)
    """Processor cores that each takes."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs that each takes; parts are allowed."""


class RuntimeConfig(Section):
    """Settings that change no row: where runs live, checkpoints, batch sizes, threads, servers, limits on spending."""

    runs: str = "runs"
    """The folder of runs, with the stages that they share."""
    checkpoint_every: int = Field(10, ge=1)
    """Steps between checkpoints of GRPO."""
    batch_size: int = Field(64, ge=1)
    """Requests that a model in this process answers at once."""
    threads: int | None = Field(None, ge=1)
    """Threads of torch; by default its own choice."""
    engine: Literal["local", "ray"] = "local"
    """Who computes shards: this process, or workers on a Ray cluster."""
    ray: RayConfig = RayConfig()
    """The Ray cluster, with `engine=ray`."""
    training: TrainingConfig = TrainingConfig()
    """How the trainers use the machine; sums differ by rounding alone."""
    scoring: ScoringConfig = ScoringConfig()
    """How pairs are batched for scoring."""
    service: ServiceConfig = ServiceConfig()
    """How endpoints are called."""
    vllm: VllmConfig = VllmConfig()
    """vLLM servers that the run starts."""
    max_usd: float | None = Field(None, gt=0)
    """Most US dollars that the run may spend on endpoints; it stops before it spends more."""
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens that endpoints may read and write for the run; it stops before."""
