"""Vectors of test items and documents are stored as they come: what a killed check computed is not computed again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from decontam import vectors
from decontam.check import ContaminationCheck
from decontam.corpus import FileCorpus
from decontam.embedded import EmbeddedBackend
from decontam.files import check_files
from decontam.items import TestItem
from decontam.vectors import stored_vectors
from harness.config import DecontamConfig
from harness.types import Usage


class Killed(Exception):
    """What stands for a kill."""


class Counting:
    """An embedder of letter counts that dies after `most` texts."""

    name = identity = "letters"
    truncated = 0

    def __init__(self, most: int = 10**9) -> None:
        self.most, self.seen = most, 0

    def embed(self, texts: Sequence[str], ids: Sequence[str] | None = None) -> NDArray[np.float32]:
        self.seen += len(texts)
        if self.seen > self.most:
            raise Killed
        rows = np.array([[text.count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts], np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)

    def usage(self) -> list[Usage]:
        return []


def test_a_killed_check_goes_on_behind_the_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "PART", 4)
    items = [TestItem("b", str(i), (f"what is the {chr(97 + i)} of every ship {i} in the harbour",)) for i in range(18)]
    rows = [{"text": f"a row about {chr(97 + i % 26)} and nothing else {i}"} for i in range(30)]
    rows += [{"text": items[3].text}]
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = DecontamConfig(modes=("embedding",), embedding_threshold=0.99)
    lines: list[tuple[str, int, int]] = []

    def run(embedder: Counting, folder: str) -> dict[str, object]:
        check = ContaminationCheck(items, settings, EmbeddedBackend(), embedder)
        corpus = FileCorpus([str(train)])
        return check_files(
            check, corpus, tmp_path / folder, against=["b"], progress=lambda *line: lines.append(line)
        ).report

    whole = run(Counting(), "whole")
    assert lines[0] == ("embedding test items", 4, 18) and ("embedding texts", 31, 31) in lines
    assert whole["removed"] == 1
    total = 0
    for most in (10, 9, 13):
        embedder = Counting(most)
        with pytest.raises(Killed):
            run(embedder, "killed")
        total += embedder.seen - 4
    last = Counting()
    report = run(last, "killed")
    assert report == whole
    assert last.seen <= len(items) + len(rows) - total < 49, "what was stored is not asked for again"


def test_blank_parts_take_the_width_of_the_others(tmp_path: Path) -> None:
    class Blank(Counting):
        def embed(self, texts: Sequence[str], ids: Sequence[str] | None = None) -> NDArray[np.float32]:
            found = super().embed(texts)
            return found if any(texts) else np.zeros((len(texts), 0), np.float32)

    texts = ["", ""] * vectors.PART + ["abc"]
    for _ in range(2):
        found = stored_vectors(Blank(), texts, None, tmp_path, "x")
        assert found.shape == (len(texts), 26) and found[-1].any() and not found[:-1].any()
    assert stored_vectors(Blank(), [], None, tmp_path, "y").shape[0] == 0
