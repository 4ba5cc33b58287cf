"""The page of a check: removals that rest on little are shown by themselves, whatever there is of stronger ones."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from decontam import files
from decontam.check import ContaminationCheck
from decontam.corpus import FileCorpus
from decontam.embedded import EmbeddedBackend
from decontam.files import check_files
from decontam.items import TestItem
from harness.config import DecontamConfig


def _words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(3)) for _ in range(count)]


@pytest.mark.parametrize("shown", [5, 300])
def test_doubtful_pairs_are_shown_beside_the_strongest(
    shown: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SHOWN", shown)
    rng = random.Random(0)
    texts = [_words(rng, 20) for _ in range(60)]
    items = [TestItem("b", str(i), (" ".join(text),)) for i, text in enumerate(texts)]
    # Eight, nine and ten tokens of twenty are doubtful; eleven and more are not.
    lengths = [8 + i % 3 for i in range(20)] + [11 + i % 10 for i in range(40)]
    rows = [" ".join([*text[:length], *_words(rng, 9)]) for text, length in zip(texts, lengths, strict=True)]
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    check = ContaminationCheck(items, DecontamConfig(modes=("ngram",)), EmbeddedBackend())
    check_files(check, FileCorpus([str(train)]), tmp_path / "out", against=["b"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    doubtful, others = page.split("<h2>Doubtful pairs</h2>")[1].split("<h2>Other pairs</h2>")
    scores = [[float(s) for s in re.findall(r"n-grams ([0-9.]+) share", part)] for part in (doubtful, others)]
    assert [len(found) for found in scores] == [min(shown, 20), min(shown, 40)]
    assert scores[0] == sorted(scores[0]) and max(scores[0]) <= 0.5 and scores[1] == sorted(scores[1], reverse=True)
    assert min(scores[1]) > 0.5
    assert ("5 of 20, drawn evenly" in doubtful) == (shown == 5)


def test_a_surrogate_in_an_id_or_a_text_ends_in_no_traceback(tmp_path: Path) -> None:
    text = "what is the name of the old harbour \ud83d that lies beyond the second bridge"
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    check = ContaminationCheck([TestItem("b\ud83d", "1\ud83d", (text,))], DecontamConfig(), EmbeddedBackend())
    report = check_files(check, FileCorpus([str(train)]), tmp_path / "out", against=["b"]).report
    assert report["removed"] == 1 and (tmp_path / "out" / "report.html").is_file()
