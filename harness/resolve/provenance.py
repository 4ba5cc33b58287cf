"""Earlier runs that a run is made from, and what guided them: its writer, its models, its adapters, its documents.

What a writer or target learned from validation items it keeps, whoever uses it next, so a run answers for all that it
is made from, at any remove. Stages that train say beside their weights where these come from (`origin.json`), which
goes with them when a store is moved; stages of versions that did not are looked up in the runs that made them. A
fine-tuned model says it within its folder, too (`provenance.json`), so that a copy of the folder carries it. Gives up:
a writer or an adapter that was copied out of its stage by hand carries nothing, and counts as anyone's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evals.catalogue import load_suite
from harness.choice import NONE, stored_name
from harness.config import RunConfig, SignalChoice
from harness.errors import HarnessError
from harness.models.dequantise import origin
from harness.models.model_files import PROVENANCE
from harness.models.packaged import header_of, is_gguf
from harness.record import Origin
from harness.shards import write_json
from harness.stage import WEIGHTS, Kind, Stage, store_of
from harness.synthesis.tables import find_tables
from harness.texts import read_text
from harness.types import file_hash
from methods.signals.catalogue import declares
from results.runs import MANIFEST, RECORD, Run, find_run, load_run, run_folders

FILE = "origin.json"


def origins(config: RunConfig, writer: tuple[Path, Path] | None) -> tuple[Origin, ...]:
    """The earlier runs that a run of these settings is made from, nearest first.

    `writer` is the run folder and the stage folder of the trained writer that it starts from.
    """
    found: list[Origin] = []
    if writer is not None:
        run, stage = writer
        found += _named("writer", _of_stage(stage) or _of_run(run))
    roles = [("target", config.models.target.id), ("writer", config.models.writer.id)]
    roles += [("generator", config.models.generator.id), ("embedder", config.models.embedder.id)]
    roles += [("warm-up adapter", folder) for folder in config.warmup.adapter]
    documents = find_tables(config.seeds.tables)
    for what, name in (*roles, *(("seed documents", table) for table in documents)):
        found += _named(what, _at(Path(name))) if not name.startswith("lab:") and Path(name).exists() else []
    return tuple(dict.fromkeys(replace(o, guided_columns=tuple(o.guided_columns)) for o in found))


def note_origins(stages: Sequence[Stage], store: Path, run: str, config: RunConfig, upstream: Sequence[Origin]) -> None:
    """Say beside the weights of every stage that trains where they come from, unless an earlier run has said so."""
    for stage in stages:
        path = store / stage.folder_name / FILE
        if stage.kind in WEIGHTS and not path.exists():
            own = _own(run, config.model_dump(mode="json"), stage.kind)
            write_json(path, [asdict(entry) for entry in (own, *upstream)])


def note_model(model: Path, stage: Path, run: str, config: RunConfig, data: Path) -> None:
    """Say within the fine-tuned `model`'s folder what it was made from, unless an earlier run has said so.

    `stage` is the folder of the stage that made it, `data` the conversations that it was trained on.
    """
    if (model / PROVENANCE).exists():
        return
    base = config.models.target
    account = {
        "run": run,
        "base": base.id,
        "revision": base.revision,
        "base_weights": origin(header_of(base.id)) if is_gguf(base.id) else "as they are there",
        "data": {"name": data.name, "sha256_16": file_hash(data)},
        "origins": [asdict(entry) for entry in _of_stage(stage)],
    }
    write_json(model / PROVENANCE, account)


def _own(run: str, settings: Mapping[str, Any], kind: Kind = "model") -> Origin:
    """A run as the origin of the weights of this kind that it made.

    The warm-up trains on pairs that no feedback has touched, the writer on its driver's signal, and the target on pairs
    that another signal may have selected.
    """
    select, guide = settings.get("select") or {}, settings["guide"]["set"]
    # A run whose driver reads no scores stores that it has no signal.
    signal = stored_name(settings["signal"]) if kind != "checkpoints" else NONE
    stored = [settings["signal"]] if kind != "checkpoints" else []
    if kind in ("model", "student_model") and select.get("signal"):
        stored.append(select["signal"])
    read = _read_by(stored)
    suite, guided = str(settings["suite"]), tuple[str, ...]()
    try:
        declared = load_suite(suite)
        suite, guided = declared.name, declared.guided_columns(guide) if read else ()
    except HarnessError:
        # The suite's file is gone or changed; that validation items were read still stands.
        pass
    return Origin(
        what="", run=run, signal=signal, suite=suite, guide=guide, reads_validation=read, guided_columns=guided
    )


def _read_by(signals: Iterable[Any]) -> bool | None:
    """Whether one of these signals, as runs store them, reads validation items.

    None where it is not known of one that is not here, or has other settings now.
    """
    known = True
    for stored in signals:
        try:
            if declares(SignalChoice.model_validate(stored), "reads_validation"):
                return True
        except (HarnessError, ValidationError):
            known = False
    return False if known else None


def _named(what: str, chain: Sequence[Origin]) -> list[Origin]:
    """A chain under the name of what came from its first run."""
    if not chain:
        return []
    first, *rest = chain
    return [replace(first, what=what), *(replace(o, what=f"{o.what} of {first.run}") for o in rest)]


def _at(path: Path) -> Sequence[Origin]:
    """The runs that a file or folder comes from: it lies in a stage's folder, a run's, or an export's."""
    for base in (path.absolute(), path.resolve()):
        for folder in (base, *base.parents)[:4]:
            if found := _of_model(folder) or _of_stage(folder):
                return found
            if (folder / MANIFEST).is_file() or (folder / RECORD).is_file():
                return _of_run(folder)
    return ()


def _of_model(folder: Path) -> Sequence[Origin]:
    """The origins that a fine-tuned model's folder states; none for any other folder."""
    try:
        return [Origin(**entry) for entry in json.loads(read_text(folder / PROVENANCE))["origins"]]
    except (OSError, ValueError, TypeError, KeyError):
        return ()


def _of_stage(folder: Path) -> Sequence[Origin]:
    """The origins that a stage's folder states, or the runs beside its store that made it."""
    try:
        return [Origin(**entry) for entry in json.loads((folder / FILE).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        pass
    if folder.parent.name != store_of("").name:
        return ()
    return next((_of_run(run) for run in _makers(folder)), ())


def _makers(folder: Path) -> Iterator[Path]:
    for run in run_folders(folder.parent.parent):
        try:
            stages = load_run(run).manifest.get("stages", {})
        except HarnessError:
            continue
        if folder.name in stages.values():
            yield run


def _of_run(folder: Path) -> Sequence[Origin]:
    """A run or an export, by its record, or by its settings where it has none yet."""
    try:
        run = load_run(folder) if (folder / MANIFEST).is_file() else _exported(folder)
    except HarnessError:
        return [Origin(what="", run=folder.name, signal="", suite="", guide="", reads_validation=None)]
    settings = run.manifest.get("settings")
    record = run.record
    if record is not None:
        guide = settings["guide"]["set"] if settings else ""
        # What the run is made from answers for itself, in an entry of its own.
        reads = record.reads_validation if record.reads_itself is None else record.reads_itself
        guided = record.guided_columns if reads else ()
        own = Origin(
            what="",
            run=record.run,
            signal=record.signal,
            suite=record.suite,
            guide=guide,
            reads_validation=reads,
            guided_columns=guided,
        )
        if record.upstream or not settings:
            return [own, *record.upstream]
    elif settings:
        own = _own(run.name, settings)
    else:
        return [Origin(what="", run=folder.name, signal="", suite="", guide="", reads_validation=None)]
    return [own, *_before(run, settings)]


def _before(run: Run, settings: Mapping[str, Any]) -> Sequence[Origin]:
    """The writer's origins of a run whose record does not know them."""
    name = settings.get("writer_from")
    if not name:
        return ()
    try:
        return _named("writer", _of_run(find_run(run.folder.parent, name)))
    except HarnessError:
        return [Origin(what="writer", run=str(name), signal="", suite="", guide="", reads_validation=None)]


def _exported(folder: Path) -> Run:
    from harness.record import read_record

    return Run(folder, {}, read_record(folder / RECORD))
