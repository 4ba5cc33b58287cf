"""`lab build`, `lab calibrate`, `lab assess`: make the lab's models, and test bench and signals on known truth."""

from __future__ import annotations

import argparse
import re

from harness.cli.command import Command, Parser, chosen_from
from harness.cli.options import add_runs_option, positive
from harness.errors import ConfigError
from harness.screen import emit, say

MOST_WORLDS = 10_000
WORLDS_HELP = "worlds as a list and ranges, such as 0,1 or 10-14"


def parse_worlds(text: str) -> tuple[int, ...]:
    """World numbers of `0,3,5-7`, in order and each once."""
    worlds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"--worlds {text!r}: '{part.strip()}' is not a world or a range; give {WORLDS_HELP}")
        if int(match[2] or match[1]) - int(match[1]) >= MOST_WORLDS:
            raise ConfigError(f"--worlds {text!r}: '{part.strip()}' is more than {MOST_WORLDS:,} worlds; name fewer")
        worlds.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(dict.fromkeys(worlds))


def _build(args: argparse.Namespace) -> int:
    import time

    from harness.config import LabConfig
    from harness.lab.build import cache_root, ensure_lab
    from harness.lab.world import World
    from harness.resolve.layers import resolve_run
    from harness.runtime.allocator import keep_freed_memory
    from harness.runtime.progress import Progress

    keep_freed_memory()
    worlds = parse_worlds(args.worlds)
    lab = resolve_run(driver="static", target="nano", scale=args.scale).config.lab or LabConfig()
    for number in worlds:
        started = time.perf_counter()
        progress = Progress()

        def show(part: str, share: float, number: int = number, progress: Progress = progress) -> None:
            progress.update(f"world {number}: {part}", round(100 * share), 100)

        try:
            models = ensure_lab(World(number, lab.classes), progress=show)
        finally:
            progress.close()
        say(f"world {number}: ready in {time.perf_counter() - started:.0f} s, {models.target.parent}")
    say(f"cache: {cache_root()}")
    return 0


def _configure_build(parser: Parser) -> None:
    parser.add_argument("--worlds", metavar="LIST", default="0", help=f"{WORLDS_HELP} (default: 0)")
    parser.add_argument("--scale", metavar="NAME", default="full", help="size of the runs to build for (default: full)")


def _calibrate(args: argparse.Namespace) -> int:
    from harness.experiments.calibrate import calibrate

    emit(
        calibrate(
            parse_worlds(args.worlds),
            arms=dict(map(_arm, args.arm)) if args.arm else None,
            scale=args.scale,
            runs=args.runs or "runs",
            out=args.out,
            jobs=positive(args.jobs, "--jobs"),
            data_sets=None if args.data_sets is None else positive(args.data_sets, "--data-sets"),
        )
    )
    return 0


def _arm(text: str) -> tuple[str, tuple[int, ...] | None]:
    name, _, worlds = text.partition("@")
    return name.strip(), parse_worlds(worlds) if worlds else None


def _configure_calibrate(parser: Parser) -> None:
    parser.add_argument("--worlds", metavar="LIST", required=True, help=f"{WORLDS_HELP}; at least 5 to say anything")
    parser.add_argument(
        "--arm",
        action="append",
        metavar="NAME[@LIST]",
        help="only this arm, beside static, in all worlds or in those of LIST (repeatable)",
    )
    parser.add_argument("--scale", metavar="NAME", default="full", help="size of every run (default: full)")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="runs at a time, one thread each (default: 1)")
    parser.add_argument(
        "--data-sets",
        metavar="N",
        type=int,
        help="data sets of an arm in a world, whose scores are averaged (default: the scale's, 4 at sharp, else 1)",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the table, its numbers and its picture")
    add_runs_option(parser)


def _assess(args: argparse.Namespace) -> int:
    from harness.experiments.assess import AssessSizes, assess
    from harness.settings import parse_assignment

    for name, value in (("--subset", args.subset), ("--per-cell", args.per_cell)):
        if value is not None:
            positive(value, name)
    sizes = AssessSizes(args.scale, args.per_cell, args.subset, () if args.ranking_only else parse_tilts(args.tilts))
    emit(
        assess(
            parse_worlds(args.worlds),
            arms=args.arm,
            sets=dict(map(parse_assignment, args.set or [])),
            sizes=sizes,
            runs=args.runs or "runs",
            out=args.out,
        )
    )
    return 0


def parse_tilts(text: str) -> tuple[float, ...]:
    """The different tilts of `-1.5,0.75`, rising; zero is not among them, because the even subset is always drawn."""
    try:
        tilts = sorted({float(part) for part in text.split(",")})
    except ValueError:
        tilts = []
    if not tilts or not all(0 < abs(t) < float("inf") for t in tilts):
        raise ConfigError(f"--tilts {text!r}: expected numbers other than 0, such as --tilts -1.5,-0.75,0.75,1.5")
    return tuple(tilts)


def _configure_assess(parser: Parser) -> None:
    parser.add_argument("--worlds", metavar="LIST", required=True, help=f"{WORLDS_HELP}; at least 10 to say anything")
    parser.add_argument(
        "--arm",
        action="append",
        metavar="ARM",
        help="only this arm: a name from the table, or a signal and its settings, such as 'influence "
        "signal.update=sgd' (repeatable)",
    )
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="a setting of all arms (repeatable)")
    parser.add_argument("--ranking-only", action="store_true", help="score the pools, and fine-tune nothing")
    parser.add_argument(
        "--tilts",
        metavar="LIST",
        default="-1.5,-0.75,0.75,1.5",
        help="tilts of each arm's subsets, beside an even one (default: %(default)s)",
    )
    parser.add_argument("--subset", metavar="N", type=int, help="pairs of a subset (default: a run's data set)")
    parser.add_argument(
        "--per-cell",
        metavar="N",
        type=int,
        default=2,
        help="pairs of the pool for each rule, question type and kind (default: 2, which makes 432)",
    )
    parser.add_argument("--scale", metavar="NAME", default="full", help="size of tests and fine-tuning (default: full)")
    parser.add_argument("--out", metavar="DIR", help="folder for the tables, their numbers and their picture")
    add_runs_option(parser)


def _judgments(args: argparse.Namespace) -> int:
    from pathlib import Path

    from harness.lab.judged import write_judgments
    from harness.lab.world import World

    path = Path(args.to).expanduser()
    world, *_ = parse_worlds(args.world)
    count = write_judgments(World(world), path, positive(args.count, "--count"), args.grades, args.seed)
    say(f"{path}: {count} {'grades' if args.grades else 'comparisons'} of pairs of world {world}")
    return 0


def _configure_judgments(parser: Parser) -> None:
    parser.add_argument("--to", metavar="FILE", required=True, help="JSONL file for the judgments")
    parser.add_argument("--world", metavar="N", default="0", help="the world whose pairs are judged (default: 0)")
    parser.add_argument("--count", metavar="N", type=int, default=1000, help="judgments (default: 1000)")
    parser.add_argument("--grades", action="store_true", help="grades of single pairs (default: comparisons of two)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the draw (default: 0)")


ACTIONS = (
    Command(
        name="build",
        summary="train the lab's models for some worlds and keep them in the cache",
        configure=_configure_build,
        run=_build,
        examples="harness lab build --worlds 0-4",
    ),
    Command(
        name="calibrate",
        summary="run arms of known worth in several worlds and tabulate what the bench makes of them",
        configure=_configure_calibrate,
        run=_calibrate,
        examples="""
        harness lab calibrate --worlds 100-104 --jobs 2 --out results
        harness lab calibrate --worlds 140-147 --scale sharp --jobs 2 --out results
        """,
    ),
    Command(
        name="assess",
        summary="measure how well signals tell useful pairs from useless ones, and what following them is worth",
        configure=_configure_assess,
        run=_assess,
        examples="harness lab assess --worlds 100-109 --out results",
    ),
    Command(
        name="judgments",
        summary="judge pairs of a world by their planted worth, to train a rater on",
        configure=_configure_judgments,
        run=_judgments,
        examples="harness lab judgments --world 0 --to judgments.jsonl",
    ),
)

COMMANDS = (
    Command(
        "lab",
        "the world of known truth: build its models, calibrate the bench, assess signals",
        chosen_from(ACTIONS),
        _build,
        usage="ACTION [options]",
    ),
)
