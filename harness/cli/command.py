"""A command, and the argument parser that answers mistakes with one line.

Commands are declared as data, so that the front page of `harness --help`, the parsers and the suggestions for a
mistyped name come from one table. The parser never prints a usage block: a mistake gets the nearest right name.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from harness.errors import ConfigError, suggest
from harness.screen import WIDTH, emit

_NEGATIVE = re.compile(r"^-(\.?\d|(inf|nan)\b)", re.IGNORECASE)
"""What is a value although it begins with a minus: a number, or a list or range of them."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `ConfigError`s of one sentence, with the nearest right name."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", Help)
        super().__init__(allow_abbrev=False, **options)
        # argparse takes -1 for a value and -1,1 for an option; no option of ours begins with a digit.
        self._negative_number_matcher = _NEGATIVE

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a usage block."""
        raise ConfigError(f"{message}; see '{self.prog} --help'")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and version, on whatever screen there is."""
        if message:
            emit(message.rstrip("\n"))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            name = action.option_strings[0] if action.option_strings else "command"
            raise ConfigError(f"unknown {name} '{value}'{suggest(str(value), known)}")

    def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse, refusing unknown options with the nearest known one."""
        parsed, extra = self.parse_known_args(arguments)
        if extra:
            first = extra[0]
            command: Parser = getattr(parsed, "parser", self)
            if first.startswith("-"):
                flag = first.split("=")[0]
                options = [o for action in command._actions for o in action.option_strings if o.startswith("--")]
                hint = suggest(flag, options)
                near = hint if "did you mean" in hint else ""
                raise ConfigError(f"unknown option '{flag}'" + (near or f"; see '{command.prog} --help'"))
            raise ConfigError(f"unexpected argument '{first}'; see '{command.prog} --help'")
        return parsed


class Help(argparse.RawDescriptionHelpFormatter):
    """Help in up to 100 columns, with room for the names of options."""

    def __init__(self, prog: str) -> None:
        columns = min(WIDTH, os.get_terminal_size().columns if sys.stdout.isatty() else WIDTH)
        super().__init__(prog, max_help_position=28, width=max(60, columns))


def no_options(_: Parser) -> None:
    """Options of a command that has none."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its name, a line for the front page, its options, and what it does (returns the exit status)."""

    name: str
    summary: str
    configure: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], int]
    examples: str = ""
    usage: str = "[options]"

    def add_to(self, commands: Any) -> None:
        """Add this command's parser to a group of subparsers."""
        epilog = (
            f"examples:\n{textwrap.indent(textwrap.dedent(self.examples).strip(), '  ')}" if self.examples else None
        )
        parser = commands.add_parser(self.name, usage=f"%(prog)s {self.usage}", description=self.summary, epilog=epilog)
        parser.set_defaults(run_command=self.run, parser=parser)
        self.configure(parser)


def chosen_from(actions: Sequence[Command], metavar: str = "ACTION") -> Callable[[Parser], None]:
    """The options of a command that is followed by one of `actions`."""

    def configure(parser: Parser) -> None:
        group = parser.add_subparsers(metavar=metavar, required=True, prog=parser.prog)
        for action in actions:
            action.add_to(group)

    return configure


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns in 100 characters; the last column is wrapped."""
    body = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(headers), *body]) for i in range(len(headers) - 1)]
    room = max(30, WIDTH - sum(widths) - 2 * len(widths))
    lines = []
    for row in [list(headers), *body]:
        left = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        parts = textwrap.wrap(row[-1], room) or [""]
        lines.append((left + parts[0]).rstrip())
        lines.extend(" " * len(left) + part for part in parts[1:])
    return "\n".join(lines)
