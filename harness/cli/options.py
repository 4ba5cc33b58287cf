"""The options that say which run is meant, shared by `run` and `plan`, and their resolution into settings.

An option that was not given stays None, so that a method's, preset's or target's value is not overwritten by a
default of the command line.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.cli.command import Parser
    from harness.settings import Resolved

MOST = 10**9
"""The largest number that an option which counts takes."""

ENGINES = ("local", "ray")
MATCHES = ("samples", "sft_tokens", "teacher_tokens", "flops")


def positive(value: int, name: str) -> int:
    """`value`, which the option `name` was given. Raises `ConfigError` where it is below 1, or no count of anything."""
    if not 1 <= value <= MOST:
        raise ConfigError(f"{name} {value}: give a number from 1{f' to {MOST:,}' if value > MOST else ''}")
    return value


def add_runs_option(parser: Parser) -> None:
    """`--runs`, for every command that reads or writes runs."""
    parser.add_argument("--runs", metavar="DIR", help="folder that holds the runs (default: runs)")


_NAMED: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "what to run",
        (
            ("--method", "NAME", "a driver and a signal with published defaults ('harness methods')"),
            ("--preset", "NAME", "a named set of the method's values, such as paper or code"),
            ("--driver", "NAME", "what is done about scores, instead of the method's own driver"),
            ("--route", "NAME", "how a seed becomes a pair ('harness routes'), instead of the method's own route"),
            ("--signal", "NAME", "what says how good an item is ('harness signals')"),
            ("--target", "NAME", "the model to improve: a track or model ('harness targets'), a folder, or a hub id"),
            ("--generator", "NAME", "the model that writes pairs: a name of 'harness targets', a folder, or a hub id"),
            ("--also-tune", "NAME", "other models that are fine-tuned on the same data set and tested, one or several"),
            ("--scale", "NAME", "size of the run where the target has several, such as smoke or full"),
        ),
    ),
    (
        "data",
        (
            (
                "--seeds",
                "SOURCE",
                "source documents: JSON, CSV or parquet files (packed or not), folders, 'globs', hub data sets, or lab",
            ),
            ("--suite", "NAME", "the benchmarks that test the target ('harness suites', or a YAML file)"),
            ("--guide", "SET[:N]", "the suite's validation set that signals may read, and how many items: cv:100"),
            (
                "--writer-from",
                "RUN",
                "start from the model that a finished run trained; with --driver static it is only used",
            ),
        ),
    ),
)


_SEVERAL = ("--seeds", "--also-tune")
"""The options that take one name or more."""


def add_run_options(parser: Parser) -> None:
    """The options of `run` and `plan`."""
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="settings file, such as RUN/config.yaml")
    for title, options in _NAMED:
        group = parser.add_argument_group(title)
        for flag, metavar, line in options:
            several: dict[str, Any] = {"nargs": "+", "action": "extend"} if flag in _SEVERAL else {}
            group.add_argument(flag, metavar=metavar, help=line, **several)
        if title == "data":
            line = "which of a run's models, trained one from another, writes the data set (default: the last)"
            group.add_argument("--iteration", type=int, metavar="N", help=line)
    fair = parser.add_argument_group("budget and randomness")
    fair.add_argument("--match", choices=MATCHES, metavar="KIND", help=f"what the budget counts: {', '.join(MATCHES)}")
    fair.add_argument("--budget", type=float, metavar="N", help="the line at which every arm stops, counted in --match")
    fair.add_argument("--seed", type=int, metavar="INT", help="random seed; equal seed and settings, equal data set")
    line = "who computes shards: local, or ray (workers on a Ray cluster, see runtime.ray); changes no result"
    fair.add_argument("--engine", choices=ENGINES, metavar="NAME", help=line)
    more = parser.add_argument_group("settings")
    more.add_argument("--config", dest="config_option", metavar="FILE", help="settings file; options win over it")
    line = "any setting by its dotted name ('harness plan' lists them); repeatable"
    more.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help=line)
    add_runs_option(parser)


def resolve_options(args: argparse.Namespace) -> Resolved:
    """The settings that the options mean. Raises `ConfigError` for options that contradict each other."""
    if args.seeds and not args.config and args.seeds[-1].endswith((".yaml", ".yml")):
        # No documents are YAML: this is the settings file, which --seeds took for one more source.
        args.config = args.seeds.pop()
    if args.config and args.config_option:
        raise ConfigError(f"two settings files are named, {args.config} and {args.config_option}; name one")
    config_file = args.config or args.config_option
    if not args.method and not args.driver and not config_file:
        raise ConfigError(
            "name a method (--method, see 'harness methods'), a driver with a signal (--driver and --signal), or a "
            "settings file"
        )

    from harness.resolve.layers import resolve_run
    from harness.settings import parse_assignment

    sets: dict[str, Any] = dict(parse_assignment(text) for text in args.sets)
    if args.runs:
        sets["runtime.runs"] = args.runs
    if args.engine:
        sets["runtime.engine"] = args.engine
    named = [flag.removeprefix("--").replace("-", "_") for _, options in _NAMED for flag, _, _ in options]
    given = {name: getattr(args, name) for name in (*named, "iteration", "match", "budget", "seed")}
    return resolve_run(**given, config_file=config_file, sets=sets)
