"""`bench`: the project's own engines, timed beside what they are compared with, on the same work in the same run."""

from __future__ import annotations

import argparse
import json

from harness.cli.command import Command, Parser, emit
from harness.errors import ConfigError


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise ConfigError(f"{name} {value}: give a number from 1")
    return value


def _grpo(args: argparse.Namespace) -> int:
    from harness.bench.grpo import render, run_bench
    from harness.runtime.progress import Progress

    progress = Progress()
    try:
        result = run_bench(
            args.signal, _positive(args.steps, "--steps"), _positive(args.turns, "--turns"), progress.update
        )
    finally:
        progress.close()
    emit(json.dumps(result.to_json(), indent=2) if args.json else render(result))
    return 0


def _configure_grpo(parser: Parser) -> None:
    parser.add_argument("--signal", metavar="NAME", default="length", help="what rewards (default: length, it is free)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps of a training (default: 10)")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="repetitions of both sides (default: 5)")
    parser.add_argument("--json", action="store_true", help="the result as JSON")


def _configure(parser: Parser) -> None:
    actions = parser.add_subparsers(metavar="WHAT", required=True)
    for command in ACTIONS:
        command.add_to(actions)


ACTIONS = (
    Command(
        "grpo",
        "training of the policy against TRL's trainer alone, with the same rewards",
        _configure_grpo,
        _grpo,
        "harness bench grpo --steps 10 --turns 5",
    ),
)

COMMANDS = (
    Command(
        "bench",
        "time the project's engines beside what they are compared with",
        _configure,
        _grpo,
        usage="WHAT [options]",
    ),
)
