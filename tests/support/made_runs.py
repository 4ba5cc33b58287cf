"""Made-up run folders for the tests of screens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.record import ColumnScore, RunRecord, StageCost, StageCount
from harness.shards import write_table
from harness.statistics import standard_error

Answers = Mapping[str, Sequence[int]]


def scores(answers: Answers, guided: Sequence[str] = ()) -> list[ColumnScore]:
    return [
        ColumnScore(
            column=name,
            metric="accuracy",
            n=len(values),
            score=sum(values) / len(values) if values else None,
            stderr=standard_error([float(v) for v in values]),
            status="measured" if values else "not measured",
            reason="" if values else "no judge was named",
            guided=name in guided,
        )
        for name, values in answers.items()
    ]


COST = [
    StageCost(
        stage="initial",
        role="writer",
        model="lab:writer",
        prompt_tokens=18230,
        completion_tokens=9120,
        calls=12,
        seconds=4.2,
        flops=1e9,
    ),
    StageCost(
        stage="initial",
        role="generator",
        model="lab:generator",
        prompt_tokens=20110,
        completion_tokens=8040,
        calls=12,
        seconds=3.9,
        flops=1e9,
    ),
    StageCost(
        stage="grpo",
        role="writer",
        model="lab:writer",
        prompt_tokens=181230,
        completion_tokens=91200,
        calls=100,
        seconds=42.75,
        flops=1e10,
    ),
    StageCost(
        stage="sft",
        role="target",
        model="lab:target",
        prompt_tokens=20110,
        completion_tokens=0,
        calls=1,
        seconds=8.0,
        flops=1e9,
    ),
]
COUNTS = [
    StageCount(
        stage="seeds",
        identity="a1",
        rows_in=200,
        kept=192,
        rejected={"too short": 6, "duplicate": 2},
        seconds=0.4,
    ),
    StageCount(
        stage="initial",
        identity="b1",
        rows_in=192,
        kept=171,
        rejected={"malformed": 12, "answer in question": 9},
        seconds=12.5,
    ),
    StageCount(stage="grpo", identity="c1", rows_in=3200, kept=2700, rejected={"malformed": 500}, seconds=61.0),
    StageCount(stage="sft", identity="d1", rows_in=0, kept=0, rejected={}, seconds=8.4),
]


def make_record(name: str, tuned: Answers, base: Answers, **changes: object) -> RunRecord:
    guided = list(changes.get("guided_columns", []))  # type: ignore[call-overload]
    values: dict[str, object] = {
        "run": name,
        "method": "optimsyn",
        "driver": "grpo",
        "signal": "influence",
        "target": "nano",
        "suite": "lab",
        "scale": "full",
        "lab_world": 7,
        "synth_seed": 0,
        "sft_seed": 0,
        "match": "samples",
        "budget": 120.0,
        "reads_validation": True,
        "guided_columns": guided,
        "columns": scores(tuned, guided),
        "base_columns": scores(base),
        "cost": COST,
        "counts": COUNTS,
        "validity_flags": [],
        "data_metrics": {"mean_answer_words": 4.25, "question_types": {"essay": 3}},
    }
    values.update(changes)
    return RunRecord(**values)  # type: ignore[arg-type]


def make_run(runs: Path, name: str, tuned: Answers, base: Answers, *, items: bool = True, **changes: object) -> Path:
    folder = runs / name
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "dataset.jsonl").write_text('{"messages": []}\n{"messages": []}\n')
    (folder / "README.md").write_text("# Data card\n")
    manifest = {"status": "finished", "created": f"2026-11-21T09:0{len(name) % 10}:00", "argv": ["harness", "run"]}
    (folder / "run.json").write_text(json.dumps(manifest))
    make_record(name, tuned, base, **changes).write(folder / "record.json")
    if items:
        write_table(
            folder / "items.parquet",
            [
                {"model": model, "task": task, "item_id": f"i{i}", "correct": bool(value), "cluster": ""}
                for model, answers in (("base", base), ("tuned", tuned))
                for task, values in answers.items()
                for i, value in enumerate(values)
            ],
        )
    return folder


def unfinished_run(runs: Path, name: str) -> Path:
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "running", "created": "2026-11-21T10:00:00"}))
    (folder / "events.jsonl").write_text('{"event": "stage_started", "stage": "grpo"}\n{"event": "sha')
    return folder
