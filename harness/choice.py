"""A choice in the settings: the name of a plug-in and that plug-in's own settings, checked by its own class.

In a file it is a name, or a mapping of the name and what is set (`{name: loss, checkpoint: base}`); on the command line
`--signal loss --set signal.checkpoint=base`. A preset, which is a name for several settings, is written `preset: NAME`
among them and is gone once it is read. Stages and runs are named by `Choice.identity`: what differs from the class's
defaults, beside its version, so that a setting which is added tomorrow renames nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import SerializationInfo, SerializeAsAny, ValidationError, model_serializer, model_validator

from harness import plugins
from harness.config_models import Section
from harness.errors import ConfigError, HarnessError, suggest
from harness.types import Json

NONE = "none"
"""The name that means that nothing is chosen, where a choice may be left open."""

RESERVED = ("name", "preset", "settings")
"""Words of a choice itself, which no setting of a plug-in may be called."""


class NoSettings(Section):
    """The settings of a plug-in that has nothing to set."""


class Plugin:
    """Base of every class that a choice names; what it declares is read before anything is loaded.

    `name` is the name it is registered under, `summary` one line for listings. `Settings` holds its settings, each with
    a default. `presets` are settings by the name of a published choice. `version` is raised by hand when other results
    come from the same settings, a changed default included.
    """

    group: ClassVar[str] = ""
    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    version: ClassVar[int] = 1
    Settings: ClassVar[type[Section]] = NoSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def with_preset(cls, preset: str | None, **values: Any) -> Any:
        """Its settings by a preset, under single `values`. Raises `ConfigError` for a preset that there is not."""
        return cls.Settings(**{**preset_values(cls, preset), **values})

    @classmethod
    def terms(cls, settings: Any) -> tuple[Choice, ...]:
        """The choices of other plug-ins that it is made of under these settings."""
        return ()

    @classmethod
    def faults(cls) -> list[str]:
        """The faults of the class's declarations, each as half a sentence that begins with its subject."""
        found = []
        if not cls.summary or "\n" in cls.summary:
            found.append("summary must be one line")
        version: Any = cls.version
        if not isinstance(version, int) or version < 1:
            found.append("version must be a number from 1")
        if inspect.isabstract(cls):
            found.append(f"it lacks {', '.join(sorted(getattr(cls, '__abstractmethods__', ())))}")
        settings: Any = cls.Settings
        if not (isinstance(settings, type) and issubclass(settings, Section)):
            return [*found, "Settings must be a subclass of harness.config_models.Section"]
        taken = [name for name in cls.Settings.model_fields if name in RESERVED]
        required = [name for name, field in cls.Settings.model_fields.items() if field.is_required()]
        found += [f"a setting cannot be called '{name}'" for name in taken]
        found += [f"setting '{name}' needs a default" for name in required]
        for preset in cls.presets if not required else ():
            try:
                cls.with_preset(preset)
            except ValidationError as error:
                found.append(f"preset '{preset}' is refused: {first_fault(error)}")
        return found


def preset_values(plugin: type[Plugin], preset: str | None) -> Mapping[str, Any]:
    """The settings that a preset stands for; none for None. Raises `ConfigError` with the nearest name."""
    if preset is None:
        return {}
    if preset not in plugin.presets:
        raise ConfigError(
            f"{plugins.kind_of(plugin.group)} '{plugin.name}' has no preset '{preset}'{suggest(preset, plugin.presets)}"
        )
    return plugin.presets[preset]


def first_fault(error: ValidationError) -> str:
    """The first fault of refused settings in one line: key and reason."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    said = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {said}" if key else said


def plugin_class(group: str, name: str) -> type[Plugin]:
    """The class registered as `name`. Raises `ConfigError` where it is not there, not importable, or badly declared."""
    entry = plugins.find(group, name)
    found = plugins.load(entry)
    whose = f"{entry.kind} '{name}' ({entry.source})"
    if not (isinstance(found, type) and issubclass(found, Plugin) and found.group == group):
        raise ConfigError(f"{whose} is no class of a {entry.kind}; repair or uninstall the package")
    faults = found.faults()
    if found.name != name:
        faults.insert(0, f"its name is '{found.name}'")
    if faults:
        raise ConfigError(f"{whose} is not usable: {faults[0]}; repair or uninstall the package")
    return found


def plugin_classes(group: str) -> tuple[list[type[Plugin]], list[str]]:
    """All usable classes of a group by name, and one line for each that is not."""
    usable, faults = [], []
    for name in plugins.names(group):
        try:
            usable.append(plugin_class(group, name))
        except HarnessError as error:
            faults.append(str(error))
    return usable, faults


def stored_name(stored: Any) -> str:
    """The name in a choice as a run's files hold it: in a mapping, or alone in those from before it had settings."""
    return str(stored.get("name", "")) if isinstance(stored, Mapping) else str(stored or "")


class Choice(Section):
    """A plug-in's name and its settings. Subclasses say of which group, and whether `none` may be chosen."""

    group: ClassVar[str] = ""
    optional: ClassVar[bool] = False

    name: str
    settings: SerializeAsAny[Section] = NoSettings()

    @classmethod
    def plugin_of(cls, name: str) -> type[Plugin] | None:
        """The class called `name`; None for the choice of nothing. Raises `ConfigError` as `plugin_class`."""
        return None if cls.optional and name == NONE else plugin_class(cls.group, name)

    @property
    def plugin(self) -> type[Plugin] | None:
        """The class that is chosen; None where nothing is."""
        return self.plugin_of(self.name)

    @property
    def chosen(self) -> bool:
        """Whether anything is chosen."""
        return not (self.optional and self.name == NONE)

    def identity(self) -> dict[str, Json]:
        """The part that can change results: name, what is not at its default, the class's version beyond the first."""
        plugin = self.plugin
        version: dict[str, Json] = {"version": plugin.version} if plugin and plugin.version > 1 else {}
        inner = [term.identity() for term in plugin.terms(self.settings)] if plugin else []
        if any("version" in term for term in inner):
            version["made_of"] = inner
        return {"name": self.name, **version, **self.settings.model_dump(mode="json", exclude_defaults=True)}

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """A name alone, or a mapping of name, preset and settings."""
        values = {"name": given} if isinstance(given, str) else given
        if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
            return values
        own = {key: value for key, value in values.items() if key not in RESERVED}
        settings = values.get("settings")
        if isinstance(settings, Section):
            return values
        plugin = cls.plugin_of(values["name"])
        kind = plugin.Settings if plugin else NoSettings
        preset = preset_values(plugin, values.get("preset")) if plugin else {}
        try:
            return {"name": values["name"], "settings": kind.model_validate({**preset, **own})}
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None

    @model_serializer(mode="plain")
    def _flat(self, info: SerializationInfo) -> dict[str, Any]:
        own = self.settings.model_dump(mode=info.mode, exclude_defaults=info.exclude_defaults)
        return {"name": self.name, **own}
