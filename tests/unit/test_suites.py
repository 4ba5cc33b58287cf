from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evals.catalogue import list_suites, load_suite
from evals.data import contamination_items, load_items, load_training, load_validation, load_validation_pool
from evals.overlap import drop_overlaps, split_without_overlaps
from evals.read import DataContext, read_file
from evals.suite import Suite
from harness.errors import ConfigError, InputError, PrerequisiteError
from harness.lab.world import World
from harness.types import Message, Seed, WorldId

DOCS = Path(__file__).parents[2] / "docs" / "suites.md"


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    """The documented example, written out as its page says."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.S)
    assert [kind for kind, _ in blocks] == ["jsonl", "jsonl", "yaml"]
    for name, (_, text) in zip(("exam.jsonl", "practice.jsonl", "suite.yaml"), blocks, strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def real() -> DataContext:
    folder = os.environ.get("HARNESS_TEST_DATA")
    if not folder:
        pytest.skip("HARNESS_TEST_DATA is not set: no real benchmark items here")
    return DataContext(data_folder=Path(folder))


def edited(folder: Path, old: str, new: str) -> Path:
    path = folder / "suite.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def items_of(path: Path) -> list[object]:
    suite = load_suite(path)
    return list(load_items(suite.benchmarks[0], DataContext(), suite.folder))


def test_packaged_suites_load_and_name_their_guides() -> None:
    assert list_suites() == ["benchmarks", "lab", "medical", "medical_small", "pubmedqa"]
    assert load_suite("lab").guided_columns("asked") == ("lab_asked",)
    medical = load_suite("medical")
    assert len(medical.benchmarks) == 6
    assert {b.id for b in medical.benchmarks if b.scorer == "judge"} == {"hle_medicine", "healthbench_consensus"}
    assert medical.validation_set("paper").same_items_as == ("medqa",)
    assert medical.validation_set().name == "clean"


def test_loading_a_suite_imports_no_model_library() -> None:
    code = (
        "import sys; from evals.catalogue import load_suite; import decontam.check, evals.data; load_suite('medical');"
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'datasets', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_documented_example(exam: Path) -> None:
    suite = load_suite(exam / "suite.yaml")
    items = load_items(suite.benchmark("bar_exam"), DataContext(), suite.folder)
    assert [(i.id, i.gold, i.fields["answer"], i.cluster) for i in items] == [
        ("1", 0, "Rejects it", "contracts"),
        ("2", 1, "Acceptance of an offer", "contracts"),
        ("3", 2, "The claimant", "torts"),
    ]
    (letter,) = load_validation(suite, "practice", 1, 3, DataContext())
    assert letter.messages[0].content.endswith("\nAnswer:") and letter.messages[1].content in "AB"
    pool = load_validation_pool(suite, None, DataContext(), rendering="reasoning")
    assert pool[0].messages[1].content == (
        "Negligence is a breach of a duty of care; it needs no intention.\n\nThe answer is An intention."
    )
    texts = list(contamination_items(suite, DataContext(limit=1)))
    assert [t.id for t in texts] == ["1", "2", "3"], "the limit of evaluation does not limit decontamination"


def test_draw_depends_on_the_seed_alone(exam: Path) -> None:
    suite = load_suite(exam / "suite.yaml")
    drawn = {tuple(v.id for v in load_validation(suite, None, 1, seed, DataContext())) for seed in range(20)}
    assert drawn == {("101",), ("102",)}
    again = [load_validation(suite, None, 2, 5, DataContext()) for _ in range(2)]
    assert again[0] == again[1]
    with pytest.raises(InputError, match="has 2 items, but 3"):
        load_validation(suite, None, 3, 0, DataContext())


def test_gzip_and_data_folder(
    exam: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("data")
    (elsewhere / "eval").mkdir()
    (elsewhere / "eval" / "exam.jsonl").write_bytes(gzip.compress((exam / "exam.jsonl").read_bytes()))
    (exam / "exam.jsonl").unlink()
    with pytest.raises(InputError, match="set HARNESS_DATA to"):
        items_of(exam / "suite.yaml")
    monkeypatch.setenv("HARNESS_DATA", str(elsewhere))
    assert len(items_of(exam / "suite.yaml")) == 3
    monkeypatch.setenv("HARNESS_DATA", str(elsewhere / "nowhere"))
    with pytest.raises(InputError, match="not a folder"):
        items_of(exam / "suite.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "contamination: [question]",
            "contaminaton: [question]",
            r"unknown key 'benchmarks\.0\.contaminaton'.*'contamination'",
        ),
        ("answer_form: letter", "answer_from: letter", r"sources\.0\.answer_from'; did you mean 'answer_form'"),
        ("domain: law", "domian: law", "'domian'; did you mean 'domain'"),
        ("domain: law", "folder: /tmp", "'folder' is not a key"),
        ("answer_form: letter", "answer_form: roman", "answer_form"),
        ("{{ lettered }}", "{{ letterd }}", "'letterd', which is not a field"),
        ("{{ lettered }}", "{{ lettered", "not valid Jinja"),
        ("cluster_key: area", "cluster_key: aera", "did you mean 'area'"),
        ("like: bar_exam", "like: bar_exams", "'bar_exams'; did you mean 'bar_exam'"),
        ("guides: [bar_exam]", "guides: []", "must be listed in 'guides'"),
        ("file: exam.jsonl", "split: test", "exactly one of 'file', 'hub' and 'lab'"),
        ("answer: key, area: area}", "area: area}", "maps no column to 'answer'"),
        ("continuation: letter", "output: generate_until", "exact_match"),
        ("    cluster_key", "    shots: 2\n    cluster_key", "no 'pool'"),
        ("    contamination: [question]", "    contamination: []", "'contamination' is empty"),
        ("rendering: letter", "rendering: reasoning\n    reasoning: '{{ reason }}'", "'reason', which is not a field"),
        ("name: bar-exam", "name: [bar", "not valid YAML"),
    ],
)
def test_malformed_suites_name_the_place(exam: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_suite(edited(exam, old, new))
    assert str(exam / "suite.yaml") in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_names_are_suggested(exam: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'pubmedqa'"):
        load_suite("pubmedq")
    with pytest.raises(InputError, match="does not exist"):
        load_suite("nowhere/suite.yaml")
    suite = load_suite(exam / "suite.yaml")
    with pytest.raises(ConfigError, match="did you mean 'practice'"):
        suite.validation_set("practise")
    with pytest.raises(ConfigError, match="did you mean 'bar_exam'"):
        suite.benchmark("barexam")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"nr": 4, "q": ', "line 3: not valid JSON"),
        (b'["nr"]', "line 3: a list, where each line must be one JSON object"),
        (b'{"nr": 4, "area": "x", "q": "\xff", "opts": ["a", "b"], "key": "A"}', "line 3: byte 30 is not UTF-8"),
        (b'{"nr": 4, "area": "x", "q": "Q?", "opts": ["a", "b"]}', "line 3 has no field 'key'"),
        (b'{"nr": 4, "area": "x", "q": " ", "opts": ["a", "b"], "key": "A"}', "line 3 has an empty question"),
        (b'{"nr": 4, "area": "x", "q": "Q?", "opts": ["a", "b"], "key": "C"}', "'C' is not the letter of one of its 2"),
        (b'{"nr": 4, "area": "x", "q": "Q?", "opts": ["a"], "key": "A"}', "list of 2 to 26"),
        (b'{"nr": 4, "area": "x", "q": "Q?", "opts": ["a", ""], "key": "A"}', "one of the choices is empty"),
        (
            b'{"nr": 1, "area": "x", "q": "Q?", "opts": ["a", "b"], "key": "A"}',
            "line 3 repeats the id '1' of .* line 1",
        ),
    ],
)
def test_malformed_items_name_the_line(exam: Path, line: bytes, message: str) -> None:
    path = exam / "exam.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], line, *lines[3:]]))
    with pytest.raises(InputError, match=message):
        items_of(exam / "suite.yaml")


def test_counts_are_checked_before_the_limit(exam: Path) -> None:
    path = edited(exam, "expected_count: 3", "expected_count: 4")
    with pytest.raises(InputError, match="gives 3 items where 4 are declared"):
        items_of(path)
    suite = load_suite(edited(exam, "expected_count: 4", "expected_count: 3"))
    assert len(load_items(suite.benchmarks[0], DataContext(limit=2), suite.folder)) == 2


def test_filters(exam: Path) -> None:
    path = edited(exam, "      expected_count: 3", "      where: {area: contracts}\n      ids_not_in: out.txt")
    with pytest.raises(InputError, match=r"list of ids .*out\.txt cannot be read"):
        items_of(path)
    (exam / "out.txt").write_text("2\n")
    assert [i.id for i in items_of(path)] == ["1"]  # type: ignore[attr-defined]
    edited(exam, "where: {area: contracts}", "where: {area: maritime}")
    with pytest.raises(InputError, match="gives no items"):
        items_of(path)


def test_nested_and_gathered_columns(exam: Path) -> None:
    (exam / "exam.jsonl").write_text(
        "\n".join(
            json.dumps({"nr": n, "area": "x", "q": {"text": f"Question {n}?"}, "o1": "yes", "o2": "no", "key": 1})
            for n in range(3)
        )
    )
    edited(
        exam,
        "question: q, choices: opts, answer: key, area: area}",
        'question: q.text, choices: "o1,o2", answer: key, area: area}',
    )
    path = edited(exam, "answer_form: letter\n      expected", "answer_form: index_from_0\n      expected")
    suite = load_suite(path)
    item = load_items(suite.benchmarks[0], DataContext(), suite.folder)[2]
    assert (item.text, item.choices, item.fields["answer"]) == ("Question 2?", ("yes", "no"), "no")


def test_the_hub_out_of_reach_is_one_sentence(exam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    path = edited(exam, "file: exam.jsonl", "hub: someone/exam\n          split: test")
    with pytest.raises(PrerequisiteError, match=r"someone/exam.*no route to host.*HARNESS_DATA") as caught:
        items_of(path)
    assert "\n" not in str(caught.value)


def test_truncated_gzip_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        list(read_file(path))


def test_overlaps_by_key_and_by_text(exam: Path) -> None:
    suite = load_suite(exam / "suite.yaml")
    items = load_items(suite.benchmarks[0], DataContext(), suite.folder)
    seeds = [
        Seed("same text", "an offer LAPSES when the offeree does which of the following"),
        Seed("same key", "Anything", keys={"pmid": "7"}),
        Seed("new", "Something else"),
    ]
    others = [*items, Seed("keyed", None, keys={"pmid": "7"})]
    kept, dropped = drop_overlaps(seeds, others, "the seeds", "the test")
    assert [s.id for s in kept] == ["new"]
    assert [(d.id, d.other_id, d.reason) for d in dropped] == [
        ("same text", "1", "text"),
        ("same key", "keyed", "key:pmid"),
    ]
    with pytest.raises(InputError, match="Nothing is left of the seeds: all 2 items overlap with the test"):
        drop_overlaps(seeds[:2], others, "the seeds", "the test")


def test_a_validation_set_may_name_its_subtasks(exam: Path) -> None:
    path = edited(exam, "    rendering: letter", "    rendering: letter\n    subtask: aera")
    with pytest.raises(ConfigError, match="'subtask' is 'aera', which is not a field; did you mean 'area'"):
        load_suite(path)
    edited(exam, "subtask: aera", "subtask: area")
    assert {v.subtask for v in load_validation_pool(load_suite(path), None, DataContext())} == {"torts", "contracts"}


def test_a_validation_set_that_is_the_test_stops(exam: Path) -> None:
    path = edited(exam, "file: practice.jsonl", "file: exam.jsonl")
    edited(exam, ", reasoning: why", "")
    with pytest.raises(InputError, match="Nothing is left of validation set 'practice'"):
        split_without_overlaps(load_suite(path), None, None, 0, [], DataContext())
    edited(exam, "    rendering: letter", "    rendering: letter\n    same_items_as: [bar_exam]")
    splits = split_without_overlaps(load_suite(path), None, None, 0, [Seed("s", "New text")], DataContext())
    assert splits.declared_overlaps == {"bar_exam": 3} and len(splits.validation) == 3 and len(splits.seeds) == 1


def test_lab_suite_follows_the_world() -> None:
    suite = load_suite("lab")
    for context in (DataContext(world=WorldId(3), test_items=12), DataContext(world=WorldId(4), test_items=12)):
        columns = {b.id: load_items(b, context, suite.folder) for b in suite.benchmarks}
        assert {len(items) for items in columns.values()} == {12}
        things = {i.cluster for i in columns["lab_asked"]}
        guide = load_validation(suite, "asked", 5, 0, context)
        assert not things & {v.keys["thing"] for v in guide}
        assert {v.subtask for v in load_validation(suite, "asked", None, 0, context)} <= World.of(context.world).asked
    first, second = (load_items(suite.benchmarks[0], DataContext(world=WorldId(w)), suite.folder) for w in (3, 4))
    assert [i.item_hash for i in first] != [i.item_hash for i in second]


def test_real_pubmedqa(real: DataContext) -> None:
    suite = load_suite("pubmedqa")
    assert real.data_folder is not None
    official = {
        str(r.values["pubid"])
        for r in read_file(real.data_folder / "eval" / "pubmedqa_l.jsonl.gz")
        if r.values["split"] == "test"
    }
    assert {i.id for i in load_items(suite.benchmarks[0], real, suite.folder)} == official
    seeds = [
        Seed(str(r.values["doc_id"]), str(r.values["text"]), keys={"pmid": str(r.values["pmid"])})
        for r in read_file(real.data_folder / "seeds" / "pubmedqa_cv_contexts.jsonl.gz")
    ]
    splits = split_without_overlaps(suite, "cv", None, 0, seeds, real)
    assert (len(splits.validation), len(splits.dropped_seeds), len(splits.seeds)) == (100, 100, 400)
    assert {d.reason for d in splits.dropped_seeds} == {"key:pmid"}
    assert {v.messages[1].content for v in splits.validation} == {"yes", "no", "maybe"}


def test_real_medical_counts(real: DataContext) -> None:
    suite: Suite = load_suite("medical")
    counts = {
        n: len(load_items(suite.benchmark(n), real, suite.folder)) for n in ("medqa", "mmlu_pro_health", "pubmedqa")
    }
    assert counts == {"medqa": 1273, "mmlu_pro_health": 818, "pubmedqa": 500}
    assert len(load_validation_pool(suite, "clean", real)) == 1272


def test_a_training_set_gives_labelled_seeds_that_no_test_or_guide_holds(real: DataContext) -> None:
    suite = load_suite("pubmedqa")
    items = load_training(suite, "cv_questions", real)
    assert len(items) == 500 and items[0].messages[1].content.endswith(("yes.", "no.", "maybe."))
    with pytest.raises(ConfigError, match="did you mean 'cv_questions'"):
        suite.training_set("cv_question")
    seeds = [Seed(i.id, None, (Message("user", i.text), Message("assistant", "x"))) for i in items]
    split = split_without_overlaps(suite, "cv", 100, 0, seeds, real)
    asked = {i.text for i in split.validation}
    assert len(split.seeds) == 400 and not asked & {s.messages[0].content for s in split.seeds if s.messages}
