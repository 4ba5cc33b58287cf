"""Folders that are made once: whole or not there, whoever is killed and however many ask."""

from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.cache import make_once
from harness.errors import DiskFullError


def test_what_a_killed_build_left_behind_is_never_used(tmp_path: Path) -> None:
    home = tmp_path / "world"
    left = tmp_path / "world.building-dead"
    left.mkdir()
    (left / "model").write_text("half")

    def make(folder: Path) -> None:
        (folder / "model").write_text("whole")

    make_once(home, make)
    assert (home / "model").read_text() == "whole" and not left.exists()

    def fail(folder: Path) -> None:
        (folder / "model").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_once(tmp_path / "other", fail)
    assert not (tmp_path / "other").exists()


def test_two_builders_build_once(tmp_path: Path) -> None:
    """File locks of separate handles exclude each other within one process as between two."""
    builds: list[Path] = []

    def make(folder: Path) -> None:
        builds.append(folder)
        time.sleep(0.2)
        (folder / "model").write_text("whole")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: make_once(tmp_path / "world", make), range(2)))
    assert len(builds) == 1 and (tmp_path / "world" / "model").read_text() == "whole"


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "model").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="the disk is full"):
        make_once(tmp_path / "model", fill)
    assert [p.name for p in tmp_path.iterdir()] == ["model.lock"]
