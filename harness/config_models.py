"""Settings of models and of the servers that answer for them: which weights, behind which engine, within which limits.

What changes a row (weights, prices apart) is in `ModelConfig`. How a server is reached, started and spared is in
`ServiceConfig` and `VllmConfig`, which are runtime knobs. A key is never a setting: `key_env` names the environment
variable that holds it.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from harness.types import LARGEST

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Section(BaseModel):
    """Base of every settings section: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` is no number, though Python counts it as 1."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        values = value if isinstance(value, list | tuple) else (value,)
        if kinds & {int, float} and bool not in kinds and any(isinstance(v, bool) for v in values):
            raise ValueError(f"expected a number, got {str(value).lower()}")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        """A whole number that tables, seeds and other programs can hold exactly."""
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"expected a number up to {LARGEST}, got one of {len(f'{value:x}') * 4} bits")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """The plain types that an annotation admits, at any depth."""
    parts = get_args(annotation)
    return set().union(*map(_kinds, parts)) if parts and get_origin(annotation) is not Literal else {annotation}


class PriceConfig(Section):
    """What a service charges, in US dollars per million tokens. There is no built-in price list: see the bill."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Dollars for these tokens."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


class ModelConfig(Section):
    """One role's model. `id` is a hub id, a folder, `lab:ROLE`, a served model's name, or a built-in generator's.

    `backend` is the engine: transformers in this process, a vLLM server (started here, or running at `base_url`), any
    endpoint that speaks the OpenAI API, or the extractive generator. `structured` has the server hold the output to
    the JSON schema of a rubric or pair; `structured_chars` bounds every text field of it, and cuts off what is longer.
    An answer that a server ended for its length is a reject unless `accept_length` lets it be read as far as it goes.
    """

    id: str = Field(min_length=1)
    backend: Literal["transformers", "extractive", "openai", "vllm"] = "transformers"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: int = Field(8192, ge=16)
    base_url: str | None = None
    key_env: str | None = None
    price: PriceConfig | None = None
    structured: bool = False
    structured_chars: int | None = Field(None, ge=1)
    accept_length: bool = False

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("must be a URL such as https://host/v1")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("must hold no user, password or query; put the key into a variable and name it in key_env")
        return value.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _variable_name(cls, value: str | None) -> str | None:
        if value is not None and not value.isidentifier():
            # The value may be the key itself: it must not be printed.
            raise ValueError("must be the name of an environment variable that holds the key, not the key")
        return value

    @model_validator(mode="after")
    def _endpoint(self) -> ModelConfig:
        if self.backend == "openai" and self.base_url is None:
            raise ValueError("backend openai needs base_url, such as https://api.openai.com/v1")
        if self.backend in ("transformers", "extractive") and (self.base_url or self.structured):
            raise ValueError(f"base_url and structured are for servers; backend {self.backend} has none")
        return self

    @property
    def served(self) -> bool:
        """Whether a server answers for this model."""
        return self.backend in ("openai", "vllm")

    @property
    def remote_host(self) -> str | None:
        """The other machine that this role's texts go to; None where they stay here."""
        host = urlsplit(self.base_url).hostname if self.base_url else None
        return None if host is None or host in LOOPBACK else host


class EmbedderConfig(Section):
    """What turns texts into vectors (`harness/models/embedder.py`).

    `id` says which kind it is: `lexical` (hashed words, no model), a file of given vectors (`.npy`, `.safetensors`,
    `.parquet`), with `url` the model of an OpenAI-compatible endpoint, else a sentence-transformers hub id or folder.
    `prompt` is put before every text (None: what the model itself prescribes). `dimension` is checked; for `lexical` it
    is the number of hashed features. `url`, `batch_size` and `timeout` (seconds) change no vector beyond rounding.
    """

    id: str = "lexical"
    url: str | None = None
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    prompt: str | None = None
    dimension: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    timeout: float = Field(60.0, gt=0)

    @property
    def kind(self) -> Literal["lexical", "vectors", "endpoint", "sentence_transformers"]:
        """Which embedder `id` and `url` name."""
        if self.url:
            return "endpoint"
        if self.id == "lexical":
            return "lexical"
        return "vectors" if self.id.endswith((".npy", ".safetensors", ".parquet")) else "sentence_transformers"

    @model_validator(mode="after")
    def _fits(self) -> EmbedderConfig:
        if self.prompt is not None and self.kind in ("lexical", "vectors"):
            raise ValueError(f"prompt says nothing to the embedder '{self.id}', which runs no model; leave it out")
        if self.url and self.id == "lexical":
            raise ValueError("url names an endpoint, whose model id has to name")
        if "@" in (self.url or ""):
            raise ValueError("url must hold no key, since settings are stored; put it into HARNESS_EMBEDDER_KEY")
        return self


class ModelsConfig(Section):
    """The roles. `judge` is only needed by suites with judge-scored benchmarks."""

    target: ModelConfig
    writer: ModelConfig
    generator: ModelConfig
    judge: str | None = None
    embedder: EmbedderConfig = EmbedderConfig()


class ServiceConfig(Section):
    """How endpoints are called: most calls in flight, attempts of one request, and time limits in seconds.

    `read_seconds` is the longest silence of a server that has a request, `total_seconds` bounds one attempt,
    `patience_seconds` is how long a service may fail without any success before the run stops. `cache` keeps answers
    in the run's ledger, so that a resumed run does not pay twice.
    """

    concurrency: int = Field(64, ge=1)
    attempts: int = Field(6, ge=1)
    connect_seconds: float = Field(10.0, gt=0)
    read_seconds: float = Field(300.0, gt=0)
    total_seconds: float = Field(900.0, gt=0)
    patience_seconds: float = Field(300.0, ge=0)
    backoff_seconds: float = Field(1.0, gt=0)
    cache: bool = True


class VllmConfig(Section):
    """A vLLM server that the run starts. `python` is an interpreter that has vLLM (see `make setup-vllm`).

    `gpu_memory_utilization` is its share of the GPU, `kv_cache_gb` its key-value cache on a CPU. `arguments` are
    passed on to the server as they are.
    """

    python: str | None = None
    gpu_memory_utilization: float = Field(0.45, gt=0, le=1)
    kv_cache_gb: int = Field(2, ge=1)
    max_num_seqs: int = Field(64, ge=1)
    start_seconds: float = Field(900.0, gt=0)
    step_seconds: int = Field(120, ge=10)
    restarts: int = Field(2, ge=0)
    arguments: tuple[str, ...] = ()
