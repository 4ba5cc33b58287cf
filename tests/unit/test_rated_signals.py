"""The signals that ask quality raters, and those that read likeness: values by hand, frozen scales, diagnostics."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import yaml

from harness.config import SignalChoice
from harness.errors import ConfigError, InputError, StageError
from harness.raters.declaration import RaterDeclaration
from harness.raters.model import Rater
from harness.types import Sample, Score, Seed
from methods.signals.base import Archive, SignalContext
from methods.signals.catalogue import check_use, make_signal, signal_files, signal_needs, signal_uses
from support.raters import make_rater, pairs

ANSWERS = ["yes", "no", "the answer is red", "maybe " * 9, "one of the choices to the question"]
DOCUMENTS = [
    Seed(f"d{i}", text) for i, text in enumerate(["red model", "yes no maybe", "the question", "one choices is"])
]


def folder_of(declared: RaterDeclaration, **changes: Any) -> str:
    """The folder of a checkpoint, with its declaration in it, as a trained rater's is."""
    own = declared.model_copy(update=changes).model_dump(mode="json", exclude_defaults=True) | {"checkpoint": "."}
    (Path(declared.checkpoint) / "rater.yaml").write_text(yaml.safe_dump(own))
    return declared.checkpoint


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def scored(
    choice: dict[str, Any], items: Sequence[Any], seeds: Sequence[Seed] = ()
) -> tuple[list[Score], dict[str, Any]]:
    """Scores under a signal, and what its preparation and its diagnostics say by name."""
    signal = make_signal(SignalChoice.model_validate(choice))
    prepared = signal.prepare(SignalContext(seed=0, seeds=seeds), None)
    scores = signal.score(items, Archive())
    return scores, {fact.name: fact.value for fact in [*prepared.facts, *signal.diagnose(scores)]}


def values(scores: Sequence[Score]) -> list[float]:
    assert all(score.value is not None for score in scores), [score.reason for score in scores]
    return [score.value or 0.0 for score in scores]


def test_qurating_is_the_mean_z_against_a_frozen_reference(tmp_path: Path) -> None:
    declared = make_rater("llama", tmp_path / "llama")
    choice = {"name": "qurating", "rater": folder_of(declared)}
    scores, found = scored(choice, pairs(ANSWERS), DOCUMENTS)
    rater = Rater(declared, keep=False)
    reference = rater.rate([seed.text or "" for seed in DOCUMENTS])
    own = rater.rate([f"{item.question}\n{item.answer}" for item in pairs(ANSWERS)])
    z = np.clip((own - reference.mean(axis=0)) / reference.std(axis=0, ddof=1), -3, 3)
    np.testing.assert_allclose(values(scores), z.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose([s.parts["raw_facts"] for s in scores], own[:, 2], atol=1e-4)
    np.testing.assert_allclose(found["reference_mean"], reference.mean(axis=0), atol=1e-4)
    assert found["reference_items"] == 4 and found["heads"] == list(declared.heads)
    one, _ = scored(choice | {"head": "educational"}, pairs(ANSWERS), DOCUMENTS)
    np.testing.assert_allclose(values(one), z[:, 3], atol=1e-4)
    # Another pool, in which the same pair stands elsewhere, and documents in another order: the same z.
    again, _ = scored(choice, pairs(["red red red", *ANSWERS[1:3]]), DOCUMENTS[::-1])
    np.testing.assert_allclose(values(again)[1:], values(scores)[1:3], atol=1e-6)
    # A file of pairs is as good a reference.
    turns = [{"messages": [{"role": m.role, "content": m.content} for m in item.messages]} for item in pairs(ANSWERS)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    filed, facts = scored(choice | {"reference": str(tmp_path / "pairs.jsonl")}, pairs(ANSWERS), DOCUMENTS)
    assert np.mean(values(filed)) == pytest.approx(0.0, abs=1e-4) and facts["clipped"] == 0.0
    np.testing.assert_allclose(facts["reference_mean"], own.mean(axis=0), atol=1e-4)


def test_qurating_without_a_scale_stops_in_one_line(tmp_path: Path) -> None:
    choice = {"name": "qurating", "rater": folder_of(make_rater("llama", tmp_path / "llama"))}
    with pytest.raises(StageError, match="needs at least two reference texts and the run's documents has 0"):
        scored(choice, pairs(ANSWERS))
    with pytest.raises(StageError, match="head 'style' gives all 2 texts of the run's documents the same number"):
        scored(choice, pairs(ANSWERS), [Seed("a", "yes"), Seed("b", "yes")])
    with pytest.raises(ConfigError, match=r"has no head 'edu' \(signal.head\); its rater has style, expertise"):
        check_use(SignalChoice.model_validate(choice | {"head": "edu"}), "reward")


def test_prrc_is_the_weighted_mean_of_expected_grades(tmp_path: Path) -> None:
    names = ("professionalism", "cleanliness")
    made = [make_rater("modernbert", tmp_path / name, heads=(name,)) for name in names]
    folders = [folder_of(one) for one in made]
    choice = {"name": "prrc", "rater": folders, "weights": [3, 1]}
    items = [*pairs(ANSWERS), replace(pairs([""], " ")[0], id="empty")]
    scores, found = scored(choice, items)
    rater = Rater(made[0], keep=False)
    texts = [f"{item.question}\n{item.answer}" for item in pairs(ANSWERS)]
    grades = rater.rate(texts)[:, 0]
    np.testing.assert_allclose(values(scores[:-1]), grades / 5, atol=1e-5)  # equal weights: both are the same model
    assert scores[-1].status == "unscorable" and scores[-1].value is None
    assert found["weights"] == [0.75, 0.25] and found["unscorable"] == 1
    assert [signal_uses(SignalChoice.model_validate(choice))[i].role for i in (0, 1)] == ["rater", "rater"]
    for weights, message in (([1], "has 2 heads .* and signal.weights has 1"), ([0, 0], "takes weights from 0")):
        with pytest.raises(ConfigError, match=message):
            check_use(SignalChoice.model_validate(choice | {"weights": weights}), "selection")
    compares = folder_of(make_rater("llama", tmp_path / "llama"))
    with pytest.raises(ConfigError, match=r"reads grades, and rater 'llama' compares texts .*; take signal qurating"):
        check_use(SignalChoice.model_validate({"name": "prrc", "rater": compares}), "selection")


def test_a_rater_that_hardly_tells_items_apart_is_said_to_be_one(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    made = [make_rater("modernbert", tmp_path / name, heads=(name,)) for name in ("reasoning", "cleanliness")]
    path = tmp_path / "cleanliness" / "model.safetensors"
    weights = load_file(path)
    weights["classifier.weight"] = weights["classifier.weight"] * 1e-3
    weights["classifier.bias"] = torch.tensor([0.0, 0, 0, 0, 0, 9])
    save_file(weights, path, metadata={"format": "pt"})
    _, found = scored({"name": "prrc", "rater": [folder_of(one) for one in made]}, pairs(ANSWERS))
    steady, flat = found["spread"]
    assert steady > 0.05 > flat and [name.split()[0] for name in found["near_constant"]] == ["cleanliness"]


def test_fineweb_edu_is_the_grade_as_a_share(tmp_path: Path) -> None:
    declared = make_rater("bert", tmp_path / "bert")
    scores, found = scored({"name": "fineweb-edu", "rater": folder_of(declared)}, pairs(ANSWERS), DOCUMENTS)
    grades = Rater(declared, keep=False).rate([f"{item.question}\n{item.answer}" for item in pairs(ANSWERS)])[:, 0]
    np.testing.assert_allclose(values(scores), np.clip(grades / 5, 0, 1), atol=1e-5)
    assert found["reading"] == "classifier" and len(found["spread"]) == 1


def written(path: Path, texts: Sequence[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def log_ratio(texts: Sequence[str], reference: Sequence[str], raw: Sequence[str], buckets: int) -> list[float]:
    """Log importance weights as DSIR's paper has them, counted one n-gram at a time."""

    def features(some: Sequence[str]) -> np.ndarray[Any, Any]:
        found = np.zeros(buckets)
        for text in some:
            words = regex.findall(r"\w+|[^\w\s]+", text.lower())
            for gram in [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]:
                found[int(hashlib.sha256(gram.encode()).hexdigest(), 16) % buckets] += 1
        return found

    shares = [features(side) / features(side).sum() for side in (reference, raw)]
    ratio = np.log(shares[0] + 1e-8) - np.log(shares[1] + 1e-8)
    return [float(features([text]) @ ratio) for text in texts]


def real_texts(folder: Path, name: str, count: int) -> list[str]:
    import gzip

    with gzip.open(folder / "seeds" / name, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(count), lines, strict=False)]
    return [str(row.get("text") or row.get("clean_text")) for row in rows]


def test_dsir_equals_the_published_package_on_real_text(tmp_path: Path, test_data: Path) -> None:
    package = pytest.importorskip("data_selection")
    wanted = real_texts(test_data, "nih_medquad_docs.jsonl.gz", 60)
    plain = real_texts(test_data, "standardebooks_hss.jsonl.gz", 12)
    files = [written(tmp_path / f"{name}.jsonl", some) for name, some in (("ref", wanted[:40]), ("raw", plain[:8]))]
    items = [Seed(f"x{i}", text) for i, text in enumerate([*wanted[40:], *plain[8:]])]
    scores, _ = scored({"name": "fineweb-edu", "reading": "dsir", "reference": files[0], "raw": files[1]}, items)
    theirs = package.HashedNgramDSIR([files[1]], [files[0]], cache_dir=str(tmp_path / "cache"), num_proc=1)
    theirs.fit_importance_estimator(num_tokens_to_fit="all")
    expected = [theirs.importance_estimator(theirs.featurizer(item.text)) for item in items]
    found = [score.parts["log_weight"] for score in scores]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(
        found, log_ratio([i.text or "" for i in items], wanted[:40], plain[:8], 10_000), rtol=1e-9
    )
    grams = [2 * len(regex.findall(r"\w+|[^\w\s]+", item.text or "")) - 1 for item in items]
    np.testing.assert_allclose(values(scores), np.array(expected) / grams, rtol=1e-9)
    # Texts of the wanted kind come first.
    assert min(values(scores)[:20]) > max(values(scores)[20:])


def test_likeness_by_embeddings(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    from harness.models.embedder import open_embedder

    reference = [f"a cell divides into {word} daughter cells" for word in ("two", "four", "eight", "many")]
    raw = [f"the ship sailed to {place} at dawn" for place in ("Malta", "Crete", "Cyprus", "Rhodes", "Samos")]
    items: list[Sample] = pairs(["two daughter cells", "to Crete at dawn"], "what of it")
    choice = {"name": "fineweb-edu", "reference": written(tmp_path / "ref.jsonl", reference)}
    seeds = [Seed(f"d{i}", text) for i, text in enumerate(raw)]
    embedder = open_embedder(SignalContext(seed=0).embedder)
    rows, known, other = (
        embedder.embed(texts).astype(float)
        for texts in ([f"{item.question}\n{item.answer}" for item in items], reference, raw)
    )
    scores, found = scored(choice | {"reading": "cosine", "nearest": 2}, items, seeds)
    np.testing.assert_allclose(values(scores), np.sort(rows @ known.T)[:, -2:].mean(axis=1), atol=1e-6)
    assert found["compared_with"] == 4
    centre = known.mean(axis=0) / np.linalg.norm(known.mean(axis=0))
    scores, _ = scored(choice | {"reading": "cosine", "nearest": 0}, items, seeds)
    np.testing.assert_allclose(values(scores), rows @ centre, atol=1e-6)
    model = LogisticRegression(max_iter=1000, class_weight="balanced")
    model.fit(np.concatenate([known, other]), [1] * 4 + [0] * 5)
    scores, found = scored(choice | {"reading": "linear"}, items, seeds)
    np.testing.assert_allclose(values(scores), model.predict_proba(rows)[:, 1], atol=1e-3)
    assert values(scores)[0] > 0.5 > values(scores)[1] and found["held_out_auc"] == 1.0
    with pytest.raises(StageError, match="compares with the run's documents, and none has text"):
        scored(choice | {"reading": "linear"}, items)


def test_an_empty_pool_has_no_scores_and_a_file_without_texts_stops_a_run(tmp_path: Path) -> None:
    folder = folder_of(make_rater("llama", tmp_path / "llama"))
    assert scored({"name": "qurating", "rater": folder}, [], DOCUMENTS)[0] == []
    (tmp_path / "none.jsonl").write_text(json.dumps({"text": 3}) + "\n")
    for choice in (
        {"name": "qurating", "rater": folder, "reference": str(tmp_path / "none.jsonl")},
        {"name": "fineweb-edu", "reading": "dsir", "reference": str(tmp_path / "none.jsonl")},
    ):
        with pytest.raises(InputError, match="no usable documents left of 1 read"):
            check_use(SignalChoice.model_validate(choice), "selection")


def test_a_reading_needs_its_file_and_no_more() -> None:
    needs = {
        reading: (signal_needs(choice), signal_files(choice))
        for reading in ("classifier", "cosine", "dsir", "linear")
        for choice in [
            SignalChoice.model_validate({"name": "fineweb-edu", "reading": reading, "reference": "r", "raw": "w"})
        ]
    }
    assert needs == {
        "classifier": ({"rater"}, ()),
        "cosine": ({"embedder"}, ("r",)),
        "dsir": (frozenset(), ("r", "w")),
        "linear": ({"embedder"}, ("r", "w")),
    }
    with pytest.raises(ConfigError, match=r"under reading dsir; name one with signal.reference=FILE"):
        check_use(SignalChoice.model_validate({"name": "fineweb-edu", "reading": "dsir"}), "selection")
