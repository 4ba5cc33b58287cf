"""A run answers for all that it is made from: writers, targets and documents of earlier runs, at any remove."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from harness.config import ModelConfig, RunConfig
from harness.errors import InputError
from harness.models.model_files import PROVENANCE
from harness.models.open import model_identity
from harness.record import Origin, read_record
from harness.resolve.assemble import Assembly, assemble
from harness.resolve.layers import resolve_run
from harness.resolve.provenance import FILE, note_model, note_origins
from harness.runtime.run import identity_settings
from harness.shards import Summary, summary_to_json, write_json
from harness.stage import DONE, store_of
from harness.types import file_hash
from support.made_runs import make_record

GUIDED = ("lab_asked",)


def config_of(runs: Path, **options: Any) -> RunConfig:
    """Settings of a nano run in `runs`."""
    sets = {"runtime.runs": str(runs), **options.pop("sets", {})}
    return resolve_run(**{"method": "optimsyn", "target": "nano", "scale": "smoke", "sets": sets, **options}).config


def made(runs: Path, name: str, *, record: bool = True, noted: bool = True, **options: Any) -> Path:
    """A finished run's folder without any work done: manifest, stages with markers, record."""
    config = config_of(runs, **options)
    assembly = assemble(config)
    stages = {stage.name: stage.folder_name for stage in assembly.stages}
    for folder in stages.values():
        write_json(store_of(runs) / folder / DONE, summary_to_json(Summary(0, 0, {}, (), 1.0)))
    if noted:
        note_origins(assembly.stages, store_of(runs), name, config, assembly.upstream)
    write_json(runs / name / "run.json", {"settings": identity_settings(config), "stages": stages})
    if record:
        reads, guided = assembly.reads_validation, assembly.guided_columns
        changes = {"reads_validation": reads, "guided_columns": guided, "upstream": assembly.upstream}
        changes |= {"signal": config.signal.name, "driver": config.driver.name, "reads_itself": assembly.reads_itself}
        written = asdict(make_record(name, {"a": [1]}, {"a": [0]}, **changes))
        if not noted:
            # As of a version that knew nothing of origins.
            written |= {"reads_validation": assembly.reads_itself}
            written.pop("upstream"), written.pop("reads_itself")
        write_json(runs / name / "record.json", written)
    return runs / name


def laid_out(runs: Path, **options: Any) -> Assembly:
    return assemble(config_of(runs, **options))


@pytest.fixture(params=["origin.json", "record", "settings"])
def known_by(request: pytest.FixtureRequest) -> dict[str, bool]:
    """What an earlier run says of itself: as now; by an older version's record; unfinished, of an older version."""
    return {"noted": request.param == "origin.json", "record": request.param != "settings"}


def test_guidance_travels_with_a_writer(tmp_path: Path, known_by: dict[str, bool]) -> None:
    made(tmp_path, "first", **known_by)
    static = laid_out(tmp_path, driver="static", writer_from="first")
    assert static.reads_validation and not static.reads_itself
    assert static.guided_columns == GUIDED
    (origin,) = static.upstream
    assert (origin.what, origin.run, origin.signal, origin.guided_columns) == ("writer", "first", "influence", GUIDED)


def test_guidance_travels_over_several_runs(tmp_path: Path, known_by: dict[str, bool]) -> None:
    made(tmp_path, "first", **known_by)
    made(tmp_path, "second", writer_from="first", signal="random", **known_by)
    made(tmp_path, "third", writer_from="second", signal="length", **known_by)
    last = laid_out(tmp_path, driver="static", writer_from="third")
    assert last.reads_validation and last.guided_columns == GUIDED
    assert [o.run for o in last.upstream] == ["third", "second", "first"]
    assert [o.reads_validation for o in last.upstream] == [False, False, True]
    assert [o.what for o in last.upstream] == ["writer", "writer of third", "writer of second of third"]


@pytest.mark.parametrize("signal", ["random", "length", "constant"])
def test_a_writer_that_saw_no_validation_item_brings_none(tmp_path: Path, signal: str) -> None:
    made(tmp_path, "first", signal=signal)
    static = laid_out(tmp_path, driver="static", writer_from="first")
    assert not static.reads_validation and static.guided_columns == ()
    assert [o.signal for o in static.upstream] == [signal]


def test_guidance_stays_where_the_run_was_deleted_or_its_store_moved(tmp_path: Path) -> None:
    made(tmp_path / "a", "first")
    made(tmp_path / "a", "second", writer_from="first", signal="random")
    shutil.rmtree(tmp_path / "a" / "first")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert laid_out(tmp_path / "b", driver="static", writer_from="second").guided_columns == GUIDED


@pytest.mark.parametrize("place", ["run", "store", "export", "document", "copy"])
def test_guidance_travels_with_a_target_and_with_documents(tmp_path: Path, place: str) -> None:
    run = made(tmp_path, "first")
    stages = json.loads((run / "run.json").read_text())["stages"]
    model = store_of(tmp_path) / stages["finetune"] / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (run / "model").symlink_to(model)
    export = tmp_path / "elsewhere" / "export"
    shutil.copytree(run, export)
    (export / "run.json").unlink()
    data = tmp_path / "data.jsonl"
    data.write_text("rows")
    if place == "copy":
        before = model_identity(ModelConfig(id=str(model)), None)
        note_model(model, model.parent, "first", config_of(tmp_path), data)
        assert model_identity(ModelConfig(id=str(model)), None) == before
        said = json.loads((model / PROVENANCE).read_text())
        assert (said["run"], said["base"], said["data"]["sha256_16"]) == ("first", "lab:target", file_hash(data))
        # Who has it already keeps it, since runs share stages.
        note_model(model, model.parent, "second", config_of(tmp_path), data)
        assert json.loads((model / PROVENANCE).read_text()) == said
    copy = shutil.copytree(model, tmp_path / "handed" / "on")
    (export / "dataset.jsonl").write_text('{"text": "some words"}\n')
    where = {"run": run / "model", "store": model, "export": export / "model", "document": export / "dataset.jsonl"}
    where["copy"] = copy
    key = "seeds.source" if place == "document" else "models.target.id"
    later = laid_out(tmp_path, driver="static", sets={key: str(where[place])})
    assert later.reads_validation and later.guided_columns == GUIDED
    assert later.upstream[0].what == ("seed documents" if place == "document" else "target")


def test_every_run_answers_for_itself_in_a_chain(tmp_path: Path) -> None:
    """A target of a run whose writer was guided: the run did not read anything, its writer's run did."""
    made(tmp_path, "first")
    second = made(tmp_path, "labelled", driver="static", writer_from="first")
    (second / "model").mkdir()
    later = laid_out(tmp_path, driver="static", sets={"models.target.id": str(second / "model")})
    assert [(o.what, o.run, o.reads_validation) for o in later.upstream] == [
        ("target", "labelled", False),
        ("writer of labelled", "first", True),
    ]
    assert later.guided_columns == GUIDED


def test_the_warm_up_is_not_guided_by_the_signal_that_reads_it(tmp_path: Path) -> None:
    run = made(tmp_path, "first")
    stages = json.loads((run / "run.json").read_text())["stages"]
    said = {name: json.loads((store_of(tmp_path) / stages[name] / FILE).read_text()) for name in ("warmup", "grpo")}
    assert [o["reads_validation"] for o in said["warmup"]] == [False]
    assert [o["reads_validation"] for o in said["grpo"]] == [True]
    assert not (store_of(tmp_path) / stages["sources"] / FILE).exists()


def test_selection_by_a_signal_guides_the_target_and_not_the_writer(tmp_path: Path) -> None:
    run = made(tmp_path, "first", signal="random", sets={"select.keep": 0.5, "select.signal": "val_bm25"})
    stages = json.loads((run / "run.json").read_text())["stages"]
    said = {name: json.loads((store_of(tmp_path) / stages[name] / FILE).read_text()) for name in ("finetune", "grpo")}
    assert [o["reads_validation"] for o in said["finetune"]] == [True]
    assert [o["reads_validation"] for o in said["grpo"]] == [False]


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    made(tmp_path, "first", noted=False, record=False)
    made(tmp_path, "second", writer_from="first", signal="random", noted=False, record=False)
    shutil.rmtree(tmp_path / "first")
    upstream = laid_out(tmp_path, driver="static", writer_from="second").upstream
    assert [o.reads_validation for o in upstream] == [False, None]
    assert "it is not known whether" in upstream[1].line()


def test_a_writer_whose_store_is_elsewhere_is_one_line(tmp_path: Path) -> None:
    made(tmp_path / "a", "first")
    shutil.copytree(tmp_path / "a" / "first", tmp_path / "b" / "first")
    with pytest.raises(InputError, match=r"writer of run first is not here: .*\.stages.* is missing"):
        laid_out(tmp_path / "b", driver="static", writer_from="first")


def test_origins_survive_a_record(tmp_path: Path) -> None:
    came = Origin("writer", "r", "influence", "lab", "asked", True, ("x",))
    make_record("r2", {"a": [1]}, {"a": [0]}, upstream=[came], reads_itself=False).write(tmp_path / "record.json")
    read = read_record(tmp_path / "record.json")
    assert (read.upstream[0].line(), read.reads_itself) == (came.line(), False)
