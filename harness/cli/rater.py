"""`rater list`, `rater judge`, `rater train`: quality raters, the published ones and one's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.command import Command, Parser, chosen_from, no_options, table
from harness.cli.options import positive
from harness.errors import ConfigError
from harness.screen import emit, say

if TYPE_CHECKING:
    from harness.models.endpoint.backend import EndpointBackend
    from harness.raters.judge import Tally
    from harness.raters.train import TrainedRater
    from harness.runtime.call_log import RunCallLog


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


def _judge(args: argparse.Namespace) -> int:
    import json

    from harness.models.backend import Sampling
    from harness.raters.judge import CRITERIA, Tally, draw_pairs, judge_pairs
    from harness.runtime.call_log import RunCallLog
    from harness.runtime.ledger import Ledger
    from harness.runtime.progress import Progress
    from harness.shards import replace_into, write_failure
    from harness.synthesis.seeds import SeedLimits, load_seeds
    from harness.types import conversation_text

    target = Path(args.to).expanduser()
    if target.exists():
        raise ConfigError(f"{target} is there already; name another file with --to")
    positive(args.pairs, "--pairs")
    positive(args.votes, "--votes")
    criteria = dict(map(_criterion, args.criterion)) if args.criterion else dict(CRITERIA)
    seeds = load_seeds(args.texts, limits=SeedLimits(min_words=1)).seeds
    pairs = draw_pairs([s.text or conversation_text(s.messages or ()) for s in seeds], args.pairs, args.seed)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failure(target, error) from None
    ledger, tally, progress = Ledger(target.with_name(f"{target.name}.ledger.sqlite")), Tally(), Progress()
    log = RunCallLog(ledger, "rater judge", "", lambda event, **values: say(_event(event, values), sys.stderr))
    try:
        judged = judge_pairs(
            _endpoint(args, log),
            pairs,
            criteria,
            votes=args.votes,
            sampling=Sampling(args.temperature, 1.0, positive(args.max_answer, "--max-answer")),
            seed=args.seed,
            tally=tally,
            on_pairs=lambda done: progress.update("judging pairs", done, len(pairs)),
        )
        lines = [json.dumps({"a": one.a, "b": one.b, "p": dict(one.p)}, ensure_ascii=False) for one in judged]
        usd = ledger.spent.usd
    finally:
        progress.close()
        ledger.close()
    replace_into(target, lambda temporary: _write(temporary, "".join(f"{line}\n" for line in lines)))
    emit(_tallied(target, tally, len(pairs), usd if args.price else None))
    return 0


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _event(event: str, values: dict[str, Any]) -> str:
    return f"{values['texts']} go to {values['host']}" if event == "texts_leave" else str(values.get("text", event))


def _criterion(text: str) -> tuple[str, str]:
    name, _, question = text.partition("=")
    if not name.strip() or not question.strip():
        raise ConfigError(f"--criterion {text!r}: expected NAME=QUESTION, such as 'depth=Which one goes deeper?'")
    return name.strip(), question.strip()


def _endpoint(args: argparse.Namespace, log: RunCallLog) -> EndpointBackend:
    """The judge behind its URL. Raises `ConfigError` for a URL or a price that is none."""
    from pydantic import ValidationError

    from harness.choice import first_fault
    from harness.config_models import ModelConfig, PriceConfig, ServiceConfig
    from harness.models.access import key_of
    from harness.models.endpoint.backend import EndpointBackend, Served
    from harness.models.endpoint.calls import Purse
    from harness.models.endpoint.client import Endpoint

    try:
        prices = [float(part) for part in args.price.split(",")] if args.price else []
        price = PriceConfig(input=prices[0], output=prices[1]) if len(prices) == 2 else None
        model = ModelConfig(id=args.model, backend="openai", base_url=args.url, key_env=args.key_env, price=price)
    except ValidationError as error:
        raise ConfigError(f"the judge: {first_fault(error)}") from None
    except ValueError:
        price = None
    if args.price and price is None:
        raise ConfigError(f"--price {args.price}: expected dollars per million tokens in and out, such as 0.5,1.5")
    if args.max_usd is not None and price is None:
        raise ConfigError("--max-usd needs what the judge charges: --price IN,OUT")
    endpoint = Endpoint(
        args.url,
        role="judge",
        model=args.model,
        identity=f"{args.url} {args.model}",
        key=key_of(model, "judge"),
        service=ServiceConfig(),
        log=log,
        purse=Purse(log, price, args.max_usd, None),
    )
    if model.remote_host:
        log.announce(model.remote_host, "judge", "the texts to be judged")
    served = Served(args.model, 0.0, model.max_length, accept_length=True)
    return EndpointBackend(served, lambda: (endpoint, args.model))


def _tallied(target: Path, tally: Tally, pairs: int, usd: float | None) -> str:
    lines = [f"{target}: {pairs} pairs, {tally.valid} of {tally.votes} votes valid, {tally.undecided} without judgment"]
    if tally.valid:
        first = f"the first text was taken in {100 * tally.first / tally.valid:.1f} % of votes (50: no position bias)"
        apart = f"the two orders lie {sum(tally.apart) / len(tally.apart):.2f} apart" if tally.apart else ""
        lines.append("; ".join(filter(None, (first, apart))))
    cost = "" if usd is None else f", {usd:.2f} US dollars"
    lines.append(f"{tally.prompt_tokens:,} tokens in, {tally.completion_tokens:,} out{cost}")
    if not tally.valid:
        lines.append("No vote was a letter: look at what the judge answers, or raise --max-answer.")
    return "\n".join(lines)


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


def _configure_judge(parser: Parser) -> None:
    parser.add_argument("--texts", metavar="FILE", required=True, help="texts or pairs to compare, one a row")
    parser.add_argument("--url", metavar="URL", required=True, help="OpenAI-compatible server, such as https://host/v1")
    parser.add_argument("--model", metavar="NAME", required=True, help="the judge's name there")
    parser.add_argument("--to", metavar="FILE", required=True, help="JSONL file for the judgments")
    parser.add_argument("--key-env", metavar="VAR", help="environment variable that holds the key")
    parser.add_argument("--pairs", metavar="N", type=int, default=1000, help="pairs to judge (default: 1000)")
    parser.add_argument("--votes", metavar="N", type=int, default=3, help="votes in each of two orders (default: 3)")
    parser.add_argument(
        "--criterion",
        action="append",
        metavar="NAME=QUESTION",
        help="what is asked (repeatable; default: style, expertise, facts, educational)",
    )
    parser.add_argument("--temperature", metavar="X", type=float, default=1.0, help="of the votes (default: 1)")
    parser.add_argument("--max-answer", metavar="N", type=int, default=8, help="tokens of an answer (default: 8)")
    parser.add_argument("--price", metavar="IN,OUT", help="US dollars per million tokens in and out")
    parser.add_argument("--max-usd", metavar="X", type=float, help="stop before more is spent")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of pairs and votes (default: 0)")


ACTIONS = (
    Command(
        name="list",
        summary="the registered raters, with checkpoint, licence and heads",
        configure=no_options,
        run=_list,
    ),
    Command(
        name="judge",
        summary="have a language model compare texts, both orders and several votes, to train a rater on",
        configure=_configure_judge,
        run=_judge,
        examples="harness rater judge --texts docs.jsonl --url http://localhost:8000/v1 --model M --to judgments.jsonl",
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
        "quality raters: list the published ones, judge texts, train one's own",
        chosen_from(ACTIONS),
        _list,
        usage="ACTION [options]",
    ),
)
