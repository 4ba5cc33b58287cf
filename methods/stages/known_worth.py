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

from evals.data import load_items
from evals.evaluate import right_probability
from evals.render import render_template
from harness.costs.estimator import Estimator
from harness.costs.records import Before, Cost, Load
from harness.costs.sizer import no_models
from harness.errors import InputError
from harness.identity import identity
from harness.models.open import model_path
from harness.shards import ShardOutput
from harness.stage import Stage, StageRun
from harness.training.chat import Encoded, encode
from harness.training.sft import finetune
from harness.types import Json, Message, Sample, derive_seed, stable_hash
from methods.plan import Plan
from methods.stages.target import finetuning, sft_recipe

VERSION = 2


@dataclass(frozen=True, slots=True)
class Worth:
    """One pair of the pool: what it is by construction. A signal never sees this."""

    item_id: str
    kind: str
    question_type: str


@dataclass(frozen=True, slots=True)
class Realised:
    """The worth of a target after fine-tuning on some pairs: accuracy and mean loss of the right answer on a column.

    `loss` is in nats per token, averaged within each item first; `probability` is the mean probability of the right
    choice, None in results from before it was measured. `pairs` 0 is the target before any fine-tuning.
    """

    pairs: int
    accuracy: float
    loss: float
    probability: float | None = None


def pool_stage(plan: Plan, per_cell: int) -> Stage:
    """The world's candidate pairs as main table, their kinds as side table `worth`."""

    def work(run: StageRun) -> Mapping[str, Any]:
        from harness.lab.pool import candidates
        from harness.lab.world import World

        pool = candidates(World.of(plan.world), per_cell)
        worth = [Worth(c.sample.id, c.kind, c.question_type) for c in pool]
        run.write(0, ShardOutput([c.sample for c in pool], tables={"worth": worth}), 0.0)
        return {}

    return Stage(
        name="pool",
        version=VERSION,
        settings={"world": _key(plan), "per_cell": per_cell},
        inputs=(),
        work=work,
        kind="measurement",
        estimate=lambda e, before: Cost(rows=None, out=None, note="worded by the lab"),
        loads=no_models,
    )


def _key(plan: Plan) -> Json:
    return plan.world.key if plan.world else None


def first_stage(plan: Plan, count: int) -> Stage:
    """The pairs that the target is warmed up on, in place of a run's stage `initial`."""

    def work(run: StageRun) -> Mapping[str, Any]:
        from harness.lab.pool import first_pairs
        from harness.lab.world import World

        run.write(0, ShardOutput(first_pairs(World.of(plan.world), count, plan.config.synthesis_seed)), 0.0)
        return {}

    settings = {"world": _key(plan), "count": count, "seed": plan.config.synthesis_seed, "worded by": "lab"}
    return Stage(
        name="initial",
        version=VERSION,
        settings=settings,
        inputs=(),
        work=work,
        kind="pairs",
        estimate=lambda e, before: Cost(rows=count, out=count, note="worded by the lab"),
        loads=no_models,
    )


@dataclass(frozen=True, slots=True)
class Exam:
    """A multiple-choice column in tokens: for every item its choices as completions of its question, and the right one.

    `identity` says which items they are.
    """

    column: str
    identity: Json
    choices: tuple[tuple[Encoded, ...], ...]
    right: tuple[int, ...]


def load_exam(plan: Plan, column: str) -> Exam:
    """The tokens of a column of the suite that the plan is tested on, as lm-eval would make them.

    Tokenised once and used for every subset. The turn's end is no part of a choice, as in lm-eval's likelihoods.
    Raises `InputError` for a column whose items have no choices.
    """
    from harness.models.tokenizers import load_tokenizer

    benchmark = plan.tests.benchmark(column)
    target = plan.config.models.target
    tokenizer = load_tokenizer(model_path(target, plan.world), target.revision)
    choices, right = [], []
    for item in load_items(benchmark, plan.data, plan.tests.folder):
        if item.gold is None:
            raise InputError(f"item '{item.id}' of '{column}' has no choices; subsets are measured on choices")
        question = Message("user", render_template(benchmark.template.prompt, item.fields, item.choices, item.gold))
        answered = [[question, Message("assistant", choice)] for choice in item.choices]
        choices.append(tuple(encode(tokenizer, a, target.max_length, closed=False) for a in answered))
        right.append(item.gold)
    return Exam(column, plan.identity_of(plan.tests), tuple(choices), tuple(right))


def realised_stage(plan: Plan, pool: Stage, ids: Sequence[str], exam: Exam) -> Stage:
    """The base target fine-tuned on the pairs `ids` of the pool by the run's own recipe, and examined.

    Without ids the target is examined as it is. The row is a `Realised`; the model is not kept.
    """
    c = plan.config
    settings: dict[str, Any] = {
        "target": plan.identity(c.models.target),
        "sft": identity(c.sft, exclude={"micro_batch"}),
        "seed": c.tuning_seed,
        "pairs": stable_hash(list(ids)),
        "exam": [exam.column, exam.identity],
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
        row = exam_results(path, exam, len(ids), c.runtime.scoring.batch_tokens, c.models.target.dtype)
        shutil.rmtree(run.folder / "model", ignore_errors=True)
        run.write(0, ShardOutput([row], usage=usage, rows_in=len(ids)), time.perf_counter() - started)
        return {}

    def estimate(e: Estimator, before: Before) -> Cost:
        return e.trained(len(ids), c.sft.epochs, f"trained on, then examined on {len(exam.right)} items")

    return Stage(
        name="realised",
        version=VERSION,
        settings=settings,
        inputs=(pool,),
        work=work,
        kind="measurement",
        estimate=estimate,
        loads=lambda sizer: Load("fine-tuning", tuple(finetuning(sizer))),
    )


def exam_results(path: str | Path, exam: Exam, pairs: int, batch_tokens: int, dtype: str = "float32") -> Realised:
    """The worth of the model at `path` in the exam, in forward passes of at most `batch_tokens`.

    An item is right when its right choice has the highest likelihood, which is lm-eval's `acc` (ties go to the first).
    All are read off the same likelihoods, since accuracy alone moves in ninths: a rule is known or it is not.
    """
    from harness.models.transformers_backend import load_causal_lm
    from methods.signals.target.losses import ReferenceLoss

    model, tokenizer = load_causal_lm(path, dtype)
    measure = ReferenceLoss(model.eval(), tokenizer.pad_token_id, batch_tokens)
    losses = iter(measure.plain([c for item in exam.choices for c in item]).tolist())
    hits, right_losses, probabilities = 0, [], []
    for choices, gold in zip(exam.choices, exam.right, strict=True):
        means = [next(losses) for _ in choices]
        totals = [mean * c.completion_length for mean, c in zip(means, choices, strict=True)]
        hits += totals.index(min(totals)) == gold
        right_losses.append(means[gold])
        probabilities.append(right_probability([-total for total in totals], gold))
    count = len(exam.right)
    return Realised(
        pairs=pairs,
        accuracy=hits / count,
        loss=math.fsum(right_losses) / count,
        probability=math.fsum(probabilities) / count,
    )
