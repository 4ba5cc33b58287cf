"""`rater list` and `rater train`: quality raters, the published ones and one's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.command import Command, Parser, table
from harness.cli.options import positive
from harness.errors import ConfigError
from harness.screen import emit

if TYPE_CHECKING:
    from harness.raters.train import TrainedRater


def _list(_: argparse.Namespace) -> int:
    from harness.raters.catalogue import raters

    usable, faults = raters()
    rows: list[tuple[str, str, str]] = []
    for d in usable:
        rows.append((d.name, d.output, d.summary))
        rows.append(("", "", f"{d.checkpoint}; {d.licence}; {', '.join(d.heads)}"))
    emit(table(("rater", "output", "what it judges; checkpoint, licence and heads"), rows))
    for fault in faults:
        emit(f"\nnot usable: {fault}")
    emit("\nA folder of a trained rater is one, too: --set signal.rater=DIR")
    return 0


def _train(args: argparse.Namespace) -> int:
    from harness.raters.judgments import read_judgments
    from harness.raters.train import RaterTraining, train_rater
    from harness.runtime.allocator import keep_freed_memory
    from harness.runtime.progress import Progress
    from harness.training.trainer import quiet_libraries

    _check(args)
    source = Path(args.judgments).expanduser()
    if not source.is_file():
        raise ConfigError(f"--judgments {args.judgments}: there is no such file")
    heads = [head.strip() for head in (args.heads or "").split(",") if head.strip()]
    judgments = read_judgments(source, heads)
    keep_freed_memory()
    quiet_libraries()
    settings = RaterTraining(
        output=args.output,
        epochs=args.epochs,
        rate=args.rate,
        batch=args.batch,
        confidence=args.confidence,
        held_out=args.held_out,
        max_length=args.max_length,
        freeze=args.freeze,
        seed=args.seed,
    )
    progress = Progress()
    try:
        made = train_rater(
            judgments,
            source,
            args.base,
            Path(args.to).expanduser(),
            settings,
            lambda step, total: progress.update("training the rater", step, total),
        )
    finally:
        progress.close()
    emit(_report(made))
    return 0


def _check(args: argparse.Namespace) -> None:
    for name in ("epochs", "batch", "max_length"):
        positive(getattr(args, name), f"--{name.replace('_', '-')}")
    if not args.rate > 0:
        raise ConfigError(f"--rate {args.rate}: expected a number above 0")
    if not 0 <= args.confidence <= 1:
        raise ConfigError(f"--confidence {args.confidence}: expected a number from 0 to 1")
    if not 0 < args.held_out < 1:
        raise ConfigError(f"--held-out {args.held_out}: expected a share between 0 and 1")


def _report(made: TrainedRater) -> str:
    pairs = made.declaration.output == "bradley_terry"
    lines = [f"trained on {made.trained} judgments, {made.held_out} held out"]
    if made.dropped:
        lines[0] += f"; {made.dropped} single ones were not confident enough"
    if not made.apart:
        lines.append("Most judgments share texts, so held-out texts were trained on: the agreement is too good.")
    if made.held_out < 30:
        lines.append(f"{made.held_out} held-out judgments say little: give more, or raise --held-out.")
    rows = [
        (
            own.head,
            str(own.items),
            f"{_figure(own.accuracy)} ± {_figure(own.error)}",
            _figure(own.majority),
            _figure(own.calibration),
            _figure(own.correlation),
        )
        for own in made.agreement
    ]
    what = ("side met", "always one side") if pairs else ("grade met", "always one grade")
    lines += ["", table(("head", "held out", what[0], what[1], "calibration error", "rank correlation"), rows), ""]
    lines.append(f"{made.folder}: use it with --set signal.rater={made.folder}")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _configure_train(parser: Parser) -> None:
    parser.add_argument(
        "--judgments", metavar="FILE", required=True, help="comparisons or grades, JSONL (docs/raters.md)"
    )
    parser.add_argument(
        "--base", metavar="MODEL", required=True, help="encoder or decoder: hub id, folder or lab:target"
    )
    parser.add_argument("--to", metavar="DIR", required=True, help="folder for the rater")
    parser.add_argument("--heads", metavar="LIST", help="criteria to train, in this order (default: all)")
    parser.add_argument(
        "--output",
        metavar="KIND",
        choices=("bradley_terry", "regression", "classes"),
        help="bradley_terry for comparisons, regression (the default) or classes for grades",
    )
    parser.add_argument("--epochs", metavar="N", type=int, default=2, help="passes over the judgments (default: 2)")
    parser.add_argument("--rate", metavar="X", type=float, default=5e-5, help="highest learning rate (default: 5e-5)")
    parser.add_argument("--batch", metavar="N", type=int, default=512, help="judgments in a step (default: 512)")
    parser.add_argument(
        "--confidence", metavar="X", type=float, default=0.5, help="least |2p - 1| of a comparison (default: 0.5)"
    )
    parser.add_argument("--held-out", metavar="X", type=float, default=0.1, help="share to measure on (default: 0.1)")
    parser.add_argument("--max-length", metavar="N", type=int, default=512, help="tokens of a window (default: 512)")
    parser.add_argument("--freeze", action="store_true", help="train the head alone")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of head, order and split (default: 0)")


def _list_options(_: Parser) -> None:
    """It has none."""


def _configure(parser: Parser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for command in ACTIONS:
        command.add_to(actions)


ACTIONS = (
    Command(
        name="list",
        summary="the registered raters, with checkpoint, licence and heads",
        configure=_list_options,
        run=_list,
    ),
    Command(
        name="train",
        summary="train a rater on comparisons or grades, and measure it on held-out ones",
        configure=_configure_train,
        run=_train,
        examples="""
            harness rater train --judgments judgments.jsonl --base answerdotai/ModernBERT-base --to raters/mine
            harness run --method qurating --target nano --set signal.rater=raters/mine
        """,
    ),
)

COMMANDS = (
    Command(
        "rater",
        "quality raters: list the published ones, train one's own",
        _configure,
        _list,
        usage="ACTION [options]",
    ),
)
