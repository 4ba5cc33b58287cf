"""Packages with entry points: the one of the documentation, and such as are made up."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "plug-ins.md"
_FILE = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def write_documented(folder: Path) -> list[str]:
    """Write the package of the documentation into `folder`; returns its files."""
    files = dict(_FILE.findall(PAGE.read_text(encoding="utf-8")))
    for name, text in {**files, "brevity/__init__.py": ""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return list(files)


def install(package: Path, site: Path) -> None:
    """Install a package with pip into a folder of its own, with nothing from anywhere else."""
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(package)]
    subprocess.run(command, check=True, capture_output=True)


def make_package(site: Path, name: str, entries: Mapping[str, Mapping[str, str]], files: Mapping[str, str]) -> None:
    """An installed package as pip leaves it: its files, and its entry points by group."""
    for file, text in files.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text(text, encoding="utf-8")
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = [line for group, own in entries.items() for line in (f"[{group}]", *(f"{n} = {v}" for n, v in own.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
