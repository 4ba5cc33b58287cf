"""Other students of a data set: what they are called, cost and gain, and which cannot be."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from harness.checks.needs import make_sizer
from harness.errors import ConfigError
from harness.planning.costs import estimates, make_estimator
from harness.planning.plan import make_plan
from harness.record import StudentResult, read_record
from harness.resolve.assemble import Assembly, assemble
from harness.resolve.layers import resolve_run
from harness.runtime.run import run_name
from harness.settings import dump_yaml, read_config_file, resolve
from harness.shards import write_table
from results.runs import student_items
from results.views import render_show
from support.made_runs import make_run, scores

PAIR = {"driver": "static", "target": "nano", "scale": "smoke"}


def laid_out(tmp_path: Path, *names: str, **options: Any) -> Assembly:
    sets = {"runtime.runs": str(tmp_path)}
    return assemble(resolve_run(**{**PAIR, **options}, also_tune=names, sets=sets).config)


def test_a_student_has_stages_of_its_own_on_the_same_data(tmp_path: Path) -> None:
    alone, both = laid_out(tmp_path), laid_out(tmp_path, "lab:generator", "lab:writer")
    shared = {s.name: s.identity for s in alone.stages}
    assert shared.items() <= {s.name: s.identity for s in both.stages}.items()
    own = {s.name: s for s in both.stages if s.student == "student:lab-writer"}
    assert list(own) == ["finetune_lab-writer", "evaluate_lab-writer", "evaluate_base_lab-writer"]
    assert [i.name for i in own["finetune_lab-writer"].inputs] == ["dataset"]
    assert both.only("model").name == "finetune" and both.only("tuned_answers").name == "evaluate"
    # One more student, named first, is no other run's student.
    alike = laid_out(tmp_path, "lab:writer").stage("finetune_lab-writer")
    assert alike is not None and alike.identity == own["finetune_lab-writer"].identity


def test_rounds_end_with_the_students_too(tmp_path: Path) -> None:
    assembly = laid_out(tmp_path, "lab:writer", driver="active_loop", signal="random", method="active")
    tuned = assembly.stage("finetune_lab-writer")
    assert tuned is not None and tuned.inputs[0] == assembly.last("dataset")


def test_a_student_is_as_the_target_where_it_names_nothing(tmp_path: Path) -> None:
    known = resolve_run(**PAIR, also_tune=["qwen3-1.7b-instruct"], sets={"models.target.dtype": "bfloat16"})
    (student,) = known.config.models.students
    assert (student.id, student.dtype) == ("Qwen/Qwen3-1.7B", "bfloat16")
    assert known.config.models.target.max_length < 8192 == student.max_length
    listed = resolve_run(**PAIR, sets={"models.students": "lab:generator,lab:writer"}).config
    assert {s.max_length for s in listed.models.students} == {listed.models.target.max_length}
    # A short student does not shorten the recipe of the others.
    short = {"models.students": [{"id": "lab:writer", "max_length": 64}]}
    config = resolve_run(**PAIR, sets=short).config
    assert config.for_student("student:lab-writer").sft.max_length == 64 < config.sft.max_length
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config))
    assert resolve([read_config_file(path)]).config == config
    assert run_name(config) != run_name(resolve_run(**PAIR).config)


@pytest.mark.parametrize(
    "students, message",
    [
        (["lab:target"], "lab:target is the target, which is fine-tuned anyway; leave it out"),
        (["lab:writer", "lab:writer"], r"two students are called 'lab-writer'"),
        ([{"id": "x/y", "backend": "vllm"}], "students are trained, and x/y has backend vllm"),
    ],
)
def test_students_that_cannot_be_are_refused(students: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_run(**PAIR, sets={"models.students": students})
    with pytest.raises(ConfigError, match="there is no target 'nosuch'"):
        resolve_run(**PAIR, also_tune=["nosuch"])


def test_a_large_student_is_in_memory_cost_and_what_is_missing(tmp_path: Path) -> None:
    sets = {"runtime.runs": str(tmp_path)}
    resolved = resolve_run(**PAIR, also_tune=["qwen3-8b-instruct"], sets=sets)
    assembly = assemble(resolved.config)
    found = estimates(assembly.stages, make_estimator(resolved.config))
    stages = {name: assembly.stage(name) for name in ("finetune", "finetune_Qwen3-8B", "evaluate_Qwen3-8B")}
    costs = {name: found[stage.identity] for name, stage in stages.items() if stage}
    small, large, tests = (costs[name] for name in stages)
    assert small and large and tests and large.flops > 1000 * small.flops and large.seconds
    assert set(large.models) == set(tests.models) == {"student:Qwen3-8B"}
    stage = stages["finetune_Qwen3-8B"]
    assert stage is not None
    (part,) = stage.loads(make_sizer(resolved.config)).parts
    assert part.role == "student:Qwen3-8B" and part.bytes > 100e9
    plan = make_plan(resolved)
    assert any(name == "student" and "Qwen/Qwen3-8B" in value for name, value in plan.meaning)
    assert any("student:Qwen3-8B" in problem.what for problem in plan.problems)


BASE = {"asked": [0, 0, 0, 1], "kept": [1, 1, 0, 1]}
TUNED = {"asked": [1, 1, 0, 1], "kept": [1, 1, 1, 1]}
OTHER = {"asked": [0, 1, 0, 1], "kept": [0, 1, 0, 1]}


def test_show_has_the_gain_of_every_model(tmp_path: Path) -> None:
    student = StudentResult("student:small", "some/small", scores(OTHER), scores(BASE), "finetune_small-1")
    run = make_run(tmp_path, "run", TUNED, BASE, students=[student])
    assert [asdict(s) for s in read_record(run / "record.json").students] == [asdict(student)]
    rows = [
        {"model": model, "task": task, "item_id": f"i{i}", "correct": bool(value), "cluster": ""}
        for model, answers in (
            ("base", BASE),
            ("tuned", TUNED),
            (student_items("base", student.role), BASE),
            (student_items("tuned", student.role), OTHER),
        )
        for task, values in answers.items()
        for i, value in enumerate(values)
    ]
    write_table(run / "items.parquet", rows)
    text = render_show(run)
    table = text[text.index("All models") :].splitlines()
    cells = [re.split(r"  +", line.strip()) for line in table[1:6]]
    assert cells[0] == ["column", "target", "small"]
    assert cells[1] == ["asked", "tuned", "75.0 ± 25.0", "50.0 ± 28.9"]
    assert cells[2] == ["minus base", "+50.0 ± 28.9", "+25.0 ± 25.0"]
    assert cells[4] == ["minus base", "+25.0 ± 25.0", "-25.0 ± 25.0"]
    assert "in points: target +37.5, small +0.0" in text and "small: some/small, in finetune_small-1" in text
    assert "All models" not in render_show(make_run(tmp_path, "other", TUNED, BASE))
