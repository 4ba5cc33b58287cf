"""`run` and `resume`: carry a run out, then say what happened, where it is and what to try next."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from harness.cli.command import Command, Parser
from harness.cli.options import add_run_options, add_runs_option, resolve_options
from harness.screen import say

if TYPE_CHECKING:
    from harness.runtime.run import RunFolder

INTERRUPTED = 130


def _run(args: argparse.Namespace) -> int:
    resolved = resolve_options(args)
    from harness.runtime.run import create_run

    return _carry_out(create_run(resolved, ["harness", *sys.argv[1:]]), args.quiet)


def _resume(args: argparse.Namespace) -> int:
    from harness.runtime.run import open_run

    return _carry_out(open_run(args.run, args.runs or "runs"), args.quiet)


def _carry_out(run: RunFolder, quiet: bool) -> int:
    from harness.runtime.run import carry_out

    if not quiet:
        say(f"{run.path.name}\n  in {run.path}", sys.stderr)
    try:
        record = carry_out(run, quiet=quiet)
    except KeyboardInterrupt:
        say(f"harness: interrupted; finished work is kept. Go on with: harness resume {run.path}", sys.stderr)
        return INTERRUPTED
    from harness.cli.next_steps import next_steps
    from results.views import render_show

    say(render_show(run.path))
    say("\n" + next_steps(record, run.path))
    return 0


def _configure_run(parser: Parser) -> None:
    add_run_options(parser)
    _add_quiet(parser)


def _configure_resume(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run's name, or its folder")
    add_runs_option(parser)
    _add_quiet(parser)


def _add_quiet(parser: Parser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print no progress, only the summary at the end")


COMMANDS = (
    Command(
        name="run",
        summary="synthesize data, fine-tune the target on it, test it, record everything",
        configure=_configure_run,
        run=_run,
        examples="""
        harness run --driver grpo --signal loss --target nano    the whole loop on a laptop CPU
        harness run --driver grpo --signal random --target nano  the same driver, another signal
        harness run --method static --target nano --seed 1       no feedback, to compare with
        harness run --method static --target nano --scale smoke  the same in half a minute
        harness run --method static --seeds notes.jsonl.gz --target nano
        harness run runs/NAME/config.yaml                        a run's settings again, from the start
        """,
        usage="[options] [CONFIG.yaml]",
    ),
    Command(
        name="resume",
        summary="go on with a run that was stopped or killed",
        configure=_configure_resume,
        run=_resume,
        examples="harness resume runs/NAME",
        usage="RUN [options]",
    ),
)
