"""The start of a vLLM server: the interpreter that has vLLM, what is served, command line and environment.

Hazards of vLLM 0.32 on a CPU shape the options: asking a server with adapters for the log-probabilities of a prompt
kills its engine, so that is never asked; so does a seed with a prompt that is read in chunks, so none is; and an engine
can hang, so a step has a time limit.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.config_models import VllmConfig
from harness.errors import PrerequisiteError

MODEL = "base"
"""The name under which a server that we start offers its own weights."""
PYTHON_VARIABLE = "HARNESS_VLLM_PYTHON"


def find_python(config: VllmConfig) -> str:
    """An interpreter that has vLLM: the one named, this one, or that of `.venv-vllm` beside this environment."""
    named = config.python or os.environ.get(PYTHON_VARIABLE)
    if named:
        if not Path(named).is_file():
            by = "runtime.vllm.python" if config.python else PYTHON_VARIABLE
            raise PrerequisiteError(f"{by} names {named}, which is not there; correct it")
        return named
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    beside = Path(sys.prefix).parent / ".venv-vllm" / "bin" / "python"
    if beside.is_file():
        return str(beside)
    raise PrerequisiteError(
        "no vLLM was found; 'make setup-vllm' installs it beside this environment, or set runtime.vllm.python to an "
        f"interpreter that has it ({PYTHON_VARIABLE} does the same), or give a running server's URL as base_url"
    )


@dataclass(frozen=True, slots=True)
class Weights:
    """The served weights: a folder or hub id. Servers of equal weights are one server.

    `chat_template` stands in for the model's own.
    """

    path: str
    dtype: str
    revision: str | None
    max_length: int
    lora_rank: int | None = None
    chat_template: str | None = None


def server_command(
    python: str, weights: Weights, config: VllmConfig, port: int, gpu: bool, template: Path | None = None
) -> list[str]:
    """The command line of a server. The key is passed in the environment, since everybody can read a command line.

    `template` is the file that holds `weights.chat_template`.
    """
    parts = [
        *(python, "-m", "vllm.entrypoints.openai.api_server", "--model", weights.path),
        *("--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", weights.dtype, "--max-model-len", str(weights.max_length)),
        *("--max-num-seqs", str(config.max_num_seqs)),
        # Sampling is what the caller says, not what the model's repository suggests.
        *("--generation-config", "vllm"),
        # Log-probabilities of what was sampled, after temperature and nucleus, as the trainer computes them.
        *("--logprobs-mode", "processed_logprobs"),
        # Without this, JSON of an undecided model is mostly white space, up to the token limit.
        *("--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})),
    ]
    parts += ["--revision", weights.revision] if weights.revision else []
    parts += ["--chat-template", str(template)] if template else []
    if weights.lora_rank:
        parts += ["--enable-lora", "--max-lora-rank", str(_rank(weights.lora_rank)), "--max-loras", "2"]
    if gpu:
        parts += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
    else:
        # A prompt read in chunks, of a request with a seed, ends the engine: torch's CPU generator has no offset.
        parts += ["--enforce-eager", "--no-enable-chunked-prefill"]
    return [*parts, *config.arguments]


def _rank(rank: int) -> int:
    """The smallest bound on ranks that vLLM offers and that admits `rank`."""
    return next((bound for bound in (8, 16, 32, 64, 128, 256, 320, 512) if bound >= rank), rank)


def environment(config: VllmConfig, key: str) -> dict[str, str]:
    """The server's environment: its memory on a CPU, its time limit, adapters at run time, no reports to anybody.

    MKL's threads are left to vLLM: it binds a worker's threads to cores of its own choice, and more threads than those
    cores wait for one another (with two on one core, a run of minutes did not end).
    """
    inherited = {name: value for name, value in os.environ.items() if name != "MKL_NUM_THREADS"}
    return {
        **inherited,
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": str(config.kv_cache_gb),
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(config.step_seconds),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
