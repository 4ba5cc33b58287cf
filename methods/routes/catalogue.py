"""The routes that are installed."""

from __future__ import annotations

from typing import Any, cast

from harness import plugins
from harness.choice import plugin_class, plugin_classes
from harness.config import RunConfig
from harness.errors import ConfigError
from harness.synthesis.route import Route


def route_class(name: str) -> type[Route[Any]]:
    """The route called `name`. Raises `ConfigError` where it is not there, or is not usable."""
    return cast(type[Route[Any]], plugin_class(plugins.ROUTES, name))


def route_classes() -> tuple[list[type[Route[Any]]], list[str]]:
    """All usable routes by name, and one line for each that is installed and is not."""
    usable, faults = plugin_classes(plugins.ROUTES)
    return [cast(type[Route[Any]], found) for found in usable], faults


def make_route(config: RunConfig) -> Route[Any]:
    """The run's route with its prompts.

    Raises `ConfigError` for a prompt that cannot be used, and for a server that is to hold answers to JSON which this
    route, or its wording, does not ask for.
    """
    route = route_class(config.route.name)(config.route.settings, config.synthesis)
    route.check({role: config.models.of(role) for role in config.route_roles})
    for role in config.route_roles:
        if not config.models.of(role).structured:
            continue
        if not route.wording.json:
            raise ConfigError(
                f"models.{role}.structured holds answers to JSON, and synthesis.prompts={route.wording.name} asks for "
                "plain lines; leave one out"
            )
        if role not in route.structured:
            raise ConfigError(
                f"models.{role}.structured holds answers to JSON, which route '{route.name}' does not ask for; leave "
                "it out, or take route 'rubric'"
            )
    return route
