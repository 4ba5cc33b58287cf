"""`plan` and `doctor`: what would run, and whether it can run here. Neither changes anything."""

from __future__ import annotations

import argparse

from harness.cli.command import Command, Parser
from harness.cli.options import add_run_options, add_runs_option, positive, resolve_options
from harness.errors import ConfigError
from harness.screen import emit, emit_json


def _plan(args: argparse.Namespace) -> int:
    from harness.planning.plan import make_plan
    from harness.planning.plan_text import render_plan

    if args.replicates is not None and args.replicates < 1:
        raise ConfigError(f"--replicates {args.replicates}: a comparison has at least one run of each arm")
    if args.replicates is not None:
        positive(args.replicates, "--replicates")
    plan = make_plan(resolve_options(args), args.replicates)
    if args.json:
        emit_json(plan.to_json())
    else:
        emit(render_plan(plan))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    if args.signal or args.target:
        return _doctor_target(args)
    if args.sets:
        raise ConfigError("--set is for the check of a target; give --target, or leave it out")
    from harness.checks.doctor import examine, render_report

    config = None
    if args.config:
        from harness.resolve.layers import resolve_run

        config = resolve_run(config_file=args.config).config
    report = examine(args.runs or "runs", config, ask_hub=args.hub, numerics=args.numerics)
    if args.json:
        emit_json(report.to_json())
    else:
        emit(render_report(report))
    return 1 if report.problems else 0


def _doctor_target(args: argparse.Namespace) -> int:
    """The training check of a target and, with --signal, what the signal asks of it and the signal's self-check."""
    if not args.target:
        raise ConfigError("a signal is checked on a target; give both, as in --signal NAME --target nano")
    for flag in ("config", "hub", "numerics", "runs"):
        if getattr(args, flag):
            raise ConfigError(f"--{flag} looks at the machine, and --target at a target alone; leave one out")
    from dataclasses import asdict

    from harness.checks.signal_check import check_signal, check_training
    from harness.resolve.layers import resolve_run
    from harness.settings import parse_assignment
    from methods.signals.catalogue import cautions

    sets = dict(parse_assignment(text) for text in args.sets)
    driver = "best_of_n" if args.signal else "static"
    config = resolve_run(driver=driver, signal=args.signal, target=args.target, sets=sets).config
    signalled = check_signal(config) if args.signal else []
    checks = check_training(config)
    checks += [check for check in signalled if check.name not in {c.name for c in checks}]
    passed = all(check.status != "failed" for check in checks)
    if args.json:
        emit_json({"ok": passed, "checks": [asdict(check) for check in checks]})
    else:
        title = f"target {args.target}, as it is fine-tuned; --signal NAME checks what a signal asks of it, too"
        if args.signal:
            title = f"signal {args.signal} on target {args.target}"
        known = [f"  caution: {line}" for line in cautions(config.signal)]
        emit("\n".join([title, *(f"  {check.line()}" for check in checks), *known]))
    return 0 if passed else 1


def _configure_plan(parser: Parser) -> None:
    add_run_options(parser)
    line = "runs of each arm that the detectable difference is for (default: the target's)"
    parser.add_argument("--replicates", type=int, metavar="N", help=line)
    parser.add_argument("--json", action="store_true", help="the plan as JSON, with every setting")


def _configure_doctor(parser: Parser) -> None:
    parser.add_argument("--config", metavar="FILE", help="ask the servers that these settings name whether they answer")
    parser.add_argument("--hub", action="store_true", help="ask the Hugging Face hub whether it answers")
    parser.add_argument("--numerics", action="store_true", help="check products, bfloat16, repeatability and gradients")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    parser.add_argument("--signal", metavar="NAME", help="check the numerics of a signal that reads the target, too")
    parser.add_argument("--target", metavar="NAME", help="check how a target would be trained instead")
    line = "a setting of that check by its dotted name; repeatable"
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help=line)
    add_runs_option(parser)


COMMANDS = (
    Command(
        name="plan",
        summary="what a run would do, need and cost, and where each setting comes from; runs nothing",
        configure=_configure_plan,
        run=_plan,
        examples="""
        harness plan --method static --target nano
        harness plan --driver best_of_n --signal loss --target qwen3-8b
        """,
        usage="[options] [CONFIG.yaml]",
    ),
    Command(
        name="doctor",
        summary="check this installation and machine, or a signal's numerics, with what to do",
        configure=_configure_doctor,
        run=_doctor,
        examples="""
        harness doctor --numerics
        harness doctor --config runs/NAME/config.yaml --hub
        harness doctor --target nano --set runtime.training.packing=true
        harness doctor --target nano --signal loss
        """,
    ),
)
