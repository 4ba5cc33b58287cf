"""`bench`: the project's own engines, timed beside what they are compared with, on the same work in the same run."""

from __future__ import annotations

import argparse

from harness.cli.command import Command, Parser, chosen_from
from harness.cli.options import positive
from harness.errors import ConfigError, suggest
from harness.screen import emit, emit_json


def _influence(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from harness.bench.influence import BenchPlan, bench_influence, gpu_plan
    from harness.bench.influence_text import render_influence
    from harness.bench.made import ALL_LINEARS, BenchSize
    from harness.config_runtime import ScoringConfig
    from harness.runtime.progress import Progress
    from methods.signals.influence.signal import InfluenceSignal

    given = {"samples": args.samples, "shape": args.model, "dtype": args.dtype, "rank": args.rank}
    for name in ("samples", "rank"):
        if given[name] is not None:
            positive(given[name], f"--{name}")
    plan = BenchPlan(
        size=BenchSize(),
        influence=InfluenceSignal.with_preset(args.preset),
        scoring=ScoringConfig(
            layout=args.layout,
            batch_tokens=positive(args.batch_tokens, "--batch-tokens"),
            activation_checkpointing=args.checkpointing,
        ),
        turns=positive(args.turns, "--turns"),
        slow=positive(args.slow, "--slow"),
        full_logits=args.full_logits,
        bergson=args.bergson,
    )
    if args.model == "qwen3-8b":
        plan = gpu_plan(plan)
    size = replace(plan.size, **{key: value for key, value in given.items() if value is not None})
    if args.length:
        size = replace(size, length=_length(args.length))
    if args.modules:
        modules = tuple(part.strip() for part in args.modules.split(","))
        for name in modules:
            if name not in ALL_LINEARS:
                raise ConfigError(f"--modules: the model has no linear '{name}'{suggest(name, ALL_LINEARS)}")
        size = replace(size, modules=modules)
    plan = replace(plan, size=size)
    progress = Progress()
    try:
        result = bench_influence(plan, progress.update)
    finally:
        progress.close()
    if args.json:
        emit_json(result.to_json())
    else:
        emit(render_influence(result))
    return 0


def _length(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        bounds = int(low), int(high or low)
    except ValueError:
        raise ConfigError(f"--length {text!r}: give a number of tokens or a range, such as 512 or 48-160") from None
    if not 2 <= bounds[0] <= bounds[1]:
        raise ConfigError(f"--length {text!r}: the least length is 2, and not above the greatest")
    return bounds


def _configure_influence(parser: Parser) -> None:
    line = "small, qwen3-0.6b or qwen3-8b, with random weights (default: small)"
    parser.add_argument("--model", metavar="SHAPE", help=line)
    line = "compute type (default: float32, qwen3-8b: bfloat16)"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help=line)
    parser.add_argument("--rank", type=int, metavar="N", help="LoRA rank (default: 16, qwen3-8b: 128)")
    line = "LoRA modules, such as q_proj,v_proj (default: all linears, qwen3-8b: those of attention)"
    parser.add_argument("--modules", metavar="LIST", help=line)
    parser.add_argument("--samples", type=int, metavar="N", help="candidates (default: 96)")
    parser.add_argument("--length", metavar="N[-N]", help="tokens of a sample (default: 48-160, qwen3-8b: 512)")
    line = "update rule, by its published name (default: the signal's own)"
    parser.add_argument("--preset", metavar="NAME", help=line)
    layouts = ("right", "left", "packed")
    parser.add_argument("--layout", choices=layouts, default="right", help="how batches are laid out")
    parser.add_argument("--batch-tokens", type=int, default=4096, metavar="N", help="tokens of a batch (default: 4096)")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations, in both alike")
    line = "logits of all tokens, in the engine and the plain step alike"
    parser.add_argument("--full-logits", action="store_true", help=line)
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="repetitions (default: 5)")
    parser.add_argument("--slow", type=int, default=16, metavar="N", help="samples of the one-by-one contestants (16)")
    line = "the Python of an environment with bergson, to compare with it too"
    parser.add_argument("--bergson", metavar="PYTHON", help=line)
    parser.add_argument("--json", action="store_true", help="the result as JSON")


def _grpo(args: argparse.Namespace) -> int:
    from harness.bench.grpo import bench_grpo, render_grpo
    from harness.runtime.progress import Progress

    progress = Progress()
    try:
        result = bench_grpo(
            args.signal, positive(args.steps, "--steps"), positive(args.turns, "--turns"), progress.update
        )
    finally:
        progress.close()
    if args.json:
        emit_json(result.to_json())
    else:
        emit(render_grpo(result))
    return 0


def _configure_grpo(parser: Parser) -> None:
    parser.add_argument("--signal", metavar="NAME", default="length", help="what rewards (default: length, it is free)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps of a training (default: 10)")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="repetitions of both sides (default: 5)")
    parser.add_argument("--json", action="store_true", help="the result as JSON")


def _decontam(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from evals.against import load_against
    from evals.read import DataContext
    from harness.bench.decontam import bench_decontam, render_decontam

    items = load_against(args.against, DataContext()).items if args.against else ()
    try:
        sizes = [positive(int(size), "--sizes") for size in args.sizes.split(",") if size.strip()]
    except ValueError:
        raise ConfigError(f"--sizes {args.sizes!r}: give numbers of documents, such as 10000,300000") from None
    result = bench_decontam(
        train=args.train,
        items=items,
        documents=positive(args.documents, "--documents"),
        count=positive(args.items, "--items"),
        sizes=sizes,
    )
    if args.json:
        emit_json(asdict(result))
    else:
        emit(render_decontam(result))
    return 0


def _configure_decontam(parser: Parser) -> None:
    line = "training rows, cut into pieces of 200 words (default: made-up texts)"
    parser.add_argument("--train", nargs="+", metavar="FILE", default=[], help=line)
    line = "test items, as for 'harness decontam' (default: made-up items)"
    parser.add_argument("--against", nargs="+", metavar="NAME", default=[], help=line)
    parser.add_argument("--documents", type=int, metavar="N", default=26_000, help="documents (default: 26000)")
    parser.add_argument("--items", type=int, metavar="N", default=3000, help="test items (default: 3000)")
    line = "numbers of made-up documents that cost and memory are shown for (default: 10000,30000,100000,300000)"
    parser.add_argument("--sizes", metavar="LIST", default="10000,30000,100000,300000", help=line)
    parser.add_argument("--json", action="store_true", help="the result as JSON")


ACTIONS = (
    Command(
        name="grpo",
        summary="training of the policy against TRL's trainer alone, with the same rewards",
        configure=_configure_grpo,
        run=_grpo,
        examples="harness bench grpo --steps 10 --turns 5",
    ),
    Command(
        name="decontam",
        summary="the contamination check against one server request per n-gram (HARNESS_ES_URL), and as documents grow",
        configure=_configure_decontam,
        run=_decontam,
        examples="""
        harness bench decontam
        harness bench decontam --train data.jsonl --against benchmarks:medqa --sizes 10000
        """,
    ),
    Command(
        name="influence",
        summary="scoring against a plain training step, the definition and a LESS-style loop",
        configure=_configure_influence,
        run=_influence,
        examples="""
        harness bench influence
        harness bench influence --full-logits --json
        harness bench influence --model qwen3-8b
        harness bench influence --bergson ~/bergson/bin/python
        """,
    ),
)

COMMANDS = (
    Command(
        "bench",
        "time the project's engines beside what they are compared with",
        chosen_from(ACTIONS, "WHAT"),
        _influence,
        usage="WHAT [options]",
    ),
)
