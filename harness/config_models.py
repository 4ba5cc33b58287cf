"""Settings of models and of the servers that answer for them: which weights, behind which engine, within which limits.

What changes a row (weights, prices apart) is in `ModelConfig`. How a server is reached, started and spared is in
`ServiceConfig` and `VllmConfig`, which are runtime knobs. A key is never a setting: `key_env` names the environment
variable that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from harness.types import LARGEST

STUDENT = "student:"
"""What the role of a student other than the target begins with."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Section(BaseModel):
    """Base of every settings section: frozen, and closed to unknown keys.

    The text below a field is its meaning, which `harness explain`, docs/settings.md and a run's config.yaml show.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _lists(cls, value: Any, info: ValidationInfo) -> Any:
        """A list may be given as one element, or typed with commas."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if get_origin(annotation) is not tuple or isinstance(value, list | tuple):
            return value
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return () if value is None else (value,)

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
    """The prices of a service, in US dollars per million tokens. There is no built-in price list: see the bill."""

    input: float = Field(ge=0)
    """US dollars per million tokens read."""
    output: float = Field(ge=0)
    """US dollars per million tokens written."""

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Dollars for these tokens."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


class ModelConfig(Section):
    """One role's model, and the engine that answers for it."""

    id: str = Field(min_length=1)
    """A hub id, a folder, a GGUF file, `lab:ROLE`, a served model's name, or a built-in generator's."""
    backend: Literal["transformers", "extractive", "openai", "vllm"] = "transformers"
    """The engine: transformers in this process, a vLLM server, an endpoint that speaks the OpenAI API, or the
    extractive generator."""
    revision: str | None = None
    """Commit, branch or tag of a hub model; by default the newest, whose commit is recorded."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that it computes in; trained weights are float32 in any case."""
    max_length: int = Field(8192, ge=16)
    """Most tokens of prompt and completion together."""
    base_url: str | None = None
    """A server that answers already, such as https://host/v1; by default vLLM is started."""
    key_env: str | None = None
    """The environment variable that holds the server's key."""
    price: PriceConfig | None = None
    """What the server charges, for limits and cost."""
    structured: bool = False
    """Has the server hold its output to the JSON of a rubric or pair."""
    structured_chars: int | None = Field(None, ge=1)
    """Longest text field of structured output, in characters; longer ones are cut."""
    accept_length: bool = False
    """Reads an answer that the server ended for its length as far as it goes; by default it is rejected."""

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
    """The model that turns texts into vectors. `url`, `batch_size` and `timeout` change no vector beyond rounding."""

    id: str = "lexical"
    """`lexical` (hashed words, no model), a file of vectors (.npy, .safetensors, .parquet), or a
    sentence-transformers hub id or folder."""
    url: str | None = None
    """An OpenAI-compatible endpoint that embeds with the model `id`."""
    revision: str | None = None
    """Commit, branch or tag of a hub model."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that it computes in."""
    prompt: str | None = None
    """Put before every text; by default what the model itself prescribes."""
    dimension: int | None = Field(None, ge=1)
    """Length of a vector: checked, and for `lexical` the number of hashed features."""
    batch_size: int = Field(32, ge=1)
    """Texts embedded at once."""
    timeout: float = Field(60.0, gt=0)
    """Longest wait for an endpoint, in seconds."""

    @property
    def kind(self) -> Literal["lexical", "vectors", "endpoint", "sentence_transformers"]:
        """The kind of embedder that `id` and `url` name."""
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
    """The models in their roles."""

    target: ModelConfig
    """The model that is fine-tuned and tested."""
    writer: ModelConfig
    """The model that writes rubrics; drivers may train it."""
    generator: ModelConfig
    """The model that writes pairs; on route `question` it writes their questions."""
    answerer: ModelConfig | None = None
    """The model that answers the questions of route `question`; by default the generator as it is."""
    judge: str | None = None
    """The model that scores answers of judge-scored columns."""
    labeller: ModelConfig | None = None
    """The model that labels pairs, with `labels`; by default the generator as it is."""
    embedder: EmbedderConfig = EmbedderConfig()
    """Always the embedder, which turns texts into vectors."""
    students: tuple[ModelConfig, ...] = ()
    """Other models that are fine-tuned on the run's data set and tested (`--also-tune`): names, or mappings of `id` and
    what is not as the target's."""

    @model_validator(mode="before")
    @classmethod
    def _like_the_target(cls, given: Any) -> Any:
        """A student's type and length are the target's where it names none."""
        students = given.get("students") if isinstance(given, Mapping) else None
        target = given.get("target") if students else None
        if not students or not isinstance(target, Mapping | ModelConfig):
            return given
        own = target.model_dump() if isinstance(target, ModelConfig) else target
        shared = {key: own[key] for key in ("dtype", "max_length") if key in own}
        listed = students.split(",") if isinstance(students, str) else students
        named = [{"id": s.strip()} if isinstance(s, str) else s for s in listed]
        return {**given, "students": [{**shared, **s} if isinstance(s, Mapping) else s for s in named]}

    @model_validator(mode="after")
    def _students_apart(self) -> ModelsConfig:
        if served := next((s for s in self.students if s.backend != "transformers"), None):
            raise ValueError(f"students are trained, and {served.id} has backend {served.backend}; give its weights")
        if self.target.id in (same := [s.id for s in self.students]):
            raise ValueError(f"{self.target.id} is the target, which is fine-tuned anyway; leave it out of students")
        roles = list(self.student_roles)
        if twice := next((r for r in roles if roles.count(r) > 1), None):
            at = [name for name, role in zip(same, roles, strict=True) if role == twice]
            raise ValueError(f"two students are called '{twice.removeprefix(STUDENT)}' ({', '.join(at)}); name one")
        return self

    @property
    def student_roles(self) -> tuple[str, ...]:
        """The students' roles: `student:` and the last part of the model's name."""
        parts = (s.id.rstrip("/").rpartition("/")[2] for s in self.students)
        return tuple(STUDENT + re.sub(r"[^A-Za-z0-9._-]+", "-", part) for part in parts)

    def of(self, role: str) -> ModelConfig:
        """The model of a role that writes, of a student, or of the target.

        The generator where the role has none of its own.
        """
        if role.startswith(STUDENT):
            return self.students[self.student_roles.index(role)]
        model: ModelConfig | None = getattr(self, role)
        return self.generator if model is None else model


class ServiceConfig(Section):
    """The calling and sparing of endpoints."""

    concurrency: int = Field(64, ge=1)
    """Most calls in flight."""
    attempts: int = Field(6, ge=1)
    """Attempts of one request."""
    connect_seconds: float = Field(10.0, gt=0)
    """Longest wait for a connection, in seconds."""
    read_seconds: float = Field(300.0, gt=0)
    """Longest silence of a server that has a request, in seconds."""
    total_seconds: float = Field(900.0, gt=0)
    """Longest attempt, in seconds."""
    patience_seconds: float = Field(300.0, ge=0)
    """How long a service may fail without any success before the run stops, in seconds."""
    backoff_seconds: float = Field(1.0, gt=0)
    """First wait before a request is tried again, in seconds; it doubles."""
    cache: bool = True
    """Keeps answers in the run's ledger, so that a resumed run does not pay twice."""


class VllmConfig(Section):
    """A vLLM server that the run starts."""

    python: str | None = None
    """An interpreter that has vLLM; by default that of `make setup-vllm`."""
    gpu_memory_utilization: float = Field(0.45, gt=0, le=1)
    """Share of the GPU's memory that the server takes."""
    kv_cache_gb: int = Field(2, ge=1)
    """Key-value cache on a processor, in GB."""
    max_num_seqs: int = Field(64, ge=1)
    """Most sequences at once."""
    start_seconds: float = Field(900.0, gt=0)
    """Longest start of the server, in seconds."""
    step_seconds: int = Field(120, ge=10)
    """Longest step of its engine before it is taken for dead, in seconds."""
    restarts: int = Field(2, ge=0)
    """How often a server that died is started again."""
    arguments: tuple[str, ...] = ()
    """Passed on to `vllm serve` as they are."""
