"""The README's commands that are marked as tested, carried out as they stand, at smoke scale.

A block of commands that follows the comment `<!-- tested -->` is run line by line in a folder that holds the files that
the README speaks of. Two things are changed: runs take place at smoke scale, and `RUN` stands for the runs made so far,
newest first.
"""

from __future__ import annotations

import gzip
import json
import re
import shlex
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path

import pytest

from support.commands import finished, run_folders
from support.law import commentary, write_commentary, write_exam

README = Path(__file__).parents[2] / "README.md"
MARK = "<!-- tested -->"
SIZED = ("run", "plan")


@dataclass(frozen=True)
class Block:
    """One marked block: the heading that it stands under, and its commands."""

    heading: str
    commands: tuple[str, ...]


def read_blocks(text: str) -> list[Block]:
    """The marked blocks, indented or fenced, in their order."""
    found, heading = [], ""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.strip() == MARK:
            commands = (re.sub(r"\s+#.*", "", command).strip() for command in _block(lines[number + 1 :]))
            found.append(Block(heading, tuple(command for command in commands if command)))
    return found


def _block(lines: list[str]) -> list[str]:
    """The lines of the block that `lines` begin with, after blank ones."""
    first = next(number for number, line in enumerate(lines) if line.strip())
    if lines[first].startswith("```"):
        return list(takewhile(lambda line: line != "```", lines[first + 1 :]))
    return list(takewhile(lambda line: not line or line.startswith("    "), lines[first:]))


def arguments_of(command: str, runs: Path) -> list[str]:
    """The command's words after `harness`, at smoke scale, with runs in the place of RUN."""
    words = shlex.split(command)
    assert words[0] == "harness", f"a tested command is harness itself: {command}"
    made = sorted(run_folders(runs), key=lambda f: f.stat().st_mtime, reverse=True)
    for place, word in enumerate(words):
        if word == "RUN":
            assert made, f"no run is left for RUN in: {command}"
            words[place] = made.pop(0).name
    sized = words[1] in SIZED and "--scale" not in words and ("--target", "nano") in pairwise(words)
    return [*words[1:], *(("--scale", "smoke") if sized else ())]


BLOCKS = read_blocks(README.read_text(encoding="utf-8"))


def test_every_mark_is_followed_by_commands() -> None:
    assert len(BLOCKS) == README.read_text(encoding="utf-8").count(MARK) >= 2
    assert all(block.commands for block in BLOCKS)


def test_blocks_are_read_as_they_are_written() -> None:
    indented = f"# A\n\n{MARK}\n\n    harness ls  # all\n    harness methods\n\nText.\n"
    text = f"{indented}\n## B\n{MARK}\n```sh\nharness ls\n```\n\nText.\n"
    assert read_blocks(text) == [Block("A", ("harness ls", "harness methods")), Block("B", ("harness ls",))]


@pytest.fixture(scope="module")
def desk(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's commands name; its `runs` is shared by all blocks."""
    base = tmp_path_factory.mktemp("readme")
    write_exam(base / "bar-exam")
    write_commentary(base / "commentary.jsonl", commentary(60))
    documents = "".join(json.dumps({"text": text}) + "\n" for text in commentary(60))
    (base / "my-docs.jsonl.gz").write_bytes(gzip.compress(documents.encode()))
    return base


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.heading.lower().replace(" ", "-"))
def test_commands_of_the_readme(
    block: Block, desk: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any("pubmedqa" in command for command in block.commands):
        monkeypatch.setenv("HARNESS_DATA", str(request.getfixturevalue("test_data")))
    for command in block.commands:
        done = finished(arguments_of(command, desk / "runs"), desk)
        assert done.out.strip(), command
