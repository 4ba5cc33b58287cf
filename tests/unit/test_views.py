"""What the screens say about complete, incomplete, unequal and broken runs."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from harness.errors import InputError, StageError
from harness.facts import Fact, facts_to_rows
from harness.lock import hold
from harness.record import Origin, StageCount
from results.runs import LOCK, find_run, load_run
from results.text import blocks, count, duration, percent, shorten
from results.views import export_run, render_compare, render_ls, render_show
from support.made_runs import make_run, unfinished_run

BASE = {"asked": [0, 0, 0, 1], "kept": [1, 1, 1, 1]}
BETTER = {"asked": [1, 1, 0, 1], "kept": [1, 1, 0, 1]}
WORSE = {"asked": [1, 0, 0, 0], "kept": [1, 1, 1, 1]}


def line(text: str, start: str) -> list[str]:
    """The cells of the first line that starts with `start`."""
    found = next(row for row in text.splitlines() if row.startswith(start))
    return re.split(r"  +", found.strip())


def test_compare_pairs_items_to_base_and_to_the_first_run(tmp_path: Path) -> None:
    a = make_run(tmp_path, "better", BETTER, BASE)
    b = make_run(tmp_path, "worse", WORSE, BASE, signal="random")
    text = render_compare([a, b])
    assert line(text, "asked") == ["asked", "4", "25.0 ± 25.0", "75.0 ± 25.0", "25.0 ± 25.0"]
    # Item differences to base are 1, 1, 0, 0 for A and 1, 0, 0, -1 for B; B minus A is 0, -1, 0, -1.
    assert line(text, "  minus base") == ["minus base", "+50.0 ± 28.9", "0.0 ± 40.8"]
    assert line(text, "  minus A") == ["minus A", "-50.0 ± 28.9"]
    assert line(text, "signal") == ["signal", "influence", "random"]
    assert "single draw" in text


def test_compare_counts_rejects_and_cost(tmp_path: Path) -> None:
    text = render_compare([make_run(tmp_path, "a", BETTER, BASE), make_run(tmp_path, "b", WORSE, BASE, counts=[])])
    assert "- malformed" in text and "- answer in question" in text
    assert line(text, "writer") == ["writer", "tokens in + out", "199,460 + 100,320", "199,460 + 100,320"]
    # Stages that B does not have are empty, not zero.
    assert line(text, "seeds") == ["seeds", "in", "200"]


def test_compare_without_item_rows_gives_differences_without_errors(tmp_path: Path) -> None:
    paths = [make_run(tmp_path, n, t, BASE, items=False) for n, t in (("a", BETTER), ("b", WORSE))]
    assert line(render_compare(paths), "  minus A") == ["minus A", "-50.0"]


def test_compare_refuses_a_difference_over_other_items(tmp_path: Path) -> None:
    a = make_run(tmp_path, "a", BETTER, BASE)
    b = make_run(tmp_path, "b", {"asked": [1, 1, 1]}, {"asked": [0, 0, 1]})
    text = render_compare([a, b])
    assert "asked: the runs were tested on different items" in text
    assert "minus A" not in text.split("\nkept")[0]


def test_compare_marks_guided_and_leaves_unmeasured_empty(tmp_path: Path) -> None:
    tuned, base = {**BETTER, "judged": []}, {**BASE, "judged": []}
    text = render_compare([make_run(tmp_path, n, tuned, base, guided_columns=["asked"]) for n in ("a", "b")])
    assert line(text, "asked")[-1] == "75.0 ± 25.0*"
    assert line(text, "judged") == ["judged"]
    assert "* guided" in text


def test_compare_keeps_to_100_columns_with_many_runs(tmp_path: Path) -> None:
    paths = [make_run(tmp_path, f"optimsyn+influence@nano-{i}-0123456789ab", BETTER, BASE) for i in range(9)]
    text = render_compare(paths)
    assert max(len(row) for row in text.splitlines()) <= 100
    assert len(re.findall("^Scores of", text, re.M)) > 1
    assert {row[0] for row in text.splitlines() if re.match(r"[A-I]  opt", row)} == set("ABCDEFGHI")


def test_compare_of_complete_and_incomplete_runs(tmp_path: Path) -> None:
    a, u = make_run(tmp_path, "a", BETTER, BASE), unfinished_run(tmp_path, "u")
    text = render_compare([u, a])
    assert text.splitlines()[0] == "A  a"
    assert "B is not complete (killed, last event: stage_started grpo)." in text
    with pytest.raises(InputError, match="none of u is complete"):
        render_compare([u])


def test_show_of_a_complete_run(tmp_path: Path) -> None:
    text = render_show(make_run(tmp_path, "a", BETTER, BASE, validity_flags=["partial test"]))
    assert line(text, "asked") == ["asked", "4", "25.0 ± 25.0", "75.0 ± 25.0", "+50.0 ± 28.9"]
    assert "method      optimsyn = grpo × influence" in text
    assert line(text, "initial") == ["initial", "192", "171", "12.5", "malformed 12, answer in question 9"]
    assert "Caution: partial test" in text
    assert "2 conversations" in text


def test_show_gives_the_right_choices_probability_where_it_was_measured(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", BETTER, BASE)
    assert "Mean probability" not in render_show(folder)
    record = json.loads((folder / "record.json").read_text())
    record["columns"][0]["probability"], record["base_columns"][0]["probability"] = 0.625, 0.25
    (folder / "record.json").write_text(json.dumps(record))
    assert "Mean probability of the right choice, in percent: asked 25.0 → 62.5\n" in render_show(folder)


def test_show_of_an_incomplete_run_says_how_to_go_on(tmp_path: Path) -> None:
    folder = unfinished_run(tmp_path, "u")
    assert f"Last event: stage_started grpo. Go on with: harness resume {folder}" in render_show(folder)


def test_ls_lists_newest_first_and_ignores_other_folders(tmp_path: Path) -> None:
    assert "holds no runs" in render_ls(tmp_path)
    assert "holds no runs" in render_ls(tmp_path / "missing")
    make_run(tmp_path, "a", BETTER, BASE)
    unfinished_run(tmp_path, "u")
    (tmp_path / ".stages").mkdir()
    (tmp_path / "notes").mkdir()
    rows = render_ls(tmp_path).splitlines()
    assert [row.split()[0] for row in rows] == ["run", "u", "a"]
    assert "asked 25.0 → 75.0" in rows[2]


def test_a_run_that_nobody_writes_is_not_called_running(tmp_path: Path) -> None:
    folder = unfinished_run(tmp_path, "u")
    assert load_run(folder).status == "killed"
    with hold(folder / LOCK, "run u"):
        assert load_run(folder).status == "running"


def test_find_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    a = make_run(runs, "optimsyn@nano-0-aa", BETTER, BASE)
    make_run(runs, "optimsyn@nano-1-bb", BETTER, BASE)
    static = make_run(runs, "static@nano-0-cc", BETTER, BASE)
    assert find_run(runs, "optimsyn@nano-0-aa") == a
    assert find_run(runs, "stat") == static
    assert find_run(runs, str(static)) == static
    monkeypatch.chdir(tmp_path)
    assert find_run(Path("runs"), "runs/stat") == Path("runs/static@nano-0-cc")
    with pytest.raises(InputError, match="begins the names of 2 runs"):
        find_run(runs, "optim")
    with pytest.raises(InputError, match="did you mean 'static@nano-0-cc'"):
        find_run(runs, "static@nano-0-dd")
    with pytest.raises(InputError, match="did you mean"):
        find_run(runs, "zzz")
    with pytest.raises(InputError, match="holds no runs"):
        find_run(tmp_path / "none", "x")


def test_broken_run_folders_are_one_clear_error(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", BETTER, BASE)
    with pytest.raises(InputError, match="is not a run"):
        load_run(tmp_path)
    (folder / "items.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(InputError, match=r"items\.parquet is not a readable parquet file"):
        render_show(folder)
    (folder / "record.json").write_text('{"schema": 1}')
    with pytest.raises(InputError, match=r"record\.json"):
        load_run(folder)
    make_run(tmp_path, "b", BETTER, BASE)
    listed = render_ls(tmp_path).splitlines()
    assert listed[1].startswith("b ") and "does not have the fields of a record" in listed[2]
    (folder / "run.json").write_text("[]")
    with pytest.raises(InputError, match="not a JSON object"):
        load_run(folder)


def test_export_copies_what_is_there_and_overwrites_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "a", BETTER, BASE)
    dest = tmp_path / "sub" / "out"
    said = export_run(run, dest)
    assert sorted(p.name for p in dest.iterdir()) == ["README.md", "dataset.jsonl", "model", "record.json"]
    assert json.loads((dest / "record.json").read_text())["run"] == "a"
    assert said.splitlines()[0] == str(dest) and "2 conversations" in said
    assert sorted(p.name for p in dest.parent.iterdir()) == ["out"]
    with pytest.raises(InputError, match="not an empty folder"):
        export_run(run, dest)
    empty = tmp_path / "empty"
    empty.mkdir()
    export_run(run, empty)
    assert (empty / "model" / "config.json").is_file()
    with pytest.raises(InputError, match="not complete"):
        export_run(unfinished_run(tmp_path / "runs", "u"), tmp_path / "other")


def test_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "runs", "a", BETTER, BASE)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("results.export.shutil.copyfile", full)
    with pytest.raises(StageError, match="No space left"):
        export_run(run, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [(28, "free some space"), (122, "free some space"), (13, "permissions"), (30, "takes no changes"), (36, "shorter")],
)
@pytest.mark.parametrize("copied", ["copyfile", "copytree"])
def test_export_advises_what_its_error_calls_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str, copied: str
) -> None:
    run = make_run(tmp_path / "runs", "a", BETTER, BASE)

    def refuse(source: object, dest: object, **_: object) -> None:
        if copied == "copyfile":
            raise OSError(number, os.strerror(number))
        raise shutil.Error([(source, dest, f"[Errno {number}] {os.strerror(number)}: '{dest}'")])

    monkeypatch.setattr(f"results.export.shutil.{copied}", refuse)
    with pytest.raises(StageError, match=f"{os.strerror(number)}.*{advice}") as caught:
        export_run(run, tmp_path / "out")
    assert "\n" not in str(caught.value) and ("space" in advice or "space;" not in str(caught.value))


def in_store(runs: Path, name: str) -> Path:
    """A run whose model lies in the stage store, as real ones do."""
    run = make_run(runs, name, BETTER, BASE)
    stage = runs / ".stages" / f"finetune-{name}"
    stage.mkdir(parents=True)
    shutil.move(run / "model", stage / "model")
    (run / "model").symlink_to(f"../.stages/{stage.name}/model")
    return with_settings(run, stages__finetune=stage.name)


def test_a_runs_folder_that_moves_as_a_whole_keeps_its_models(tmp_path: Path) -> None:
    in_store(tmp_path / "runs", "a")
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    export_run(tmp_path / "moved" / "a", tmp_path / "out")
    assert (tmp_path / "out" / "model" / "config.json").read_text() == "{}"
    assert "Missing" not in render_show(tmp_path / "moved" / "a")


def test_a_run_that_is_a_link_or_lost_its_own_link_finds_its_model(tmp_path: Path) -> None:
    run = in_store(tmp_path / "runs", "a")
    shutil.move(run, tmp_path / "disk")
    run.symlink_to(tmp_path / "disk")
    export_run(run, tmp_path / "out")
    (run / "model").unlink()
    export_run(run, tmp_path / "again")
    assert (tmp_path / "out" / "model" / "config.json").is_file() and (tmp_path / "again" / "model").is_dir()


@pytest.mark.parametrize("lost", ["store", "model", "README.md"])
def test_a_run_without_an_output_is_not_exported(tmp_path: Path, lost: str) -> None:
    run = in_store(tmp_path / "runs", "a")
    if lost == "store":
        shutil.copytree(run, tmp_path / "away" / "a", symlinks=True)
        run = tmp_path / "away" / "a"
    elif lost == "model":
        shutil.rmtree(run / "model" / ".." / "model")
    else:
        (run / lost).unlink()
    name = "README.md" if lost == "README.md" else "model"
    with pytest.raises(InputError, match=rf"{name} of run a is (not here|missing).*harness resume") as caught:
        export_run(run, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    assert f"Missing: {name} of run a" in render_show(run)
    assert "moved together with the folder .stages" in str(caught.value) or name == "README.md"


def test_text_forms() -> None:
    assert percent(None) == "" and percent(0.0) == "0.0"
    assert percent(-0.0001, signed=True) == "0.0" and percent(0.051, 0.01, signed=True) == "+5.1 ± 1.0"
    assert [count(v) for v in (0, 1234, 9_999_999, 2.5e9)] == ["0", "1,234", "9,999,999", "2.5G"]
    assert [duration(v) for v in (4.21, 245, 12_000)] == ["4.2 s", "4 min 05 s", "3 h 20 min"]
    assert shorten("abcdefghij", 7) == "ab...ij" and shorten("abc", 7) == "abc"
    assert [len(block[0]) for block in blocks([["name", "x" * 6, "y" * 6]], width=12)] == [12, 12]


def test_show_keeps_to_the_screen_and_parts_no_count_from_its_reason(tmp_path: Path) -> None:
    reasons = {f"a_rather_long_reason_{i}": 1000 + i for i in range(6)}
    counts = [StageCount("grpo", "c1", 9000, 2985, reasons, 61.0, shortened=8999)]
    flags = ["rehearsal: " + "a caution of many words " * 8]
    text = render_show(make_run(tmp_path, "a", BETTER, BASE, counts=counts, validity_flags=flags))
    assert [line for line in text.splitlines() if len(line) > 100 and str(tmp_path) not in line] == []
    for reason, number in reasons.items():
        assert f"{reason} {number:,}" in text
    assert "Documents shortened to fit a model's context: grpo 8,999 of 9,000" in text


def test_show_says_what_a_signals_scores_follow(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", BETTER, BASE)
    facts = [
        Fact("coherence", [0.412, 0.412], "length of the mean gradient"),
        Fact("below", [0.18, None], "share below"),
        Fact("form", "exact", "form"),
        Fact("none", None, "what there is not"),
        Fact("lost", 0, "lost", "items"),
        Fact("unscorable", 3, "could not be scored", "items"),
    ]
    checks = [{"status": "passed"}, {"status": "skipped"}]
    manifest = json.loads((folder / "run.json").read_text())
    rows = facts_to_rows(facts)
    manifest["signals"] = {"score": {"signal": "mine", "facts": rows[:3], "checks": checks, "diagnostics": rows[3:]}}
    (folder / "run.json").write_text(json.dumps(manifest))
    shown = render_show(folder)
    assert (
        "Signal mine in stage score\n  length of the mean gradient: 0.412, 0.412\n  share below: 0.18\n  form: exact\n"
        "  could not be scored: 3 items\n  self-check: 1 of 2 passed\n"
    ) in shown
    # As runs stored it before values had labels.
    old = {"signal": "mine", "facts": {"checkpoints": [{"coherence": 0.4}]}, "diagnostics": {"unscorable": 3.0}}
    (folder / "run.json").write_text(json.dumps({**manifest, "signals": {"score": old}}))
    assert "Signal mine" not in render_show(folder) and "Rows in, kept" in render_show(folder)


def with_settings(folder: Path, **changes: object) -> Path:
    """`folder` with the settings, versions and inputs of a run in its manifest; dotted names by `__`."""
    manifest = json.loads((folder / "run.json").read_text())
    settings = {"seed": 0, "sft": {"epochs": 3, "learning_rate": 1e-5}, "seeds": {"source": "/data/a.jsonl"}}
    settings["eval"] = {}
    manifest |= {"settings": settings, "versions": {"torch": "2.8", "trl": "0.23"}, "git_commit": "a" * 40}
    manifest |= {"models": {"target": "files:1"}, "stages": {"sources": "sources-1", "finetune": "finetune-1"}}
    for name, value in changes.items():
        node = manifest
        *parents, leaf = name.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    (folder / "run.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({"settings__sft__epochs": 1}, ["sft.epochs", "3", "1"]),
        ({"settings__sft__learning_rate": 1.0000001e-5}, ["sft.learning_rate", "1e-05", "1.0000001e-05"]),
        ({"settings__seeds__source": "/data/b.jsonl"}, ["seeds.source", "/data/a.jsonl", "/data/b.jsonl"]),
        ({"settings__eval__limit": 4}, ["eval.limit", "(not set)", "4"]),
        ({"settings__writer_from": "x@1"}, ["writer_from", "(not set)", "x@1"]),
        ({"settings__select": {"keep": 0.5}}, ["select.keep", "(not set)", "0.5"]),
        ({"settings__flag": True}, ["flag", "(not set)", "yes"]),
        ({"versions__torch": "2.9"}, ["version of torch", "2.8", "2.9"]),
        ({"git_commit": "b" * 40}, ["version of harness", "a" * 12, "b" * 12]),
        ({"models__target": "files:2"}, ["weights of target", "files:1", "files:2"]),
        ({"prompts": "p"}, ["prompts", "(not set)", "p"]),
        ({"hardware__gpus": ["H100"]}, ["computed on", "(not set)", "H100"]),
        ({"stages__sources": "sources-2"}, ["content of stage sources", "1", "2"]),
        ({"stages__finetune": "finetune-2"}, ["content of stage finetune", "1", "2"]),
    ],
)
def test_compare_names_whatever_differs(tmp_path: Path, change: dict[str, object], row: list[str]) -> None:
    a = with_settings(make_run(tmp_path, "a", BETTER, BASE))
    b = with_settings(make_run(tmp_path, "b", BETTER, BASE), **change)
    text = render_compare([a, b])
    assert line(text.split("What differs")[1], row[0]) == row
    assert "Not compared: settings under runtime" in text


def test_compare_of_equal_runs_says_how_much_it_compared(tmp_path: Path) -> None:
    a, b = (with_settings(make_run(tmp_path, name, BETTER, BASE), settings__n=n) for name, n in (("a", 1), ("b", 1.0)))
    text = render_compare([a, b])
    assert "What differs" not in text and "and all 6 settings" in " ".join(text.split())
    c = make_run(tmp_path, "c", BETTER, BASE)
    assert "The settings of B are not known" in render_compare([a, c])


def test_compare_shows_settings_of_runs_that_are_not_complete(tmp_path: Path) -> None:
    a, u = with_settings(make_run(tmp_path, "a", BETTER, BASE)), with_settings(unfinished_run(tmp_path, "u"))
    with_settings(u, settings__seed=4)
    assert line(render_compare([a, u]).split("What differs")[1], "seed") == ["seed", "0", "4"]


def test_long_values_that_differ_in_their_middle_are_told_apart(tmp_path: Path) -> None:
    paths = [f"/some/long/folder/{'x' * 40}{name}{'y' * 40}/file.jsonl" for name in "ab"]
    a, b = (
        with_settings(make_run(tmp_path, name, BETTER, BASE), settings__seeds__source=path)
        for name, path in zip("ab", paths, strict=True)
    )
    _, left, right = line(render_compare([a, b]).split("What differs")[1], "seeds.source")
    assert left != right


def test_screens_say_what_guided_a_writer_before(tmp_path: Path) -> None:
    came = Origin("writer", "optimsyn@1", "influence", "lab", "asked", True, ("asked",))
    unknown = Origin("target", "old", "", "", "", None)
    changes = {"driver": "static", "signal": "none", "reads_validation": True, "reads_itself": False}
    a = make_run(tmp_path, "a", BETTER, BASE, upstream=[came], guided_columns=["asked"], **changes)
    plain = make_run(tmp_path, "b", BETTER, BASE, **{**changes, "reads_validation": False})
    lost = make_run(tmp_path, "c", BETTER, BASE, **{**changes, "reads_validation": False}, upstream=[unknown])
    text = render_compare([a, plain, lost])
    assert line(text, "reads validation") == ["reads validation", "before: writer", "no", "not known"]
    assert line(text, "made from") == ["made from", "writer: optimsyn@1", "none", "target: old"]
    said = "the writer is from run optimsyn@1 (signal influence), which read validation set asked of suite lab"
    assert f"A: {said}" in " ".join(text.split()) and "* guided" in text
    shown = " ".join(render_show(a).split())
    assert "validation before: writer" in shown and f"From an earlier run: {said}" in shown
    assert "validation not read" in " ".join(render_show(plain).split())
    assert "it is not known whether it read validation items" in " ".join(render_show(lost).split())
