"""HellaSwag without examples: our column beside lm-eval's own task, item by item (`docs/benchmarks/hellaswag.md`).

    .venv/bin/python tests/benchmarks/hellaswag.py MODEL hellaswag_val.jsonl.gz --every 10

First the tokens of every request of all items are compared, ours against those of lm-eval's own model class, which
needs no model. Then our column is computed on every tenth item, and lm-eval's own task, by its own class, on the first
`--again` of these.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUITE = """
name: hellaswag
description: Which ending follows, by the likelihood of its text
benchmarks:
  - id: hellaswag
    rows:
      sources:
        - file: items.jsonl
          fields: {id: id, question: question, choices: endings, answer: label}
          answer_form: index_from_0
    template: {prompt: "{{ question }}"}
    metric: acc_norm
    contamination: [question]
    licence: MIT
"""


def rows_of_the_hub(path: Path) -> list[dict[str, Any]]:
    """Rows in the hub's form. `ctx` is divided where the second part is unfinished, as `ctx_a` and `ctx_b` are there.

    lm-eval writes that part with a capital letter.
    """
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            before, stop, after = row["ctx"].rpartition(". ")
            split = bool(stop) and after[:1].islower() and not after.rstrip().endswith((".", "?", "!"))
            rows.append(
                {
                    "id": row["id"],
                    "activity_label": row["activity_label"],
                    "ctx_a": before + "." if split else row["ctx"],
                    "ctx_b": after if split else "",
                    "endings": row["endings"],
                    "label": str(row["label"]),
                }
            )
    return rows


def own_task(rows: Sequence[dict[str, Any]]) -> Any:
    """lm-eval's own `hellaswag` over these rows."""
    import lm_eval.tasks
    import yaml
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks.hellaswag.utils import process_docs

    text = (Path(lm_eval.tasks.__file__).parent / "hellaswag" / "hellaswag.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text.replace("!function utils.process_docs", "null"))
    for name in ("tag", "dataset_path", "dataset_name", "training_split"):
        config.pop(name)
    table = Dataset.from_list([dict(row) for row in rows])
    config |= {"custom_dataset": lambda **_: {"validation": table}, "process_docs": process_docs}
    return ConfigurableTask(config=config)


def run(model: Any, task: Any) -> list[dict[str, Any]]:
    """The logged samples of a task, in the order of its items."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)
    found = simple_evaluate(model=model, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True)
    return sorted(found["samples"]["hellaswag"], key=lambda sample: int(sample["doc_id"]))


def asked(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Context and endings of every item, as lm-eval's task words them."""
    task = own_task(rows)
    docs = task.validation_docs()
    return [(task.doc_to_text(doc), [f" {ending}" for ending in task.doc_to_choice(doc)]) for doc in docs]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what differs, and both scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("items", type=Path)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--again", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args(arguments)

    from lm_eval.models.huggingface import HFLM

    from evals.catalogue import load_suite
    from evals.data import DataContext
    from evals.evaluate import evaluate
    from evals.model import load_model

    everything = rows_of_the_hub(options.items)
    ours = load_model(str(options.model), options.batch_size, False, "float32")
    theirs = HFLM(pretrained=str(options.model), batch_size=options.batch_size, dtype="float32", device="cpu")
    pairs = [(context, ending) for context, endings in asked(everything) for ending in endings]
    other = sum(ours._encode_pair(*pair) != tuple(map(list, theirs._encode_pair(*pair))) for pair in pairs)
    print(f"{len(everything):,} items, {len(pairs):,} requests: tokens differ in {other}", flush=True)

    rows = everything[:: options.every]
    with tempfile.TemporaryDirectory() as folder:
        items = [
            {"id": row["id"], "question": context, "endings": [e.strip() for e in endings], "label": int(row["label"])}
            for row, (context, endings) in zip(rows, asked(rows), strict=True)
        ]
        Path(folder, "items.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
        Path(folder, "suite.yaml").write_text(SUITE, encoding="utf-8")
        found = evaluate(
            options.model,
            load_suite(str(Path(folder, "suite.yaml"))),
            DataContext(),
            batch_size=options.batch_size,
            apply_chat_template=False,
            dtype="float32",
        )
    column = found.columns[0]
    assert column.score is not None
    print(f"our column: {column.n:,} items, acc_norm {column.score:.2%} ± {column.stderr:.2%}", flush=True)
    again = run(theirs, own_task(rows[: options.again]))
    same = sum(sample["acc_norm"] == item.value for sample, item in zip(again, found.items, strict=False))
    score = math.fsum(sample["acc_norm"] for sample in again) / len(again)
    print(f"lm-eval's own task: {len(again):,} of these items, acc_norm {score:.2%}; {same:,} verdicts equal ours")
    return 0 if other == 0 and same == len(again) else 1


if __name__ == "__main__":
    raise SystemExit(main())
