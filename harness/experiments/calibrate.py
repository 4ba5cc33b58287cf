"""`lab calibrate`: does the bench tell a good signal from a bad one? Arms of known worth over several worlds.

Every arm is an ordinary run; world and seed go together, so that a replicate draws the world, the policy training, the
generation and the fine-tuning anew. Which pairs happened to be drawn is most of a run's noise, so an arm's columns may
be means over several data sets of one writer, each with a fine-tuning of its own; they stay one replicate. Finished
runs are kept, so a stopped calibration goes on where it was.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import LabConfig, RunConfig
from harness.errors import ConfigError, StageError, suggest
from harness.lab.arms import read_arms
from harness.record import RunRecord, read_record
from harness.resolve.layers import resolve_run
from harness.runtime.progress import Progress
from harness.runtime.run import run_name
from harness.shards import read_shards, write_text
from harness.stage import store_of
from harness.training.policy import policy_training
from harness.types import Message
from results.calibration import PRIMARY, PROBABILITY, CalibrationRow, Expectation, calibration_table
from results.lab_files import write_calibration
from results.runs import find_run, load_run, stage_of

if TYPE_CHECKING:
    from harness.lab.world import World

UNTRAINED = "static"
"""The driver that draws another data set from a trained writer."""

SEEDS_APART = 100_000
"""The seed of an arm's next data set is that of the last and this, which no world's number reaches."""


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


@dataclass(frozen=True, slots=True)
class WantedRun:
    """A run that a calibration needs: its settings, its name, and the options that they were resolved from."""

    config: RunConfig
    name: str
    options: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The run for `harness.experiments.several`."""
        return {"argv": self.argv, "options": dict(self.options)}

    @property
    def argv(self) -> list[str]:
        """The command that carries it out alone."""
        o, sets = self.options, dict(self.options["sets"])
        words = ["harness", "run", "--driver", o["driver"], "--target", "nano", "--scale", o["scale"]]
        words += ["--seed", str(o["seed"]), "--runs", sets.pop("runtime.runs")]
        words += ["--signal", o["signal"]] if o.get("signal") else []
        words += ["--writer-from", o["writer_from"]] if o.get("writer_from") else []
        return [*words, *(word for key, value in sets.items() for word in ("--set", f"{key}={value}"))]


def calibrate(
    worlds: Sequence[int],
    arms: Mapping[str, Sequence[int] | None] | None = None,
    scale: str = "full",
    runs: str = "runs",
    out: str | None = None,
    jobs: int = 1,
    data_sets: int | None = None,
) -> str:
    """Run the arms in all worlds, `jobs` at a time, and return the table as Markdown; with `out`, write it there too.

    An arm has `data_sets` data sets in a world, by default as many as `arms.yaml` says of the scale, else one.

    `arms` names the arms, each with the worlds that it runs in if they are not all; `static` always runs in all.
    Raises `ConfigError` for an unknown arm, `StageError` naming the first run that failed.
    """
    where = {"static": None, **{arm_name(name): w for name, w in (arms or dict.fromkeys(ARMS)).items()}}
    chosen = {name: _find(name) for name in where}
    work = [(name, world) for world in worlds for name in chosen if world in (where[name] or worlds)]
    count = data_sets or read_arms("data_sets").get(scale, 1)
    progress = Progress()
    done = 0
    try:
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            futures = [pool.submit(_run, chosen[name], world, scale, runs, count) for name, world in work]
            records: list[list[RunRecord]] = []
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
    rows = [_row(name, world, own, runs) for (name, world), own in zip(work, records, strict=True)]
    expected = {name: arm.expected for name, arm in chosen.items() if arm.expected is not None}
    table = calibration_table(rows, expected=expected)
    text = table.markdown() + _learning(work, [own[0] for own in records], runs)
    if out is not None:
        write_calibration(table, rows, Path(out))
        write_text(Path(out) / "calibration.md", text)
    return text


def _learning(work: Sequence[tuple[str, int]], records: Sequence[RunRecord], runs: str) -> str:
    """Every trained writer's signal and what the writer learned by it, as Markdown; empty where none was trained."""
    from harness.lab.report import learning

    lines = [
        "",
        "What the trained writers learned: first and last tenth of the rollouts. AUC is the chance that a useful pair",
        "outscores another valid one in the first tenth. False are pairs that name another value than the rule, among",
        "those whose rubric asks for the true one.",
        "",
        "| arm | world | mean raw score | useful pairs | AUC | false |",
        "|---|---|---|---|---|---|",
    ]
    head = len(lines)
    for (name, world), record in zip(work, records, strict=True):
        stage = stage_of(load_run(find_run(Path(runs), record.run)), "policy")
        if stage is None:
            continue
        found = learning(read_shards(store_of(runs) / stage), _world(record, runs))
        auc = "" if found.auc is None else f"{found.auc:.2f}"
        false = "" if found.false is None else f"{found.false:.1%}"
        value, useful = found.value, found.useful
        learned = f"{value[0]:.3f} → {value[1]:.3f} | {useful[0]:.0%} → {useful[1]:.0%}"
        lines.append(f"| {name} | {world} | {learned} | {auc} | {false} |")
    return "\n".join(lines) + "\n" if len(lines) > head else ""


def arm_name(text: str) -> str:
    """An arm's name with the cross that the tables show, whichever of `×`, `x` and `*` was typed for it."""
    return " × ".join(re.split(r"\s*[×*]\s*|\s+[xX]\s+", text.strip()))


def _find(name: str) -> CalibrationArm:
    if name not in ARMS:
        raise ConfigError(f"there is no calibration arm '{name}'{suggest(name, ARMS)}")
    return ARMS[name]


def wanted(arm: CalibrationArm, world: int, scale: str, runs: str, data_sets: int) -> list[WantedRun]:
    """The runs of an arm in a world, which differ in their data sets, in the order in which they are to be carried out.

    The first is the arm's own. Where it trains a writer, the others draw from that same writer; an arm without one is
    carried out anew under another seed.
    """
    place: dict[str, Any] = {"lab.world": world, "runtime.runs": runs}
    first = _wanted(driver=arm.driver, signal=arm.signal, scale=scale, seed=world, sets={**arm.sets, **place})
    others: dict[str, Any] = {"driver": arm.driver, "signal": arm.signal, "sets": {**arm.sets, **place}}
    if policy_training(first.config.driver) is not None:
        kept = {key: value for key, value in arm.sets.items() if not key.startswith(("driver.", "signal."))}
        others = {"driver": UNTRAINED, "writer_from": first.name, "sets": {**kept, **place}}
    return [first, *(_wanted(scale=scale, seed=world + k * SEEDS_APART, **others) for k in range(1, data_sets))]


def _wanted(**options: Any) -> WantedRun:
    config = resolve_run(target="nano", **options).config
    return WantedRun(config, run_name(config), options)


def _run(arm: CalibrationArm, world: int, scale: str, runs: str, data_sets: int) -> list[RunRecord]:
    """The runs of an arm in a world, one after another in a process of their own, unless they are finished already."""
    chosen = wanted(arm, world, scale, runs, data_sets)
    open_ones = [w for w in chosen if not (Path(runs) / w.name / "record.json").exists()]
    if open_ones:
        command = [sys.executable, "-m", "harness.experiments.several", json.dumps([w.to_json() for w in open_ones])]
        finished = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        if finished.returncode:
            last = (finished.stderr.strip() or "no message").splitlines()[-1]
            failed = next((w for w in open_ones if not (Path(runs) / w.name / "record.json").exists()), open_ones[-1])
            raise StageError(f"{failed.name} failed ({last}); run it alone to see more: {' '.join(failed.argv)}")
    return [read_record(Path(runs) / w.name / "record.json") for w in chosen]


def _row(name: str, world: int, records: Sequence[RunRecord], runs: str) -> CalibrationRow:
    """The means over an arm's data sets in a world; the seconds are those of its first run."""
    columns: dict[str, list[float]] = {}
    for column in (c for record in records for c in record.columns):
        if column.score is not None:
            columns.setdefault(column.column, []).append(column.score)
        if column.column == PRIMARY and column.probability is not None:
            columns.setdefault(PROBABILITY, []).append(column.probability)
    return CalibrationRow(
        arm=name,
        world=world,
        columns={name: math.fsum(values) / len(values) for name, values in columns.items()},
        useful_share=math.fsum(_useful_share(record, runs) for record in records) / len(records),
        seconds=sum(c.seconds for c in records[0].counts),
        data_sets=len(records),
    )


def _useful_share(record: RunRecord, runs: str) -> float:
    from harness.lab.report import useful_share

    lines = (Path(runs) / record.run / "dataset.jsonl").read_text(encoding="utf-8").splitlines()
    conversations = [[Message(**m) for m in json.loads(line)["messages"]] for line in lines if line]
    return useful_share(conversations, _world(record, runs))


def _world(record: RunRecord, runs: str) -> World:
    """The world that a run lived in."""
    from harness.lab.world import World

    lab = load_run(find_run(Path(runs), record.run)).manifest["settings"]["lab"]
    return World.of(LabConfig.model_validate(lab).id)
