"""Mistakes of all kinds: each gets one line that says what to do, exit status 2, no traceback, and breaks no run."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.cli.main import main
from support.commands import Harness, events, finished, harness, run_folders

pytestmark = pytest.mark.slow

NANO = ("--target", "nano", "--scale", "smoke", "--quiet")
STATIC = ("run", "--method", "static", *NANO)
OPTIMSYN = ("run", "--method", "optimsyn", *NANO)

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command in `tmp_path`, checks that it is refused as it should be, and returns the line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, runs: Path | str = "runs") -> str:
        assert main([*arguments, "--runs", str(runs)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("harness: ")
        return line

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--method", "optimsin", *NANO), "did you mean 'optimsyn'?"),
        (("run", "--method", "static", "--target", "nanp"), "did you mean 'nano'?"),
        (("run", "--method", "static", "--target", "nano", "--scale", "smok"), "did you mean 'smoke'?"),
        ((*OPTIMSYN, "--preset", "papr"), "did you mean 'paper'?"),
        ((*OPTIMSYN, "--driver", "best_of_m"), "did you mean 'best_of_n'?"),
        ((*OPTIMSYN, "--signal", "influense"), "did you mean 'influence'?"),
        ((*OPTIMSYN, "--suite", "labb"), "did you mean 'lab'?"),
        ((*OPTIMSYN, "--guide", "askd:3"), "did you mean 'asked'?"),
        ((*OPTIMSYN, "--set", "driver.stps=3"), "did you mean 'driver.steps'?"),
        ((*OPTIMSYN, "--set", "driver.steps=many"), "driver.steps"),
        ((*STATIC, "--signal", "influence"), "uses no signal"),
        ((*OPTIMSYN, "--signal", "oracle", "--seeds", "seeds.jsonl"), "needs lab seeds"),
        ((*STATIC, "--seeds", "none.jsonl"), "none.jsonl does not exist"),
        ((*STATIC, "--budget", "0"), "expected a number, above 0"),
        ((*STATIC, "--budget", "0.5"), "not a whole number of samples"),
        ((*STATIC, "--budget", "inf"), "finite"),
        ((*STATIC, "--budget", "nan"), "budget"),
        ((*STATIC, "--writer-from", "nothing"), "no run 'nothing'"),
        (("resume", "nothing"), "no run 'nothing'"),
        (("show", "nothing"), "no run 'nothing'"),
        (("compare", "nothing", "nothing"), "no run 'nothing'"),
        (("export", "nothing"), "no run 'nothing'"),
    ],
)
def test_a_wrong_name_or_number_leaves_nothing_behind(
    arguments: tuple[str, ...], said: str, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "seeds.jsonl").write_text('{"text": "a document"}\n')
    assert said in refused(*arguments)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("bad.jsonl", b'{"text": "a b c"}\n{"text": \n', "bad.jsonl, line 2: not valid JSON"),
        ("list.jsonl", b'{"text": "a b c"}\n\n[1]\n', "list.jsonl, line 3"),
        ("latin.jsonl", b'{"text": "caf\xe9"}\n', "line 1: byte"),
        ("short.jsonl", b'{"text": "too short"}\n{"text": ""}\n', "no usable documents left of 2 read"),
        ("empty.jsonl", b"", "no usable documents"),
        ("field.jsonl", b'{"body": "words"}\n', "fields present: body"),
        ("not.jsonl.gz", b"\x1f\x8b\x08 and no more", "not.jsonl.gz cannot be read"),
        ("not.parquet", b"PAR", "not.parquet cannot be read as parquet"),
    ],
)
def test_an_unusable_seeds_file_is_explained(
    lab: None, name: str, content: bytes, said: str, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refused(*STATIC, "--seeds", name)
    assert not (tmp_path / "runs").exists()


def test_a_seeds_file_that_may_not_be_read(lab: None, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    assert "is a folder without data files" in refused(*STATIC, "--seeds", "folder.jsonl")
    secret = tmp_path / "secret.jsonl"
    secret.write_text("{}")
    secret.chmod(0)
    if not os.access(secret, os.R_OK):
        assert "secret.jsonl" in refused(*STATIC, "--seeds", "secret.jsonl")


SUITE = """
name: exam
description: A small exam
benchmarks:
  - id: exam
    rows:
      sources:
        - {file: exam.jsonl, fields: {id: nr, question: q, choices: opts, answer: key, area: area}, answer_form: letter}
    template: {prompt: "{{ question }}"}
    contamination: [question]
validation:
  - name: practice
    rows:
      sources:
        - {file: practice.jsonl, fields: {id: nr, question: q, choices: opts, answer: key}, answer_form: letter}
    guides: [exam]
    like: exam
"""


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    """A suite of two items whose validation set is one item, and documents that share nothing with them."""
    questions = ["An offer lapses when?", "Who bears the burden of proof?", "What is given for a promise?"]
    rows = [{"nr": i, "area": "a", "q": q, "opts": ["yes", "no"], "key": "A"} for i, q in enumerate(questions)]
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "exam.jsonl").write_text("".join(lines[:2]))
    (tmp_path / "practice.jsonl").write_text(lines[2])
    words = random.Random(0)
    texts = [" ".join(words.choice("abcdefghij") * 4 for _ in range(40)) for _ in range(4)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path


EXAM = (*STATIC, "--suite", "suite.yaml", "--seeds", "seeds.jsonl")


def test_nothing_is_left_of_validation(lab: None, exam: Path, refused: Refused) -> None:
    (exam / "practice.jsonl").write_text((exam / "exam.jsonl").read_text())
    assert "Nothing is left of validation set 'practice'" in refused(*EXAM)


def test_less_is_left_of_validation_than_is_asked_for(lab: None, exam: Path, refused: Refused) -> None:
    assert "'practice'" in refused(*EXAM, "--guide", "practice:2")


def test_nothing_is_left_of_the_test(lab: None, exam: Path, refused: Refused) -> None:
    suite = exam / "suite.yaml"
    suite.write_text(suite.read_text().replace("    template", "      where: {area: b}\n    template", 1))
    assert "exam" in refused(*EXAM)


def test_nothing_is_left_of_the_seeds(lab: None, exam: Path, refused: Refused) -> None:
    question = "An offer lapses when? " + "it is rejected " * 10
    for name, key in (("exam.jsonl", "q"), ("seeds.jsonl", "text")):
        row = {"nr": 1, "area": "a", "opts": ["yes", "no"], "key": "A", key: question}
        (exam / name).write_text(json.dumps(row) + "\n")
    assert "Nothing is left of the seeds" in refused(*EXAM)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*STATIC, "--match", "teacher_tokens", "--budget", "10"), "oversteps the budget"),
        ((*STATIC, "--match", "flops", "--budget", "10"), "oversteps the budget"),
        ((*STATIC, "--match", "sft_tokens", "--budget", "1"), "less than the first sample takes"),
        # No lab answer has one word.
        (
            (*STATIC, "--budget", "12", "--set=synthesis.max_passes=1", "--set=synthesis.validity.short_answer_max=1"),
            "of 12 samples survive after 1 passes",
        ),
        (
            (*OPTIMSYN, "--signal", "random", "--match", "teacher_tokens", "--budget", "10"),
            "spent in step 1 of the writer's training",
        ),
    ],
)
def test_a_budget_that_cannot_be_kept(lab: None, arguments: tuple[str, ...], said: str, refused: Refused) -> None:
    small = ("--set", "synthesis.shard_size=8", "--set", "lab.seeds=12")
    assert said in refused(*arguments, *small)
    assert said in refused("resume", run_folders(Path("runs"))[0].name, "--quiet")


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    """A finished run's folder to damage, in `runs`, without the stages."""
    return Path(shutil.copytree(reference, tmp_path / "runs" / reference.name, symlinks=True))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_settings_that_drifted(copy: Path, refused: Refused) -> None:
    edit(copy / "config.yaml", "\nbudget: 40.0", "\nbudget: 41.0")
    assert "drifted from what the run was created with: budget;" in refused("resume", copy.name)


def test_runtime_settings_may_drift(copy: Path) -> None:
    from harness.runtime.run import open_run

    edit(copy / "config.yaml", "checkpoint_every: 2", "checkpoint_every: 5")
    assert open_run(copy.name, copy.parent).config.runtime.checkpoint_every == 5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run": 1}'])
@pytest.mark.parametrize("command", [("show",), ("export",), ("compare", "")])
def test_a_damaged_record(command: tuple[str, ...], content: str, copy: Path, refused: Refused) -> None:
    (copy / "record.json").write_text(content)
    assert "record.json" in refused(command[0], *[copy.name] * len(command))


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_manifest(content: str, copy: Path, refused: Refused) -> None:
    (copy / "run.json").write_text(content)
    for command in ("resume", "show", "export"):
        assert "run.json" in refused(command, copy.name)


def test_a_run_without_a_trained_writer(copy: Path, refused: Refused) -> None:
    manifest = json.loads((copy / "run.json").read_text())
    del manifest["stages"]["grpo"]
    (copy / "run.json").write_text(json.dumps(manifest))
    assert "trained no writer" in refused(*STATIC, "--writer-from", copy.name)
    assert [f.name for f in run_folders(Path("runs"))] == [copy.name]


def test_a_run_that_was_copied_without_its_writer(copy: Path, refused: Refused) -> None:
    assert "a run is moved with the folder .stages beside it" in refused(*STATIC, "--writer-from", copy.name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system of limited size can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_disk_fills_up_while_a_shard_is_written(
    lab: None, settings: tuple[str, ...], small_disk: Path, tmp_path: Path
) -> None:
    runs = small_disk / "runs"
    arguments = ["run", "--method", "static", *settings, "--runs", str(runs), "--quiet"]
    process = Harness(arguments, tmp_path)

    def shards() -> list[int]:
        found = [e for f in run_folders(runs) for e in events(f)]
        return [e["index"] for e in found if e["event"] == "shard" and e["stage"] == "regenerate"]

    process.until(lambda: bool(shards()))
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as handle, pytest.raises(OSError, match="No space"):
        while True:
            handle.write(bytes(4096))
    done = process.wait()
    assert done.status == 2, done
    assert len(done.err.splitlines()) == 1
    assert "the disk is full while writing" in done.err
    filler.unlink()
    finished(["resume", str(run_folders(runs)[0]), "--quiet"], tmp_path)
    assert sorted(shards()) == sorted(set(shards()))
    assert harness(["show", str(run_folders(runs)[0])], tmp_path).status == 0
