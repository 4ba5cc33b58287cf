"""Scores of a model on a suite, through lm-eval as a library.

Nothing is fetched or scanned: tasks are built from the declaration, the model is loaded once, and greedy decoding
and fixed demonstrations make two runs equal. Every item leaves a row, because paired tests need items and not
means. Standard errors are ours: closed form, and robust to clusters where the benchmark declares them.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from evals.data import Item, load_items, load_pool, source_label
from evals.model import load_model
from evals.read import DataContext
from evals.render import render_template
from evals.suite import Benchmark, Suite
from evals.tasks import INVALID, build_task
from harness.errors import InputError, StageError
from harness.screen import ProgressCallback
from harness.statistics import standard_error


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """One column. `score` and `stderr` are None where nothing was measured; `reason` then says why.

    The score is an accuracy (0 to 1), or with metric `loss` the mean over items of the reference answer's loss a token,
    in nats. `n` items were there, `n_scored` have a verdict; `unparsed` of these had no answer to extract and count as
    wrong; the prompt of `truncated` was cut from the left to fit the model's context. `probability` is the items' mean
    probability of the right choice; None where there are no choices.
    """

    column: str
    metric: str
    n: int
    n_scored: int
    score: float | None
    stderr: float | None
    status: Literal["measured", "not measured"]
    reason: str = ""
    unparsed: int = 0
    truncated: int = 0
    source: str = ""
    notes: tuple[str, ...] = ()
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One item's answer: what was said, what was read from it, whether it is right, and what it scores.

    `value` is 1 or 0, or the loss a token, whose items are neither right nor wrong (`correct` is None). For multiple
    choice `response` is the preferred continuation, and `probability` that of the right one among the choices (see
    `right_probability`). `tokens` counts prompt and response. `cluster` is empty where items are independent.
    """

    task: str
    item_id: str
    item_hash: str
    prompt_hash: str
    response: str
    answer: str
    correct: bool | None
    value: float
    tokens: int
    cluster: str = ""
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's columns, in suite order, and its items."""

    columns: tuple[ColumnResult, ...]
    items: tuple[ItemResult, ...]


def evaluate(
    model_path: str | Path,
    suite: Suite,
    context: DataContext,
    *,
    batch_size: int = 64,
    limit: int | None = None,
    seed: int = 0,
    apply_chat_template: bool = True,
    dtype: str = "auto",
    columns: Sequence[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Evaluate the model in the folder `model_path` (or on the hub) on `suite`, or on some of its `columns`.

    `dtype` is the type that the model is computed in (by default the one that its folder names, which for a fine-tuned
    model is that of its weights). `limit` keeps the first items of each benchmark; `progress` is called with a
    column's name, the number of columns done and their total. Raises `InputError` and `PrerequisiteError` for data,
    model or template that are not there. All data are read before the model is loaded.
    """
    chosen = suite.benchmarks if columns is None else tuple(suite.benchmark(name) for name in columns)
    if limit is not None:
        if limit < 1:
            raise InputError(f"The limit of evaluation is {limit}; give at least 1 item per benchmark, or no limit.")
        context = dataclasses.replace(context, limit=limit)
    runnable = [b for b in chosen if b.scorer == "lm_eval"]
    tests = {b.id: load_items(b, context, suite.folder) for b in runnable}
    pools = {b.id: load_pool(b, context, suite.folder) if b.shots else [] for b in runnable}
    for b in runnable:
        _check_pool(b, tests[b.id], pools[b.id])
        _check_references(b, tests[b.id])
    model = None
    if runnable:
        with _quiet():
            model = load_model(str(model_path), batch_size, apply_chat_template, dtype)
    results: list[ColumnResult] = []
    rows: list[ItemResult] = []
    for done, b in enumerate(chosen):
        if progress:
            progress(b.id, done, len(chosen))
        if b.scorer != "lm_eval":
            results.append(_unmeasured(b))
            continue
        column, items = _column(model, b, tests[b.id], pools[b.id], seed, apply_chat_template)
        results.append(dataclasses.replace(column, source=source_label(b, context, suite.folder)))
        rows += items
    return Evaluation(tuple(results), tuple(rows))


def evaluate_validation(
    model_path: str | Path,
    suite: Suite,
    set_name: str | None,
    context: DataContext,
    *,
    batch_size: int = 64,
    apply_chat_template: bool = True,
    dtype: str = "auto",
    progress: ProgressCallback | None = None,
) -> tuple[ItemResult, ...]:
    """The model's answers to all items of a validation set, asked as the benchmark asks that the set is like.

    There are no demonstrations: they may come from the very split that the validation set is.
    """
    declared = suite.validation_set(set_name)
    like = suite.benchmark(declared.like)
    asked = dataclasses.replace(like, rows=declared.rows, shots=0, pool=None, keys={}, cluster_key=None)
    alone = dataclasses.replace(suite, benchmarks=(asked,))
    context = dataclasses.replace(context, test_items=context.validation_items, limit=None)
    return evaluate(
        model_path,
        alone,
        context,
        batch_size=batch_size,
        apply_chat_template=apply_chat_template,
        dtype=dtype,
        progress=progress,
    ).items


def _check_pool(b: Benchmark, items: Sequence[Item], pool: Sequence[Item]) -> None:
    """Refuse a pool that is too small, or whose demonstrations are test items: they would show their own answer."""
    if b.shots > len(pool):
        raise InputError(
            f"Benchmark '{b.id}' wants {b.shots} demonstrations and its pool has {len(pool)}; lower 'shots' or add "
            "some."
        )
    asked = {item.item_hash: item.id for item in items}
    for shown in pool[: b.shots]:
        if shown.item_hash in asked:
            raise InputError(
                f"Benchmark '{b.id}': the demonstration '{shown.id}' is the test item '{asked[shown.item_hash]}'; give "
                "a 'pool' that shares nothing with the test."
            )


def _check_references(b: Benchmark, items: Sequence[Item]) -> None:
    """Refuse items without a text whose likelihood could be asked for."""
    if b.template.output != "loglikelihood":
        return
    empty = [i.id for i in items if not render_template(b.template.reference, i.fields, i.choices, i.gold).strip()]
    if empty:
        raise InputError(
            f"Benchmark '{b.id}': the reference answer of item '{empty[0]}' is empty (so for {len(empty)} of "
            f"{len(items)} items); filter them out with 'where', or name another field in 'reference'."
        )


def _unmeasured(b: Benchmark) -> ColumnResult:
    if b.scorer == "none":
        return ColumnResult(
            column=b.id,
            metric=b.metric,
            n=0,
            n_scored=0,
            score=None,
            stderr=None,
            status="not measured",
            reason="declared as test text alone",
        )
    access = ", and its data are gated" if b.gated else ""
    reason = f"answers are scored by a judge model, which evaluation does not run{access}"
    return ColumnResult(
        column=b.id, metric=b.metric, n=0, n_scored=0, score=None, stderr=None, status="not measured", reason=reason
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval without its log lines, its bar for building requests, and its survey of the machine; errors still raise.

    The survey starts a dozen processes for every column, which costs more than a tiny model's answers, and asks for the
    commit of whatever folder one stands in; a run's manifest records versions, hardware and the commit itself.
    """
    import lm_eval.api.task as task_module
    import lm_eval.evaluator as evaluator_module

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, task_module.tqdm
    survey, commit = evaluator_module.add_env_info, evaluator_module.get_git_commit_hash
    logger.setLevel(logging.ERROR)
    task_module.tqdm = partial(bar, disable=True)
    evaluator_module.add_env_info, evaluator_module.get_git_commit_hash = lambda results: None, lambda: None
    try:
        yield
    finally:
        logger.setLevel(level)
        task_module.tqdm = bar
        evaluator_module.add_env_info, evaluator_module.get_git_commit_hash = survey, commit


def _column(
    model: Any, b: Benchmark, items: Sequence[Item], pool: Sequence[Item], seed: int, chat: bool
) -> tuple[ColumnResult, list[ItemResult]]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    notes: list[str] = []
    max_tokens = b.template.max_tokens
    if b.template.output == "generate_until" and max_tokens > model.max_length // 2:
        max_tokens = model.max_length // 2
        notes.append(f"at most {max_tokens} tokens are generated, not {b.template.max_tokens}: half of the context")
    with _quiet():
        output = simple_evaluate(
            model=model,
            tasks=[build_task(b, items, pool, max_tokens)],
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    samples = sorted(output["samples"][b.id], key=lambda s: int(s["doc_id"]))
    budget = model.max_length - (max_tokens if b.template.output == "generate_until" else 0)
    rows: list[ItemResult] = []
    truncated = 0
    for item, sample in zip(items, samples, strict=True):
        row, needed = _row(model, b, item, sample)
        truncated += needed > budget
        rows.append(row)
    unparsed = sum(row.answer == "" for row in rows)
    score = sum(row.value for row in rows) / len(rows)
    error = None
    if math.isfinite(score):
        error = standard_error([row.value for row in rows], [row.cluster for row in rows])
    known = [row.probability for row in rows if row.probability is not None]
    column = ColumnResult(
        column=b.id,
        metric=b.metric,
        n=len(items),
        n_scored=len(rows),
        score=score,
        stderr=error,
        status="measured",
        unparsed=unparsed,
        truncated=truncated,
        notes=tuple(notes),
        probability=math.fsum(known) / len(rows) if len(known) == len(rows) else None,
    )
    return column, rows


def _row(model: Any, b: Benchmark, item: Item, sample: Mapping[str, Any]) -> tuple[ItemResult, int]:
    """The row of one logged sample, and how many context tokens it needed before any truncation."""
    assert sample["doc"]["item_id"] == item.id
    prompt = sample["arguments"][0][0]
    prompt_tokens = len(model.tok_encode(prompt))
    if b.template.output == "generate_until":
        response, found = sample["resps"][0][0], sample["filtered_resps"][0]
        answer = "" if found == INVALID else found
        response_tokens, needed = len(model.tok_encode(response, add_special_tokens=False)), prompt_tokens
        value, probability = float(sample[b.metric]), None
    else:
        best, value, probability, lengths = _likelihoods(model, b, item, sample)
        response, answer = sample["arguments"][best][1], sample["doc"]["continuations"][best]
        response_tokens, needed = lengths[best], prompt_tokens + max(lengths)
    row = ItemResult(
        task=b.id,
        item_id=item.id,
        item_hash=item.item_hash,
        prompt_hash=sample["prompt_hash"],
        response=response,
        answer=answer,
        correct=None if b.metric == "loss" else value == 1.0,
        value=value,
        tokens=prompt_tokens + response_tokens,
        cluster=item.cluster,
        probability=probability,
    )
    return row, needed


def right_probability(scores: Sequence[float], right: int) -> float:
    """The probability of the choice `right` where one of the choices is given: softmax of their log-likelihoods.

    `scores` are the sums over each choice's tokens, in nats. It has no steps, where an accuracy moves by whole items.
    """
    most = max(scores)
    return math.exp(scores[right] - most) / math.fsum(math.exp(score - most) for score in scores)


def _likelihoods(
    model: Any, b: Benchmark, item: Item, sample: Mapping[str, Any]
) -> tuple[int, float, float | None, list[int]]:
    """The preferred choice, the item's value, the right choice's probability, and every choice's tokens.

    A choice's weight is its length in the metric's unit; the loss is that of the only choice, a token.
    """
    scores = [float(response[0]) for response in sample["filtered_resps"]]
    if any(map(math.isnan, scores)):
        raise StageError(
            f"The model gives no number as the likelihood of an answer to item '{item.id}' of '{b.id}'; its "
            "weights are broken, so look at the fine-tuning's losses and lower its learning rate."
        )
    lengths = [len(model._encode_pair(*pair[:2])[1]) for pair in sample["arguments"]]
    if b.metric == "loss":
        return 0, -scores[0] / lengths[0], None, lengths
    choices = sample["doc"]["continuations"]
    probability = right_probability(scores, sample["doc"]["gold"]) if math.isfinite(max(scores)) else None
    units: dict[str, Callable[[int], int]] = {
        "acc": lambda i: 1,
        "acc_norm": lambda i: len(choices[i]),
        "acc_bytes": lambda i: len(choices[i].encode()),
        "acc_tokens": lambda i: lengths[i],
    }
    best = max(range(len(scores)), key=lambda i: scores[i] / units[b.metric](i))
    value = float(best == sample["doc"]["gold"]) if b.metric == "acc_tokens" else float(sample[b.metric])
    return best, value, probability, lengths
