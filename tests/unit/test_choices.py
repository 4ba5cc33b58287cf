"""Choices and answers as published tests have them; whatever is not plainly one of these forms is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from decontam.tokens import clean
from evals.against import load_against
from evals.catalogue import load_suite
from evals.data import Item, load_items
from evals.read import DataContext
from harness.errors import InputError

NAN = float("nan")

SUITE = """
name: made
description: made on the spot
benchmarks:
  - id: quiz
    rows:
      sources:
        - file: {file}
          fields: {{id: id, question: q, choices: {choices}, answer: a}}
          answer_form: {form}
    template: {{prompt: "{{{{ question }}}}"}}
    contamination: [question, choices]
"""


def _load(folder: Path, rows: list[dict[str, Any]], form: str, choices: str = "c", file: str = "a.jsonl") -> list[Item]:
    numbered = [{"id": number, "q": f"Question {number}?", **row} for number, row in enumerate(rows)]
    if file.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(numbered), folder / file)
    elif file.endswith(".json"):
        (folder / file).write_text(json.dumps(numbered, indent=1))
    else:
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in numbered))
    (folder / "suite.yaml").write_text(SUITE.format(file=file, form=form, choices=choices))
    suite = load_suite(folder / "suite.yaml")
    return load_items(suite.benchmarks[0], DataContext(), suite.folder)


TEXTS = ["wool", "bread", "salt", "wax"]
LETTERS = {"A": "wool", "B": "bread", "C": "salt", "D": "wax"}


@pytest.mark.parametrize("file", ["a.jsonl", "a.json", "a.parquet"])
@pytest.mark.parametrize(
    ("choices", "answer", "form"),
    [
        (TEXTS, 2, "index_from_0"),
        (TEXTS, "2", "index_from_0"),
        (TEXTS, 3, "index_from_1"),
        (TEXTS, 3.0, "index_from_1"),
        (TEXTS, "C", "letter"),
        (TEXTS, "salt", "text"),
        (LETTERS, "C", "letter"),
        (LETTERS, 2, "index_from_0"),
        ({**LETTERS, "E": None}, "c", "letter"),
        ({"text": TEXTS, "label": ["A", "B", "C", "D"]}, "C", "letter"),
        ({"label": ["1", "2", "3", "4"], "text": TEXTS}, "3", "letter"),
        ([{"label": label, "text": text} for label, text in LETTERS.items()], "C", "letter"),
        (json.dumps(TEXTS), "C", "letter"),
    ],
)
def test_the_right_choice_in_every_form(tmp_path: Path, choices: Any, answer: Any, form: str, file: str) -> None:
    (item,) = _load(tmp_path, [{"c": choices, "a": answer}], form, file=file)
    assert (item.choices, item.gold, item.fields["answer"]) == (tuple(TEXTS), 2, "salt")


@pytest.mark.parametrize(
    ("choices", "answer", "form", "says"),
    [
        (TEXTS, 4, "index_from_0", "'4' is not the index_from_0 of one of its 4"),
        (TEXTS, 0, "index_from_1", "'0' is not the index_from_1"),
        (TEXTS, -1, "index_from_0", "'-1' is not"),
        (TEXTS, 1.5, "index_from_0", "'1.5' is not"),
        (TEXTS, True, "index_from_0", "'True' is not"),
        (TEXTS, 4, "index", "if answers count from 1, declare answer_form: index_from_1"),
        (TEXTS, 1, "index", "no row of a.jsonl answers 0"),
        (TEXTS, "E", "letter", "'E' is not the letter"),
        (TEXTS, None, "letter", "'' is not the letter"),
        (["salt", "salt", "wax"], "salt", "text", "'salt' is not the text"),
        ({"label": ["1", "2"], "text": ["wool", "wax"]}, "A", "letter", "'A' is not the letter"),
        ({"label": ["A", "A"], "text": ["wool", "wax"]}, "A", "letter", "same label"),
        ({"label": ["A", "B"], "texts": ["wool", "wax"]}, "A", "letter", "is a list, where text is expected"),
        (["wool", NAN], "A", "letter", "one of the choices is empty"),
        (["wool", None], "A", "letter", "one of the choices is empty"),
        ({"A": "wool", "B": None, "C": "wax"}, "A", "letter", "one of the choices is empty"),
        (["wool", ["wax"]], "A", "letter", "is a list, where text is expected"),
        ([{"a": "wool"}, {"a": "wax"}], "A", "letter", "neither a text nor a label with a text"),
        (None, "A", "letter", "list of 2 to 26 texts"),
        ("wool", "A", "letter", "list of 2 to 26 texts"),
        (["wool \ud800", "wax"], "A", "letter", "'choices' holds half of a surrogate pair"),
    ],
)
def test_a_wrong_item_is_one_line(tmp_path: Path, choices: Any, answer: Any, form: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        _load(tmp_path, [{"c": choices, "a": answer}], form)
    assert "\n" not in str(caught.value)


def test_one_answer_of_0_shows_where_counting_begins(tmp_path: Path) -> None:
    rows = [{"c": TEXTS, "a": answer} for answer in (1, 3, 0, 2)]
    assert [item.gold for item in _load(tmp_path, rows, "index")] == [1, 3, 0, 2]
    gathered = [dict(zip("wxyz", TEXTS, strict=True)) | {"a": 1}, {"w": "wool", "x": "wax", "y": NAN, "z": NAN, "a": 1}]
    with pytest.raises(InputError, match=r"line 2: one of the choices is empty"):
        _load(tmp_path, gathered, "index_from_1", choices='"w,x,y,z"')


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"q": "what \ud83d?"}, "'question' holds half of a surrogate pair"),
        ({"id": "\ud83d"}, "'id' holds half of a surrogate pair"),
        ({"id": None}, "has no id"),
        ({"id": NAN}, "has no id"),
        ({"q": NAN}, "has an empty question"),
        ({"q": None}, "has an empty question"),
    ],
)
def test_questions_and_ids_are_text(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        _load(tmp_path, [{"c": TEXTS, "a": 0, **row}], "index")


@pytest.mark.parametrize("line", ['{"a": ' + "[" * 5000 + "]" * 5000 + "}", '{"a": ' + "9" * 5000 + "}"])
def test_rows_that_no_program_reads_are_one_line(tmp_path: Path, line: str) -> None:
    _load(tmp_path, [{"c": TEXTS, "a": 0}], "index")
    with (tmp_path / "a.jsonl").open("a") as stream:
        stream.write(line + "\n")
    suite = load_suite(tmp_path / "suite.yaml")
    with pytest.raises(InputError, match=r"line 2: not valid JSON"):
        load_items(suite.benchmarks[0], DataContext(), suite.folder)


def test_files_of_test_items(tmp_path: Path) -> None:
    rows = [
        {"id": "x\ud800", "QUESTION": "Who kept the ledger?", "choices": {"text": TEXTS, "label": [*"ABCD"]}},
        {"id": NAN, "QUESTION": "What did the ferryman trade?", "context": None},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    named = load_against([f"{tmp_path}/a.json:QUESTION,choices,context"], DataContext()).items
    assert [item.fields for item in named] == [
        ("Who kept the ledger?", "\n".join(TEXTS), ""),
        ("What did the ferryman trade?", "", ""),
    ]
    assert [item.id for item in named] == [clean("x\ud800"), "2"]
    assert [item.fields for item in load_against([f"{tmp_path}/a.json"], DataContext()).items] == [
        ("Who kept the ledger?",),
        ("What did the ferryman trade?",),
    ]
    with pytest.raises(InputError, match=r"no row of .* has a field 'passage'"):
        load_against([f"{tmp_path}/a.json:QUESTION,passage"], DataContext())
