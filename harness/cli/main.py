"""The `harness` command: picks the command, and turns every designed error into one line.

Anything that is not a `HarnessError` keeps its traceback: it is a defect, and hiding where it arose would help nobody.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import harness
from harness.cli import bench, browsing, decontam, explaining, lab, listing, planning, rater, running
from harness.cli.command import Command, Parser
from harness.errors import HarnessError
from harness.screen import check_arguments, emit, prepare_screens, say

INTERRUPTED = 130

GROUPS: tuple[tuple[str, tuple[Command, ...]], ...] = (
    ("Running", running.COMMANDS),
    ("Before a run", planning.COMMANDS),
    ("Results", browsing.COMMANDS),
    ("Contamination", decontam.COMMANDS),
    ("What there is to choose from", (*listing.COMMANDS, *explaining.COMMANDS)),
    ("Raters", rater.COMMANDS),
    ("The lab", lab.COMMANDS),
    ("Benchmarks", bench.COMMANDS),
)

_INTRODUCTION = """\
One bench for model-aware synthetic data: synthesize training data under a feedback signal,
fine-tune a target on it, test it, and compare signals at equal budget."""

_EXAMPLES = """\
First steps:
  harness doctor                                        check this machine
  harness methods                                       what there is to compare
  harness plan --method NAME --target nano              what would run, and what it takes
  harness run  --method NAME --target nano              the whole loop on a laptop CPU
  harness compare runs/NAME runs/OTHER                  scores side by side, with standard errors

'harness COMMAND --help' explains a command and its options."""


def front_page() -> str:
    """The text of `harness --help`."""
    lines = ["usage: harness COMMAND [options]", "", _INTRODUCTION, ""]
    for title, commands in GROUPS:
        lines.append(f"{title}:")
        lines.extend(f"  {command.name:<10} {command.summary}" for command in commands)
        lines.append("")
    return "\n".join([*lines, _EXAMPLES])


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(prog="harness", add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="version", version=f"harness {harness.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for _, group in GROUPS:
        for command in group:
            command.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    prepare_screens()
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        check_arguments(given)
        args = build_parser().parse_all(given)
        if not hasattr(args, "run_command"):
            emit(front_page())
            return 0
        status: int = args.run_command(args)
        return status
    except HarnessError as error:
        say(f"harness: {error}", sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        say("harness: interrupted", sys.stderr)
        return INTERRUPTED
