"""`explain` and `prompts`: what a setting means, and what the models are asked."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from harness.cli.command import Command, Parser, table
from harness.errors import ConfigError
from harness.screen import WIDTH, emit, emit_json

if TYPE_CHECKING:
    from harness.explain import SettingDoc


def _explain(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from harness.explain import find_settings, markdown

    if args.markdown:
        if args.words or args.json:
            raise ConfigError("--markdown prints the whole page; give no words or --json beside it")
        emit(markdown().rstrip("\n"))
        return 0
    found = find_settings(args.words)
    if args.json:
        emit_json([asdict(setting) for setting in found])
    elif len(found) <= 3:
        emit("\n\n".join(map(_block, found)))
    else:
        emit(table(("setting", "default", "meaning"), [(s.key, s.default or "-", _meaning(s)) for s in found]))
    return 0


def _meaning(setting: SettingDoc) -> str:
    return f"({setting.owner}) {setting.meaning}" if setting.owner else setting.meaning


def _block(setting: SettingDoc) -> str:
    lines = [setting.key + (f"  (of {setting.owner})" if setting.owner else "")]
    default = "" if setting.default is None else f"; default {setting.default}"
    what = "holds settings of its own" if setting.section else f"takes {setting.takes}{default}"
    for text in (setting.meaning, what):
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def _configure_explain(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="KEY|WORD", help="a setting, a section, or words to search for")
    parser.add_argument("--json", action="store_true", help="the settings as JSON")
    parser.add_argument("--markdown", action="store_true", help="all settings as the page docs/settings.md")


def _prompts(args: argparse.Namespace) -> int:
    from harness.models.prompts import builtin_prompt, builtin_prompts, load_prompt

    if args.show is None:
        if args.seeds:
            raise ConfigError("--seeds fills a prompt with its first document; name the prompt with --show")
        rows = []
        for name in builtin_prompts():
            prompt = load_prompt(builtin_prompt(name))
            rows.append((name, prompt.hash, ", ".join(sorted(prompt.variables))))
        emit(table(("prompt", "hash", "variables"), rows))
        emit(f"\nThe files are in {builtin_prompt('rubric').parent}. A file of your own takes a prompt's place with")
        emit("--set synthesis.rubric_prompt=FILE and synthesis.generator_prompt on route rubric, on the others with")
        emit("route.document_prompt, route.example_prompt (labelled seeds) and route.answer_prompt (docs/routes.md).")
        return 0
    name = args.show
    prompt = load_prompt(builtin_prompt(name) if name in builtin_prompts() else name)
    variables = _variables(args.seeds)
    # What another model writes first stays as its variable.
    filled = prompt.render({**{v: f"{{{{{v}}}}}" for v in prompt.variables}, **variables})
    emit("\n\n".join(f"[{message.role}]\n{message.content}" for message in filled))
    return 0


def _variables(seeds: str | None) -> dict[str, str]:
    """The variables that a document fills: the first one of `seeds`, or of the lab."""
    from harness.config import SeedsConfig, SynthesisConfig
    from harness.synthesis.route import variables_of
    from harness.synthesis.seeds import read_seeds

    if seeds:
        first = read_seeds(SeedsConfig(source=seeds, limit=1)).seeds[0]
    else:
        from harness.lab.world import World

        first = World(0).seeds(1)[0]
    return {**variables_of(first), "system_message": SynthesisConfig().system_message}


def _configure_prompts(parser: Parser) -> None:
    parser.add_argument("--show", metavar="NAME|FILE", help="print this prompt, filled with the first document")
    parser.add_argument("--seeds", metavar="SOURCE", help="whose first document (default: the lab's)")


COMMANDS = (
    Command(
        name="explain",
        summary="what a setting means, takes and is by default; searches, too",
        configure=_configure_explain,
        run=_explain,
        examples="""
        harness explain sft.epochs
        harness explain guide
        harness explain learning rate
        """,
        usage="[KEY|WORD ...]",
    ),
    Command(
        name="prompts",
        summary="what writer and generator are asked, with the variables that are filled in",
        configure=_configure_prompts,
        run=_prompts,
        examples="""
        harness prompts
        harness prompts --show rubric --seeds my-docs.jsonl
        """,
    ),
)
