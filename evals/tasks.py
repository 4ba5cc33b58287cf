"""A declared benchmark as an lm-eval task.

Prompts are rendered by us and handed over as finished texts, so that a test, its demonstrations and a validation
item are worded by one renderer; lm-eval contributes what it is good at: batching, log-likelihoods, stopping,
filters and metrics. Documents travel in memory, never through a hub or a cache. Demonstrations are always the
first of the pool, because the default sampler makes a prompt depend on how many documents came before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from evals.data import Item
from evals.render import letters, render_template
from evals.suite import Benchmark

if TYPE_CHECKING:
    from datasets import Dataset

INVALID = "[invalid]"
"""What lm-eval's regex filter returns for a response in which it finds no answer."""


def build_task(benchmark: Benchmark, items: Sequence[Item], pool: Sequence[Item], max_tokens: int) -> Any:
    """An `lm_eval.api.task.ConfigurableTask` over `items`, with the first `shots` of `pool` as demonstrations."""
    from lm_eval.api.task import ConfigurableTask

    template = benchmark.template
    config: dict[str, Any] = {
        "task": benchmark.id,
        "custom_dataset": partial(_tables, benchmark, tuple(items), tuple(pool)),
        "test_split": "test",
        # The one answer whose likelihood is asked for is a choice without others: encoded as choices are.
        "output_type": "generate_until" if template.output == "generate_until" else "multiple_choice",
        "doc_to_text": "prompt",
        "num_fewshot": benchmark.shots,
        "metric_list": [{"metric": _metric(benchmark), "aggregation": "mean", "higher_is_better": True}],
    }
    if pool:
        config |= {"fewshot_split": "pool", "fewshot_config": {"sampler": "first_n"}}
    if template.output != "generate_until":
        config |= {"doc_to_target": "gold", "doc_to_choice": "continuations"}
        return ConfigurableTask(config=config)
    config["doc_to_target"] = "target"
    if benchmark.pool:
        config["fewshot_config"]["doc_to_target"] = "shot_target"
    config["generation_kwargs"] = {"until": list(template.stop), "max_gen_toks": max_tokens, "do_sample": False}
    config["metric_list"][0] |= {"ignore_case": True, "ignore_punctuation": True}
    first: dict[str, Any] = {"function": "remove_whitespace"}
    if template.extract:
        first = {"function": "regex", "regex_pattern": template.extract, "group_select": -1, "fallback": INVALID}
    steps = [first, {"function": "take_first"}]
    config["filter_list"] = [{"name": "answer", "filter": steps}]
    return ConfigurableTask(config=config)


def _metric(benchmark: Benchmark) -> str:
    """lm-eval's metric; what it does not know is computed from the likelihoods that it leaves."""
    return "acc" if benchmark.metric in ("acc_tokens", "loss") else benchmark.metric


def _tables(benchmark: Benchmark, items: Sequence[Item], pool: Sequence[Item], **_: Any) -> dict[str, Dataset]:
    from datasets import Dataset

    tables = {"test": Dataset.from_list([_document(benchmark, item) for item in items])}
    if pool:
        tables["pool"] = Dataset.from_list([_document(benchmark, item, shot=True) for item in pool])
    return tables


def _document(benchmark: Benchmark, item: Item, shot: bool = False) -> dict[str, Any]:
    """The flat row that lm-eval sees. `target` is what an extracted answer is compared with."""
    template = benchmark.template
    names = letters(len(item.choices))
    lettered = template.output == "generate_until" or template.continuation == "letter"
    target = names[item.gold] if lettered and item.gold is not None else item.fields["answer"]
    continuations = names if template.continuation == "letter" else list(item.choices)
    gold = -1 if item.gold is None else item.gold
    if template.output == "loglikelihood":
        target = render_template(template.reference, item.fields, item.choices, item.gold)
        continuations, gold = [target], 0
    row: dict[str, Any] = {
        "item_id": item.id,
        "prompt": render_template(template.prompt, item.fields, item.choices, item.gold),
        "continuations": continuations,
        "gold": gold,
        "target": target,
    }
    # lm-eval knows a column by the test table alone, so both tables carry this one.
    shown = template.shot_target if shot else None
    row["shot_target"] = target if shown is None else render_template(shown, item.fields, item.choices, item.gold)
    return row
