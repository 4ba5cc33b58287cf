"""`lab assess` as a process, at a tiny size: tables, files, one even subset for all arms, and going on after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.commands import Harness, finished, harness

SMALL = (
    *("lab", "assess", "--worlds", "0", "--scale", "smoke", "--per-cell", "1", "--subset", "16"),
    *("--tilts=-1.5,1.5", "--set", "sft.epochs=2", "--arm", "oracle", "--arm", "random"),
)


@pytest.fixture(scope="module")
def assessed(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small assessment was killed once and then finished."""
    base = tmp_path_factory.mktemp("assess")
    started = Harness([*SMALL, "--runs", "runs", "--out", "out"], base)
    started.until(lambda: len(list((base / "runs/.stages").glob("realised-*/_DONE"))) >= 2)
    started.kill()
    assert not (base / "out").exists()
    kept = {p: p.stat().st_mtime_ns for p in (base / "runs/.stages").glob("realised-*/_DONE")}
    done = finished([*SMALL, "--runs", "runs", "--out", "out"], base)
    assert (base / "out/signals.md").read_text(encoding="utf-8").strip() == done.out.strip()
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    return base


def test_every_arm_is_ranked_and_tilted(assessed: Path) -> None:
    found = json.loads((assessed / "out/signals.json").read_text(encoding="utf-8"))
    oracle, random = found["arms"]
    assert oracle["arm"] == "oracle" and oracle["auc"]["all"]["mean"]["mean"] == 1.0
    assert oracle["auc"]["repeat"]["mean"]["mean"] == 0.5 and 0.3 < random["auc"]["all"]["mean"]["mean"] < 0.7
    drawn = [(s["arm"], s["tilt"]) for s in found["subsets"]]
    assert drawn == [("", 0.0), ("oracle", -1.5), ("oracle", 1.5), ("random", -1.5), ("random", 1.5)]
    useful = {key: s["useful"] for key, s in zip(drawn, found["subsets"], strict=True)}
    assert useful["oracle", 1.5] > useful["", 0.0] > useful["oracle", -1.5]
    assert (assessed / "out/signals.png").stat().st_size > 10_000


def test_nothing_is_computed_twice(assessed: Path) -> None:
    # The target before, the even subset, and two of each arm.
    stages = list((assessed / "runs/.stages").glob("realised-*/_DONE"))
    assert len(stages) == 6
    before = {p: p.stat().st_mtime_ns for p in stages}
    again = finished([*SMALL, "--runs", "runs"], assessed)
    assert again.out.strip() == (assessed / "out/signals.md").read_text(encoding="utf-8").strip()
    assert {p: p.stat().st_mtime_ns for p in before} == before
    # Models of subsets are measured, not kept.
    assert not list((assessed / "runs/.stages").glob("realised-*/model"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arm", "orakle"), "did you mean 'oracle'"),
        (("--tilts=0",), "numbers other than 0"),
        (("--subset", "500"), "lower the subset"),
        (("--per-cell", "9"), "lower per_cell"),
    ],
)
def test_what_cannot_be_is_one_clear_line(assessed: Path, arguments: tuple[str, ...], message: str) -> None:
    done = harness([*SMALL, *arguments, "--runs", "runs"], assessed)
    *progress, last = done.err.strip().splitlines()
    assert done.status != 0 and last.startswith("harness: ") and message in last
    assert all(line.strip().startswith("world 0: ") for line in progress)
