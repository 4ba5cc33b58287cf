"""One vLLM server: found, started, waited for, watched, started again if it dies, stopped.

It is a process of its own, in an environment of its own where need be, because vLLM pins half of the training stack and
because its engine can die without taking a week of work with it. It listens on this machine only and wants a key that
is made anew for every start: it can load adapters from paths, which is nothing to offer to a shared machine. A restart
keeps address and key and loads the adapters again, so that callers see a pause and nothing else.

Hazards of vLLM 0.32 on a CPU shape the options: asking a server with adapters for the log-probabilities of a prompt
kills its engine, so that is never asked; so does a seed with a prompt that is read in chunks, so none is; and an engine
can hang, so a step has a time limit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config_models import VllmConfig
from harness.errors import PrerequisiteError, StageError

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
    """What is served: a folder or hub id. Servers of equal weights are one server."""

    path: str
    dtype: str
    revision: str | None
    max_length: int
    lora_rank: int | None = None


def command(python: str, weights: Weights, config: VllmConfig, port: int, gpu: bool) -> list[str]:
    """The command line of a server. The key is passed in the environment, since everybody can read a command line."""
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


class VllmServer:
    """A running server. `base_url` and `key` hold for its whole life, restarts included."""

    def __init__(
        self, weights: Weights, config: VllmConfig, log_folder: Path, notify: Callable[..., None] | None = None
    ) -> None:
        self.weights, self.config = weights, config
        self.key = secrets.token_hex(16)
        self.port = _free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.log = log_folder / f"vllm-{os.getpid()}-{self.port}.log"
        self.adapters: dict[str, Path] = {}
        self.restarts = 0
        self._notify = notify or (lambda *_, **__: None)
        self._stopping = threading.Event()
        self._guard: subprocess.Popen[bytes] | None = None
        self._failure = ""
        self._whole = True
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start and wait until it answers. Raises `PrerequisiteError` with the log's last error if it does not."""
        started = time.monotonic()
        self._launch()
        self._wait_ready()
        seconds = round(time.monotonic() - started, 1)
        self._notify("server_started", model=self.weights.path, version=self._version(), seconds=seconds)
        threading.Thread(target=self._watch, name="harness-vllm", daemon=True).start()

    def _launch(self) -> None:
        gpu = any(Path("/dev").glob("nvidia[0-9]*"))
        line = command(find_python(self.config), self.weights, self.config, self.port, gpu)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        guard = Path(__file__).with_name("guard.py")
        with open(self.log, "ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, str(guard), *line],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(self.config, self.key),
            )

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + self.config.start_seconds
        while time.monotonic() < deadline and not self._stopping.is_set():
            assert self._guard is not None
            if self._guard.poll() is not None:
                raise PrerequisiteError(
                    f"the vLLM server of {self.weights.path} did not start: {last_error(self.log)} (log: {self.log})"
                )
            if self._call("GET", "/health")[0] == 200:
                return
            time.sleep(0.25)
        self.stop()
        raise PrerequisiteError(
            f"the vLLM server of {self.weights.path} was not ready after {self.config.start_seconds:g} s; raise "
            f"runtime.vllm.start_seconds, or look into its log: {self.log}"
        )

    def _version(self) -> str:
        status, text = self._call("GET", "/version")
        with contextlib.suppress(ValueError, AttributeError):
            return str(json.loads(text).get("version", "")) if status == 200 else ""
        return ""

    def _watch(self) -> None:
        """Start the server again when it dies, as often as allowed."""
        while True:
            assert self._guard is not None
            self._guard.wait()
            if self._stopping.is_set():
                return
            self._whole = False
            reason = last_error(self.log)
            self._notify("server_died", model=self.weights.path, reason=reason, restarts=self.restarts)
            if self.restarts >= self.config.restarts:
                self._failure = f"the vLLM server of {self.weights.path} died {self.restarts + 1} times: {reason}"
                return
            self.restarts += 1
            try:
                self._launch()
                self._wait_ready()
                for name, path in list(self.adapters.items()):
                    self._load(name, path)
                self._whole = True
            except (PrerequisiteError, StageError) as error:
                self._failure = str(error)
                return

    def check(self) -> bool:
        """Whether the server has all that it was given; not while it starts again and its adapters are not back.

        Raises `StageError` where it is gone for good.
        """
        if self._failure:
            raise StageError(f"{self._failure} (log: {self.log}); finished work is kept: resume to try again")
        return self._whole

    def load_adapter(self, name: str, path: Path) -> None:
        """Serve the LoRA adapter in `path` under `name`, beside the base weights, and drop all but the last two."""
        with self._lock:
            if name in self.adapters:
                return
            self._load(name, path, patience=self.config.start_seconds)
            self.adapters[name] = path
            for old in list(self.adapters)[:-2]:
                self._call("POST", "/v1/unload_lora_adapter", {"lora_name": old})
                del self.adapters[old]

    def _load(self, name: str, path: Path, *, patience: float = 0.0) -> None:
        """`patience` is how long to wait for a server that is being started again, in seconds."""
        body = {"lora_name": name, "lora_path": str(path.resolve())}
        deadline = time.monotonic() + patience
        while True:
            status, text = self._call("POST", "/v1/load_lora_adapter", body)
            self.check()
            if status != 0 or time.monotonic() >= deadline or self._stopping.is_set():
                break
            time.sleep(0.25)
        if status != 200:
            raise StageError(f"the vLLM server did not take the adapter in {path}: HTTP {status} {text[:300]}")

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
            method=method,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as response:
                return int(response.status), response.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            return int(error.code), error.read().decode("utf-8", "replace")
        except OSError as error:
            return 0, str(error)

    def stop(self) -> None:
        """End the server and all its processes; safe to call twice."""
        self._stopping.set()
        guard = self._guard
        if guard is None:
            return
        if guard.stdin is not None:
            with contextlib.suppress(OSError):
                guard.stdin.close()
        try:
            guard.wait(40)
        except subprocess.TimeoutExpired:
            guard.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_error(log: Path) -> str:
    """The last line of a server's log that names an error; the last line at all where none does."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "no log"
    errors = [line for line in lines if "Error" in line and "Engine core initialization failed" not in line]
    line = (errors or lines or ["no output"])[-1]
    return line.rpartition("] ")[2].strip()[:300]
