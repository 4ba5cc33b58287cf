"""What is suggested after a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.cli.next_steps import find_partner, next_steps
from harness.record import RunRecord

OPTIMSYN = RunRecord(
    run="a",
    method="optimsyn",
    driver="grpo",
    signal="influence",
    target="nano",
    suite="lab",
    scale="smoke",
    lab_world=0,
    synth_seed=3,
    sft_seed=3,
    match="samples",
    budget=24.0,
    reads_validation=True,
    guided_columns=(),
    columns=(),
    base_columns=(),
    cost=(),
    counts=(),
    validity_flags=(),
)


def _store(runs: Path, name: str, record: RunRecord) -> Path:
    folder = runs / name
    folder.mkdir()
    record.write(folder / "record.json")
    return folder


def test_the_first_run_is_sent_to_the_one_without_feedback(tmp_path: Path) -> None:
    text = next_steps(OPTIMSYN, _store(tmp_path, "a", OPTIMSYN))
    assert f"harness run {tmp_path / 'a'}/config.yaml --driver static\n" in text
    assert f"harness run {tmp_path / 'a'}/config.yaml --signal oracle\n" in text
    assert f"harness export {tmp_path / 'a'}" in text


def test_a_comparable_run_is_offered_for_comparison(tmp_path: Path) -> None:
    folder = _store(tmp_path, "a", OPTIMSYN)
    _store(tmp_path, "b", replace(OPTIMSYN, signal="random"))
    static = _store(tmp_path, "c", replace(OPTIMSYN, driver="static", signal="none"))
    assert find_partner(OPTIMSYN, folder) == static
    assert f"harness compare {static} {folder}" in next_steps(OPTIMSYN, folder)


def test_runs_on_another_seed_or_budget_are_no_partners(tmp_path: Path) -> None:
    folder = _store(tmp_path, "a", OPTIMSYN)
    _store(tmp_path, "b", replace(OPTIMSYN, driver="static", synth_seed=4))
    _store(tmp_path, "c", replace(OPTIMSYN, driver="static", budget=25.0))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "record.json").write_text("{")
    assert find_partner(OPTIMSYN, folder) is None


def test_outside_the_lab_there_is_no_oracle(tmp_path: Path) -> None:
    record = replace(OPTIMSYN, lab_world=None, suite="pubmedqa")
    folder = _store(tmp_path, "a", record)
    text = next_steps(record, folder)
    assert "oracle" not in text
    assert f"harness run {folder}/config.yaml --driver static\n" in text
    assert "--seed 4" in text


def test_a_run_without_feedback_is_sent_to_one_with_it(tmp_path: Path) -> None:
    record = replace(OPTIMSYN, driver="static", signal="none")
    text = next_steps(record, _store(tmp_path, "a", record))
    assert f"harness run {tmp_path / 'a'}/config.yaml --driver DRIVER --signal SIGNAL\n" in text
    assert "oracle" not in text and "harness signals" in text
