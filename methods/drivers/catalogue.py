"""The drivers that there are, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from harness.errors import ConfigError, suggest
from methods.drivers.base import Driver


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """A driver's name, one line about it, whether it reads a signal and trains a model, and where its class is."""

    name: str
    summary: str
    uses_signal: bool
    trains: bool
    path: str


DRIVERS: Mapping[str, DriverInfo] = MappingProxyType(
    {
        "grpo_rubric": DriverInfo(
            "grpo_rubric",
            "train the rubric writer with GRPO on the score of the pair that its rubric leads to",
            True,
            True,
            "methods.drivers.grpo_rubric:GrpoRubric",
        ),
        "best_of_n": DriverInfo(
            "best_of_n",
            "rejection sampling: the best-scored of n pairs of each seed",
            True,
            False,
            "methods.drivers.best_of_n:BestOfN",
        ),
        "static": DriverInfo(
            "static", "no feedback: pairs from the writer as it is", False, False, "methods.drivers.static:Static"
        ),
    }
)
"""All drivers by name."""


def make_driver(name: str) -> Driver:
    """The driver called `name`. Raises `ConfigError` with the nearest known name."""
    if name not in DRIVERS:
        raise ConfigError(f"there is no driver '{name}'{suggest(name, DRIVERS)}")
    module, _, attribute = DRIVERS[name].path.partition(":")
    driver: Driver = getattr(import_module(module), attribute)()
    return driver
