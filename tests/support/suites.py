"""Suites of one column, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evals.catalogue import load_suite
from evals.suite import Suite


def suite_maker(folder: Path) -> Callable[..., Suite]:
    """What builds a one-column suite from a template and rows {id, question, choices, answer, group}."""

    def build(template: dict[str, Any], rows: int = 6, **extra: Any) -> Suite:
        items = [
            {
                "id": n,
                "question": f"Question {n}?",
                "choices": ["yes", "no", "maybe"][: 2 + n % 2],
                "answer": n % 2,
                "group": n // 2,
            }
            for n in range(rows)
        ]
        (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
        columns = {name: name for name in items[0]}
        source = {"sources": [{"file": "items.jsonl", "fields": columns, "answer_form": "index"}]}
        if extra.pop("with_pool", False):
            shots = [{**item, "id": f"p{n}", "question": f"Practice {n}?"} for n, item in enumerate(items)]
            (folder / "pool.jsonl").write_text("\n".join(map(json.dumps, shots)))
            extra["pool"] = {"sources": [{"file": "pool.jsonl", "fields": columns, "answer_form": "index"}]}
        column = {"id": "exam", "rows": source, "template": template, "contamination": ["question"], **extra}
        path = folder / "suite.yaml"
        path.write_text(json.dumps({"name": "t", "description": "t", "benchmarks": [column]}))  # JSON is YAML
        return load_suite(path)

    return build
