"""Columns on which a small model can move: the reference answer's loss, and a cloze under every length norm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.catalogue import load_suite
from evals.evaluate import evaluate
from evals.read import DataContext
from evals.suite import Suite
from harness.errors import ConfigError, InputError
from harness.record import ColumnScore, read_record
from harness.shards import write_table
from harness.statistics import standard_error
from results.compare import render_compare
from results.views import render_ls, render_show
from support.made_runs import make_run
from support.suites import suite_maker
from support.tiny import make_tiny_model

REFERENCE = {"prompt": "{{ question }}", "output": "loglikelihood", "reference": "It is {{ answer }}, I think."}


@pytest.fixture
def suite_of(tmp_path: Path) -> Callable[..., Suite]:
    return suite_maker(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def _likelihood(model: Path, number: int, answer: str) -> tuple[float, int]:
    """Log-likelihood and tokens of an answer to a question of the made-up suite, by a forward pass of our own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, net = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    prompt = f"<|im_start|>user\nQuestion {number}?<|im_end|>\n<|im_start|>assistant\n"
    ids, start = tokenizer(prompt + answer).input_ids, len(tokenizer(prompt).input_ids)
    with torch.no_grad():
        logs = net(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logs[i - 1, ids[i]]) for i in range(start, len(ids))), len(ids) - start


def test_loss_is_the_reference_answers_mean_over_its_tokens(model: Path, suite_of: Callable[..., Suite]) -> None:
    result = evaluate(model, suite_of(REFERENCE, metric="loss", cluster_key="group"), DataContext(), batch_size=4)
    wanted = []
    for number, row in enumerate(result.items):
        total, tokens = _likelihood(model, number, f"It is {['yes', 'no'][number % 2]}, I think.")
        wanted.append(-total / tokens)
        assert row.value == pytest.approx(wanted[-1], rel=1e-4) and row.correct is None
    (column,) = result.columns
    assert column.score == pytest.approx(sum(wanted) / 6, rel=1e-4)
    assert column.stderr == pytest.approx(standard_error(wanted, ["0", "0", "1", "1", "2", "2"]), rel=1e-3)


@pytest.mark.parametrize("metric", ["acc", "acc_norm", "acc_bytes", "acc_tokens"])
def test_a_cloze_takes_the_likeliest_text_in_its_unit(model: Path, suite_of: Callable[..., Suite], metric: str) -> None:
    result = evaluate(model, suite_of({"prompt": "{{ question }}"}, metric=metric), DataContext())
    for number, row in enumerate(result.items):
        found = {}
        for choice in ["yes", "no", "maybe"][: 2 + number % 2]:
            total, tokens = _likelihood(model, number, choice)
            unit = {"acc": 1, "acc_norm": len(choice), "acc_bytes": len(choice.encode()), "acc_tokens": tokens}[metric]
            found[choice] = total / unit
        best = max(found, key=found.__getitem__)
        assert (row.answer, row.correct) == (best, best == ["yes", "no"][number % 2])
        assert row.value == float(bool(row.correct))


@pytest.mark.parametrize(
    ("template", "metric", "says"),
    [
        (REFERENCE, "acc", "go together"),
        ({"prompt": "{{ question }}"}, "loss", "go together"),
        ({**REFERENCE, "reference": "{{ anwser }}"}, "loss", "'reference' uses 'anwser'"),
    ],
)
def test_contradictions_are_found_when_the_suite_is_read(
    suite_of: Callable[..., Suite], template: dict[str, Any], metric: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        suite_of(template, metric=metric)


def test_an_empty_reference_is_refused_before_a_model_is_loaded(tmp_path: Path, suite_of: Callable[..., Suite]) -> None:
    suite = suite_of({**REFERENCE, "reference": "{{ '' if group == 1 else answer }}"}, metric="loss")
    with pytest.raises(InputError, match=r"item '2' is empty \(so for 2 of 6 items\)"):
        evaluate(tmp_path / "no model", suite, DataContext())


def test_the_small_medical_suite_reads_the_real_items(test_data: Path) -> None:
    from evals.data import load_items

    suite = load_suite("medical_small")
    context = DataContext(data_folder=test_data / "eval")
    counts = {b.id: len(load_items(b, context, suite.folder)) for b in suite.benchmarks}
    assert counts == {b.id: b.rows.expected_count for b in suite.benchmarks}


def _losses(runs: Path, name: str, tuned: list[float], base: list[float]) -> Path:
    def column(values: list[float]) -> list[ColumnScore]:
        return [ColumnScore("answers", "loss", len(values), sum(values) / len(values), 0.01)]

    folder = make_run(runs, name, {}, {}, items=False, columns=column(tuned), base_columns=column(base))
    rows = [
        {"model": model, "task": "answers", "item_id": f"i{i}", "correct": None, "value": value, "cluster": ""}
        for model, values in (("base", base), ("tuned", tuned))
        for i, value in enumerate(values)
    ]
    write_table(folder / "items.parquet", rows)
    return folder


def test_screens_show_losses_in_their_unit_with_paired_differences(tmp_path: Path) -> None:
    a = _losses(tmp_path, "a", [2.0, 3.0, 2.5], [2.5, 3.25, 3.0])
    b = _losses(tmp_path, "b", [1.0, 2.0, 1.5], [2.5, 3.25, 3.0])
    shown = render_show(a)
    assert "answers ↓" in shown and "2.917 ± 0.010" in shown and "2.500 ± 0.010" in shown
    assert "-0.417 ± 0.083" in shown and "lower is better" in shown
    assert "answers 2.917 → 2.500" in render_ls(tmp_path)
    compared = render_compare([a, b])
    assert "-1.000 ± 0.000" in compared and compared.count("lower is better") == 1


def test_a_record_of_accuracies_alone_is_still_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "old", {"asked": [1, 0]}, {"asked": [0, 0]})
    path = folder / "record.json"
    text = path.read_text().replace('"score"', '"accuracy"').replace('"clean_score"', '"clean_accuracy"')
    path.write_text(text.replace('"schema": 2', '"schema": 1'))
    record = read_record(path)
    assert [c.score for c in record.columns] == [0.5] and record.columns[0].higher_is_better
