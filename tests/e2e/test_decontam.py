"""`harness decontam` as a process: what it leaves, what it refuses, and going on after a kill."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.commands import Done, Harness, finished, harness

ITEMS = [
    "A sailor of sixty years notices a tremor of both hands that is gone when he holds a full glass of rum.",
    "Which of the two treaties that ended the war of the northern league gave the harbour back to its old owners?",
    "Un médecin naïf a noté trois fièvres: à 38,5 °C le matin, à 39 °C le soir, et aucune après le repas du dimanche.",
    "مريض عمره ستون عاما يشكو من رعشة في اليدين تزول عندما يمسك كوبا ممتلئا بالماء البارد في الصباح الباكر",
    "何が原因で港の古い灯台は百年の間ずっと消えたままだったのかを次の中から一つ選びなさい",
    "Short and known?",
]
TABLES = ("contamination_results_text.tsv", "contamination_results_ngram.tsv")


def _write(path: Path, rows: list[Any]) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def _chat(question: str, answer: str = "I do not know.") -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


@pytest.fixture
def office(tmp_path: Path) -> Path:
    """Test items, and training rows of which 4, 9, 12 and 15 hold one (counted from 1); row 18 holds a short one."""
    _write(tmp_path / "exam.jsonl", [{"id": f"e{i}", "question": text} for i, text in enumerate(ITEMS)])
    rows = [_chat(f"What is the capital of country number {i}?", f"It is town {i}.") for i in range(20)]
    rows[3] = _chat(f"Please answer:\n{ITEMS[0].upper().replace(',', ' ')}\nThank you.")
    rows[8] = _chat("Write an exam question.", f"Here it is. {ITEMS[1]}")
    rows[11] = _chat(f"{ITEMS[3]}؟")
    rows[14] = _chat(ITEMS[4])
    rows[17] = _chat(f"Tell me: {ITEMS[5]}")
    _write(tmp_path / "train.jsonl", rows)
    return tmp_path


def _run(folder: Path, *more: str, train: str = "train.jsonl", against: str = "exam.jsonl") -> Done:
    return harness(["decontam", "--train", train, "--against", against, "--out", "out", *more], folder)


def _report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
    return found


def _evidence(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "evidence.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rows_with_test_items_go_and_the_others_stay_byte_by_byte(office: Path) -> None:
    assert _run(office).status == 0
    lines = (office / "train.jsonl").read_bytes().splitlines(keepends=True)
    gone = {3, 8, 11, 14}
    assert (office / "out/cleaned/train.jsonl").read_bytes() == b"".join(
        x for i, x in enumerate(lines) if i not in gone
    )
    assert (office / "out/removed/train.jsonl").read_bytes() == b"".join(x for i, x in enumerate(lines) if i in gone)
    report = _report(office)
    (rate,) = report["benchmarks"]
    assert (rate["items"], rate["short"], rate["touched"], rate["short_touched"]) == (6, 1, 5, 1)
    assert (report["rows"], report["documents"], report["removed"]) == (20, 40, 4)
    found = _evidence(office)
    assert {(e["row"], e["part"]) for e in found if e["removed"]} == {
        (4, "prompt"),
        (9, "answer"),
        (12, "prompt"),
        (15, "prompt"),
    }
    assert [(e["row"], e["short"], e["removes"]) for e in found if not e["removed"]] == [(18, True, False)]
    for e in found:
        document, (field,) = e["document"], e["fields"]
        assert document["spans"] and field["spans"]
        for side in (document, field):
            assert all(0 <= a < b <= len(side["text"]) for a, b in side["spans"])
    arabic = next(e for e in found if e["row"] == 12 and e["mode"] == "text")
    ((a, b),) = arabic["document"]["spans"]
    assert arabic["document"]["text"][a:b] == ITEMS[3]
    page = (office / "out/report.html").read_text(encoding="utf-8")
    assert f"<mark>{ITEMS[3]}</mark>" in page and "http" not in page
    for name in TABLES:
        head, line = (office / "out" / name).read_text(encoding="utf-8").splitlines()
        assert head == "\texam.jsonl" and line.startswith("train.jsonl\t0.")


def test_the_report_says_what_was_read_and_what_was_not(office: Path) -> None:
    """On the screen, in JSON and on the page: fields by part, those that were left out, items without text."""
    rows = [{"id": f"r{i}", "instruction": f"Go on, {i}.", "history": [[ITEMS[i], "No."]], "\ud83d_source": "web"}
            for i in range(3)]  # fmt: skip
    rows.append({"instruction": None})
    (office / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    exam = [{"id": "a\ud83d", "question": ITEMS[0], "context": None}, {"id": "b", "question": "?!"}]
    (office / "exam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in exam), encoding="utf-8")
    done = _run(office, "--quiet", "--source-field", "id", against="exam.jsonl:question,context")
    assert done.status == 0, done.err
    report = _report(office)
    assert (report["removed"], report["rows_without_text"], report["unasked"]) == (1, 1, {"exam.jsonl": ["b"]})
    (rate,) = report["benchmarks"]
    assert (rate["items"], rate["empty"], rate["partial"], rate["touched"]) == (2, 1, 1, 1)
    uses = {(use["field"], use["part"]): use["rows"] for use in report["fields"]}
    assert uses == {
        ("instruction", "prompt"): 3, ("history", "prompt"): 3, ("history", "answer"): 3, ("\ufffd_source", ""): 3
    }  # fmt: skip
    screen = " ".join(done.out.split())
    for said in (
        "1 rows have no text", "prompts: history 3, instruction 3", "answers: history 3",
        "text not read: \ufffd_source 3", "not asked for: 1 of 2 items of exam.jsonl, without text: b",
        "1 items of exam.jsonl have an empty field",
    ):  # fmt: skip
        assert said in screen, screen
    page = (office / "out/report.html").read_text(encoding="utf-8")
    assert "<td>not read</td>" in page and "history" in page and "1 of 2 items were not asked for" in page
    named = _run(office, "--quiet", "--answer-field", "instruction", "--out", "named")
    assert "text not read: history 3, id 3, \ufffd_source 3" in " ".join(named.out.split()), named.out


def test_one_side_of_the_rows_can_be_checked_alone(office: Path) -> None:
    assert _run(office, "--parts", "answer").status == 0
    assert {e["row"] for e in _evidence(office) if e["removed"]} == {9}


def test_the_same_check_again_is_answered_from_its_report_and_another_is_refused(office: Path) -> None:
    assert _run(office).status == 0
    before = (office / "out/report.json").stat().st_mtime_ns
    again = _run(office)
    assert again.status == 0 and "was done before" in again.out
    assert (office / "out/report.json").stat().st_mtime_ns == before
    other = _run(office, "--ngram", "3")
    assert other.status == 2 and "report of another check" in other.err and len(other.err.splitlines()) == 2


def test_gzip_and_parquet_come_out_as_they_went_in(office: Path) -> None:
    import pandas as pd

    rows = [json.loads(line) for line in (office / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    _write(office / "rows.jsonl.gz", rows)
    flat = pd.DataFrame({"prompt": [r["messages"][1]["content"] for r in rows], "n": range(20)})
    flat.to_parquet(office / "rows.parquet")
    finished(
        ["decontam", "--train", "rows.jsonl.gz", "rows.parquet", "--against", "exam.jsonl", "--out", "out", "--quiet"],
        office,
    )
    assert len(gzip.decompress((office / "out/cleaned/rows.jsonl.gz").read_bytes()).splitlines()) == 16
    left = pd.read_parquet(office / "out/cleaned/rows.parquet")
    assert left["n"].tolist() == [i for i in range(20) if i not in (3, 11, 14)]
    assert pd.read_parquet(office / "out/removed/rows.parquet")["n"].tolist() == [3, 11, 14]
    assert [s["removed"] for s in _report(office)["sources"]] == [4, 3]


def test_a_killed_check_goes_on_and_ends_the_same(office: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [_chat(f"What is the capital of country number {i}?", f"It is town {i}.") for i in range(9000)]
    for i in (70, 4100, 8888):
        rows[i] = _chat(ITEMS[i % 2])
    _write(office / "train.jsonl", rows)
    arguments = ["decontam", "--train", "train.jsonl", "--against", "exam.jsonl", "--quiet", "--out"]
    finished([*arguments, "whole"], office)
    for pattern, count in ((r"words-.*npz", 3), (r"cleaned/", 1), (r"report\.json", 1)):
        Harness([*arguments, "out"], office, trap=(pattern, count)).wait()
        assert not (office / "out/report.json").exists()
    work = next((office / "out").glob(".check-*"))
    kept = {p.name: p.stat().st_mtime_ns for p in work.glob("*.npz")}
    assert len(kept) == 9
    assert len({t for t in kept.values()}) == 9
    finished([*arguments, "out"], office)
    for name in ("report.json", "evidence.jsonl", "report.html", "cleaned/train.jsonl", "removed/train.jsonl", *TABLES):
        assert (office / "out" / name).read_bytes() == (office / "whole" / name).read_bytes(), name
    assert not work.exists() and not list((office / "out").rglob("*.tmp"))
    assert len((office / "out/removed/train.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.parametrize(
    ("train", "says"),
    [
        (b'{"prompt": "a"}\nnot json\n', "train.jsonl, line 2: not valid JSON"),
        (b'{"prompt": "a"}\n[1]\n', "train.jsonl, line 2: a list"),
        (b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n', "train.jsonl, line 2: byte 16 is not UTF-8"),
        (b'{"prompt": "a"}\n{"prompt": "b", "prompt": "c"}\n', "line 2: not valid JSON ('prompt' stands twice"),
        (b'{"messages": [{"role": "user"}]}\n', "no row of train.jsonl has text to check"),
        (b'{"wrong": 1}\n', "no row of train.jsonl has text to check"),
        (b'{"prompt": ""}\n', "no row of train.jsonl has text to check"),
        (b"", "has no rows"),
    ],
)
def test_training_rows_that_cannot_be_read_end_in_one_line(office: Path, train: bytes, says: str) -> None:
    (office / "train.jsonl").write_bytes(train)
    _refused(_run(office, "--quiet"), says)
    assert not list((office / "out").rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("exam", "says"),
    [
        (b'{"id": 1, "question": "a b"}\n{"id": 2', "exam.jsonl, line 2: not valid JSON"),
        (b'{"id": 1, "stem": "a b"}\n', "name the test text after a colon"),
        (b'{"id": 1, "question": "?!"}\n', "no test item has any text"),
        (b'{"id": 1, "question": ""}\n', "no test item has any text"),
        (b"", "has no rows"),
    ],
)
def test_test_items_that_cannot_be_read_end_in_one_line(office: Path, exam: bytes, says: str) -> None:
    (office / "exam.jsonl").write_bytes(exam)
    _refused(_run(office, "--quiet"), says)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--against", "medicl"), "no such suite"),
        (("--against", "lab:nothing"), "has no benchmark 'nothing'"),
        (("--against", "exam.jsonl:stem"), "no row of exam.jsonl has a field 'stem'"),
        (("--prompt-field", "stem"), "train.jsonl, line 1 has no field stem"),
        (("--prompt-field", "messages", "stem"), "no row has text in the field 'stem'"),
        (("--modes", "text,graph"), "--modes"),
        (("--ngram-threshold", "1.5"), "--ngram-threshold"),
        (("--modes", "embedding"), "--embedder"),
        (("--embedder", "lexical"), "--embedder is for embedding mode"),
        (("--compat", "open"), "unknown --compat"),
        (("--train", "nothing.jsonl"), "does not exist"),
        (("--out", "exam.jsonl"), "--out exam.jsonl cannot be made a folder"),
        (("--source-field", "origin"), "no row states its source in 'origin'"),
        (("--modes", "text,text"), "names a mode twice"),
        (("--modes", ""), "--modes"),
        (("--modes", "text", "--ngram", "3"), "--ngram is for ngram mode"),
        (("--embedding-threshold", "0.9"), "--embedding-threshold is for embedding mode"),
        (("--search-size", "9"), "--search-size is for --compat"),
        (("--compat", "open-instruct", "--min-tokens", "4"), "sets --min-tokens to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(office: Path, more: tuple[str, ...], says: str) -> None:
    _refused(_run(office, "--quiet", *more), says)


def _refused(done: Done, says: str) -> None:
    assert done.status == 2, done
    (line,) = done.err.splitlines()
    assert line.startswith("harness: ") and says in line, line


def test_odd_text_is_checked_like_any_other(office: Path) -> None:
    """An item of a million characters, lone surrogates, mixed directions, a word without end."""
    long = " ".join(f"word{i}" for i in range(110_000))
    odd = [_chat(f"{ITEMS[0]} \ud800 {ITEMS[3]} ‮gnihtyna"), _chat("x" * 1_000_000), _chat(long), _chat(long[:-1])]
    (office / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in odd), encoding="utf-8")
    exam = [{"question": ITEMS[0]}, {"question": ITEMS[3]}, {"question": long}, {"question": "\udfff " + ITEMS[1]}]
    (office / "exam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in exam), encoding="utf-8")
    done = _run(office)
    assert done.status == 0, done.err
    found = {(e["row"], e["item"], e["mode"]) for e in _evidence(office)}
    # One pair a text, mode and benchmark is shown; the report lists all items.
    assert {(1, "1", "text"), (3, "3", "text")} <= found
    assert _report(office)["touched"] == {"exam.jsonl": ["1", "2", "3"]}
    assert (4, "3", "text") not in found and (4, "3", "ngram") in found
    assert all(len(e["document"]["text"]) <= 6000 for e in _evidence(office))
    left = [json.loads(line) for line in (office / "out/cleaned/train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["messages"][1]["content"][0] for row in left] == ["x"]


def test_the_selftest_finds_verbatim_items_and_no_clean_ones(tmp_path: Path) -> None:
    rows = [
        {"question": f"What did the {a} say to the {b} when {n} {c} fell from the {d} of house {n}?"}
        for n, (a, b, c, d) in enumerate(
            [
                (a, b, c, d)
                for a in ("baker", "judge")
                for b in ("miller", "smith")
                for c in ("apples", "bricks")
                for d in ("roof", "tower")
            ]
        )
    ]
    _write(tmp_path / "exam.jsonl", rows)
    done = finished(["decontam", "--selftest", "--against", "exam.jsonl", "--modes", "text", "--json"], tmp_path)
    result = json.loads(done.out)
    (found,) = result["found"]
    assert result["items"] == result["clean"] == 8
    assert (
        found["recall"]["verbatim"] == found["recall"]["re-wrapped"] == found["recall"]["case and punctuation"] == 1.0
    )
    assert found["recall"]["numbers changed"] == found["recall"]["paraphrased"] == 0.0
    assert (found["precision"], found["false_positives"]) == (1.0, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a file system of limited size can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_no_report(office: Path, small_disk: Path) -> None:
    import random

    rng = random.Random(0)
    rows = [_chat("".join(rng.choice("abcdefghij klmnop") for _ in range(300))) for _ in range(9000)]
    _write(office / "train.jsonl", rows)
    done = harness(
        ["decontam", "--train", "train.jsonl", "--against", "exam.jsonl", "--out", str(small_disk / "out"), "--quiet"],
        office,
    )
    _refused(done, "the disk is full while writing")
    assert not (small_disk / "out/report.json").exists() and not (small_disk / "out/cleaned/train.jsonl").exists()
