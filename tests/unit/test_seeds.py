from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError, InputError
from harness.synthesis.seeds import SeedLimits, load_seeds
from harness.types import Message

TEXT = "Aspirin lowers fever in most adults within an hour."


def jsonl(path: Path, rows: list[Any]) -> str:
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return str(path)


def fails(source: str, error: type[HarnessError] = InputError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        load_seeds(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_reads_fields_keys_and_origin(tmp_path: Path, name: str) -> None:
    row = {"doc_id": "pmid/7", "text": TEXT, "domain": "medical", "pmid": 7, "license": "CC0"}
    report = load_seeds(jsonl(tmp_path / name, [row, {"text": TEXT + " Indeed."}]))
    first, second = report.seeds
    assert (first.text, first.domain, first.licence, first.keys) == (TEXT, "medical", "CC0", {"pmid": "7"})
    assert first.source == f"{name}#pmid/7"
    assert (second.source, second.keys) == (f"{name}#2", {})
    assert (report.read, report.kept, report.dropped) == (2, 2, {})


def test_given_domain_and_licence_win(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": TEXT, "domain": "x", "licence": "y"}])
    seed = load_seeds(path, domain="law", licence="CC0").seeds[0]
    assert (seed.domain, seed.licence) == ("law", "CC0")


def test_field_order_and_explicit_field(tmp_path: Path) -> None:
    row = {
        "content": TEXT + " 4",
        "raw_text": TEXT + " 3",
        "text": TEXT + " 2",
        "clean_text": TEXT + " 1",
        "body": TEXT,
    }
    path = jsonl(tmp_path / "a.jsonl", [row])
    assert load_seeds(path).seeds[0].text == TEXT + " 1"
    assert load_seeds(path, text_field="body").seeds[0].text == TEXT
    assert "no field" not in load_seeds(path).summary()


def test_messages_become_a_conversation(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Does aspirin lower fever quickly?"}, {"role": "assistant", "content": "Yes."}]
    seed = load_seeds(jsonl(tmp_path / "a.jsonl", [{"messages": turns}])).seeds[0]
    assert seed.text is None
    assert seed.messages == (Message("user", "Does aspirin lower fever quickly?"), Message("assistant", "Yes."))


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [TEXT, None], "pmid": ["1", "2"]}), path)
    report = load_seeds(str(path))
    assert report.seeds[0].keys == {"pmid": "1"}
    assert report.dropped == {"seed_missing_field": 1}
    path.write_bytes(b"not parquet")
    assert "cannot be read as parquet" in fails(str(path))


def test_everything_dropped_is_counted_with_a_reason(tmp_path: Path) -> None:
    rows = [
        {"text": TEXT},
        {"text": "  aspirin LOWERS fever in most adults\nwithin an hour. "},
        {"text": " \n"},
        {"text": "too short"},
        {"text": "word " * 50},
        {"text": "x" * 400 + " a b c d e"},
        {"text": TEXT + " \ud800"},
        {"text": TEXT + " \0"},
        {"text": "\ufffd\ufffd " + TEXT},
        {"title": "no text"},
        {"text": 3},
        {"messages": [{"role": "user"}]},
    ]
    report = load_seeds(jsonl(tmp_path / "a.jsonl", rows), limits=SeedLimits(max_words=40, max_chars=300))
    assert report.dropped == {
        "seed_bad_encoding": 3,
        "seed_bad_type": 2,
        "seed_duplicate": 1,
        "seed_empty": 1,
        "seed_missing_field": 1,
        "seed_too_long": 2,
        "seed_too_short": 1,
    }
    assert report.read == report.kept + sum(report.dropped.values())
    assert len(report.rejects) == 11
    assert "fields present: title" in report.summary()
    assert "equals a.jsonl#1" in report.summary()
    for reject in report.rejects:
        reject.raw.encode("utf-8")


def test_limit_counts_usable_documents(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", [{"text": "short"}, {"text": TEXT}, {"text": TEXT + " b"}, {"text": TEXT + " c"}]
    )
    report = load_seeds(path, limit=2)
    assert (report.read, report.kept) == (3, 2)
    assert "limit of 0" in fails(path, limit=0)


def test_ids_hash_content_and_origin(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    first = load_seeds(jsonl(tmp_path / "a.jsonl", [{"text": TEXT}]))
    same = load_seeds(jsonl(tmp_path / "sub" / "a.jsonl", [{"text": TEXT}]))
    other = load_seeds(jsonl(tmp_path / "b.jsonl", [{"text": TEXT}]))
    assert first.seeds[0].id == same.seeds[0].id != other.seeds[0].id
    assert first.hash == same.hash != other.hash


def test_bad_files_say_what_and_where(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert "does not exist" in fails(str(path))
    path.write_text('{"text": "' + TEXT + '"}\n\n{"text": oops}\n')
    assert f"{path}, line 3: not valid JSON" in fails(str(path))
    path.write_bytes(b'{"text": "ok"}\n{"text": "\xff"}\n')
    assert "line 2: byte 11 is not UTF-8" in fails(str(path))
    path.write_text('{"text": "ok"}\n[1]\n')
    assert "line 2: a list" in fails(str(path))
    path.write_text("")
    assert "no usable documents are left" in fails(str(path))
    path.write_text('{"title": "x"}\n')
    assert "fields present: title" in fails(str(path))
    assert "the field body " in fails(str(path), text_field="body")
    path.write_text('{"text": "x"}\n')
    assert "no usable documents left of 1 read (1 seed_too_short)" in fails(str(path))
    (tmp_path / "a.txt").write_text("words")
    assert "is none of JSON" in fails(str(tmp_path / "a.txt"))
    torn = gzip.compress(b'{"text": "' + TEXT.encode() * 50 + b'"}\n')[:-20]
    (tmp_path / "torn.jsonl.gz").write_bytes(torn)
    assert "cannot be read after line 0" in fails(str(tmp_path / "torn.jsonl.gz"))


@pytest.mark.parametrize(
    "value",
    [
        [{"role": "user", "content": "Does aspirin lower fever?"}, {"role": "assistant", "content": "It does."}],
        [{"from": "human", "value": "Does aspirin lower fever?"}, {"from": "gpt", "value": "It does."}],
        {"role": ["user", "assistant"], "content": ["Does aspirin lower fever?", "It does."]},
        [{"from": "User", "value": "Does aspirin lower fever?"}, {"from": "ChatGPT", "value": "It does."}],
        [
            {"role": "user", "content": [{"type": "text", "text": "Does aspirin lower fever?"}]},
            {"role": "assistant", "content": "It does."},
        ],
    ],
)
@pytest.mark.parametrize("field", ["messages", "conversations", "conversation", "dialog"])
def test_conversations_in_any_notation(tmp_path: Path, value: Any, field: str) -> None:
    turns = (Message("user", "Does aspirin lower fever?"), Message("assistant", "It does."))
    options = {"text_field": field} if field == "dialog" else {}
    for number, stored in enumerate((value, json.dumps(value), str(value))):
        report = load_seeds(jsonl(tmp_path / f"{number}.jsonl", [{field: stored}]), **options)
        assert report.seeds[0].messages == turns


def test_what_looks_like_a_conversation_and_is_none_is_no_document(tmp_path: Path) -> None:
    torn = json.dumps([{"role": "user", "content": TEXT}])[:-3]
    report = load_seeds(jsonl(tmp_path / "a.jsonl", [{"messages": torn}, {"text": TEXT}]))
    assert report.dropped == {"seed_bad_type": 1} and report.kept == 1
    row = {"messages": [], "conversations": [{"from": "human", "value": TEXT}]}
    assert load_seeds(jsonl(tmp_path / "b.jsonl", [row])).kept == 1


def test_several_files_folders_and_patterns(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "a-1.jsonl", [{"text": TEXT}, {"text": TEXT + " 2"}])
    second = jsonl(tmp_path / "a-2.jsonl", [{"text": TEXT}, {"text": TEXT + " 3"}])
    both = load_seeds([first, second])
    assert [seed.source for seed in both.seeds] == ["a-1.jsonl#1", "a-1.jsonl#2", "a-2.jsonl#2"]
    assert (both.read, both.dropped) == (4, {"seed_duplicate": 1})
    assert load_seeds(str(tmp_path)).hash == load_seeds(str(tmp_path / "a-*.jsonl")).hash == both.hash
    assert load_seeds([first, second], limit=2).read == 2


def test_lone_surrogates_anywhere_in_a_row(tmp_path: Path) -> None:
    row = {"text": TEXT, "id": "x\ud800", "domain": "d\ud800", "licence": "l\ud800", "pmid": "7\ud800"}
    report = load_seeds(jsonl(tmp_path / "a.jsonl", [row, {"\ud800": 1}]))
    (seed,) = report.seeds
    for text in (seed.id, seed.source, seed.domain, seed.licence, *seed.keys.values(), report.summary()):
        text.encode()


def test_a_mistyped_file_is_not_looked_up_on_the_hub() -> None:
    assert "does not exist" in fails("data/seeds.jsonl")
    assert "does not exist" in fails("a/b/c")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("nih_medquad_docs", 1500),
        ("pubmed_ncbi_disease", 790),
        ("pubmedqa_cv_contexts", 500),
        ("standardebooks_hss", 824),
    ],
)
def test_real_collections(name: str, kept: int) -> None:
    folder = os.environ.get("HARNESS_TEST_DATA")
    if not folder:
        pytest.skip("HARNESS_TEST_DATA is not set")
    report = load_seeds(f"{folder}/seeds/{name}.jsonl.gz")
    assert (report.read, report.kept) == (kept, kept)
    assert len({seed.id for seed in report.seeds}) == kept


def test_rows_of_question_and_answer_are_labelled_seeds(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Name the organ.", "input": "It makes bile.", "output": "The liver."},
        {"problem": "What is 2 + 2?", "answer": 4, "reasoning": "Two and two."},
        {"text": TEXT, "question": "Why?", "answer": "So."},
        {"question": "Why?", "answer": " "},
    ]
    report = load_seeds(jsonl(tmp_path / "a.jsonl", rows))
    assert [s.messages and [m.content for m in s.messages] for s in report.seeds] == [
        ["Name the organ.\n\nIt makes bile.", "The liver."],
        ["What is 2 + 2?", "Two and two.\n\n4"],
        None,
    ]
    assert report.dropped == {"seed_missing_field": 1} and report.seeds[2].text == TEXT


def test_named_columns_make_every_row_a_labelled_seed(tmp_path: Path) -> None:
    rows = [{"text": TEXT, "asked": "Why?", "gold": "So.", "reasoning": "Hm."}, {"text": TEXT, "asked": "Why?"}]
    report = load_seeds(jsonl(tmp_path / "a.jsonl", rows), question_field="asked", answer_field="gold")
    assert report.seeds[0].messages == (Message("user", "Why?"), Message("assistant", "So."))
    assert [s.text for s in report.seeds[1:]] == [TEXT]
    assert "or a question with its answer" in fails(jsonl(tmp_path / "b.jsonl", [{"x": 1}]))
