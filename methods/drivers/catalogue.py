"""The drivers that are installed."""

from __future__ import annotations

from typing import Any, cast

from harness import plugins
from harness.choice import plugin_class, plugin_classes
from harness.config import DriverChoice
from methods.drivers.base import Driver


def driver_class(name: str) -> type[Driver[Any]]:
    """The driver called `name`. Raises `ConfigError` where it is not there, or is not usable."""
    return cast(type[Driver[Any]], plugin_class(plugins.DRIVERS, name))


def driver_classes() -> tuple[list[type[Driver[Any]]], list[str]]:
    """All usable drivers by name, and one line for each that is installed and is not."""
    usable, faults = plugin_classes(plugins.DRIVERS)
    return [cast(type[Driver[Any]], found) for found in usable], faults


def make_driver(choice: DriverChoice) -> Driver[Any]:
    """The chosen driver under its settings."""
    return driver_class(choice.name)(choice.settings)
