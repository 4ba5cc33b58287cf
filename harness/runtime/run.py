"""A run: its folder, and carrying it out from wherever it stands.

The folder is named by method, signal, target, seed and a hash of the settings, so the same settings always mean the
same folder and another run of them goes on instead of starting over. All work happens in shared stages; the folder
holds what is this run's own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checks.prerequisites import require_prerequisites
from harness.choice import Choice
from harness.config import RunConfig
from harness.config_runtime import RuntimeConfig
from harness.errors import ConfigError, HarnessError, InputError
from harness.events import EventLog
from harness.executor import Executor, LocalExecutor
from harness.lock import hold
from harness.models.endpoint.calls import CallLog
from harness.models.open import AUTHOR
from harness.models.vllm.pool import stop_all
from harness.record import RunRecord
from harness.resolve.assemble import Assembly, assemble
from harness.resolve.machine import versions
from harness.resolve.provenance import note_origins
from harness.resolve.registry import methods
from harness.resolve.revisions import pin_revisions
from harness.resolve.role_models import decoding_set_aside
from harness.resolve.targets import short_name
from harness.runtime.call_log import RunCallLog
from harness.runtime.execute import execute
from harness.runtime.ledger import Ledger
from harness.runtime.manifest import code_state, hardware, now, update
from harness.runtime.progress import Progress
from harness.settings import Resolved, choices, dump_yaml, flatten, read_config_file, resolve
from harness.shards import Summary, write_text
from harness.stage import read_summary, stage_folder, store_of
from harness.types import Usage, stable_hash, well_formed
from results.runs import LOCK, MANIFEST, RECORD, find_run, load_run


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and settings."""

    path: Path
    config: RunConfig

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of `run.json`."""
        return dict(load_run(self.path).manifest)


class RunObserver:
    """Tells the run's event log, ledger and progress display what its stages do."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.events, self.ledger, self.display = (
            EventLog(folder / "events.jsonl"),
            Ledger(folder / "ledger.sqlite"),
            progress,
        )

    def event(self, kind: str, **fields: Any) -> None:
        """Append an event."""
        self.events.add(kind, **fields)
        if kind == "stage_done":
            summary = Summary(
                rows_in=fields["rows_in"],
                kept=fields["kept"],
                rejected=fields["rejected"],
                usage=(),
                seconds=fields["seconds"],
                shortened=fields["shortened"],
                mended=fields["mended"],
            )
            counts = summary.line() if summary.rows_in else "done"
            self.display.line(f"{fields['stage']}: {counts}, {summary.seconds:.1f} s")
        elif kind == "stage_reused":
            self.display.line(f"{fields['stage']}: already there")
        elif kind == "notice":
            # What is said before any stage names none.
            self.display.line(": ".join(fields[name] for name in ("stage", "text") if name in fields))
        elif kind == "texts_leave":
            self.display.line(
                f"{fields['stage']}: texts leave this machine: {fields['texts']} go to {fields['host']} "
                f"({fields['role']})"
            )

    def spend(self, stage: str, signal: str, usage: Sequence[Usage]) -> None:
        """Record cost."""
        self.ledger.add(stage, signal, usage)

    def call_log(self, stage: str, signal: str) -> CallLog:
        """The account of a stage's calls to endpoints."""
        return RunCallLog(self.ledger, stage, signal, self.event)

    def progress(self, label: str, done: int, total: int, note: str = "") -> None:
        """Show progress."""
        self.display.update(label, done, total, note)

    def close(self) -> None:
        """Close all three."""
        self.events.close()
        self.ledger.close()
        self.display.close()


def identity_settings(config: RunConfig, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """The settings that make a run what it is: all but the runtime knobs.

    Where on this machine a server listens is one of them, so that it may have another port when the run is resumed.
    """
    settings = config.model_dump(mode="json", exclude={"runtime"}, exclude_defaults=exclude_defaults)
    for role in ("writer", "generator", "answerer", "labeller"):
        model = getattr(config.models, role)
        if model is not None and model.base_url and model.remote_host is None:
            settings["models"][role]["base_url"] = "local"
    return settings


def naming_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that a run is named by: those of `identity_settings` that are not at their defaults.

    What plug-ins are chosen comes with their classes' versions.
    """
    settings = identity_settings(config, exclude_defaults=True)
    for place in choices():
        *parents, leaf = place.split(".")
        owner: Any = config
        node: Any = settings
        for parent in parents:
            owner, node = getattr(owner, parent), node.get(parent) or {}
        choice = getattr(owner, leaf, None)
        # One that stands at its default is left out like any other setting, unless its class has a later version.
        if isinstance(choice, Choice) and (leaf in node or len(choice.identity()) > 1):
            node[leaf] = choice.identity()
    return settings


def run_name(config: RunConfig) -> str:
    """`method[.driver][.route][+signal]@target-seed-hash`; what stands at its default is not in the hash.

    So a setting that is added later, and leaves everything as it was where it is not set, renames no run.
    """
    known = methods().get(config.method)
    own, way = (known.driver, known.route) if known else (config.driver.name, "rubric")
    driver = "" if config.driver.name == own else f".{config.driver.name}"
    route = "" if config.route.name == way else f".{config.route.name}"
    signal = f"+{config.signal.name}" if config.signal.chosen else ""
    digest = stable_hash(naming_settings(config), length=8)
    return f"{config.method}{driver}{route}{signal}@{short_name(config.target)}-{config.seed}-{digest}"


def create_run(resolved: Resolved, argv: Sequence[str]) -> RunFolder:
    """The run of these settings: a new folder, or the one that is already there. Checks prerequisites first.

    The folder's name follows from the settings as they were given; its settings name the commits of hub models.
    """
    config = resolved.config
    pinned = pin_revisions(config)
    assembly = assemble(pinned)
    require_prerequisites(pinned, assembly.stages)
    path = Path(config.runtime.runs) / run_name(config)
    if (path / MANIFEST).exists():
        stored = open_run(path.name, config.runtime.runs).config
        return RunFolder(path, stored.model_copy(update={"runtime": config.runtime}))
    write_text(path / "config.yaml", dump_yaml(pinned))
    update(
        path / MANIFEST,
        {},
        run=path.name,
        status="created",
        created=now(),
        argv=[well_formed(argument) for argument in argv],
        settings=identity_settings(pinned),
        models=_models(assembly),
        prompts=assembly.plan.route.hash,
        **_stages(assembly),
    )
    return RunFolder(path, pinned)


def open_run(name: str, runs: str | Path) -> RunFolder:
    """The run that `name` means. Raises `ConfigError` where its config.yaml is no longer what it was created with."""
    path = find_run(Path(runs), name)
    layer = read_config_file(path / "config.yaml")
    resolved = resolve([layer])
    config = resolved.config
    before = {key: value for key, value in flatten(load_run(path).manifest["settings"]) if value != {}}
    after = dict(flatten(identity_settings(config)))
    # A setting that came with a later version stands in neither file, and is at its default.
    new = {key for key in after.keys() - before.keys() if resolved.origin.get(key) == "default"}
    changed = sorted(key for key in before.keys() | after.keys() - new if before.get(key) != after.get(key))
    if changed:
        raise ConfigError(
            f"{path}/config.yaml has drifted from what the run was created with: {', '.join(changed[:6])}"
            f"{' ...' if len(changed) > 6 else ''}; undo the change, or start a new run with "
            f"'harness run {path}/config.yaml'"
        )
    return RunFolder(
        path, config.model_copy(update={"runtime": config.runtime.model_copy(update={"runs": str(path.parent)})})
    )


def carry_out(run: RunFolder, *, quiet: bool = False) -> RunRecord:
    """Compute what is missing and write the run's outputs. One process at a time; a second gets `RunLockedError`."""
    with hold(run.path / LOCK, f"run {run.path.name}"):
        assembly = assemble(run.config)
        observer = RunObserver(run.path, Progress(quiet=quiet))
        try:
            return _carry_out(run, assembly, observer)
        except KeyboardInterrupt:
            _status(run, "interrupted")
            raise
        except HarnessError as error:
            observer.event("failed", reason=str(error))
            _status(run, "failed", reason=str(error))
            raise
        finally:
            stop_all()
            observer.close()


def _carry_out(run: RunFolder, assembly: Assembly, observer: RunObserver) -> RunRecord:
    _prepare_libraries(run.config)
    _status(
        run,
        "running",
        versions=versions(),
        hardware=hardware(),
        decoding=_decoding(run.config),
        **_stages(assembly),
        **code_state(),
    )
    observer.event("run_started", stages=[stage.name for stage in assembly.stages])
    _build_lab(run.config, observer)
    _convert_models(run.config, observer)
    store = store_of(run.path.parent)
    done = [s for s in assembly.stages if read_summary(stage_folder(store, s)) is not None]
    if (run.path / RECORD).exists() and not done:
        text = f"this run was finished elsewhere; none of its stages is in {store}, so all are computed again"
        observer.event("notice", stage="store", text=text)
    _check_models(run, assembly, observer)
    note_origins(assembly.stages, store, run.path.name, run.config, assembly.upstream)
    executor = make_executor(run.config.runtime)
    try:
        summaries = execute(assembly.stages, store, observer, executor)
    finally:
        executor.close()
    from harness.runtime.outputs import write_outputs

    record = write_outputs(assembly, store, run.path, summaries)
    observer.event("run_finished")
    _status(run, "finished", finished=now(), signals=_signals(assembly, summaries))
    return record


def _decoding(config: RunConfig) -> dict[str, Any]:
    """The sources of decoding settings, and what models ask for beside them."""
    return {"from": "settings alone", "set_aside": decoding_set_aside(config)}


def make_executor(runtime: RuntimeConfig) -> Executor:
    """The executor for these settings."""
    if runtime.engine == "local":
        return LocalExecutor()
    from harness.ray_executor import RayExecutor

    return RayExecutor(runtime.ray, runtime.threads)


def _build_lab(config: RunConfig, observer: RunObserver) -> None:
    """Build the lab's models before any stage needs one, with progress."""
    used = {config.models.of(role).id for role in config.model_roles}
    if not any(name.startswith("lab:") for name in used):
        return
    from harness.lab.author import ensure_author
    from harness.lab.build import ensure_lab
    from harness.lab.world import World

    build = ensure_author if AUTHOR in used else ensure_lab
    world = World.of(config.lab.id if config.lab else None)
    build(world, progress=lambda part, share: observer.progress(f"lab: {part}", round(100 * share), 100))


def _convert_models(config: RunConfig, observer: RunObserver) -> None:
    """Convert GGUF files before any stage needs one, so that its time is no stage's."""
    from harness.models.dequantise import converted_folder, ensure_converted
    from harness.models.packaged import is_gguf

    models = config.models
    for model in (models.of(role) for role in config.model_roles):
        if is_gguf(model.id) and not model.base_url and not converted_folder(model.id).is_dir():
            observer.progress(f"converting {short_name(model.id)}", 0, 1)
            started = time.monotonic()
            folder = ensure_converted(model.id)
            seconds = round(time.monotonic() - started, 1)
            observer.event("model_converted", model=model.id, folder=str(folder), seconds=seconds)


def _check_models(run: RunFolder, assembly: Assembly, observer: RunObserver) -> None:
    """The training check, before any stage; what it found stands in `run.json`."""
    from harness.checks.training_check import check_models
    from harness.training.token_check import is_notice

    started = time.monotonic()
    rows = check_models(run.config, assembly.plan.world, store_of(run.path.parent))
    for row in rows:
        if is_notice(row):
            observer.event("notice", text=f"{row['role']}: {row['detail']}")
    observer.event("training_checked", checks=len(rows), seconds=round(time.monotonic() - started, 2))
    _status(run, "running", training_check=rows)


def _prepare_libraries(config: RunConfig) -> None:
    import torch

    from harness.runtime.allocator import keep_freed_memory
    from harness.training.trainer import quiet_libraries

    quiet_libraries()
    if config.target == "nano":
        keep_freed_memory()

    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)


def _stages(assembly: Assembly) -> dict[str, Any]:
    """The place of each stage's output, and its kind."""
    return {
        "stages": {stage.name: stage.folder_name for stage in assembly.stages},
        "kinds": {stage.name: stage.kind for stage in assembly.stages},
    }


def _models(assembly: Assembly) -> Mapping[str, Any]:
    models = assembly.plan.config.models
    return {
        **{role: assembly.plan.identity(models.of(role)) for role in assembly.plan.config.model_roles},
        "judge": models.judge,
    }


def _signals(assembly: Assembly, summaries: Mapping[str, Summary]) -> dict[str, Any]:
    """By stage: what preparing its signal found, checks included, and the diagnostics of its (last) scoring."""
    noted = {stage.name: (stage.signal, summaries[stage.identity].notes) for stage in assembly.stages}
    return {
        name: {"signal": signal, **notes["prepared"], "diagnostics": notes.get("diagnostics", [])}
        for name, (signal, notes) in noted.items()
        if "prepared" in notes
    }


def _status(run: RunFolder, status: str, **changes: Any) -> None:
    path = run.path / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} cannot be read; restore it, or start a new run from {run.path}/config.yaml") from None
    update(path, manifest, status=status, **changes)
