"""One vLLM server: started, waited for, watched, started again if it dies, stopped.

It is a process of its own, in an environment of its own where need be, because vLLM pins half of the training stack and
because its engine can die without taking a week of work with it. It listens on this machine only and wants a key that
is made anew for every start: it can load adapters from paths, which is nothing to offer to a shared machine. A restart
keeps address and key and loads the adapters again, so that callers see a pause and nothing else.
"""

from __future__ import annotations

import contextlib
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
from pathlib import Path
from typing import Any

from harness.config_models import VllmConfig
from harness.errors import HarnessError, PrerequisiteError, StageError
from harness.models.vllm.command import Weights, environment, find_python, server_command

GONE_SECONDS = 40.0
"""How long a process may take to end: more than the guard's patience with it."""

ILL_SECONDS = 40.0
"""How long a process that has been well may be ill: more than the guard takes to end one that dies by itself."""


class VllmServer:
    """A running server. `base_url` and `key` hold for its whole life, restarts included.

    A process is launched, and the one that runs is given adapters, only under `_changed`, by whoever has it. So a call
    made under it reaches the process whose number is `_process`, or none, and what that one has is never in doubt.
    """

    def __init__(
        self, weights: Weights, config: VllmConfig, log_folder: Path, notify: Callable[..., None] | None = None
    ) -> None:
        self.weights, self.config = weights, config
        self.key = secrets.token_hex(16)
        self.port = _free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.log = log_folder / f"vllm-{os.getpid()}-{self.port}.log"
        self.adapters: dict[str, Path] = {}
        """What was taken, the latest last; a process that is started again gets these."""
        self.restarts = 0
        self._notify = notify or (lambda *_, **__: None)
        self._stopping = threading.Event()
        self._guard: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._launching = threading.Lock()
        self._changed = threading.Condition()
        self._process = 0  # the number of the one that was launched last
        self._whole = 0  # the number of the one that has all adapters; 0 while there is none
        self._failure = ""

    def start(self) -> None:
        """Start and wait until it answers. Raises `PrerequisiteError` with the log's last error if it does not."""
        started = time.monotonic()
        try:
            with self._changed:
                self._launch()
            if not self._ready():
                raise PrerequisiteError(
                    f"the vLLM server of {self.weights.path} did not start: {last_error(self.log)} (log: {self.log})"
                )
            self._restore()
        except BaseException:
            self.stop()
            raise
        seconds = round(time.monotonic() - started, 1)
        self._notify("server_started", model=self.weights.path, version=self._version(), seconds=seconds)
        self._watcher = threading.Thread(target=self._watch, name="harness-vllm", daemon=True)
        self._watcher.start()

    def _launch(self) -> bool:
        """Launch a process; False where the server is being stopped. Only under `_changed`."""
        gpu = any(Path("/dev").glob("nvidia[0-9]*"))
        template = self.log.with_suffix(".jinja") if self.weights.chat_template else None
        line = server_command(find_python(self.config), self.weights, self.config, self.port, gpu, template)
        guard = Path(__file__).with_name("guard.py")
        # `stop` takes this lock, too, so that it ends what was launched, and nothing is launched behind its back.
        with self._launching:
            if self._stopping.is_set():
                return False
            try:
                self.log.parent.mkdir(parents=True, exist_ok=True)
                if template is not None:
                    template.write_text(self.weights.chat_template or "", encoding="utf-8")
                with open(self.log, "ab") as log:
                    self._guard = subprocess.Popen(
                        [sys.executable, str(guard), *line],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        env=environment(self.config, self.key),
                    )
            except OSError as error:
                raise PrerequisiteError(
                    f"the vLLM server of {self.weights.path} cannot be started ({error}); correct that and resume"
                ) from None
        self._process += 1
        return True

    def _alive(self) -> bool:
        """Whether the process runs and is meant to."""
        assert self._guard is not None
        return not self._stopping.is_set() and self._guard.poll() is None

    def _ready(self) -> bool:
        """Wait until the process answers; False where it ended. Raises `PrerequisiteError` where it takes too long."""
        deadline = time.monotonic() + self.config.start_seconds
        while self._alive():
            if self._call("GET", "/health")[0] == 200:
                return True
            if time.monotonic() >= deadline:
                raise PrerequisiteError(
                    f"the vLLM server of {self.weights.path} was not ready after {self.config.start_seconds:g} s; "
                    f"raise runtime.vllm.start_seconds, or look into its log: {self.log}"
                )
            self._stopping.wait(0.25)
        return False

    def _version(self) -> str:
        status, text = self._call("GET", "/version")
        with contextlib.suppress(ValueError, AttributeError):
            return str(json.loads(text).get("version", "")) if status == 200 else ""
        return ""

    def _watch(self) -> None:
        """Start the server again when it dies, as often as allowed; then give it up, and let everybody know."""
        try:
            while True:
                assert self._guard is not None
                self._guard.wait()
                if not self._replace():
                    return
                if self._ready():
                    self._restore()
        except BaseException as error:
            with self._changed:
                self._whole, self._failure = 0, str(error) or type(error).__name__
                self._changed.notify_all()
            # Nobody watches it from here on.
            self._end()
            if not isinstance(error, HarnessError):
                raise

    def _replace(self) -> bool:
        """Launch a process in place of one that died; False where it was stopped. Raises `StageError` for the last."""
        with self._changed:
            if self._stopping.is_set():
                return False
            self._whole = 0
        reason = last_error(self.log)
        self._notify("server_died", model=self.weights.path, reason=reason, restarts=self.restarts)
        if self.restarts >= self.config.restarts:
            raise StageError(f"the vLLM server of {self.weights.path} died {self.restarts + 1} times: {reason}")
        self.restarts += 1
        with self._changed:
            return self._launch()

    def _restore(self) -> None:
        """Give a process that answers all adapters. One that dies over it is not whole, and replaced in its turn."""
        with self._changed:
            if all(self._put(name, path) for name, path in self.adapters.items()):
                self._whole = self._process
                self._changed.notify_all()

    def check(self) -> int:
        """The number of the process that has all that the server was given; 0 while there is none.

        It is another number after a restart. Raises `StageError` where the server is gone for good.
        """
        if self._failure:
            raise StageError(f"{self._failure} (log: {self.log}); finished work is kept: resume to try again")
        return self._whole

    def load_adapter(self, name: str, path: Path) -> None:
        """Serve the LoRA adapter in `path` under `name`, beside the base weights, and drop all but the last two.

        Waits for a server that is being started again. Raises `StageError` where it is given up, or refuses.
        """
        with self._changed:
            lost = 0
            while name not in self.adapters:
                process = self._whole_after(lost)
                if self._put(name, path):
                    self.adapters[name] = path
                else:
                    lost = process
            # The latest path: the folder of equal weights that were loaded before may be gone by the next restart.
            del self.adapters[name]
            self.adapters[name] = path
            for old in list(self.adapters)[:-2]:
                del self.adapters[old]
                self._call("POST", "/v1/unload_lora_adapter", {"lora_name": old})

    def _whole_after(self, lost: int) -> int:
        """Wait for a whole process that came after number `lost`; its number. Only under `_changed`."""
        while not self.check() > lost:
            if self._stopping.is_set():
                raise StageError(f"the vLLM server of {self.weights.path} was stopped; resume to start it again")
            # Everybody who can change this says so; `_watch` comes to an end in any case.
            self._changed.wait()
        return self._whole

    def _put(self, name: str, path: Path) -> bool:
        """Have the process serve an adapter; False where it ends before it has it. Only under `_changed`.

        Raises `StageError` where it refuses, or gives no answer within `start_seconds`.
        """
        well = time.monotonic()
        deadline = well + self.config.start_seconds
        while self._alive():
            status, text = self._call(
                "POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path.resolve())}
            )
            # What got no answer in time may have been carried out all the same; then it is refused the second time.
            if status == 200 or (status == 400 and name in self._served()):
                return True
            # An engine that dies makes the server say 500 before it goes, and be ill until then.
            healthy, now = self._call("GET", "/health")[0] == 200, time.monotonic()
            refused = status != 0 and (status < 500 or healthy)
            if refused or now >= deadline:
                raise StageError(f"the vLLM server did not take the adapter in {path}: HTTP {status} {text[:300]}")
            if healthy:
                well = now
            elif now - well >= ILL_SECONDS:
                # vLLM waits without end for the load that its dead engine owes.
                self._end()
            self._stopping.wait(0.25)
        return False

    def _served(self) -> set[str]:
        """The names that the process answers to; empty where it does not say."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return {str(model["id"]) for model in json.loads(self._call("GET", "/v1/models")[1])["data"]}
        return set()

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
        """End the server and all its processes; safe to call twice. Whoever waits for it is told."""
        self._stopping.set()
        self._end()
        with self._changed:
            self._changed.notify_all()
        watcher = self._watcher
        if watcher is not None and watcher is not threading.current_thread():
            # It may be about to write an event, and the log of events is closed next.
            watcher.join(GONE_SECONDS)

    def _end(self) -> None:
        """End the process that was launched last, with all that it started."""
        with self._launching:
            guard = self._guard
        if guard is None:
            return
        if guard.stdin is not None:
            with contextlib.suppress(OSError):
                guard.stdin.close()
        try:
            guard.wait(GONE_SECONDS)
        except subprocess.TimeoutExpired:
            guard.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_CONSEQUENCES = ("Engine core initialization failed", "EngineDeadError", "Internal Server Error")
"""Errors of a log that only say that there was one before."""


def last_error(log: Path) -> str:
    """The last line of a server's log that names an error; the last line at all where none does."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "no log"
    errors = [line for line in lines if "Error" in line and not any(said in line for said in _CONSEQUENCES)]
    line = (errors or lines or ["no output"])[-1]
    return line.rpartition("] ")[2].strip()[:300]
