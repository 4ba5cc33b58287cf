"""`ls`, `show`, `compare`, `export`: reading what runs left behind."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.cli.command import Command, Parser
from harness.cli.options import add_runs_option
from harness.errors import ConfigError
from harness.screen import emit, say


def _folder(args: argparse.Namespace, name: str) -> Path:
    from results.runs import find_run

    return find_run(Path(args.runs or "runs"), name)


def _ls(args: argparse.Namespace) -> int:
    from results.views import render_ls

    emit(render_ls(Path(args.runs or "runs")))
    return 0


def _show(args: argparse.Namespace) -> int:
    from results.views import render_show

    emit(render_show(_folder(args, args.run)))
    return 0


def _compare(args: argparse.Namespace) -> int:
    if len(args.run) < 2:
        raise ConfigError(f"compare needs two runs or more, got only '{args.run[0]}'; see 'harness ls'")
    from results.compare import render_compare

    emit(render_compare([_folder(args, name) for name in args.run]))
    return 0


def _export(args: argparse.Namespace) -> int:
    from results.export import export_run

    folder = _folder(args, args.run)
    say(export_run(folder, Path(args.to or f"{folder.name}-export")))
    return 0


def _configure_one(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run's name, or its folder")
    add_runs_option(parser)


def _configure_compare(parser: Parser) -> None:
    parser.add_argument("run", nargs="+", metavar="RUN", help="two or more runs: names or folders")
    add_runs_option(parser)


def _configure_export(parser: Parser) -> None:
    _configure_one(parser)
    parser.add_argument("--to", metavar="DIR", help="folder to write (default: RUN-export)")


COMMANDS = (
    Command("ls", "list the runs and their states", add_runs_option, _ls),
    Command(
        name="show",
        summary="what one run did, measured and spent",
        configure=_configure_one,
        run=_show,
        examples="harness show runs/NAME",
        usage="RUN [options]",
    ),
    Command(
        name="compare",
        summary="base model and runs side by side: scores with standard errors, counts, costs",
        configure=_configure_compare,
        run=_compare,
        examples="harness compare runs/NAME runs/OTHER",
        usage="RUN RUN ... [options]",
    ),
    Command(
        name="export",
        summary="copy what one takes away: the data set with its card, the model, the record",
        configure=_configure_export,
        run=_export,
        examples="harness export runs/NAME --to my-dataset",
        usage="RUN [options]",
    ),
)
