"""Texts of users as editors leave them: byte order marks, UTF-16 and line endings mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evals.catalogue import load_suite
from evals.data import load_items
from evals.read import DataContext
from harness.config import EmbedderConfig
from harness.models.embedder import open_embedder
from harness.models.given_vectors import text_key
from harness.models.prompts import builtin_prompt, load_prompt
from harness.resolve.targets import find_target
from harness.settings import read_config_file
from harness.synthesis.tables import read_rows
from harness.texts import read_text

CODINGS = ("utf-8", "utf-8-sig", "utf-16")
SUITE = """name: quiz
description: ä quiz
benchmarks:
  - id: write
    rows: {ids_not_in: held.txt, sources: [{file: exam.jsonl, fields: {id: nr, question: q, answer: a}}]}
    template: {prompt: "{{ question }}", output: generate_until, max_tokens: 4}
    metric: exact_match
    contamination: [question]
validation: []
"""


def write(path: Path, text: str, coding: str, ending: str = "\r\n") -> Path:
    path.write_bytes(text.replace("\n", ending).encode(coding))
    return path


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("coding", CODINGS)
def test_marks_and_line_endings_are_no_content(tmp_path: Path, coding: str, ending: str) -> None:
    assert read_text(write(tmp_path / "f", "eins\nzwöi\n", coding, ending)) == "eins\nzwöi\n"
    with pytest.raises(UnicodeDecodeError):
        read_text(write(tmp_path / "f", "zwöi", "latin-1"))


@pytest.mark.parametrize("coding", CODINGS)
def test_every_text_of_a_user_is_read_alike(tmp_path: Path, coding: str) -> None:
    prompt = builtin_prompt("generator")
    copy = write(tmp_path / "generator.txt", prompt.read_text(encoding="utf-8"), coding)
    assert load_prompt(copy).hash == load_prompt(prompt).hash
    config = write(tmp_path / "config.yaml", "seeds:\n  min_words: 5\n", coding)
    assert read_config_file(config).values == {"seeds": {"min_words": 5}}
    write(tmp_path / "suite.yaml", SUITE, coding)
    write(tmp_path / "held.txt", "0\n1\n", coding)
    rows = [json.dumps({"nr": i, "q": f"Question {i}?", "a": "yes"}) for i in range(4)]
    write(tmp_path / "exam.jsonl", "\n".join(rows), "utf-8-sig" if coding != "utf-8" else coding)
    suite = load_suite(str(tmp_path / "suite.yaml"))
    assert [i.id for i in load_items(suite.benchmark("write"), DataContext(), suite.folder)] == ["2", "3"]
    assert [row["nr"] for _, row in read_rows(str(tmp_path / "exam.jsonl"))[1]] == [0, 1, 2, 3]
    model = tmp_path / "model"
    model.mkdir()
    write(model / "config.json", json.dumps({"max_position_embeddings": 64, "dtype": "float32"}), coding)
    assert find_target(str(model)).settings["models"]["target"]["max_length"] == 64
    np.save(tmp_path / "v.npy", np.eye(2, dtype=np.float32))
    write(tmp_path / "v.keys", f"{text_key('a')}\n{text_key('b')}\n", coding)
    assert open_embedder(EmbedderConfig(id=str(tmp_path / "v.npy"))).embed(["a", "b"]).shape == (2, 2)
