"""`lab build` and `lab calibrate`: make the lab's models, and test the bench itself on worlds of known truth."""

from __future__ import annotations

import argparse
import re

from harness.cli.command import Command, Parser, emit
from harness.cli.options import add_runs_option
from harness.errors import ConfigError

WORLDS_HELP = "worlds as a list and ranges, such as 0,1 or 10-14"


def parse_worlds(text: str) -> tuple[int, ...]:
    """World numbers of `0,3,5-7`, in order and each once."""
    worlds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ConfigError(f"--worlds {text!r}: '{part.strip()}' is not a world or a range; give {WORLDS_HELP}")
        worlds.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(dict.fromkeys(worlds))


def _build(args: argparse.Namespace) -> int:
    import time

    from harness.lab.build import cache_root, ensure_lab
    from harness.lab.world import World
    from harness.runtime.allocator import keep_freed_memory
    from harness.runtime.progress import Progress

    keep_freed_memory()
    for number in parse_worlds(args.worlds):
        started = time.perf_counter()
        progress = Progress()

        def show(part: str, share: float, number: int = number, progress: Progress = progress) -> None:
            progress.update(f"world {number}: {part}", round(100 * share), 100)

        try:
            models = ensure_lab(World(number), progress=show)
        finally:
            progress.close()
        emit(f"world {number}: ready in {time.perf_counter() - started:.0f} s, {models.target.parent}")
    emit(f"cache: {cache_root()}")
    return 0


def _configure_build(parser: Parser) -> None:
    parser.add_argument("--worlds", metavar="LIST", default="0", help=f"{WORLDS_HELP} (default: 0)")


def _calibrate(args: argparse.Namespace) -> int:
    from harness.runtime.calibrate import calibrate

    emit(
        calibrate(
            parse_worlds(args.worlds),
            arms=dict(map(_arm, args.arm)) if args.arm else None,
            scale=args.scale,
            runs=args.runs or "runs",
            out=args.out,
            jobs=args.jobs,
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
    parser.add_argument("--out", metavar="DIR", help="folder for the table, its numbers and its picture")
    add_runs_option(parser)


def _configure(parser: Parser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for command in ACTIONS:
        command.add_to(actions)


ACTIONS = (
    Command(
        "build",
        "train the lab's models for some worlds and keep them in the cache",
        _configure_build,
        _build,
        "harness lab build --worlds 0-4",
    ),
    Command(
        "calibrate",
        "run arms of known worth in several worlds and tabulate what the bench makes of them",
        _configure_calibrate,
        _calibrate,
        "harness lab calibrate --worlds 100-104 --jobs 2 --out results",
    ),
)

COMMANDS = (
    Command(
        "lab",
        "the embedded world of known truth: build its models, calibrate the bench",
        _configure,
        _build,
        usage="ACTION [options]",
    ),
)
