"""Whether this installation and this machine are fit for work, and whether a given run can run here.

`examine` looks at the installation; `check_prerequisites` compares one run's needs with the machine, before any work
and before any folder is made. Neither imports torch nor uses the network unless it is asked to; so a GPU that the
driver lists but torch cannot use is found only by comparing versions.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import plugins
from harness.errors import InputError, PrerequisiteError
from harness.estimate import gigabytes
from harness.models import packaged
from harness.models.context import folder_config
from harness.models.known import known_models
from harness.models.role_model import RoleModel
from harness.models.rope import rope_switch
from harness.runtime import checks, machine
from harness.runtime.data_check import check_data
from harness.runtime.findings import Finding, Problem, Report
from harness.runtime.needs import GPU_FROM, loads
from harness.runtime.role_models import embedder_model, role_models, trains_writer
from harness.runtime.weights import missing_weights, unreadable_weights
from harness.training.policy import policy_training

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from harness.config import RunConfig
    from harness.costs.records import Load
    from harness.stage import Stage

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
    findings = [*_packages(), *checks.conflicts(), *_own_packages()]
    findings += _plugins()
    findings += [*_devices(), *_places(Path(runs)), *_lab(), *_packaged(), *_data()]
    findings += checks.servers(config) if config else []
    findings += checks.hub() if ask_hub else []
    findings += checks.numerics() if numerics else []
    return Report(tuple(findings))


def requirements() -> list[Requirement]:
    """What this installation declares that it needs: from `pyproject.toml` in a checkout, else from its metadata."""
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
    """What other packages bring, and whatever is registered and cannot be used."""
    from evals.suite import unusable_suites
    from harness.choice import plugin_classes
    from harness.runtime.registry import unusable_methods

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


def render(report: Report) -> str:
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


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON."""
    return {"ok": not report.problems, "findings": [asdict(f) for f in report.findings]}


def check_prerequisites(config: RunConfig, stages: Sequence[Stage]) -> list[Problem]:
    """What this machine lacks for a run of these stages. Reads the documents and items here, no weights and no network.

    A GGUF file that is to be converted has its architecture looked up in transformers, which takes seconds. Raises
    `InputError` for documents and items that a run could not use.
    """
    models, embedder = role_models(config), embedder_model(config)
    if (documents := check_data(config)) is not None:
        for lack in filter(None, (stage.lacks(documents) for stage in stages)):
            raise InputError(lack)
    return [
        *_missing_packages(embedder),
        *_missing_data(config),
        *_missing_services(config),
        *missing_weights([*models, *([embedder] if embedder else [])]),
        *unreadable_weights(models),
        *_two_sides(config, models[1]),
        *_missing_memory(models, loads(config, stages)),
        *_missing_disk(config, models),
    ]


def require_prerequisites(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Raise `PrerequisiteError` naming everything that `check_prerequisites` found."""
    problems = check_prerequisites(config, stages)
    if problems:
        raise PrerequisiteError(describe(config, problems))


def describe(config: RunConfig, problems: Sequence[Problem]) -> str:
    """One message for all problems, a line each."""
    head = f"this machine cannot run --method {config.method} --target {config.target}"
    return "\n".join([f"{head}; nothing was started:", *(f"  - {p}" for p in problems)])


def _missing_packages(embedder: RoleModel | None) -> list[Problem]:
    missing = [r for r in requirements() if machine.package_version(r.name) is None]
    problems = [Problem(f"package {r.name}", str(r), "not installed", f"pip install '{r}'") for r in missing]
    runs = embedder is not None and embedder.kind in ("hub", "folder")
    if runs and machine.package_version("sentence-transformers") is None:
        fix = "pip install 'harness[embed]', or --set models.embedder.id=lexical"
        problems.append(Problem("package sentence-transformers", "the embedder runs on it", "not installed", fix))
    return problems


def _missing_data(config: RunConfig) -> list[Problem]:
    """Data sets that would have to be downloaded where downloads are forbidden; files must be there in any case."""
    from evals.read import DataContext, find_source
    from evals.suite import load_suite
    from harness.synthesis.tables import find_tables

    names: list[tuple[str, str]] = []
    if config.seeds.source != "lab":
        found = find_tables(config.seeds.sources)  # looks at names alone, and whether files are there
        names += [("seeds", table.split(":")[0]) for table in found if not Path(table).exists()]
    suite = load_suite(config.suite)
    guide = suite.validation_set(config.guide.set)
    tables = [(b.id, b.rows) for b in suite.benchmarks if b.scorer == "lm_eval"]
    tables += [(b.id, b.pool) for b in suite.benchmarks if b.scorer == "lm_eval" and b.pool]
    for what, rows in [*tables, (f"guide {guide.name}", guide.rows)]:
        source, _ = find_source(rows, what, DataContext(), suite.folder)
        if source.hub:
            names.append((what, source.hub))
    if not machine.hub_offline():
        return []
    absent = {name: what for what, name in reversed(names) if not machine.cached_data(name)}
    fix = "unset HF_HUB_OFFLINE, or put local copies into the folder that HARNESS_DATA names"
    return [
        Problem(f"data of {what}", name, "not in the cache and downloads are off", fix) for name, what in absent.items()
    ]


def _missing_services(config: RunConfig) -> list[Problem]:
    """Keys that no variable holds, and a vLLM that would have to be started and is not installed."""
    from harness.models.access import key_of
    from harness.models.vllm.server import find_python

    problems = []
    for role, model in (("writer", config.models.writer), ("generator", config.models.generator)):
        try:
            if model.served:
                key_of(model, role)
            if model.backend == "vllm" and model.base_url is None:
                find_python(config.runtime.vllm)
        except PrerequisiteError as error:
            what, _, fix = str(error).partition("; ")
            problems.append(Problem(f"server of the {role}", "a key or vLLM" if model.key_env else "vLLM", what, fix))
    return problems


def _two_sides(config: RunConfig, writer: RoleModel) -> list[Problem]:
    """Rollouts that could lie on both sides of a length from which the writer's RoPE takes other frequencies."""
    switch = rope_switch(folder_config(writer.folder)) if writer.folder and trains_writer(config) else None
    length = config.models.writer.max_length
    if switch is None or length <= switch.boundary:
        return []
    need = f"prompt and completion within {switch.boundary} tokens, as GRPO computes rollouts together,"
    fix = f"--set models.writer.max_length={switch.boundary}, which shortens longer documents"
    return [Problem(f"RoPE of the writer ({switch.kind})", need, f"models.writer.max_length is {length}", fix)]


_SMALLER = "lower synthesis.shard_size (what a model in the process samples at once) or runtime.batch_size"


def _missing_memory(models: Sequence[RoleModel], needed: Sequence[Load]) -> list[Problem]:
    big = [m for m in models if m.shape and m.shape.parameters >= GPU_FROM]
    peak = max(needed, key=lambda load: load.bytes, default=None)
    if peak is None:
        return []
    detail = " + ".join(f"{p.role} {p.what} {gigabytes(p.bytes)}" for p in peak.parts)
    visible = machine.gpus() if big else ()
    if big:
        best = max((g.free for g in visible), default=0)
        if best >= peak.bytes and machine.torch_cuda():
            return []
        have = ", ".join(f"{g.name} with {gigabytes(g.free)} free" for g in visible) or "no GPU here"
        fix = f"choose smaller models (--set models.generator.id=...), {_SMALLER}, or rehearse with --target nano"
        if best >= peak.bytes:
            have, fix = f"{have}, but a CPU build of torch", "install a CUDA build of torch"
        return [Problem("GPU memory", f"{gigabytes(peak.bytes)} on one GPU in {peak.name} ({detail})", have, fix)]
    available = machine.memory()[1]
    if available >= peak.bytes:
        return []
    fix = f"{_SMALLER}, or use a machine with more"
    return [
        Problem("memory", f"{gigabytes(peak.bytes)} in {peak.name} ({detail})", f"{gigabytes(available)} free", fix)
    ]


def _missing_disk(config: RunConfig, models: Sequence[RoleModel]) -> list[Problem]:
    """Two checkpoints of the trained policy with Adam's moments, and the fine-tuned target with its checkpoints.

    All in float32: 12 bytes a parameter in a checkpoint, 4 in what is left. An adapter's policy is merged.
    """
    target = models[0]
    need = 50_000_000 + (28 * target.shape.parameters if target.shape and config.sft.tune == "full" else 0)
    training = policy_training(config.driver)
    model = next((m for m in models if training is not None and m.role == training.role), None)
    if training is not None and model is not None and model.shape:
        need += (28 if training.lora is None else 4) * model.shape.parameters
    runs = Path(config.runtime.runs)
    free = machine.disk_free(runs)
    problems = []
    if not machine.writable(runs):
        problems.append(Problem(f"runs folder {runs}", "permission to write", "not given", "pass --runs DIR"))
    if free < need:
        problems.append(
            Problem(
                "disk",
                f"{gigabytes(need)} for checkpoints and models",
                f"{gigabytes(free)} free in {runs.absolute()}",
                "make room, or pass --runs DIR",
            )
        )
    return problems
