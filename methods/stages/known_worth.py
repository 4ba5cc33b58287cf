"""Stages that measure signals on pairs of known worth: the lab's pool, and what fine-tuning on a part of it yields.

The pool and the first pairs are worded by the lab, so that no writer or generator comes in between; warm-up, scoring
and fine-tuning are the stages and the recipe of every run.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.data import Item, load_items
from evals.evaluate import evaluate
from evals.render import render
from evals.suite import Benchmark
from harness.models.open import model_path
from harness.shards import ShardOutput
from harness.stage import Stage, StageRun
from harness.training.sft import finetune
from harness.types import Message, Sample, derive_seed, stable_hash
from methods.plan import Plan
from methods.stages.target import sft_recipe

VERSION = 1


@dataclass(frozen=True, slots=True)
class Worth:
    """One pair of the pool: what it is by construction. A signal never sees this."""

    item_id: str
    kind: str
    question_type: str


@dataclass(frozen=True, slots=True)
class Realised:
    """What a target is worth after fine-tuning on some pairs: accuracy and mean loss of the right answer on a column.

    `loss` is in nats per token, averaged within each item first. `pairs` 0 is the target before any fine-tuning.
    """

    pairs: int
    accuracy: float
    loss: float


def pool_stage(plan: Plan, per_cell: int) -> Stage:
    """The world's candidate pairs as main table, their kinds as side table `worth`."""

    def work(run: StageRun) -> Mapping[str, Any]:
        from harness.lab.pool import candidates
        from harness.lab.world import World

        pool = candidates(World(plan.world or 0), per_cell)
        worth = [Worth(c.sample.id, c.kind, c.question_type) for c in pool]
        run.write(0, ShardOutput([c.sample for c in pool], tables={"worth": worth}), 0.0)
        return {}

    return Stage("pool", VERSION, {"world": plan.world, "per_cell": per_cell}, (), work)


def first_stage(plan: Plan, count: int) -> Stage:
    """The pairs that the target is warmed up on, in place of a run's stage `initial`."""

    def work(run: StageRun) -> Mapping[str, Any]:
        from harness.lab.pool import first_pairs
        from harness.lab.world import World

        run.write(0, ShardOutput(first_pairs(World(plan.world or 0), count, plan.config.synthesis_seed)), 0.0)
        return {}

    settings = {"world": plan.world, "count": count, "seed": plan.config.synthesis_seed, "worded by": "lab"}
    return Stage("initial", VERSION, settings, (), work)


def realised_stage(plan: Plan, pool: Stage, ids: Sequence[str], column: str) -> Stage:
    """The base target fine-tuned on the pairs `ids` of the pool by the run's own recipe, and measured on `column`.

    Without ids the target is measured as it is. The row is a `Realised`; the model is not kept.
    """
    c = plan.config
    settings: dict[str, Any] = {
        "target": plan.identity(c.models.target),
        "sft": c.sft.model_dump(mode="json", exclude={"micro_batch"}),
        "seed": c.tuning_seed,
        "pairs": stable_hash(list(ids)),
        "column": column,
        "suite": plan.identity_of(plan.tests),
    }

    def work(run: StageRun) -> Mapping[str, Any]:
        started = time.perf_counter()
        path, usage = model_path(c.models.target, plan.world), []
        if ids:
            by_id = {s.id: s for s in run.records("pool", Sample)}
            tuned = finetune(
                path,
                [by_id[i] for i in ids],
                sft_recipe(c),
                seed=derive_seed(run.seed, c.tuning_seed),
                folder=run.folder,
                output="model",
                dtype=c.models.target.dtype,
                revision=c.models.target.revision,
            )
            path, usage = run.folder / "model", [tuned.usage]
        found = evaluate(path, plan.tests, plan.data, batch_size=c.runtime.batch_size, columns=[column])
        row = Realised(len(ids), found.columns[0].accuracy or 0.0, _answer_loss(path, plan, column))
        shutil.rmtree(run.folder / "model", ignore_errors=True)
        run.write(0, ShardOutput([row], usage=usage, rows_in=len(ids)), time.perf_counter() - started)
        return {}

    return Stage("realised", VERSION, settings, (pool,), work)


def _answer_loss(path: str | Path, plan: Plan, column: str) -> float:
    """Mean over the column's items of the mean loss of the right answer's tokens, as the chat that the test asks."""
    from harness.models.transformers_backend import load_causal_lm
    from harness.training.chat import encode
    from harness.training.loss import completion_losses

    benchmark = plan.tests.benchmark(column)
    model, tokenizer = load_causal_lm(path, plan.config.models.target.dtype)
    chats = [_chat(benchmark, item) for item in load_items(benchmark, plan.data, plan.tests.folder)]
    losses = completion_losses(model, [encode(tokenizer, m, plan.config.sft.max_length) for m in chats])
    return math.fsum(losses) / len(losses)


def _chat(benchmark: Benchmark, item: Item) -> tuple[Message, ...]:
    question = render(benchmark.template.prompt, item.fields, item.choices, item.gold)
    return (Message("user", question), Message("assistant", str(item.fields["answer"])))
