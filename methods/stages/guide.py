"""The choice of a run's validation items: at random, to cover an embedding space, or along a tree of capabilities.

The strategies are in `evals`; here they get what they compare items by. The tree also needs the base target's answers
to all candidate items: a stage of its own, stored once and shared by every run that starts from the same target. Its
cost is the method's, so it is booked as such, unlike an evaluation's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals import capability_tree, coverage
from evals.data import ValidationItem
from evals.evaluate import ItemResult, evaluate_validation
from evals.suite import Benchmark
from harness import estimate
from harness.config import GuideConfig
from harness.costs.estimator import LAB_RATES, Estimator
from harness.costs.lengths import LAB_LENGTHS
from harness.costs.records import Before, Cost, Load, Part
from harness.costs.sizer import Sizer
from harness.errors import ConfigError
from harness.models.embedder import Embedder
from harness.models.known import known_shape
from harness.models.open import model_path
from harness.shards import ShardOutput
from harness.stage import Stage, StageRun
from harness.types import Usage, conversation_text
from methods.plan import Plan
from methods.stages.embedding import stage_embedder

EVAL_TOKENS = (1500, 1024)
"""Typical prompt of a test item with its demonstrations, and half of the longest answer that suites allow."""


def check_guide(plan: Plan) -> None:
    """Refuse a strategy that has nothing to choose, or whose questions have no verdict without a judge."""
    guide = plan.config.guide
    declared = plan.suite.validation_set(guide.set)
    if guide.strategy == "random":
        return
    if guide.n is None and declared.count is None:
        raise ConfigError(
            f"guide.strategy is '{guide.strategy}', but all items of validation set '{declared.name}' are taken, so "
            f"there is nothing to choose; say how many of them: --guide {declared.name}:N"
        )
    if guide.strategy == "capability_tree" and not _has_verdicts(plan.suite.benchmark(declared.like)):
        raise ConfigError(
            "guide.strategy=capability_tree needs to know which items the target answers rightly, and "
            f"'{declared.like}' is scored by a judge or measures a loss; use random or coverage"
        )


def guide_answers(plan: Plan) -> Stage:
    """The base target's answers to all items of the validation set, as `ItemResult`s."""
    c = plan.config
    settings = {
        "suite": plan.suite_identity,
        "set": c.guide.set,
        "target": plan.identity(c.models.target),
        "dtype": c.models.target.dtype,
        "chat": c.eval.apply_chat_template,
    }

    def work(run: StageRun) -> Mapping[str, Any]:
        started = time.perf_counter()
        path = model_path(c.models.target, plan.world)
        items = evaluate_validation(
            path,
            plan.suite,
            c.guide.set,
            plan.data,
            batch_size=c.runtime.batch_size,
            apply_chat_template=c.eval.apply_chat_template,
            dtype=c.models.target.dtype,
            progress=lambda label, done, total: run.observer.progress(run.stage.name, done, total, label),
        )
        seconds = time.perf_counter() - started
        folder = Path(path)
        shape = estimate.shape_from_folder(folder) if folder.is_dir() else known_shape(str(path))
        tokens = sum(item.tokens for item in items)
        flops = estimate.forward_flops(shape, tokens) if shape else 0.0
        usage = [
            Usage(
                role="target",
                model="evaluate_guide",
                prompt_tokens=tokens,
                completion_tokens=0,
                calls=len(items),
                seconds=seconds,
                flops=flops,
            )
        ]
        run.write(0, ShardOutput(items, usage=usage, rows_in=len(items)), seconds)
        return {"correct": sum(item.correct is True for item in items), "of": len(items)}

    def cost(e: Estimator, before: Before) -> Cost | None:
        count = candidate_items(plan)
        if count is None:
            return None
        note = "validation items, to choose among"
        return e.read_by_target(count, count * e.test_prompt, LAB_RATES.tested * count, note)

    return Stage(
        name="evaluate_guide",
        version=5,
        settings=settings,
        inputs=(),
        work=work,
        kind="guide_answers",
        estimate=cost,
        loads=lambda sizer: Load("answering validation items", tuple(answering(sizer))),
    )


def candidate_items(plan: Plan) -> int | None:
    """Items of the validation set before any is chosen; None where their number is not declared."""
    declared = plan.suite.validation_set(plan.config.guide.set).rows.expected_count
    return declared or (plan.config.lab.validation_items if plan.config.lab else None)


def guide_items(plan: Plan) -> int | None:
    """Validation items that guide; None where their number is not declared."""
    return plan.config.guide.n or plan.suite.validation_set(plan.config.guide.set).count or candidate_items(plan)


def answering(sizer: Sizer) -> list[Part]:
    """The target answering items of a suite: prompts with demonstrations and half of the longest answer."""
    lab = sizer.config.suite == "lab"
    prompt, answer = (LAB_LENGTHS.writer_prompt, LAB_LENGTHS.pair) if lab else EVAL_TOKENS
    return sizer.tests(prompt, answer)


def _has_verdicts(benchmark: Benchmark) -> bool:
    """Whether an answer to one of its items is right or wrong, and evaluation says which."""
    return benchmark.scorer == "lm_eval" and benchmark.metric != "loss"


def guide_choice(run: StageRun, plan: Plan) -> GuideChoice | None:
    """The run's way of choosing, ready to use in a stage whose input is `guide_answers` where a tree needs it."""
    guide = plan.config.guide
    if guide.strategy == "random":
        return None
    answers = run.records("evaluate_guide", ItemResult) if guide.strategy == "capability_tree" else []
    return GuideChoice(guide, stage_embedder(run, plan.config.models.embedder), answers)


class GuideChoice:
    """Chooses validation items by a strategy other than chance, and keeps what it saw: `facts`, `table`."""

    def __init__(self, guide: GuideConfig, embedder: Embedder, answers: Sequence[ItemResult]) -> None:
        self._guide, self._embedder = guide, embedder
        self._correct = {item.item_id: item.correct is True for item in answers}
        self.facts: dict[str, Any] = {"strategy": guide.strategy}
        self.table: list[capability_tree.Capability] = []

    def __call__(self, items: Sequence[ValidationItem], n: int) -> list[ValidationItem]:
        """`n` of the items, compared by the embeddings of question and answer."""
        texts = [conversation_text(item.messages) for item in items]
        vectors = self._embedder.embed(texts, ids=[item.id for item in items])
        if self._guide.strategy == "capability_tree":
            chosen, self.table = capability_tree.choose(vectors, [self._correct[item.id] for item in items], n)
            self.facts["capabilities"] = len(self.table)
        elif self._guide.coverage == "k_center":
            chosen = coverage.k_center(vectors, n)
        else:
            chosen = coverage.facility_location(vectors, n)
        nearest = coverage.nearest_cosines(vectors, chosen)
        self.facts |= {
            "embedder": self._embedder.identity,
            "embedder_truncated": self._embedder.truncated,
            "candidates": len(items),
            "mean_nearest_cosine": round(float(nearest.mean()), 4),
            "least_nearest_cosine": round(float(nearest.min()), 4),
        }
        return [items[i] for i in chosen]
