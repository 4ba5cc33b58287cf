"""A user's own checkpoints by their files: their names, their scalings, and the rates that weigh them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.training.adapters import FILES, UNKNOWN_RATES, given_checkpoints
from harness.training.trainer import MARK, last_checkpoint

CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"]}


def checkpoint(folder: Path, step: int | None, log: Any = (), **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / FILES[0]).write_text(json.dumps({**CONFIG, **config}))
    (folder / FILES[1]).write_bytes(b"weights")
    (folder / "optimizer.pt").write_bytes(b"state")
    if step is not None:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))
    return folder


def log(rates: dict[int, object]) -> list[dict[str, object]]:
    return [{"step": step, "learning_rate": rate, "loss": 1.0} for step, rate in rates.items()]


def weights(folder: Path) -> list[float]:
    return [c.weight for c in given_checkpoints([str(folder)])]


@pytest.mark.parametrize("name", ["checkpoint-best", "checkpoint-4-best", "checkpoint-last", "best", "checkpoint-"])
def test_only_numbered_checkpoints_of_a_folder_count(name: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-4", 4)
    checkpoint(tmp_path / "checkpoint-10", 10)
    checkpoint(tmp_path / name, 4)
    found = given_checkpoints([str(tmp_path)])
    assert [c.folder.name for c in found] == ["checkpoint-4", "checkpoint-10"]
    assert [c.folder.name for c in given_checkpoints([str(tmp_path / name)])] == [name]


def test_a_folder_with_other_names_alone_says_which(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-best", 4)
    with pytest.raises(InputError, match=r"no checkpoint-N with one; it has checkpoint-best: name such a folder"):
        given_checkpoints([str(tmp_path)])


def test_a_trainers_own_scratch_keeps_what_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("checkpoint-2", "checkpoint-9", "checkpoint-best"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-2" / MARK).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-best"]


@pytest.mark.parametrize(
    "change",
    [
        {"lora_alpha": 32},
        {"use_rslora": True},
        {"r": 4},
        {"alpha_pattern": {"q_proj": 4}},
        {"rank_pattern": {"q_proj": 4}},
        {"target_modules": ["q_proj"]},
        {"use_dora": True},
    ],
)
def test_checkpoints_that_scale_differently_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-1", 1)
    checkpoint(tmp_path / "checkpoint-2", 2, **change)
    with pytest.raises(InputError, match=f"not of one training: {next(iter(change))} is .* and .* in the other"):
        given_checkpoints([str(tmp_path)])


def test_what_is_off_or_in_another_order_is_no_difference(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-1", 1)
    checkpoint(tmp_path / "checkpoint-2", 2, use_rslora=False, rank_pattern={}, target_modules=["q_proj", "v_proj"])
    assert len(given_checkpoints([str(tmp_path)])) == 2


@pytest.mark.parametrize("config", [{"r": None}, {"lora_alpha": "16"}, {"r": True}])
def test_an_adapter_without_its_numbers_is_one_line(config: dict[str, Any], tmp_path: Path) -> None:
    checkpoint(tmp_path / "a", 1, **config)
    with pytest.raises(InputError, match="gives no rank and alpha"):
        given_checkpoints([str(tmp_path / "a")])


def test_weights_are_the_mean_rates_of_the_steps_between(tmp_path: Path) -> None:
    rates: dict[int, object] = {step: 1.0 - step / 10 for step in range(1, 11)}
    checkpoint(tmp_path / "checkpoint-4", 4, log({s: r for s, r in rates.items() if s <= 4}))
    checkpoint(tmp_path / "checkpoint-10", 10, log(rates))
    first, second = sum(1 - s / 10 for s in range(1, 5)) / 4, sum(1 - s / 10 for s in range(5, 11)) / 6
    assert weights(tmp_path) == pytest.approx([first / (first + second), second / (first + second)])


def test_a_log_of_every_third_step_gives_what_every_step_gives(tmp_path: Path) -> None:
    """A linear decay; the first interval holds no logged step of its own but lies between two."""
    for name, every in (("all", 1), ("some", 3)):
        history = log({step: 1.0 - step / 13 for step in range(1, 14, every)})
        for step in (3, 8, 13):
            checkpoint(tmp_path / name / f"checkpoint-{step}", step, history if step == 13 else [])
    assert weights(tmp_path / "some") == pytest.approx(weights(tmp_path / "all"))


def test_a_resumed_trainers_parts_of_the_log_are_put_together(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-2", 2, log({1: 3e-4, 2: 3e-4}))
    checkpoint(tmp_path / "checkpoint-4", 4, log({3: 1e-4, 4: 1e-4}))
    assert weights(tmp_path) == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize(
    "history",
    [[], None, "none", [{"step": 1}], log({1: "1e-4", 2: None}), log({1: float("nan")}), log({4: 0.0}), [3]],
)
def test_without_rates_all_count_the_same_and_that_is_said(history: Any, tmp_path: Path) -> None:
    for step in (2, 4):
        checkpoint(tmp_path / f"checkpoint-{step}", step, history)
    found = given_checkpoints([str(tmp_path)])
    assert [c.weight for c in found] == [0.5, 0.5] and {c.weighted_by for c in found} == {UNKNOWN_RATES}
