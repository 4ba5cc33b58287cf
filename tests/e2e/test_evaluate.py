from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.catalogue import load_suite
from evals.evaluate import evaluate, evaluate_validation
from evals.read import DataContext
from evals.suite import Suite, ValidationSet
from harness.errors import InputError, PrerequisiteError, StageError
from harness.statistics import standard_error
from support.suites import suite_maker
from support.tiny import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


CHOICE = {"prompt": "{{ question }}"}
GENERATE = {"prompt": "{{ question }}", "output": "generate_until", "max_tokens": 8}


@pytest.fixture
def suite_of(tmp_path: Path) -> Callable[..., Suite]:
    return suite_maker(tmp_path)


def test_multiple_choice_agrees_with_a_direct_computation(model: Path, suite_of: Callable[..., Suite]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = evaluate(model, suite_of(CHOICE), DataContext())
    tokenizer, net = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    for n, row in enumerate(result.items):
        prompt = f"<|im_start|>user\nQuestion {n}?<|im_end|>\n<|im_start|>assistant\n"
        scores = {}
        for choice in ["yes", "no", "maybe"][: 2 + n % 2]:
            ids, start = tokenizer(prompt + choice).input_ids, len(tokenizer(prompt).input_ids)
            with torch.no_grad():
                logs = net(torch.tensor([ids])).logits[0].log_softmax(-1)
            scores[choice] = sum(float(logs[i - 1, ids[i]]) for i in range(start, len(ids)))
        best = max(scores, key=scores.__getitem__)
        assert row.answer == best and row.correct == (best == ["yes", "no"][n % 2])
        assert row.tokens == len(tokenizer(prompt + best).input_ids)
    (column,) = result.columns
    assert column.score == sum(r.correct for r in result.items) / 6
    assert (column.n, column.n_scored, column.status, column.source) == (6, 6, "measured", "items.jsonl")


def test_two_runs_are_equal_and_batches_do_not_matter(model: Path, suite_of: Callable[..., Suite]) -> None:
    suite = suite_of(CHOICE, cluster_key="group")
    first, second, small = (evaluate(model, suite, DataContext(), batch_size=b) for b in (64, 64, 1))
    assert first == second == small
    assert [r.cluster for r in first.items] == ["0", "0", "1", "1", "2", "2"]


def test_limit_progress_and_template_change_what_they_say(model: Path, suite_of: Callable[..., Suite]) -> None:
    suite, calls = suite_of(CHOICE), []
    full = evaluate(model, suite, DataContext())
    part = evaluate(model, suite, DataContext(), limit=2, progress=lambda *a: calls.append(a))
    assert part.items == full.items[:2] and calls == [("exam", 0, 1)]
    plain = evaluate(model, suite, DataContext(), apply_chat_template=False)
    assert all(a.prompt_hash != b.prompt_hash for a, b in zip(plain.items, full.items, strict=True))
    with pytest.raises(InputError, match="limit of evaluation is 0"):
        evaluate(model, suite, DataContext(), limit=0)


def test_generation_extracts_the_last_match_and_counts_the_rest(
    model: Path, suite_of: Callable[..., Suite], monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval.models.huggingface as engine

    said = iter(["Answer: B. No, Answer: A", "Answer: B", "I do not know", "answer: b", "Answer: A", "Answer: C"])
    monkeypatch.setattr(
        engine.HFLM, "generate_until", lambda self, requests, disable_tqdm=False: [next(said) for _ in requests]
    )
    suite = suite_of({**GENERATE, "extract": r"[Aa]nswer: ([A-Ca-c])"}, metric="exact_match")
    result = evaluate(model, suite, DataContext())
    assert [r.answer for r in result.items] == ["A", "B", "", "b", "A", "C"]
    assert [r.correct for r in result.items] == [True, True, False, True, True, False]
    assert (result.columns[0].unparsed, result.columns[0].score) == (1, 4 / 6)


def test_generation_really_generates_and_bounds_its_length(model: Path, suite_of: Callable[..., Suite]) -> None:
    template = {**GENERATE, "extract": "answer is ([A-C])"}
    (column,) = evaluate(model, suite_of(template, metric="exact_match"), DataContext()).columns
    assert (column.unparsed, column.score, column.notes) == (6, 0.0, ())
    short = make_tiny_model(model.parent / "short", context=64)
    result = evaluate(short, suite_of({**template, "max_tokens": 500}, metric="exact_match"), DataContext(), limit=2)
    assert "at most 32 tokens" in result.columns[0].notes[0] and all(r.response for r in result.items)


def test_a_model_is_computed_in_the_type_that_is_asked_for(model: Path) -> None:
    """A fine-tuned model's weights are float32, whatever it was trained, and is tested, in."""
    import torch

    from evals.evaluate import load_model

    found = {dtype: load_model(str(model), 1, True, dtype).model.dtype for dtype in ("auto", "float32", "bfloat16")}
    assert found == {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}


def test_demonstrations_are_the_first_of_the_pool(model: Path, suite_of: Callable[..., Suite]) -> None:
    import evals.evaluate as module

    prompts: list[str] = []
    row = module._row

    def spy(*args: Any) -> Any:
        prompts.append(args[3]["arguments"][0][0])
        return row(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_row", spy)
        evaluate(model, suite_of(CHOICE, with_pool=True, shots=2), DataContext())
        generate = {**GENERATE, "shot_target": "It is {{ answer }}."}
        evaluate(model, suite_of(generate, with_pool=True, shots=1, metric="exact_match"), DataContext(), limit=1)
    first = "<|im_start|>user\nPractice 0?<|im_end|>\n<|im_start|>assistant\n"
    second = "yes<|im_end|>\n<|im_start|>user\nPractice 1?<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n"
    assert all(p.startswith(first + second) for p in prompts[:6])
    assert prompts[6].startswith(first + "It is yes.<|im_end|>\n")
    with pytest.raises(InputError, match="wants 7 demonstrations and its pool has 6"):
        evaluate(model, suite_of(CHOICE, with_pool=True, shots=7), DataContext())
    suite = suite_of(CHOICE, with_pool=True, shots=1)
    rows = suite.benchmarks[0].rows
    own = dataclasses.replace(suite, benchmarks=(dataclasses.replace(suite.benchmarks[0], pool=rows),))
    with pytest.raises(InputError, match="demonstration '0' is the test item '0'"):
        evaluate(model, own, DataContext())


def test_truncated_prompts_are_counted(model: Path, suite_of: Callable[..., Suite]) -> None:
    short = make_tiny_model(model.parent / "tight", context=32)
    assert evaluate(short, suite_of(CHOICE), DataContext()).columns[0].truncated == 0
    long = {"prompt": "{{ question }}" + " word" * 40}
    assert evaluate(short, suite_of(long), DataContext()).columns[0].truncated == 6


def test_judged_columns_stay_empty_and_say_why(model: Path, suite_of: Callable[..., Suite]) -> None:
    suite = suite_of(GENERATE, metric="exact_match", scorer="judge", gated=True)
    (column,) = evaluate(model, suite, DataContext()).columns
    assert (column.score, column.stderr, column.status) == (None, None, "not measured")
    assert "judge" in column.reason and "gated" in column.reason


def test_a_missing_model_or_template_is_one_sentence(tmp_path: Path, suite_of: Callable[..., Suite]) -> None:
    with pytest.raises(PrerequisiteError, match="cannot be loaded") as caught:
        evaluate(tmp_path / "nothing", suite_of(CHOICE), DataContext())
    assert "\n" not in str(caught.value)
    folder = make_tiny_model(tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(PrerequisiteError, match="no chat template"):
        evaluate(folder, suite_of(CHOICE), DataContext())


def test_a_broken_model_is_a_failure_and_no_score(tmp_path: Path, suite_of: Callable[..., Suite]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_tiny_model(tmp_path / "m")
    net = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        net.model.norm.weight.fill_(float("nan"))
    net.save_pretrained(folder)
    with pytest.raises(StageError, match="item '0' of 'exam'"):
        evaluate(folder, suite_of(CHOICE), DataContext())


def test_standard_errors() -> None:
    verdicts = [True, True, False, True, False, False, True, True]
    p, n = 5 / 8, 8
    plain = standard_error(verdicts, [""] * n)
    assert plain == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))
    assert standard_error(verdicts, [str(i) for i in range(n)]) == pytest.approx(plain)
    # Doubling every item must not shrink the error of a clustered column beyond the G/(G-1) factor's own change.
    doubled = standard_error(verdicts * 2, [str(i) for i in range(n)] * 2)
    assert doubled == pytest.approx(plain)
    assert standard_error([True], [""]) is None
    assert standard_error([True, False], ["a", "a"]) is None


def test_lab_suite_in_seconds(model: Path) -> None:
    result = evaluate(model, load_suite("lab"), DataContext(test_items=20))
    assert [(c.column, c.n_scored) for c in result.columns] == [
        ("lab_asked", 20),
        ("lab_related", 20),
        ("lab_retention", 20),
    ]
    assert all(r.cluster for r in result.items)


def test_real_medical_columns_run(model: Path) -> None:
    folder = os.environ.get("HARNESS_TEST_DATA")
    if not folder:
        pytest.skip("HARNESS_TEST_DATA is not set: no real benchmark items here")
    suite = load_suite("medical")
    # Bounds the chain of thought that a random model would fill to the last token.
    suite = dataclasses.replace(
        suite,
        benchmarks=tuple(
            dataclasses.replace(b, template=dataclasses.replace(b.template, max_tokens=16)) for b in suite.benchmarks
        ),
    )
    names = ["medqa", "mmlu_pro_health", "pubmedqa", "hle_medicine"]
    result = evaluate(model, suite, DataContext(data_folder=Path(folder)), limit=3, columns=names)
    assert [(c.column, c.n, c.status) for c in result.columns] == [
        ("medqa", 3, "measured"),
        ("mmlu_pro_health", 3, "measured"),
        ("pubmedqa", 3, "measured"),
        ("hle_medicine", 0, "not measured"),
    ]


def test_supergpqa_rows_run(model: Path, tmp_path: Path) -> None:
    rows = [
        {
            "uuid": f"u{n}",
            "question": f"Which is item {n}?",
            "options": ["one", "two", "three"],
            "answer_letter": "B",
            "discipline": "Medicine" if n % 2 else "History",
        }
        for n in range(6)
    ]
    (tmp_path / "supergpqa_all.jsonl.gz").write_text("\n".join(map(json.dumps, rows)))
    suite, context = load_suite("medical"), DataContext(data_folder=tmp_path)
    with pytest.raises(InputError, match="gives 3 items where 2755 are declared"):
        evaluate(model, suite, context, columns=["supergpqa_medicine"])
    column = suite.benchmark("supergpqa_medicine")
    column = dataclasses.replace(
        column,
        rows=dataclasses.replace(column.rows, expected_count=3),
        template=dataclasses.replace(column.template, max_tokens=16),
    )
    result = evaluate(model, dataclasses.replace(suite, benchmarks=(column,)), context)
    assert (result.columns[0].n, result.columns[0].unparsed) == (3, 3)


def test_a_validation_set_is_asked_as_its_benchmark_without_demonstrations(
    suite_of: Callable[..., Suite], model: Path
) -> None:
    """Equal items give equal answers, whichever set they stand in; ids and number are the validation set's."""
    suite = suite_of(CHOICE, cluster_key="group", keys={"group": "group"})
    (column,) = suite.benchmarks
    declared = ValidationSet("cv", column.rows, ("exam",), "exam")
    with_pool = dataclasses.replace(column, shots=1, pool=column.rows)
    guided = dataclasses.replace(suite, benchmarks=(with_pool,), validation=(declared,))
    answers = evaluate_validation(model, guided, "cv", DataContext(limit=2), apply_chat_template=False)
    plain = evaluate(model, suite, DataContext(), apply_chat_template=False).items
    assert [(a.item_id, a.correct, a.answer) for a in answers] == [(p.item_id, p.correct, p.answer) for p in plain]
    assert len(answers) == 6 and 0 < sum(a.correct for a in answers) < 6
