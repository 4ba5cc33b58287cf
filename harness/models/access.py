"""Access to a role's model when a server answers for it: from settings to an open connection.

`Access` is what a stage brings: limits, the account of calls, where server logs go. A trained policy is its base
weights and an adapter wherever the server can take one; its merged weights are served only where there is no adapter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import estimate
from harness.config import ModelConfig, RunConfig
from harness.errors import ConfigError, PrerequisiteError, StageError
from harness.models.backend import Backend
from harness.models.endpoint.backend import CountingBackend, EndpointBackend, Served
from harness.models.endpoint.calls import CallLog, Purse
from harness.models.endpoint.client import Endpoint
from harness.models.keys import read_key
from harness.models.known import known_shape
from harness.models.vllm.command import MODEL, Weights
from harness.models.vllm.pool import serve
from harness.models.vllm.server import VllmServer
from harness.stage import StageRun
from harness.texts import read_text
from harness.training.policy import policy_training
from harness.training.template import dateless, require_template
from harness.types import file_hash, stable_hash

TEXTS = {
    "writer": "documents, in the writer's prompt",
    "generator": "documents, and rubrics where the route has them, in the generator's prompt",
    "answerer": "generated questions, in the answerer's prompt",
}
"""What the prompts of a role hold."""
ADAPTER = "adapter"
"""Folder of a trained policy's LoRA adapter, within the folder of its merged weights."""


@dataclass(frozen=True)
class Access:
    """The run's settings, the stage's account of calls and its event log, and the folder of server logs."""

    config: RunConfig
    log: CallLog
    notify: Callable[..., None]
    server_logs: Path


def access(config: RunConfig, run: StageRun) -> Access:
    """A stage's access to endpoints."""
    return Access(config, run.call_log, run.event, run.store.parent / ".servers")


@dataclass(frozen=True)
class Connection:
    """An endpoint, and the server behind it where this run started it."""

    endpoint: Endpoint
    server: VllmServer | None

    def load_adapter(self, path: Path) -> str:
        """Have the server serve the adapter in `path`; returns the name to ask for. Equal adapters have equal names."""
        name = adapter_name(path)
        if self.server is not None:
            self.server.load_adapter(name, path)
            return name
        body = {"lora_name": name, "lora_path": str(path.resolve())}
        status, text = self.endpoint.post("load_lora_adapter", body)
        if status != 200 and "already been loaded" not in text:
            raise StageError(
                f"the server at {self.endpoint.base_url} did not take the adapter in {path} (HTTP {status} "
                f"{text[:200]}); it must be vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and see "
                "the same files"
            )
        return name


def adapter_name(path: Path) -> str:
    """A name that follows from the adapter's weights."""
    return f"adapter-{file_hash(path / 'adapter_model.safetensors')}"


def key_of(model: ModelConfig, role: str) -> str | None:
    """The key of a role's endpoint, from the environment. Raises `PrerequisiteError` where there is none."""
    if model.key_env is None:
        return None
    key = read_key(model.key_env)
    if not key:
        named = f"models.{role}.key_env names the environment variable {model.key_env}"
        raise PrerequisiteError(f"{named}, which is not set; set it to the key")
    return key


def connect(
    model: ModelConfig,
    role: str,
    access: Access,
    identity: str,
    weights: str | Path | None,
    adapter: Path | None = None,
) -> Connection:
    """A connection to the role's server; one that has no URL is started with `weights`, with room for `adapter`."""
    runtime = access.config.runtime
    server = None
    if model.base_url is not None:
        base_url, key = model.base_url, key_of(model, role)
    else:
        assert weights is not None
        served = _weights(model, access.config, str(weights), adapter)
        server = serve(served, runtime.vllm, access.server_logs, access.notify)
        base_url, key = server.base_url, server.key
    found = Endpoint(
        base_url,
        role=role,
        model=model.id,
        identity=identity,
        key=key,
        service=runtime.service,
        log=access.log,
        purse=Purse(access.log, model.price, runtime.max_usd, runtime.max_tokens),
        has_queue=model.backend == "vllm",
        health=server.check if server else None,
    )
    if model.remote_host:
        access.log.announce(model.remote_host, role, TEXTS.get(role, "prompts"))
    return Connection(found, server)


def _weights(model: ModelConfig, config: RunConfig, path: str, adapter: Path | None) -> Weights:
    """The weights to serve; with room for `adapter`, and for those that the run trains for these weights."""
    training, policy = policy_training(config.driver), config.drafter
    own = policy.backend == "vllm" and (model.id == policy.id or model == policy)
    ranks = [training.lora.rank] if own and training is not None and training.lora is not None else []
    rank = max([*ranks, *([_rank_of(adapter)] if adapter else [])], default=None)
    revision = None if Path(path).is_dir() else model.revision
    return Weights(
        path=path,
        dtype=model.dtype,
        revision=revision,
        max_length=model.max_length,
        lora_rank=rank,
        chat_template=dateless(_tokenizer(path, revision), path),
    )


def served_backend(
    model: ModelConfig,
    role: str,
    access: Access | None,
    identity: str,
    weights: str | Path | None,
    trained: Path | None,
) -> Backend:
    """The backend of a served model. `weights` are its base weights where they are here, `trained` a policy's."""
    if access is None:
        raise ConfigError(f"models.{role} has backend {model.backend}, which only stages of a run can use")
    adapter = trained / ADAPTER if trained and (trained / ADAPTER).is_dir() else None
    if trained and adapter is None and model.base_url:
        raise ConfigError(
            f"the policy in {trained} has no adapter, and the server at {model.base_url} can be given nothing else; "
            "train with driver.tune=lora, or leave base_url out"
        )
    if trained:
        # The adapter names the weights that it was trained on.
        weights = _base_of(adapter) if adapter else trained
    own = model.base_url is None

    def open_endpoint() -> tuple[Endpoint, str]:
        connection = connect(model, role, access, identity, weights, adapter)
        name = connection.load_adapter(adapter) if adapter else MODEL if own else model.id
        return connection.endpoint, name

    served = Served(
        name=f"{model.id} (trained)" if trained else model.id,
        flops_per_token=_flops(model.id, weights),
        max_length=model.max_length,
        structured=model.structured,
        structured_chars=model.structured_chars,
        newer_limit=(model.remote_host or "").endswith("openai.com"),
        accept_length=model.accept_length,
        takes_stops=model.backend == "vllm",
    )
    if weights is None or (model.base_url and not Path(weights).is_dir()):
        return EndpointBackend(served, open_endpoint)
    revision = None if Path(weights).is_dir() else model.revision
    return CountingBackend(served, open_endpoint, lambda: _tokenizer(str(weights), revision))


def _base_of(adapter: Path) -> str:
    config = json.loads(read_text(adapter / "adapter_config.json"))
    return str(config["base_model_name_or_path"])


def _rank_of(adapter: Path) -> int:
    return int(json.loads(read_text(adapter / "adapter_config.json"))["r"])


def _flops(model_id: str, weights: str | Path | None) -> float:
    """2 x active parameters; 0 where the architecture is not known."""
    folder = Path(weights) if weights else None
    shape = estimate.shape_from_folder(folder) if folder and folder.is_dir() else None
    shape = shape or known_shape(model_id)
    return estimate.forward_flops(shape, 1.0) if shape else 0.0


def _tokenizer(path: str, revision: str | None) -> Any:
    from harness.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(path, revision, padding_side="right")
    require_template(tokenizer, path)
    return tokenizer


def served_identity(model: ModelConfig, weights_identity: str) -> str:
    """The identity of a served model in stage hashes: its engine, its weights, and the host where it is another's."""
    schema = [model.structured, model.structured_chars, model.accept_length]
    where = model.remote_host or ""
    return f"{model.backend}:{where}:{weights_identity}:{stable_hash(schema, length=4)}"
