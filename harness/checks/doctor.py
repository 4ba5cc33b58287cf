"""Checks of this installation and this machine.

Neither torch is imported nor the network used unless that is asked for; so a GPU that the driver lists but torch cannot
use is found only by comparing versions.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from harness import plugins
from harness.checks.conflicts import conflicts
from harness.checks.findings import Finding, Report
from harness.checks.numerics import numeric_findings
from harness.checks.servers import hub, servers
from harness.errors import PrerequisiteError
from harness.estimate import gigabytes
from harness.models import packaged
from harness.models.known import known_models
from harness.resolve import machine

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from harness.config import RunConfig

OPTIONAL = ("vllm", "ray", "elasticsearch", "sentence-transformers")
OWN_PACKAGES = ("harness", "methods", "evals", "decontam", "results")
_LONG = ("optional", "own packages", "conflicts")
LOW_DISK = 2_000_000_000
LOW_MEMORY = 2_000_000_000


def examine(
    runs: str | Path = "runs", config: RunConfig | None = None, *, ask_hub: bool = False, numerics: bool = False
) -> Report:
    """Look at the installation and the machine. `runs` is the folder whose disk and permissions are checked.

    With `config` the servers that it names are asked, with `ask_hub` the hub; `numerics` imports torch and computes.
    """
    findings = [*_packages(), *conflicts(), *_own_packages()]
    findings += _plugins()
    findings += [*_devices(), *_places(Path(runs)), *_lab(), *_packaged(), *_data()]
    findings += servers(config) if config else []
    findings += hub() if ask_hub else []
    findings += numeric_findings() if numerics else []
    return Report(tuple(findings))


def requirements() -> list[Requirement]:
    """The requirements that this installation declares: from `pyproject.toml` in a checkout, else from its metadata."""
    from packaging.requirements import Requirement

    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        declared = importlib.metadata.requires("harness") or []
    parsed = [Requirement(text) for text in declared]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def package_finding(requirement: Requirement, version: str | None) -> Finding:
    """One required package against its declared range."""
    if version is None:
        return Finding("packages", requirement.name, "missing", f"pip install '{requirement}'")
    if not requirement.specifier.contains(version.split("+")[0], prereleases=True):
        return Finding("packages", requirement.name, version, f"outside the tested range: pip install '{requirement}'")
    return Finding("packages", requirement.name, version)


def _packages() -> list[Finding]:
    found = [Finding("packages", "python", platform.python_version(), _python_problem())]
    found += [package_finding(r, machine.package_version(r.name)) for r in requirements()]
    here = [f"{n} {v}" for n in OPTIONAL if (v := machine.package_version(n))]
    absent = [n for n in OPTIONAL if not machine.package_version(n)]
    found.append(
        Finding("packages", "optional", f"{', '.join(here) or 'none'} (absent: {', '.join(absent) or 'none'})")
    )
    return found


def _python_problem() -> str:
    return "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer"


def _own_packages() -> list[Finding]:
    """Names such as `results` and `evals` are common: another package of that name may shadow ours."""
    home = Path(__file__).resolve().parents[2]
    wrong = []
    for name in OWN_PACKAGES:
        spec = importlib.util.find_spec(name)
        places = [Path(p).resolve() for p in (spec.submodule_search_locations or [])] if spec else []
        if home / name not in places[:1]:
            wrong.append(f"{name} is {places[0] if places else 'not found'}")
    fix = f"expected under {home}: start from another folder, or remove the package that shadows it" if wrong else ""
    return [Finding("packages", "own packages", "; ".join(wrong) or f"{', '.join(OWN_PACKAGES)} in {home}", fix)]


def _plugins() -> list[Finding]:
    """The plug-ins of other packages, and whatever is registered and cannot be used."""
    from evals.catalogue import unusable_suites
    from harness.choice import plugin_classes
    from harness.resolve.registry import unusable_methods

    faults = [fault for group in plugins.CLASSES for fault in plugin_classes(group)[1]]
    faults += [*unusable_methods(), *unusable_suites()]
    brought = [f"{entry.kind} {entry.name} ({entry.package})" for entry in plugins.foreign()]
    found = [Finding("plug-ins", "of other packages", ", ".join(brought) or "none")]
    return found + [Finding("plug-ins", "not usable", "a plug-in", fault) for fault in faults]


def _devices() -> list[Finding]:
    total, available = machine.memory()
    threads = machine.threads()
    limit = os.environ.get("OMP_NUM_THREADS")
    found = [
        Finding("machine", "processor", f"{threads} threads" + (f", OMP_NUM_THREADS={limit}" if limit else "")),
        Finding(
            "machine",
            "memory",
            f"{gigabytes(available)} free of {gigabytes(total)}",
            "close other programs: a lab run takes about 2 GB" if available < LOW_MEMORY else "",
        ),
    ]
    visible, driver, cuda = machine.gpus(), machine.driver(), machine.torch_cuda()
    for gpu in visible:
        found.append(
            Finding("machine", f"gpu {gpu.index}", f"{gpu.name}, {gigabytes(gpu.free)} free of {gigabytes(gpu.total)}")
        )
    if not visible:
        found.append(Finding("machine", "gpu", "none seen; lab targets run on the processor"))
    found.append(
        Finding("machine", "torch build", f"CUDA {cuda}" if cuda else "CPU", _cuda_problem(bool(visible), driver, cuda))
    )
    if driver:
        found.append(Finding("machine", "driver", f"{driver.version}, up to CUDA {driver.cuda}"))
    return found


def _cuda_problem(has_gpu: bool, driver: machine.NvidiaDriver | None, cuda: str | None) -> str:
    if has_gpu and cuda is None:
        return "the GPU cannot be used by a CPU build: pip install --force-reinstall torch from the CUDA index"
    if driver and cuda and int(cuda.split(".")[0]) > int(driver.cuda.split(".")[0]):
        return f"torch is built for CUDA {cuda}, the driver supports up to {driver.cuda}: update the driver"
    return ""


def _places(runs: Path) -> list[Finding]:
    free = machine.disk_free(runs)
    ok = machine.writable(runs)
    problem = "" if ok else "not writable: pass --runs DIR, or change its permissions"
    if ok and free < LOW_DISK:
        problem = f"less than {gigabytes(LOW_DISK)} free: make room, or pass --runs DIR on another disk"
    hub = machine.hub_cache()
    return [
        Finding("places", "runs", f"{runs.absolute()}, {gigabytes(free)} free", problem),
        Finding("places", "hub cache", f"{hub}{'' if hub.is_dir() else ' (not there yet)'}, {_hub_state()}"),
    ]


def _hub_state() -> str:
    return "offline by HF_HUB_OFFLINE" if machine.hub_offline() else "downloads allowed (not tried)"


def _lab() -> list[Finding]:
    from harness.lab.build import cache_root

    root = cache_root()
    worlds = sorted(int(p.name.split("-")[1]) for p in root.glob("world-*-*") if p.is_dir() and "." not in p.name)
    state = f"worlds {', '.join(map(str, sorted(set(worlds))))} built" if worlds else "empty; built on first use"
    problem = "" if machine.writable(root) else "not writable: set HARNESS_CACHE to another folder"
    return [Finding("places", "lab cache", f"{root}, {state}", problem)]


def _packaged() -> list[Finding]:
    """Models that a package of the index brings: whether it is here, and whole."""
    found = []
    for entry in known_models().values():
        if entry.package is None:
            continue
        value, problem = f"not installed; {packaged.SETUP} brings it", ""
        if packaged.installed(entry.package):
            try:
                value = str(packaged.gguf_path(packaged.PREFIX + entry.name))
            except PrerequisiteError as error:
                value, _, problem = str(error).partition("; ")
        found.append(Finding("places", "packaged model", f"{entry.name}: {value}", problem))
    return found


def _data() -> list[Finding]:
    named = os.environ.get("HARNESS_DATA")
    if not named:
        return [Finding("places", "data folder", "HARNESS_DATA is not set; benchmark files come from the hub")]
    ok = Path(named).is_dir()
    return [Finding("places", "data folder", named, "" if ok else "HARNESS_DATA names no folder: correct or unset it")]


def render_report(report: Report) -> str:
    """The report as text for a terminal; packages without a problem share lines."""
    fine = [
        f"{f.name} {f.value}"
        for f in report.findings
        if f.section == "packages" and not f.problem and f.name not in _LONG
    ]
    listed = [f for f in report.findings if f.problem or f.section != "packages" or f.name in _LONG]
    lines = ["packages", *textwrap.wrap(", ".join(fine), 98, initial_indent="    ", subsequent_indent="    ")]
    section = "packages"
    for f in listed:
        if f.section != section:
            lines += ["", f.section]
            section = f.section
        lines.append(f"  {'!' if f.problem else ' '} {f.name:<13} {f.value}")
        if f.problem:
            lines.append(f"      -> {f.problem}")
    count = len(report.problems)
    lines += ["", "no problem found" if not count else f"{count} problem{'s' if count > 1 else ''}, marked with !"]
    return "\n".join(lines)
