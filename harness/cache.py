"""Folders that are made once on a machine and found again: the lab's models, models converted from GGUF files.

A folder is named by a hash of everything that its content depends on, is written under a temporary name and renamed
into place, so that a killed build leaves nothing that is taken for a finished one; a file lock lets a second process
wait for the first one's result.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.errors import PrerequisiteError
from harness.shards import is_disk_full, write_failure


def cache_home(cache_dir: Path | None = None) -> Path:
    """The folder that holds everything that is made once: the argument, else HARNESS_CACHE, else ~/.cache/harness."""
    return Path(cache_dir or os.environ.get("HARNESS_CACHE") or Path.home() / ".cache" / "harness").expanduser()


def make_once(folder: Path, build: Callable[[Path], None]) -> None:
    """Make `folder` by `build`, once across processes; folders of killed builds are removed.

    Raises `PrerequisiteError` where the cache cannot be written, and `DiskFullError` where `build` filled the disk.
    """
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = open(folder.parent / f"{folder.name}.lock", "w")  # noqa: SIM115 (closed by the with below)
    except OSError as error:
        raise PrerequisiteError(
            f"the cache {folder.parent} cannot be written ({error.strerror}); set HARNESS_CACHE to another folder"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return
        for left in folder.parent.glob(f"{folder.name}.building-*"):
            shutil.rmtree(left)
        work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))
        try:
            build(work)
            _sync(work)
            work.rename(folder)
        except Exception as error:
            if is_disk_full(error):
                raise write_failure(folder, error) from None
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Flush every file to disk, so that a renamed folder is never found with empty files."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
