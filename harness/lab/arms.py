"""The arms of the lab's experiments: `arms.yaml` beside this file, so that no code names a signal or a driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.yaml_text import read_yaml


def read_arms(part: str) -> Any:
    """The arms of `assess` or `calibrate`, as they are declared, by the names that tables show; or the `ceiling`."""
    return read_yaml(Path(__file__).parent / "arms.yaml", "the lab's arms")[part]
