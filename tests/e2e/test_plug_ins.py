"""The package of `docs/plug-ins.md`: installed, listed, planned, run, killed, resumed and compared."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.commands import Harness, finished, harness, rows, run_folders, stage_folder
from support.law import commentary, write_commentary
from support.packages import install, write_documented

pytestmark = pytest.mark.slow

NANO = ("--target", "nano", "--scale", "smoke", "--set", "synthesis.shard_size=12", "--budget", "12")


@dataclass(frozen=True)
class Bench:
    """A folder to work in, with the package on the path of every process."""

    base: Path
    files: list[str]


@pytest.fixture(scope="module")
def bench(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    base = tmp_path_factory.mktemp("plug-ins")
    files = write_documented(base / "package")
    install(base / "package", base / "site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(base / "site"), os.environ.get("PYTHONPATH", "")]))
        yield Bench(base, files)


def test_the_package_is_ten_files(bench: Bench) -> None:
    """One for each thing, and what says where they are; none of the project's files is touched."""
    code = ("signal.py", "perplexity.py", "best_overall.py", "true_or_false.py")
    data = ("brief.yaml", "small_exam.yaml", "exam.jsonl", "practice.jsonl", "statement.txt")
    assert set(bench.files) == {"pyproject.toml", *(f"brevity/{name}" for name in (*code, *data))}
    source = (bench.base / "package" / "brevity" / "signal.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 35


def test_it_is_listed(bench: Bench) -> None:
    signals = finished(["signals"], bench.base).out
    assert "example: how short the answer is" in signals and "not usable" not in signals
    (row,) = (line for line in signals.splitlines() if line.startswith("perplexity"))
    assert row.split()[1:4] == ["higher", "no", "forward"]
    assert "example: the best of all pairs" in finished(["drivers"], bench.base).out
    assert "whether it is true" in " ".join(finished(["routes"], bench.base).out.split())
    assert "brief" in finished(["methods"], bench.base).out and "small_exam" in finished(["suites"], bench.base).out
    assert "Words from which on an answer is worth nothing." in finished(["explain", "signal.most"], bench.base).out
    seen = json.loads(harness(["doctor", "--json"], bench.base).out)
    (found,) = (f for f in seen["findings"] if f["section"] == "plug-ins")
    assert "signal perplexity (brevity 0.1)" in found["value"] and "suite small_exam (brevity 0.1)" in found["value"]


def test_it_is_planned_with_its_settings_and_cost(bench: Bench) -> None:
    plan = json.loads(finished(["plan", "--method", "brief", *NANO, "--json"], bench.base).out)
    assert plan["settings"]["signal.most"] == {"value": 12, "layer": "method brief"}
    assert plan["settings"]["driver.n"]["value"] == 3
    assert "brief = best_overall x brevity" in finished(["plan", "--method", "brief", *NANO], bench.base).out
    asked = json.loads(
        finished(["plan", "--method", "brief", "--route", "true_or_false", *NANO, "--json"], bench.base).out
    )
    assert asked["settings"]["route.name"]["value"] == "true_or_false"
    wrong = harness(["plan", "--method", "brief", *NANO, "--set", "signal.mots=3"], bench.base)
    assert (wrong.status, wrong.err.count("\n")) == (2, 1) and "did you mean 'signal.most'?" in wrong.err
    write_commentary(bench.base / "law.jsonl", commentary(40))
    exam = ("--suite", "small_exam", "--seeds", "law.jsonl", "--signal", "perplexity", "--target", "nano")
    sizes = ("--budget", "12", "--set", "seeds.min_words=5")
    text = finished(["plan", "--method", "brief", *exam, *sizes], bench.base).out
    assert "small_exam" in text and "best_overall x perplexity" in text
    wrong = harness(["plan", "--method", "brief", *NANO, "--set", "driver.m=3"], bench.base)
    assert (wrong.status, wrong.err.count("\n")) == (2, 1) and "'driver.m'" in wrong.err and "driver.n" in wrong.err


def test_a_run_is_killed_resumed_and_compared(bench: Bench) -> None:
    """The scores are the class's own, and the settings' version of it is what is stored."""
    runs = ("--runs", str(bench.base / "runs"), "--quiet")
    in_scoring = ("score-[0-9a-f]+/part-00000001", 1)
    assert Harness(["run", "--method", "brief", *NANO, *runs], bench.base, in_scoring).wait().status == -9
    (folder,) = run_folders(bench.base / "runs")
    assert folder.name.startswith("brief+brevity@nano-0-")
    shown = finished(["resume", folder.name, *runs], bench.base).out
    assert "Signal brevity in stage score" in shown and "mean score: 0." in shown
    kept = rows(stage_folder(folder, "decontaminate"))
    pairs = {row["id"]: json.loads(row["messages"])[-1]["content"] for row in kept}
    scores = {row["item_id"]: row["value"] for row in rows(stage_folder(folder, "score"))}
    assert len(scores) > 12
    assert scores == {key: max(0.0, 1 - len(answer.split()) / 12) for key, answer in pairs.items()}
    kept = {row["id"] for row in rows(stage_folder(folder, "dataset"))}
    assert len(kept) == 12 and min(scores[key] for key in kept) >= sorted(scores.values())[-round(len(scores) / 3)]
    finished(["run", "--method", "static", *NANO, *runs], bench.base)
    static = next(f for f in run_folders(bench.base / "runs") if f != folder)
    assert "lab_asked" in finished(["compare", str(static), str(folder)], bench.base).out


def test_without_the_package_its_run_is_shown_and_not_resumed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"].partition(os.pathsep)[2])
    folder = next(f for f in run_folders(bench.base / "runs") if f.name.startswith("brief"))
    assert "Signal brevity in stage score" in finished(["show", str(folder)], bench.base).out
    assert folder.name in finished(["ls", "--runs", str(folder.parent)], bench.base).out
    refused = harness(["resume", str(folder)], bench.base)
    assert (refused.status, refused.err.count("\n")) == (2, 1) and "there is no driver 'best_overall'" in refused.err
