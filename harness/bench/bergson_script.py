"""Scores samples with bergson. `harness.bench.bergson` runs it in another environment: it imports nothing of ours.

Given a folder with `base/` (a model), `adapter/` (its LoRA adapter) and `task.json`, it writes `result.json`. It takes
bergson's own way to one score per sample: unit gradients of the validation items averaged into one direction, then
samples scored as they stream by, no projection and nothing on disk (`build --aggregation mean --unit_normalize` and
`score --unit_normalize`, through the classes that both use). Only the scoring is on the clock.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from bergson import CollectorComputer, GradientProcessor, IndexConfig, InMemoryCollector, PreprocessConfig, Scorer
from bergson.data import allocate_batches
from bergson.score.score_writer import InMemorySequenceScoreWriter
from bergson.utils.worker_utils import setup_model_and_peft
from datasets import Dataset


def data_set(items: list[dict[str, Any]]) -> Dataset:
    """Token ids, and labels on the completion alone."""
    return Dataset.from_dict(
        {
            "input_ids": [item["ids"] for item in items],
            "labels": [[-100] * item["prompt"] + item["ids"][item["prompt"] :] for item in items],
            "length": [len(item["ids"]) for item in items],
        }
    )


def collect(model: Any, modules: set[str], items: Dataset, config: IndexConfig, **how: Any) -> tuple[Any, float]:
    """One pass over `items` with bergson's hooks: the collector afterwards, and the seconds of the pass."""
    collector = InMemoryCollector(
        model=model.base_model,
        processor=GradientProcessor(projection_dim=None),
        target_modules=modules,
        data=items,
        cfg=config,
        **how,
    )
    batches = allocate_batches(items["length"][:], config.token_batch_size, max_batch_size=config.max_batch_size)
    computer = CollectorComputer(model=model, data=items, collector=collector, batches=batches, cfg=config)
    started = time.perf_counter()
    computer.run_with_collector_hooks("gradients")
    return collector, time.perf_counter() - started


def main(folder: Path) -> None:
    """Do the task in `folder`."""
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    config = IndexConfig(
        run_path=str(folder / "index"),
        model=str(folder / "adapter"),
        precision=task["precision"],
        projection_dim=0,
        loss_reduction="mean",
        token_batch_size=task["batch_tokens"],
        max_batch_size=task["batch_size"],
    )
    config.partial_run_path.mkdir(parents=True)  # it leaves a count of tokens there
    model, modules = setup_model_and_peft(config)
    if not modules:
        raise RuntimeError("bergson found no LoRA modules in the adapter")
    samples, validation = data_set(task["samples"]), data_set(task["validation"])
    unit_mean = PreprocessConfig(unit_normalize=True, aggregation="mean")
    direction = collect(model, modules, validation, config, preprocess_cfg=unit_mean)[0].gradients
    seconds, scores = [], torch.empty(0)
    for _ in range(task["turns"] + 1):
        scorer = Scorer(
            query_grads=direction,
            modules=list(direction),
            writer=InMemorySequenceScoreWriter(len(samples), 1),
            device=model.device,
            dtype=torch.float32,
            unit_normalize=True,
        )
        collector, taken = collect(model, modules, samples, config, scorer=scorer)
        seconds.append(taken)
        scores = collector.scores[:, 0]
    result = {
        "torch": torch.__version__,
        "device": model.device.type,
        "seconds": seconds[1:],  # the first pass warms up
        "scores": scores.tolist(),
    }
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
