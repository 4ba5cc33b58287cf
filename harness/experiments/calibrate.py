"""`lab calibrate`: does the bench tell a good signal from a bad one? Arms of known worth over several worlds.

Every arm is an ordinary run; world and seed go together, so that a replicate draws the world, the policy training, the
generation and the fine-tuning anew. Finished runs are kept, so a stopped calibration goes on where it was.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, StageError, suggest
from harness.lab.arms import read_arms
from harness.record import RunRecord, read_record
from harness.resolve.layers import resolve_run
from harness.runtime.progress import Progress
from harness.runtime.run import run_name
from harness.shards import read_shards, write_text
from harness.stage import store_of
from harness.types import Message
from results.calibration import CalibrationRow, Expectation, calibration_table
from results.lab_files import write_calibration
from results.runs import find_run, load_run, stage_of


@dataclass(frozen=True, slots=True)
class CalibrationArm:
    """An arm: driver and signal with settings of theirs, and where its interval against `static` should lie.

    `expected` is None where the arm is reported as it falls.
    """

    driver: str
    signal: str | None
    expected: Expectation | None = None
    sets: Mapping[str, Any] = field(default_factory=dict)


ARMS: Mapping[str, CalibrationArm] = {
    name: CalibrationArm(arm["driver"], arm.get("signal"), arm.get("expected"), arm.get("sets", {}))
    for name, arm in read_arms("calibrate").items()
}
"""The arms of a calibration, by the name that the table shows."""


def calibrate(
    worlds: Sequence[int],
    arms: Mapping[str, Sequence[int] | None] | None = None,
    scale: str = "full",
    runs: str = "runs",
    out: str | None = None,
    jobs: int = 1,
) -> str:
    """Run the arms in all worlds, `jobs` at a time, and return the table as Markdown; with `out`, write it there too.

    `arms` names the arms, each with the worlds that it runs in if they are not all; `static` always runs in all.
    Raises `ConfigError` for an unknown arm, `StageError` naming the first run that failed.
    """
    where = {"static": None, **{arm_name(name): w for name, w in (arms or dict.fromkeys(ARMS)).items()}}
    chosen = {name: _find(name) for name in where}
    work = [(name, world) for world in worlds for name in chosen if world in (where[name] or worlds)]
    progress = Progress()
    done = 0
    try:
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            futures = [pool.submit(_run, chosen[name], world, scale, runs) for name, world in work]
            records: list[RunRecord] = []
            for (name, world), future in zip(work, futures, strict=True):
                try:
                    records.append(future.result())
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
                done += 1
                progress.update("calibration", done, len(work), f"{name} in world {world}")
    finally:
        progress.close()
    rows = [_row(name, world, record, runs) for (name, world), record in zip(work, records, strict=True)]
    expected = {name: arm.expected for name, arm in chosen.items() if arm.expected is not None}
    table = calibration_table(rows, expected=expected)
    text = table.markdown() + _learning(work, records, runs)
    if out is not None:
        write_calibration(table, rows, Path(out))
        write_text(Path(out) / "calibration.md", text)
    return text


def _learning(work: Sequence[tuple[str, int]], records: Sequence[RunRecord], runs: str) -> str:
    """Every trained writer's signal and what the writer learned by it, as Markdown; empty where none was trained."""
    from harness.lab.report import learning
    from harness.lab.world import World

    lines = [
        "",
        "What the trained writers learned: first and last tenth of the rollouts. AUC is the chance that a useful pair",
        "outscores another valid one in the first tenth.",
        "",
        "| arm | world | mean raw score | useful pairs | AUC |",
        "|---|---|---|---|---|",
    ]
    head = len(lines)
    for (name, world), record in zip(work, records, strict=True):
        stage = stage_of(load_run(find_run(Path(runs), record.run)), "policy")
        if stage is None:
            continue
        found = learning(read_shards(store_of(runs) / stage), World(world))
        auc = "" if found.auc is None else f"{found.auc:.2f}"
        value, useful = found.value, found.useful
        lines.append(
            f"| {name} | {world} | {value[0]:.3f} → {value[1]:.3f} | {useful[0]:.0%} → {useful[1]:.0%} | {auc} |"
        )
    return "\n".join(lines) + "\n" if len(lines) > head else ""


def arm_name(text: str) -> str:
    """An arm's name with the cross that the tables show, whichever of `×`, `x` and `*` was typed for it."""
    return " × ".join(re.split(r"\s*[×*]\s*|\s+[xX]\s+", text.strip()))


def _find(name: str) -> CalibrationArm:
    if name not in ARMS:
        raise ConfigError(f"there is no calibration arm '{name}'{suggest(name, ARMS)}")
    return ARMS[name]


def _run(arm: CalibrationArm, world: int, scale: str, runs: str) -> RunRecord:
    """One run in a process of its own, unless it is finished already."""
    own = {"lab.world": world, **arm.sets}
    sets = {**own, "runtime.runs": runs}
    resolved = resolve_run(target="nano", driver=arm.driver, signal=arm.signal, scale=scale, seed=world, sets=sets)
    folder = Path(runs) / run_name(resolved.config)
    if not (folder / "record.json").exists():
        command = [sys.executable, "-m", "harness", "run", "--driver", arm.driver, "--target", "nano"]
        command += ["--scale", scale, "--seed", str(world), "--runs", runs, "--quiet"]
        command += ["--signal", arm.signal] if arm.signal else []
        for key, value in own.items():
            command += ["--set", f"{key}={value}"]
        finished = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        if finished.returncode:
            last = (finished.stderr.strip() or "no message").splitlines()[-1]
            raise StageError(f"{folder.name} failed ({last}); run it alone to see more: {' '.join(command[2:])}")
    return read_record(folder / "record.json")


def _row(name: str, world: int, record: RunRecord, runs: str) -> CalibrationRow:
    from harness.lab.report import useful_share
    from harness.lab.world import World

    lines = (Path(runs) / record.run / "dataset.jsonl").read_text(encoding="utf-8").splitlines()
    conversations = [[Message(**m) for m in json.loads(line)["messages"]] for line in lines if line]
    return CalibrationRow(
        arm=name,
        world=world,
        columns={c.column: c.score for c in record.columns if c.score is not None},
        useful_share=useful_share(conversations, World(world)),
        seconds=sum(c.seconds for c in record.counts),
    )
