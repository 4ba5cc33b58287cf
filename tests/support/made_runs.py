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
            name,
            "accuracy",
            len(values),
            sum(values) / len(values) if values else None,
            standard_error([float(v) for v in values]),
            "measured" if values else "not measured",
            "" if values else "no judge was named",
            name in guided,
        )
        for name, values in answers.items()
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
        "cost": [
            StageCost("initial", "writer", "lab:writer", 18230, 9120, 12, 4.2, 1e9),
            StageCost("initial", "generator", "lab:generator", 20110, 8040, 12, 3.9, 1e9),
            StageCost("grpo", "writer", "lab:writer", 181230, 91200, 100, 42.75, 1e10),
            StageCost("sft", "target", "lab:target", 20110, 0, 1, 8.0, 1e9),
        ],
        "counts": [
            StageCount("seeds", "a1", 200, 192, {"too short": 6, "duplicate": 2}, 0.4),
            StageCount("initial", "b1", 192, 171, {"malformed": 12, "answer in question": 9}, 12.5),
            StageCount("grpo", "c1", 3200, 2700, {"malformed": 500}, 61.0),
            StageCount("sft", "d1", 0, 0, {}, 8.4),
        ],
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
