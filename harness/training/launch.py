"""Fine-tuning in several processes: `accelerate launch` by a configuration or on GPUs, else `torchrun` with gloo.

The stage's process stays the only writer of the stage: it hands the job over as a file in the stage's scratch folder,
shows the progress that the first worker prints, and reads the result. Workers watch the process that launched them and
end with it, so that a killed run leaves no trainer behind. Given up: a recovery of single workers; when one dies, all
end, and `resume` goes on from the last checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.config_runtime import TrainingConfig
from harness.errors import ConfigError, StageError
from harness.shards import write_json
from harness.stage import SCRATCH
from harness.training.recipe import Job, LoraSettings, Recipe, Tuned
from harness.types import Sample, Usage, from_row, to_row

PREFIX = "harness-worker "
"""Begins the lines of standard output that a worker means for its launcher."""

_SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
"""accelerate's `distributed_type`s that divide the optimizer's state over the processes."""


def accelerate_settings(training: TrainingConfig) -> Mapping[str, Any]:
    """The accelerate configuration's fields; none without one. Raises `ConfigError` where it cannot be read."""
    path = training.accelerate_config
    if path is None:
        return {}
    if not Path(path).is_file():
        raise ConfigError(
            f"runtime.training.accelerate_config names {path}, which is no file; 'accelerate config "
            f"--config_file {path}' writes one"
        )
    from harness.yaml_text import read_yaml

    found = read_yaml(path, "the accelerate configuration")
    if not isinstance(found, Mapping) or "distributed_type" not in found:
        raise ConfigError(f"{path} is no accelerate configuration: it has no distributed_type; write it again")
    return found


def sharding(training: TrainingConfig) -> str:
    """The scheme by which accelerate divides the optimizer's state; empty where every process has all of it."""
    kind = str(accelerate_settings(training).get("distributed_type"))
    return kind if kind in _SHARDING else ""


def data_parallel(training: TrainingConfig) -> TrainingConfig:
    """The settings for a training that keeps Adam's moments: without a configuration that divides them.

    `processes` alone then says how many processes share a step.
    """
    return training.model_copy(update={"accelerate_config": None}) if sharding(training) else training


def launch(job: Job, on_step: Callable[[int, int], None]) -> Tuned:
    """Run `job` in the processes that `job.training` asks for and wait. Raises the worker's error, or `StageError`."""
    folder = Path(job.folder) / SCRATCH
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "job.json"
    write_json(file, {**job_to_json(job), "launcher": os.getpid(), "born": born(os.getpid())})
    process = subprocess.Popen(
        launch_command(job, file),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": _threads(job)},
    )
    result: dict[str, Any] = {}
    tail: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(PREFIX):
                message = json.loads(line.removeprefix(PREFIX))
                if "step" in message:
                    on_step(message["step"], message["total"])
                result.update(message)
            else:
                tail = [*tail[-19:], line.rstrip()]
        process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if "tuned" not in result:
        if "error" in result:
            raise {"ConfigError": ConfigError}.get(result["kind"], StageError)(result["error"])
        log = folder / "workers.log"
        log.write_text("\n".join(tail) + "\n", encoding="utf-8")
        raise StageError(
            f"the training processes ended with status {process.returncode}; the end of their output is in {log}. "
            "Correct the cause and resume: checkpoints are kept"
        )
    return tuned_from_json(result["tuned"])


def born(pid: int) -> str:
    """The start of a process, in its kernel's clock; empty where it has ended, also where nobody has noticed yet.

    Where the kernel does not tell (it is not Linux), `alive` for every process that can be sent a signal.
    """
    if not sys.platform.startswith("linux"):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        return "alive"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    # Fields 3 and 22 of proc(5): a zombie keeps its number until its parent asks for it, which may be never.
    return "" if fields[0] in ("Z", "X") else fields[19]


def _threads(job: Job) -> str:
    """Processor threads of each worker: an equal share, unless the environment says."""
    count = job.training.processes
    if count == 1:
        count = int(accelerate_settings(job.training).get("num_processes") or 1)
    return os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // max(1, count))))


def launch_command(job: Job, file: Path) -> list[str]:
    """The launcher's command line. Raises `ConfigError` for a configuration that is not there."""
    import torch

    worker = ["-m", "harness.training.worker", str(file)]
    count = str(job.training.processes)
    # The model's own type, whatever a configuration says.
    precision = ["--mixed_precision", "bf16" if job.dtype == "bfloat16" else "no"]
    start = [sys.executable, "-m", "accelerate.commands.launch"]
    config = job.training.accelerate_config
    if config is not None:
        settings = accelerate_settings(job.training)
        own = [] if job.training.processes == 1 else ["--num_processes", count]
        # Alone or by MPI is all that accelerate knows for processors; what starts processes for GPUs suits them, too.
        if settings["distributed_type"] == "MULTI_CPU" and not settings.get("mpirun_config"):
            own.append("--multi_gpu")
        # Its fixed default port would let only one training run on a machine.
        if settings.get("main_process_port") is None and int(settings.get("num_machines") or 1) == 1:
            own += ["--main_process_port", "0"]
        return [*start, "--config_file", config, *precision, *own, *worker]
    if torch.cuda.is_available():
        own = ["--multi_gpu", "--num_machines", "1", *precision, "--dynamo_backend", "no"]
        return [*start, *own, "--main_process_port", "0", "--num_processes", count, *worker]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count, *worker]


def job_to_json(job: Job) -> dict[str, Any]:
    """A job as plain values."""
    plain = {name: getattr(job, name) for name in job.__slots__ if name not in ("samples", "recipe", "training")}
    return {
        **plain,
        "samples": [to_row(sample) for sample in job.samples],
        "recipe": asdict(job.recipe),
        "training": job.training.model_dump(mode="json"),
    }


def job_from_json(value: dict[str, Any]) -> Job:
    """The inverse of `job_to_json`."""
    recipe = dict(value["recipe"])
    if recipe["lora"] is not None:
        recipe["lora"] = LoraSettings(**{**recipe["lora"], "modules": tuple(recipe["lora"]["modules"])})
    return Job(
        **{
            **{name: value[name] for name in Job.__slots__},
            "samples": tuple(from_row(Sample, row) for row in value["samples"]),
            "recipe": Recipe(**recipe),
            "training": TrainingConfig(**value["training"]),
        }
    )


def tuned_from_json(value: dict[str, Any]) -> Tuned:
    """The result that a worker reports."""
    return Tuned(**{**value, "usage": Usage(**value["usage"]), "epoch_rates": tuple(value["epoch_rates"])})
