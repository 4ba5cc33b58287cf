"""Files and data sets as rows: every form is read, what cannot be read is one line, rows are copied byte by byte."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from decontam.corpus import FileCorpus
from decontam.outputs import write_rows
from harness.errors import InputError
from harness.synthesis.tables import copy_rows, find_tables, read_rows

ROWS: list[dict[str, Any]] = [{"id": str(i), "text": f'line {i}, "quoted"\nand café'} for i in range(40)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def _csv(delimiter: str) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, ["id", "text"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return stream.getvalue().encode()


def _zstd(data: bytes) -> bytes:
    return bytes(pyarrow.compress(data, "zstd", asbytes=True))


def _parquet() -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


FORMS: dict[str, bytes] = {
    "a.jsonl": LINES,
    "A.JSONL": LINES,
    "a.ndjson": LINES,
    "lines.json": LINES,
    "bom.jsonl": b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n"),
    "blank.jsonl": LINES.replace(b"\n", b"\n\n  \n"),
    "open.jsonl": LINES.rstrip(),
    "array.json": json.dumps(ROWS).encode(),
    "indented.json": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode(),
    "array.jsonl": json.dumps(ROWS, indent=1).encode(),
    "object.json": json.dumps({row["id"]: {"text": row["text"]} for row in ROWS}, indent=1).encode(),
    "object-line.json": json.dumps({row["id"]: {"text": row["text"]} for row in ROWS}).encode(),
    "a.jsonl.gz": gzip.compress(LINES[:500]) + gzip.compress(LINES[500:]),
    "gz-named-plain.jsonl": gzip.compress(LINES),
    "plain-named-gz.jsonl.gz": LINES,
    "a.jsonl.bz2": bz2.compress(LINES),
    "array.json.xz": lzma.compress(json.dumps(ROWS).encode()),
    "a.jsonl.zst": _zstd(LINES),
    "a.csv": _csv(","),
    "bom.csv": b"\xef\xbb\xbf" + _csv(","),
    "a.tsv.gz": gzip.compress(_csv("\t")),
    "a.parquet": _parquet(),
}


def _write(folder: Path, name: str) -> Path:
    (folder / name).write_bytes(FORMS[name])
    return folder / name


def _rows(path: Path) -> list[dict[str, Any]]:
    return [dict(row) for _, row in read_rows(str(path))[1]]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    assert _rows(_write(tmp_path, name)) == ROWS


@pytest.mark.parametrize("name", FORMS)
def test_copies_hold_the_wanted_rows_in_the_form_of_the_file(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / name
    copy_rows(str(path), [int(row["id"]) % 3 > 0 for row in ROWS], target)
    assert _rows(target) == [row for row in ROWS if int(row["id"]) % 3 > 0]
    again = tmp_path / "out" / f"again-{name}"
    copy_rows(str(path), [int(row["id"]) % 3 > 0 for row in ROWS], again)
    assert again.read_bytes() == target.read_bytes()
    copy_rows(str(path), [False] * len(ROWS), target)
    assert _rows(target) == []
    copy_rows(str(path), [True] * len(ROWS), target)
    assert _rows(target) == ROWS
    if name == "a.jsonl":
        assert target.read_bytes() == LINES


def test_arrays_larger_than_the_window_are_read_element_by_element(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.synthesis.json_rows._BLOCK", 7)
    path = tmp_path / "a.json"
    for form in (json.dumps(ROWS), json.dumps(ROWS, indent=3, ensure_ascii=False), "[]", " [ ] "):
        path.write_text(form)
        assert _rows(path) == json.loads(form)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": oops}\n', "line 2: not valid JSON"),
        ("a.jsonl", b"text\nsome words\n", r"CSV is named \.csv"),
        *[
            (name, text.encode(coding), f"written in {coding[:6].upper()}; save it as UTF-8")
            for name, text in (("a.jsonl", '{"text": "x"}\n'), ("a.json", '[{"text": "x"}]'), ("a.csv", "text\nx\n"))
            for coding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be")
        ],
        ("a.jsonl", b'{"text": "\xff"}\n', "line 1: byte 11 is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}{"text": "y"}', "Extra data"),
        ("a.jsonl", b'{"text": "lost", "text": "x"}\n', "'text' stands twice in one object"),
        ("a.jsonl", b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", "nested deeper than 100 levels"),
        ("a.jsonl", b'{"a": ' + b"[" * 120 + b"]" * 120 + b"}\n", "nested deeper than 100 levels"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}\n", "a number of 5000 digits"),
        ("a.jsonl", LINES[:-30], "line 40: not valid JSON"),
        ("a.jsonl", _parquet(), r"no JSON but a \.parquet file"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-20], "cannot be read after line"),
        ("a.jsonl.gz", b"\x1f\x8b" + b"\0" * 40, "cannot be read after line 0"),
        ("a.jsonl.bz2", bz2.compress(LINES)[:-20], "cannot be read after line"),
        ("a.jsonl.xz", lzma.compress(LINES)[:-20], "cannot be read after line"),
        ("a.jsonl.zst", _zstd(LINES)[:-9], "cannot be read after line"),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)[:-20], "cannot be read after"),
        ("a.json", b'[{"text": "x"}, 3]', "row 2: an element is a int"),
        ("a.json", b'[{"text": "x"}, {"text": "y"', "row 2: not valid JSON"),
        ("a.json", b'[{"text": "x"}] and more', r"text stands after the closing \]"),
        ("a.json", b'[{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}]", "row 1: not valid JSON .nested deeper"),
        ("a.json", b'[{"a": ' + b"9" * 5000 + b"}]", "row 1: not valid JSON .a number of 5000 digits"),
        ("a.json", b'[{"text": "\xff"}]', "not UTF-8"),
        ("a.json", b'{"version": 1,\n "data": []}', "its value 'version' is a int, where rows are objects"),
        ("a.csv", b"id,text\n1,a\n2,b,c\n", "line 3: 3 cells where the header has 2"),
        ("a.csv", b'id,text\n1,"a\n', r"line 2: not valid CSV"),
        ("a.csv", b"id,text\n1,\xff\n", "line 2: byte 3 is not UTF-8"),
        ("a.csv", b"id,id\n1,2\n", "two columns are called 'id'"),
        ("a.parquet", b"PAR1 and no more", "cannot be read as parquet"),
        ("a.txt", b"words", "is none of JSON"),
        ("a.jsonl.zip", b"PK", "is none of JSON"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=says) as caught:
        _rows(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_folders_and_patterns_are_the_files_they_hold(tmp_path: Path) -> None:
    shards = tmp_path / "shards" / "data"
    shards.mkdir(parents=True)
    for number in range(3):
        (shards / f"train-{number}-of-3.jsonl").write_bytes(LINES)
    (tmp_path / "shards" / "README.md").write_text("about it")
    (shards / "_SUCCESS").write_text("")
    (shards / ".train.jsonl").write_text("hidden")
    files = tuple(str(shards / f"train-{number}-of-3.jsonl") for number in range(3))
    assert find_tables([str(tmp_path / "shards")]) == files
    assert find_tables([str(shards / "train-[01]*.jsonl"), files[2]]) == files
    with pytest.raises(InputError, match="is named twice"):
        find_tables([files[0], str(shards / "*.jsonl")])
    with pytest.raises(InputError, match="no file matches"):
        find_tables([str(shards / "test-*.jsonl")])
    with pytest.raises(InputError, match="names 3 files, such as"):
        read_rows(str(shards))
    (shards / "test-0-of-1.jsonl").write_bytes(LINES)
    with pytest.raises(InputError, match=r"holds files of test and train; name those that are meant, such as"):
        find_tables([str(shards)])
    (shards / "more.parquet").write_bytes(FORMS["a.parquet"])
    with pytest.raises(InputError, match=r"holds files of \.jsonl and \.parquet"):
        find_tables([str(shards)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is a folder without data files"):
        find_tables([str(tmp_path / "empty")])


def test_data_sets_that_were_saved(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one}).save_to_disk(str(tmp_path / "dict"))
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(str(tmp_path / "two"))
    for name in ("one", "dict", "two/train"):
        assert _rows(tmp_path / name) == ROWS
    with pytest.raises(InputError, match=r"holds the splits train, test; name one, such as .*two/train"):
        _rows(tmp_path / "two")
    copy_rows(str(tmp_path / "one"), [True] * 2 + [False] * 38, tmp_path / "copy.jsonl")
    assert _rows(tmp_path / "copy.jsonl") == ROWS[:2]
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read as a saved data set"):
        _rows(tmp_path / "one")


@pytest.mark.parametrize("value", [None, "", float("nan"), 7, [], "\ud83d lone half"])
def test_a_row_without_text_is_counted_and_kept(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": "some words"}, {"text": value}, {"text": "other words"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = FileCorpus([str(path)])
    assert corpus.without_text == (0 if isinstance(value, str) and value else 1)
    assert (corpus.rows, corpus.rows_in) == (3, [3])
    removed = np.zeros(corpus.size, np.bool_)
    removed[-1] = True
    write_rows(corpus, removed, tmp_path / "out")
    assert (tmp_path / "out" / "cleaned" / "a.jsonl").read_bytes().count(b"\n") == 2


def test_a_file_of_which_nothing_would_be_checked_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl").write_text('{"text": null}\n{"label": 1}\n')
    with pytest.raises(InputError, match=r"no row of .*b\.jsonl has text to check"):
        FileCorpus([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    with pytest.raises(InputError, match="name its fields or another --parts"):
        FileCorpus([str(tmp_path / "a.jsonl")], parts="answer")
