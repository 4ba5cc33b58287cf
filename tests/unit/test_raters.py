"""Raters of the published architectures: tokens, windows, padding, precision, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from harness.checks.weights import unfit_raters
from harness.errors import ConfigError, HarnessError, InputError, PrerequisiteError, StageError
from harness.raters.catalogue import find_rater, raters
from harness.raters.declaration import RaterDeclaration
from harness.raters.judgments import Judgments, confident, read_judgments, split
from harness.raters.loading import check_golden
from harness.raters.measure import agreements, calibration
from harness.raters.model import Rater
from harness.raters.train import RaterTraining, judgment_loss, train_rater
from support.minilm import minilm
from support.raters import KINDS, make_rater

TEXTS = ["the answer is yes", "no", "red " * 60 + "maybe", "one of the choices to the question " * 3]


def by_hand(kind: str, folder: str, text: str, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """The rating of one text, window by window, without padding, from the checkpoint's own weights."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    rows, counts = [], []
    kind_of = AutoModelForCausalLM if kind == "digits" else AutoModelForSequenceClassification
    whole = kind_of.from_pretrained(folder, dtype=dtype).eval()
    weights = dict(whole.named_parameters())
    backbone = AutoModel.from_pretrained(folder, dtype=dtype).eval()
    room = {"llama": 24, "bert": 22, "modernbert": 22}.get(kind, 199)
    for start in range(0, len(ids), room):
        part = ids[start : start + room]
        counts.append(len(part))
        first, last = (tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "</s>"))
        window = {"llama": part, "digits": [first, *part]}.get(kind, [first, *part, last])
        tokens = torch.tensor([window])
        if kind == "digits":
            logits = whole(tokens).logits[0, -1].float()
            digits = [tokenizer(str(d), add_special_tokens=False)["input_ids"][-1] for d in range(1, 7)]
            rows.append([float((logits[digits].softmax(0) * torch.arange(1.0, 7.0)).sum())])
            continue
        hidden = backbone(tokens).last_hidden_state[0]
        if kind == "llama":
            rows.append((hidden[-1] @ weights["score.weight"].T).float().tolist())
        elif kind == "bert":
            pooled = torch.tanh(hidden[0] @ weights["bert.pooler.dense.weight"].T + weights["bert.pooler.dense.bias"])
            rows.append((pooled @ weights["classifier.weight"].T + weights["classifier.bias"]).float().tolist())
        else:
            logits = whole(tokens).logits[0].float()
            rows.append([float((logits.softmax(0) * torch.arange(6.0)).sum())])
    return np.average(np.array(rows), axis=0, weights=counts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rating_equals_a_computation_by_hand(tmp_path: Path, kind: str, dtype: Any) -> None:
    declared = make_rater(kind, tmp_path / "made", dtype=dtype)
    rater = Rater(declared, keep=False)
    found = rater.rate(TEXTS)
    assert rater.check_padding().status == "passed"
    with torch.no_grad():
        expected = [by_hand(kind, declared.checkpoint, text, getattr(torch, dtype)) for text in TEXTS]
    close = dict(atol=2e-5) if dtype == "float32" else dict(atol=0.1, rtol=0.1)
    np.testing.assert_allclose(found, np.array(expected), **close)
    # Far apart, so that the comparison tells something.
    assert found.std(axis=0).min() > 0.02
    (usage,) = rater.usage()
    assert usage.role == "rater" and usage.prompt_tokens == sum(len(w) for t in TEXTS for w in rater.windows(t))


@pytest.mark.parametrize("kind", KINDS)
def test_batch_size_and_padding_side_change_nothing(tmp_path: Path, kind: str) -> None:
    declared = make_rater(kind, tmp_path / "made")
    expected = Rater(declared, keep=False, batch_size=1).rate(TEXTS)
    np.testing.assert_allclose(
        Rater(declared, keep=False, batch_tokens=60).rate(TEXTS[::-1])[::-1], expected, atol=2e-5
    )
    left = Rater(declared.model_copy(update={"padding_side": "left"}), keep=False)
    if kind in ("llama", "digits"):
        np.testing.assert_allclose(left.rate(TEXTS), expected, atol=2e-5)
    else:
        # Its first position would be padding.
        assert left.check_padding().status == "failed"


def test_golden_tokens_are_compared(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    published = {rater.name: rater for rater in raters()[0]}
    # The published encoder has the vocabulary of the packaged one, where its golden tokens can be looked up.
    check_golden(published["fineweb-edu"], tokenizer)
    assert published["fineweb-edu"].golden and published["qurating"].golden
    with pytest.raises(StageError, match=r"reads 'Hello world' as \[7592, 2088\], and \[15043, 3186\] is what"):
        check_golden(published["qurating"], tokenizer)
    declared = make_rater("digits", tmp_path / "made", digit_ids=(1, 2, 3, 4, 5, 6))
    with pytest.raises(StageError, match=r"digits of its grades at \[.*\[1, 2, 3, 4, 5, 6\] is declared"):
        Rater(declared, keep=False)


def test_the_published_raters_are_declared() -> None:
    found, faults = raters()
    assert faults == [] and {rater.output for rater in found} == {"bradley_terry", "regression", "classes"}
    assert all(rater.licence and rater.source and rater.parameters and rater.summary for rater in found)
    qurating = find_rater("qurating")
    assert (qurating.logits, qurating.pad_id, qurating.special_tokens, qurating.max_length) == (4, 0, False, 512)
    with pytest.raises(ConfigError, match="did you mean 'qurating'"):
        find_rater("qurater")
    with pytest.raises(PrerequisiteError, match=r"princeton-nlp/QuRater-1.3B of rater 'qurating' cannot be loaded.*"):
        Rater(qurating, keep=False)


def test_ratings_are_kept_by_text_and_rater(tmp_path: Path) -> None:
    declared = make_rater("bert", tmp_path / "made")
    first = Rater(declared, cache=tmp_path / "kept")
    expected = first.rate(TEXTS[:2])
    again = Rater(declared, cache=tmp_path / "kept")
    assert np.array_equal(again.rate([TEXTS[1], TEXTS[0], TEXTS[1]]), expected[[1, 0, 1]]) and again.usage() == []
    other = Rater(declared.model_copy(update={"dtype": "bfloat16"}), cache=tmp_path / "kept")
    other.rate(TEXTS[:1])
    assert other.usage()[0].calls == 1 and len(list((tmp_path / "kept").glob("*.sqlite"))) == 2
    # A file that is no database costs the ratings, and nothing else.
    first.kept.path.write_bytes(b"x" * 4096)  # type: ignore[union-attr]
    for left in (tmp_path / "kept").glob(f"{first.identity}.sqlite-*"):
        left.unlink()
    broken = Rater(declared, cache=tmp_path / "kept")
    assert np.array_equal(broken.rate(TEXTS[:2]), expected) and "not a database" in broken.kept.fault  # type: ignore[union-attr]


def test_a_text_without_tokens_or_too_long_has_no_rating(tmp_path: Path) -> None:
    rater = Rater(make_rater("digits", tmp_path / "made", max_length=20), keep=False)
    assert np.isnan(rater.rate(["", "a " * 50])).all() and np.isfinite(rater.rate(["yes"])).all()


def faulty(kind: str, folder: Path) -> str:
    """The name of a rater with one fault."""
    if kind == "nowhere":
        return str(folder / "none")
    declared = make_rater("bert", folder / "made")
    if kind == "undeclared":
        return declared.checkpoint
    if kind == "headless":
        AutoModel.from_pretrained(declared.checkpoint).save_pretrained(declared.checkpoint)
    rows = {"heads": ["a", "b"]} if kind == "other heads" else {"heads": ["a"]}
    rows |= {"heads": ["a"], "grades": [5, 5]} if kind == "grades" else {"grades": [0, 5]}
    text = json.dumps({"checkpoint": ".", "output": "regression", "max_length": 24, **rows})
    (folder / "made" / "rater.yaml").write_text(text)
    return declared.checkpoint


@pytest.mark.parametrize(
    "kind, message",
    [
        ("nowhere", "there is no folder .*none with a rater"),
        ("undeclared", "is no rater: it has no rater.yaml"),
        ("headless", "is no rater: it has no weights for classifier.bias, the head"),
        ("other heads", "heads of rater 'made' do not match: a, b with output regression take 2 outputs, and .* has 1"),
        ("grades", "rater.yaml: grades: the highest is no higher than the lowest"),
    ],
)
def test_a_rater_that_is_none_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(HarnessError, match=message) as error:
        Rater(find_rater(faulty(kind, tmp_path)), keep=False)
    assert "\n" not in str(error.value)


def judged(path: Path, *rows: Any) -> Judgments:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_judgments(path)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "has no judgments"),
        ([{"a": "x", "p": 1}], "line 1: a judgment of one side only, 'a' without 'b'"),
        ([{"a": "x", "b": "y", "p": 1.5}], "line 1: p is 1.5; it is the probability"),
        ([{"a": "x", "b": " ", "p": 1}], "line 1: a text is a string with words"),
        ([{"a": "x", "b": "y", "p": "yes"}], "line 1: 'yes' is no number"),
        ([{"a": "x", "b": "y", "p": 1}, {"text": "x", "grade": 2}], "comparisons and grades"),
        ([{"prompt": "x"}], "line 1: no judgment"),
    ],
)
def test_bad_judgments_are_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        judged(tmp_path / "j.jsonl", *rows)


def test_judgments_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    path, settings = tmp_path / "j.jsonl", RaterTraining()
    even = [{"a": f"a{i}", "b": f"b{i}", "p": 0.6} for i in range(9)]
    with pytest.raises(InputError, match="no judgment of head 'quality' is left to train on; lower --confidence"):
        train_rater(judged(path, *even), path, "x", tmp_path / "to", settings)
    same = [{"text": f"t{i}", "grade": {"depth": 3}} for i in range(9)]
    with pytest.raises(InputError, match="every grade of head 'depth' is 3"):
        train_rater(judged(path, *same), path, "x", tmp_path / "to", settings)
    with pytest.raises(ConfigError, match="bradley_terry cannot be trained on grades"):
        train_rater(judged(path, *same), path, "x", tmp_path / "to", RaterTraining(output="bradley_terry"))
    assert not (tmp_path / "to").exists()


def test_the_confidence_filter_works_head_by_head(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": str(p), "p": {"one": p, "two": q}} for p, q in [(0.75, 0.5), (0.74, 0.2), (0.3, None)]]
    kept, dropped = confident(judged(tmp_path / "j.jsonl", *rows), 0.5)
    assert [[None if np.isnan(v) else v for v in row.values] for row in kept.rows] == [[0.75, None], [None, 0.2]]
    assert dropped == 3


def test_held_out_judgments_share_no_text_where_that_can_be(tmp_path: Path) -> None:
    chained = [{"a": f"t{g}-{i}", "b": f"t{g}-{i + 1}", "p": 1} for g in range(10) for i in range(3)]
    train, held, apart = split(judged(tmp_path / "j.jsonl", *chained), 0.2, 0)
    texts = [{text for row in part.rows for text in row.texts} for part in (train, held)]
    assert apart and len(held.rows) == 6 and len(train.rows) == 24 and not texts[0] & texts[1]
    circle = [{"a": f"t{i}", "b": f"t{(i + 1) % 9}", "p": 1} for i in range(9)]
    train, held, apart = split(judged(tmp_path / "j.jsonl", *circle), 0.2, 0)
    assert not apart and (len(train.rows), len(held.rows)) == (7, 2)


def test_losses_follow_their_formulas(tmp_path: Path) -> None:
    """BCE(σ(s_b - s_a), p) and squared differences, summed over what was judged; cross-entropy for classes."""
    rows = [("the", "answer yes", 0.9, 0.5), ("no", "red", 0.2, None)]
    pairs = judged(
        tmp_path / "j.jsonl",
        *({"a": a, "b": b, "p": {"style": p, "facts": q}} for a, b, p, q in rows),
    )
    rater = Rater(make_rater("llama", tmp_path / "llama"), keep=False)
    rater.declaration = rater.declaration.model_copy(update={"heads": ("style", "expertise", "facts", "educational")})
    values = {text: rater.rate([text])[0] for a, b, *_ in rows for text in (a, b)}
    four = Judgments("pairs", rater.declaration.heads, tuple(
        type(row)(row.texts, (row.values[0], float("nan"), row.values[1], float("nan"))) for row in pairs.rows
    ))  # fmt: skip
    expected = 0.0
    for a, b, p, q in rows:
        for head, judgement in ((0, p), (2, q)):
            if judgement is not None:
                likely = 1 / (1 + np.exp(-(values[b][head] - values[a][head])))
                expected -= judgement * np.log(likely) + (1 - judgement) * np.log(1 - likely)
    assert float(judgment_loss(rater, four.rows)) == pytest.approx(expected, rel=1e-4)
    grades = judged(tmp_path / "g.jsonl", {"text": "the answer", "grade": 2}, {"text": "no", "grade": 5})
    bert = Rater(make_rater("bert", tmp_path / "bert"), keep=False)
    off = bert.rate(["the answer", "no"])[:, 0] - [2, 5]
    assert float(judgment_loss(bert, grades.rows)) == pytest.approx(float((off**2).sum()), rel=1e-4)
    modern = Rater(make_rater("modernbert", tmp_path / "modern"), keep=False)
    with torch.no_grad():
        logits = modern.logits([modern.windows(row.texts[0])[0] for row in grades.rows])[:, 0].log_softmax(-1)
    assert float(judgment_loss(modern, grades.rows)) == pytest.approx(-float(logits[0, 2] + logits[1, 5]), rel=1e-4)


def test_agreement_by_hand(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": f"y{i}", "p": p} for i, p in enumerate([0.9, 0.8, 0.1, 0.5])]
    ratings = [np.array([[0.0], [d]]) for d in (2.0, -1.0, -3.0, 0.5)]
    (own,) = agreements(judged(tmp_path / "j.jsonl", *rows), ratings)
    assert (own.items, own.accuracy, own.majority) == (4, pytest.approx(2 / 3), pytest.approx(2 / 3))
    likely = [1 / (1 + np.exp(-d)) for d in (2.0, -1.0, -3.0, 0.5)]
    assert own.calibration == pytest.approx(np.mean(np.abs(np.array(likely) - [0.9, 0.8, 0.1, 0.5])))
    # Twenty values in ten bins of two.
    assert calibration([float(i) for i in range(20)], [i + (0.5 if i % 2 else -0.5) for i in range(20)]) == 0.0
    graded = judged(tmp_path / "g.jsonl", *({"text": f"t{g}", "grade": g} for g in (0, 3, 5)))
    (own,) = agreements(graded, [np.array([[x]]) for x in (0.4, 4.2, 9.0)], (0.0, 3.0, 5.0))
    assert own.accuracy == pytest.approx(2 / 3) and own.correlation == pytest.approx(1.0)


def test_a_declaration_says_what_it_lacks() -> None:
    common = {"name": "x", "checkpoint": "x", "heads": ("a",)}
    for own, message in (
        ({"output": "classes"}, "needs the grades"),
        ({"output": "regression", "grades": (1,)}, "lowest and the highest"),
        ({"output": "digits", "grades": (1, 2)}, "long_texts cut or refuse"),
        ({"output": "bradley_terry", "text": "{answer}"}, "must name {question}"),
        ({"output": "bradley_terry", "heads": ("a", "a")}, "named twice"),
    ):
        with pytest.raises(ValueError, match=message):
            RaterDeclaration(**{**common, **own})
    # What a text holds is no placeholder.
    assert (
        RaterDeclaration(**common, output="bradley_terry").of_pair("{answer}", "{question}") == "{answer}\n{question}"
    )


@pytest.mark.parametrize(
    "kind, labels, found",
    [
        ("LlamaForSequenceClassification", 4, ""),
        ("LlamaForSequenceClassification", None, "has 2"),
        ("LlamaForSequenceClassification", 3, "has 3"),
        ("LlamaForCausalLM", None, "is a LlamaForCausalLM, which has none"),
    ],
)
def test_heads_are_looked_at_before_anything_is_run(tmp_path: Path, kind: str, labels: int | None, found: str) -> None:
    config = {"architectures": [kind], **({"id2label": {str(i): str(i) for i in range(labels)}} if labels else {})}
    (tmp_path / "config.json").write_text(json.dumps(config))
    problems = unfit_raters([find_rater("qurating").model_copy(update={"checkpoint": str(tmp_path)})])
    assert [p.have for p in problems] == ([f"{tmp_path} {found}"] if found else [])
