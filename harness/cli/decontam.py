"""`decontam`: whether training files contain test items, what to remove, and whether the check can be trusted."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.command import Command, Parser
from harness.errors import ConfigError
from harness.screen import emit, emit_json, say

if TYPE_CHECKING:
    from decontam.check import ContaminationCheck
    from harness.config import DecontamConfig
    from harness.models.embedder import Embedder
    from harness.runtime.progress import Progress

_LEFT = (
    ("cleaned/, removed/", "the training rows, kept and removed, under their files' names"),
    ("report.html", "the pairs side by side, with what they share marked"),
    ("evidence.jsonl", "every pair, with its spans"),
    ("report.json", "all numbers"),
    ("contamination_results_*.tsv", "share of items found, as open-instruct writes it"),
)

SELFTEST_ITEMS = 500
"""Items that the self-test injects, and as many clean ones."""

_CHOICES = {
    "parts": ("prompt", "answer", "both"),
    "embedding_unit": ("cosine", "es_score"),
    "backend": ("embedded", "elasticsearch"),
    "compat": ("none", "open-instruct"),
}

_SWITCHES = ("modes", "remove_short", "keep_common")
_FIELDS = ("prompt_field", "answer_field", "source_field")
_OF_MODE = {
    "ngram": ("ngram_size", "ngram_threshold", "keep_common"),
    "embedding": ("embedding_threshold", "embedding_unit"),
}
"""Rules that only one mode has."""

_RULES: tuple[tuple[str, str, str, type, str], ...] = (
    ("--parts", "parts", "KIND", str, "which turns are checked: prompt, answer, both (default)"),
    ("--ngram", "ngram_size", "N", int, "tokens of an n-gram (default: 5)"),
    ("--ngram-threshold", "ngram_threshold", "X", float, "remove above this share of an item's tokens (default: 0.3)"),
    ("--embedding-threshold", "embedding_threshold", "X", float, "remove above this similarity (default: 0.85)"),
    ("--embedding-unit", "embedding_unit", "UNIT", str, "unit of that threshold: cosine (default) or es_score"),
    ("--min-tokens", "min_tokens", "N", int, "items of fewer tokens are only reported (default: 8)"),
    ("--backend", "backend", "NAME", str, "embedded (default), or elasticsearch, by HARNESS_ES_URL"),
    ("--compat", "compat", "NAME", str, "open-instruct: that toolkit's rules, caps included"),
    ("--search-size", "search_size", "N", int, "documents per phrase under --compat (default: 100)"),
)


def _configure(parser: Parser) -> None:
    what = parser.add_argument_group("what to check")
    line = "training rows: JSON, CSV or parquet files (packed or not), folders, 'globs', hub data sets"
    what.add_argument("--train", nargs="+", metavar="FILE", default=[], help=line)
    line = "test items: SUITE, SUITE:BENCHMARK, FILE, or FILE:FIELD,FIELD ('harness suites')"
    what.add_argument("--against", nargs="+", metavar="NAME", default=[], help=line)
    what.add_argument("--out", metavar="DIR", help="folder for what the check leaves (default: decontam-TRAIN)")
    what.add_argument("--selftest", action="store_true", help="inject altered test items and measure what is found")
    line = "what similarities mean under --embedder: quantiles of random pairs of texts and of paraphrases"
    what.add_argument("--calibrate", action="store_true", help=line)
    line = "paraphrases for --calibrate: rows of two texts (default: test items reworded by rule)"
    what.add_argument("--pairs", metavar="FILE", help=line)
    for part in ("prompt", "answer"):
        line = f"read as {part}s only these fields (dotted where nested), and none but named ones (default: every text)"
        what.add_argument(f"--{part}-field", nargs="+", metavar="NAME", help=line)
    what.add_argument("--source-field", metavar="NAME", help="field with a row's source; rates are given by its values")
    rules = parser.add_argument_group("rules (defaults as in 'decontam' of a run's settings)")
    rules.add_argument("--modes", metavar="LIST", help="of text, ngram, embedding, by commas (default: text,ngram)")
    for flag, name, metavar, kind, line in _RULES:
        rules.add_argument(flag, dest=name, type=kind, metavar=metavar, choices=_CHOICES.get(name), help=line)
    rules.add_argument("--remove-short", action="store_true", default=None, help="remove for short items too")
    line = "count n-grams that stand in many unrelated texts in full"
    rules.add_argument("--keep-common", action="store_true", help=line)
    line = "sentence-transformers name or folder, file of vectors, or lexical"
    rules.add_argument("--embedder", metavar="ID", help=line)
    rules.add_argument("--embedder-url", metavar="URL", help="OpenAI-compatible endpoint that serves the embedder")
    more = parser.add_argument_group("output")
    more.add_argument("--json", action="store_true", help="print the report as JSON")
    more.add_argument("--quiet", action="store_true", help="no progress")


def _settings(args: argparse.Namespace) -> DecontamConfig:
    from pydantic import ValidationError

    from harness.config import DecontamConfig

    values: dict[str, Any] = {name: value for _, name, *_ in _RULES if (value := getattr(args, name)) is not None}
    if args.modes is not None:
        values["modes"] = tuple(mode.strip() for mode in args.modes.split(","))
    if args.remove_short:
        values["remove_short"] = True
    if args.keep_common:
        values["common_share"] = None
    try:
        settings = DecontamConfig(**values)
    except ValidationError as error:
        fault = error.errors()[0]
        name = str(fault["loc"][0])
        flag = next((flag for flag, key, *_ in _RULES if key == name), f"--{name}")
        raise ConfigError(f"{flag}: {fault['msg'].removeprefix('Value error, ')}, got {fault['input']!r}") from None
    _refuse_idle(args, settings, values)
    return settings


def _given(args: argparse.Namespace, names: Iterable[str]) -> str | None:
    """The first option of `names` that was given, as it is written."""
    flags = {name: flag for flag, name, *_ in _RULES}
    found = next((name for name in names if getattr(args, name) not in (None, False)), None)
    return None if found is None else flags.get(found, f"--{found.replace('_', '-')}")


def _refuse_idle(args: argparse.Namespace, settings: DecontamConfig, values: Mapping[str, Any]) -> None:
    """Refuse options that would change nothing: their user would believe that they did."""
    from harness.config_decontam import OPEN_INSTRUCT

    if settings.compat == "open-instruct":
        for name, rule in OPEN_INSTRUCT.items():
            if name in values and values[name] != rule:
                raise ConfigError(f"--compat open-instruct sets {_given(args, (name,))} to {rule}; leave one out")
    elif flag := _given(args, ("search_size",)):
        raise ConfigError(f"{flag} is for --compat open-instruct; without it every document is looked at")
    for mode, names in _OF_MODE.items():
        if mode not in settings.modes and (flag := _given(args, names)):
            raise ConfigError(f"{flag} is for {mode} mode; add it, with --modes {','.join((*settings.modes, mode))}")
    if args.calibrate and (flag := _given(args, (*(name for _, name, *_ in _RULES), *_SWITCHES, *_FIELDS))):
        raise ConfigError(f"--calibrate compares texts under --embedder alone; leave {flag} out")
    if args.selftest and (flag := _given(args, ("parts", *_FIELDS))):
        raise ConfigError(f"--selftest makes its own texts, which have no parts or fields; leave {flag} out")


def _embedder(args: argparse.Namespace) -> Embedder:
    from pydantic import ValidationError

    from harness.config import EmbedderConfig
    from harness.models.embedder import open_embedder

    if not args.embedder:
        raise ConfigError("name the embedder with --embedder ID (a model, a file of vectors, or lexical)")
    try:
        return open_embedder(EmbedderConfig(id=args.embedder, url=args.embedder_url))
    except ValidationError as error:
        raise ConfigError(f"--embedder: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _calibrate(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from decontam.calibrate import calibrate_embedder, read_pairs, render_embedder_calibration
    from decontam.selftest import reworded
    from evals.against import load_against
    from evals.read import DataContext

    if args.train or args.out or args.selftest:
        raise ConfigError("--calibrate takes its texts from --against and writes nothing; leave the others out")
    embedder = _embedder(args)
    texts = [item.text for item in load_against(args.against, DataContext()).items]
    found = calibrate_embedder(embedder, texts, read_pairs(args.pairs) if args.pairs else reworded(texts))
    if args.json:
        emit_json(asdict(found), indent=None)
    else:
        emit(render_embedder_calibration(found))
    return 0


def _check(
    args: argparse.Namespace, settings: DecontamConfig, items: Any, scratch: Path | None, show: Any
) -> ContaminationCheck:
    from decontam.check import ContaminationCheck
    from decontam.engines import open_engine

    embedder = None
    if "embedding" in settings.modes:
        embedder = _embedder(args)
    elif args.embedder or args.embedder_url:
        raise ConfigError("--embedder is for embedding mode; add it with --modes text,ngram,embedding")
    return ContaminationCheck(items, settings, open_engine(settings, scratch=scratch, progress=show), embedder)


def _run(args: argparse.Namespace) -> int:
    from evals.against import load_against
    from evals.read import DataContext
    from harness.runtime.progress import Progress

    if not args.against:
        raise ConfigError("name the test items with --against SUITE or FILE; see 'harness decontam --help'")
    settings = _settings(args)
    if args.pairs and not args.calibrate:
        raise ConfigError("--pairs is for --calibrate")
    if args.calibrate:
        return _calibrate(args)
    if args.selftest:
        return _selftest(args, settings)
    if not args.train:
        raise ConfigError("name the training files with --train FILE; see 'harness decontam --help'")
    against = load_against(args.against, DataContext())
    progress = Progress(quiet=args.quiet or args.json)
    try:
        return _check_files(args, settings, against, progress)
    finally:
        progress.close()


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be made a folder ({error.strerror}); name another") from None


def _check_files(args: argparse.Namespace, settings: DecontamConfig, against: Any, progress: Progress) -> int:
    from decontam.check import resolved
    from decontam.corpus import FileCorpus
    from decontam.fields import Fields
    from decontam.files import check_files
    from decontam.text_report import render_text

    started = time.perf_counter()
    fields = Fields(tuple(args.prompt_field or ()), tuple(args.answer_field or ()), args.source_field)
    progress.line(f"reading {', '.join(args.train)}")
    corpus = FileCorpus(args.train, parts=resolved(settings).parts, fields=fields)
    loaded = time.perf_counter()
    out = Path(args.out or f"decontam-{Path(args.train[0]).name.partition('.')[0]}")
    check = _check(args, settings, against.items, out, progress.update)
    try:
        _make_folder(out)
        done = check_files(
            check,
            corpus,
            out,
            against=args.against,
            missing=[f"{m.benchmark} ({m.reason})" for m in against.missing],
            progress=progress.update,
            say=progress.line,
        )
    finally:
        check.backend.close()
    progress.close()
    if args.json:
        emit_json(done.report, indent=None)
        return 0
    say(render_text(done.report))
    if done.reused:
        say(f"\nThis check was done before; its results are in {out}.")
    else:
        took = time.perf_counter()
        say(f"\nReading took {loaded - started:.1f} s, the check with its outputs {took - loaded:.1f} s.")
    width = max(len(name) for name, _ in _LEFT)
    say("\n".join([f"What it left in {out}", *(f"  {name:<{width}}  {line}" for name, line in _LEFT)]))
    return 0


def _selftest(args: argparse.Namespace, settings: DecontamConfig) -> int:
    from dataclasses import asdict

    from decontam.selftest import render_selftest, run_selftest, split_items
    from evals.against import load_against
    from evals.read import DataContext
    from harness.runtime.progress import Progress

    if args.train or args.out:
        raise ConfigError("--selftest makes its own texts and writes nothing; leave --train and --out out")
    mine, others = split_items(load_against(args.against, DataContext()).items, SELFTEST_ITEMS, seed=0)
    if len(mine) < 2:
        raise ConfigError("--selftest needs at least four different items that are not empty; name more with --against")
    progress = Progress(quiet=args.quiet or args.json)
    try:
        check = _check(args, settings, mine, None, progress.update)
        try:
            result = run_selftest(check, others)
        finally:
            check.backend.close()
    finally:
        progress.close()
    if args.json:
        emit_json(asdict(result), indent=None)
    else:
        emit(render_selftest(result))
    return 0


COMMANDS = (
    Command(
        name="decontam",
        summary="check training files for test items, and write cleaned files with the evidence",
        configure=_configure,
        run=_run,
        examples="""\
        harness decontam --train data.jsonl --against medical
        harness decontam --train data.jsonl --against benchmarks:gsm8k exam.jsonl:question,choices --ngram 8
        harness decontam --train data.jsonl --against medical --modes text,ngram,embedding --embedder MODEL
        harness decontam --selftest --against benchmarks:gsm8k
        harness decontam --calibrate --against benchmarks:medqa --embedder MODEL""",
        usage="--train FILE [FILE ...] --against NAME [NAME ...] [options]",
    ),
)
