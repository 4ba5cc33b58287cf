"""`methods`, `drivers`, `signals`, `targets`, `suites`: what there is to choose from."""

from __future__ import annotations

import argparse

from harness.cli.command import Command, Parser, no_options, table
from harness.errors import HarnessError
from harness.screen import emit, emit_json


def _methods(_: argparse.Namespace) -> int:
    from harness.resolve.registry import methods, unusable_methods

    rows = []
    for m in methods().values():
        rows.append((m.name, m.driver, m.signal, m.route, m.summary))
        if m.presets:
            rows.append(("", "", "", "", f"presets: {', '.join(m.presets)}"))
    emit(table(("method", "driver", "signal", "route", "what it does"), rows))
    emit("\nA method is a driver, signal and route with defaults; --driver, --signal and --route replace them.")
    _say_unusable(unusable_methods())
    return 0


def _drivers(_: argparse.Namespace) -> int:
    from methods.drivers.catalogue import driver_classes

    usable, faults = driver_classes()
    rows = []
    for driver in usable:
        training = driver.trains(driver.Settings())
        uses = "yes" if driver.uses_signal else "no"
        rows.append((driver.name, uses, "the drafting model" if training else "-", driver.summary))
    emit(table(("driver", "uses a signal", "trains", "what it does"), rows))
    for fault in faults:
        emit(f"\nnot usable: {fault}")
    return 0


def _routes(_: argparse.Namespace) -> int:
    from methods.routes.catalogue import route_classes

    usable, faults = route_classes()
    rows = [(route.name, route.drafts or "-", route.answers or "-", route.summary) for route in usable]
    emit(table(("route", "drafts", "finishes", "how a seed becomes a pair"), rows))
    emit("\nThe model that drafts is the one that a driver trains; the rest of the way stays as it is.")
    _say_unusable(faults)
    return 0


def _signals(args: argparse.Namespace) -> int:
    from methods.signals.catalogue import cost_class, describe_signal, signal_classes

    usable, faults = signal_classes()
    if args.json:
        emit_json({"signals": [describe_signal(signal) for signal in usable], "not_usable": faults})
        return 0
    rows = []
    for signal in usable:
        reads = "yes" if signal.reads_validation else "no"
        rows.append((signal.name, signal.direction, reads, cost_class(signal.uses(signal.Settings())), signal.summary))
    emit(table(("signal", "better", "reads validation", "cost", "what it says of an item"), rows))
    _say_unusable(faults)
    return 0


def _targets(args: argparse.Namespace) -> int:
    from harness.resolve.targets import listing

    tracks, models = listing()
    if args.json:
        emit_json({"tracks": tracks, "models": models})
        return 0
    rows = [
        (t["name"], t["suite"], ", ".join(t["scales"]), t["default_scale"], str(t["replicates"]), t["summary"])
        for t in tracks
    ]
    emit(table(("track", "suite", "scales", "default", "replicates", "what it is"), rows))
    emit("")
    sizes = []
    for m in models:
        notes = [m["track"], m["licence"], *(["gated"] if m["gated"] else [])]
        notes += ["no chat template"] if m["template"] == "none" else []
        sizes.append((m["name"], m["id"], f"{m['memory_bytes']['bfloat16'] / 1e9:.3g}", "; ".join(notes)))
    emit(table(("model", "hub id", "GB bf16", "track; licence"), sizes))
    emit(
        "\nA track comes with all its models; a model is put on a track's other models and sizes, and --scale\n"
        "chooses the track. --target and --generator also take a folder or any hub id. A gated model has to\n"
        "be asked for on the hub; one without a chat template needs a local copy with chat_template.jinja.\n"
        "The memory is that of the weights (--json: other precisions); 'harness plan' says what a run takes."
    )
    return 0


def _suites(_: argparse.Namespace) -> int:
    from evals.catalogue import list_suites, load_suite

    rows: list[tuple[str, str, str]] = []
    faults = []
    for name in list_suites():
        try:
            suite = load_suite(name)
        except HarnessError as error:
            faults.append(str(error))
            continue
        rows.append((suite.name, "", suite.description))
        rows.append(("", "benchmarks", ", ".join(b.id for b in suite.benchmarks)))
        rows.append(("", "validation sets", ", ".join(v.name for v in suite.validation) or "none"))
    emit(table(("suite", "", "what it tests"), rows))
    emit("\nA suite of your own is a YAML file beside its JSONL files: --suite path/to/suite.yaml")
    _say_unusable(faults)
    return 0


def _say_unusable(faults: list[str]) -> None:
    """Print what is installed and cannot be used, a line each."""
    for fault in faults:
        emit(f"\nnot usable: {fault}")


def _json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="the list as JSON")


COMMANDS = (
    Command("methods", "named pairings of a driver and a signal, with their presets", no_options, _methods),
    Command("drivers", "what can be done about a signal", no_options, _drivers),
    Command("routes", "how a seed becomes a pair, and whose model drafts", no_options, _routes),
    Command("signals", "the signals, what each costs and whether it reads validation items", _json, _signals),
    Command("targets", "tracks, and models by short name with licence and memory", _json, _targets),
    Command("suites", "the sets of benchmarks and their validation sets", no_options, _suites),
)
