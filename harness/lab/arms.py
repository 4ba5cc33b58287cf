"""The arms of the lab's experiments: `arms.yaml` beside this file, so that no code names a signal or a driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.yaml_text import read_yaml


def read_arms(part: str) -> Any:
    """A part of the file: arms by the names in tables, the `ceiling`, or a calibration's `data_sets` by scale."""
    return read_yaml(Path(__file__).parent / "arms.yaml", "the lab's arms")[part]
