"""The equipment of this machine: packages, GPUs, memory, disk, weights that are already here.

Everything is read without importing torch and without the network, so that asking costs milliseconds: package
versions from their metadata, GPUs from `nvidia-smi`, weights from the folder layout of the Hugging Face cache.
It gives up other accelerators: a device that `nvidia-smi` does not list is not seen.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.texts import read_text

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "lm_eval",
    "tokenizers",
    "numpy",
    "pyarrow",
)
"""Those that can change a number."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One visible GPU; memory in bytes."""

    index: int
    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class NvidiaDriver:
    """The NVIDIA driver and the newest CUDA version that it supports."""

    version: str
    cuda: str


def _nvidia_smi(*arguments: str) -> str | None:
    path = shutil.which("nvidia-smi")
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that a process started here would see, in the order of `CUDA_VISIBLE_DEVICES` where it is set."""
    text = _nvidia_smi("--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits")
    found: dict[str, Gpu] = {}
    for line in (text or "").splitlines():
        index, uuid, name, total, free = (part.strip() for part in line.split(","))
        if total.isdigit() and free.isdigit():
            gpu = Gpu(int(index), name, int(total) << 20, int(free) << 20)
            found[index] = found[uuid] = gpu
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(gpu for key, gpu in found.items() if key.isdigit())
    chosen: list[Gpu] = []
    for key in (part.strip() for part in visible.split(",")):
        matches = [
            gpu for name, gpu in found.items() if name == key or (key.startswith("GPU-") and name.startswith(key))
        ]
        if not matches:  # CUDA stops reading the list at the first device that is not there
            break
        chosen.append(matches[0])
    return tuple(chosen)


def driver() -> NvidiaDriver | None:
    """The NVIDIA driver, or None where there is none."""
    text = _nvidia_smi()
    versions = re.search(r"Driver Version:\s*([\d.]+).*?CUDA Version:\s*([\d.]+)", text or "")
    return NvidiaDriver(versions[1], versions[2]) if versions else None


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for; None for a CPU build or where torch is missing."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    version = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return version[1] if version else None


def package_version(name: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    return found | {name: version for name in PACKAGES if (version := package_version(name))}


def memory() -> tuple[int, int]:
    """Total and available main memory in bytes, within the limit of the control group where there is one."""
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    total = available = page * pages
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        table = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
        available = table["MemAvailable"]
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        if limit.isdigit():
            total, available = min(total, int(limit)), min(available, int(limit) - used)
    except (OSError, KeyError, ValueError):
        pass
    return total, max(0, available)


def existing_parent(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    return path


def disk_free(path: Path) -> int:
    """Free bytes on the disk where `path` is or would be made."""
    return shutil.disk_usage(existing_parent(path)).free


def writable(path: Path) -> bool:
    """Whether files can be made in `path`, or in the nearest folder above it when it does not exist."""
    place = existing_parent(path)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def threads() -> int:
    """CPU threads that a process started here may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hub_cache() -> Path:
    """The Hugging Face cache that the libraries read: `HF_HUB_CACHE`, else `HF_HOME`/hub, else the default place."""
    explicit = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or str(Path(base) / "huggingface")
    return Path(home).expanduser() / "hub"


def hub_offline() -> bool:
    """Whether the environment forbids downloads from the hub."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def cached_model(model_id: str, revision: str | None = None) -> Path | None:
    """The snapshot folder of a hub model in the local cache, where it is there with all of its weights."""
    commit = cached_commit(model_id, revision)
    if commit is None:
        return None
    snapshot = _cache_of(model_id) / "snapshots" / commit
    return snapshot if has_weights(snapshot) else None


def cached_commit(model_id: str, revision: str | None = None) -> str | None:
    """The commit that a branch, tag or commit (default: main) of a hub model means in the local cache, or None."""
    store = _cache_of(model_id)
    name = revision or "main"
    try:
        return (store / "refs" / name).read_text(encoding="ascii").strip()
    except OSError:
        return name if (store / "snapshots" / name).is_dir() else None


def _cache_of(model_id: str) -> Path:
    return hub_cache() / ("models--" + model_id.replace("/", "--"))


def cached_data(name: str) -> bool:
    """Whether a hub data set has been loaded on this machine before."""
    prepared = os.environ.get("HF_DATASETS_CACHE") or str(hub_cache().parent / "datasets")
    folders = (hub_cache() / ("datasets--" + name.replace("/", "--")), Path(prepared) / name.replace("/", "___"))
    return any(folder.is_dir() for folder in folders)


def has_weights(folder: Path) -> bool:
    """Whether a model folder holds its configuration and every weight file that it names."""
    if not (folder / "config.json").exists():
        return False
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        try:
            names = set(json.loads(read_text(folder / index))["weight_map"].values())
        except (OSError, ValueError, KeyError):
            continue
        return all((folder / name).exists() for name in names)
    return any((folder / name).exists() for name in ("model.safetensors", "pytorch_model.bin"))
