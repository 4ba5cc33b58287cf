"""YAML as settings need it: each key once, and every fault one line that names the file and the line.

PyYAML keeps the last of two equal keys without a word, and lets Python's own errors out for dates and numbers that do
not exist. Aliases and merge keys (`<<`) work as always; a key beside a merge wins over the merged one.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from harness.errors import ConfigError
from harness.texts import read_text

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """The safe loader, which refuses a key that stands twice in one mapping, and says where a value cannot be read."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping; here its keys are still those of the text, before any merge."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], yaml.ScalarNode] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            first = seen.setdefault((key.tag, key.value), key)
            if first is not key:
                line = first.start_mark.line + 1
                raise yaml.MarkedYAMLError(
                    problem=f"names the key '{key.value}' twice (first in line {line})", problem_mark=key.start_mark
                )
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """A value; a date or a number that does not exist is a fault of the text."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError):
            raise yaml.MarkedYAMLError(
                problem="holds a date or number that does not exist", problem_mark=node.start_mark
            ) from None


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """The value of a text, shared by all who ask: one command reads the same declarations several times over."""
    return yaml.load(text, Loader=_Loader)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. Raises `ConfigError` in one line that begins with `where` and names the line."""
    try:
        # A copy, so that what a caller changes stays its own.
        return copy.deepcopy(_parsed(text))
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), str(getattr(error, "problem", "") or "")
        line = f", line {mark.line + 1}" if mark is not None else ""
        # Only our own problems are sentences about the file; PyYAML's are about its grammar.
        said = problem if problem.startswith(("names the key", "holds a date")) else "is not valid YAML"
        raise ConfigError(f"{where}{line} {said}; correct it") from None
    except RecursionError:
        # Raised below: chained here, the error would carry a thousand frames along.
        pass
    raise ConfigError(f"{where} is nested too deeply to be read; correct it")


def read_yaml(path: str | Path, what: str) -> Any:
    """The value of a YAML file that messages call `what`. Raises `ConfigError` in one line."""
    try:
        text = read_text(path)
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path} is not valid YAML in UTF-8; correct it") from None
    return parse_yaml(text, f"{what} {path}")
