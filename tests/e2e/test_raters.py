"""Raters that are trained here: planted strengths come back, real texts are told apart, and runs take them."""

from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cache import cache_home
from harness.cli.main import main
from harness.raters.catalogue import find_rater
from harness.raters.model import Rater
from harness.shards import read_records
from harness.statistics import spearman
from harness.types import Score
from support.lab_runs import Bench
from support.minilm import minilm
from support.tiny import make_tiny_model


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def trained(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["rater", "train", *arguments]) == 0
    return capsys.readouterr().out


def test_bradley_terry_recovers_planted_strengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    words = [f"{a}{b}" for a in ("choice", "answer", "red", "may") for b in ("one", "no", "be")]
    strengths = dict(zip(words, np.linspace(-2, 2, len(words)), strict=True))
    draw = random.Random(0)
    rows = []
    for a, b in (draw.sample(words, 2) for _ in range(300)):
        p = 1 / (1 + math.exp(strengths[a] - strengths[b]))
        rows.append({"a": a, "b": b, "p": {"planted": p, "reverse": 1 - p}})
    base = make_tiny_model(tmp_path / "base")
    said = trained(
        capsys,
        *("--judgments", written(tmp_path / "j.jsonl", rows), "--base", str(base), "--to", str(tmp_path / "rater")),
        *("--confidence", "0", "--epochs", "8", "--rate", "3e-3", "--batch", "32"),
    )
    assert "held-out texts were trained on" in said and "planted" in said
    rater = Rater(find_rater(str(tmp_path / "rater")))
    found = rater.rate(words)
    known = np.array(list(strengths.values()))
    for head, sign in ((0, 1.0), (1, -1.0)):
        # Up to a constant: soft labels hold the distances, too.
        slope = np.polyfit(known, sign * found[:, head], 1)[0]
        assert spearman(known.tolist(), (sign * found[:, head]).tolist()) > 0.97 and 0.8 < slope < 1.25


def texts_of(path: Path, count: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(count), lines, strict=False)]
    return [" ".join(str(row.get("text") or row.get("clean_text")).split()[40:80]) for row in rows]


def test_a_rater_on_a_real_encoder_separates_real_texts(
    tmp_path: Path, test_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passages as they were written are better than the same words in any order."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    draw = random.Random(0)
    rows = []
    for name in ("nih_medquad_docs", "standardebooks_hss"):
        for text in texts_of(test_data / "seeds" / f"{name}.jsonl.gz", 60):
            words = text.split()[:28]
            text = " ".join(words)
            if len(words) < 20:
                continue
            draw.shuffle(words)
            first = draw.random() < 0.5
            a, b = (text, " ".join(words)) if first else (" ".join(words), text)
            rows.append({"a": a, "b": b, "p": {"order": 0.0 if first else 1.0}})
    said = trained(
        capsys,
        *("--judgments", written(tmp_path / "j.jsonl", rows), "--base", str(minilm()), "--to", str(tmp_path / "rater")),
        *("--held-out", "0.3", "--epochs", "1", "--rate", "3e-4", "--batch", "8", "--max-length", "48"),
    )
    print(said)
    notes = find_rater(str(tmp_path / "rater")).trained
    assert "held-out texts were trained on" not in said and int(notes["held_out"] or 0) >= 25
    assert float(notes["order_accuracy"] or 0) >= 0.85


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("raters"))


@pytest.mark.parametrize(
    "method, form, output, more",
    [
        ("qurating", [], "bradley_terry", {}),
        ("prrc", ["--grades"], "classes", {}),
        ("fineweb-edu", ["--grades"], "regression", {}),
        ("fineweb-edu", None, "", {"signal.reading": "dsir"}),
    ],
)
def test_a_run_takes_a_rater_that_was_trained_in_the_lab(
    bench: Bench,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    form: Any,
    output: str,
    more: Any,
) -> None:
    # The lab's models as they are, and no rating that another run of this test has kept.
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "lab").symlink_to(cache_home() / "lab")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    judgments = str(tmp_path / "judgments.jsonl")
    sets = dict(more)
    if form is None:
        sets["signal.reference"] = written(
            tmp_path / "ref.jsonl", [{"text": "It is kept in the shed and cures fever."}]
        )
    else:
        assert main(["lab", "judgments", "--to", judgments, "--count", "200", *form]) == 0
        own = ["--judgments", judgments, "--base", "lab:target", "--to", str(tmp_path / "rater"), "--output", output]
        trained(capsys, *own, "--epochs", "1", "--rate", "1e-3", "--batch", "32")
        sets["signal.rater"] = str(tmp_path / "rater")
    run = bench.run(method=method, sets=sets)
    scores = read_records(run.stage("score"), Score)
    assert run.record.signal == method and len(run.samples()) == run.config.budget
    assert len({score.value for score in scores}) > len(scores) / 2 and all(score.status == "ok" for score in scores)
    assert (run.tokens("rater", "score") > 0) == (form is not None)
    # The best of every document's pairs is what is kept.
    values = run.scores()
    best: dict[tuple[str, ...], float] = {}
    for sample in run.samples("decontaminate"):
        best[sample.seed_ids] = max(values[sample.id] or 0.0, best.get(sample.seed_ids, -math.inf))
    assert all(values[sample.id] == best[sample.seed_ids] for sample in run.samples())
