"""The signals that are installed, and what the one that a run has chosen needs, uses and costs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, cast

from harness import plugins
from harness.choice import plugin_class, plugin_classes
from harness.config import SignalChoice
from harness.errors import ConfigError
from harness.raters.declaration import RaterDeclaration
from methods.signals.base import PROVIDED, ModelUse, Signal, Use

Declared = Literal["reads_validation", "reads_seeds", "student_aware", "drawn", "stateful", "lab_only"]
"""What a signal may declare that holds of the whole where it holds of one term."""

CostClass = Literal["free", "embedding", "rating", "forward", "backward", "sampling", "judge"]


def signal_class(name: str) -> type[Signal[Any]]:
    """The signal called `name`. Raises `ConfigError` where it is not there, or is not usable."""
    return cast(type[Signal[Any]], plugin_class(plugins.SIGNALS, name))


def signal_classes() -> tuple[list[type[Signal[Any]]], list[str]]:
    """All usable signals by name, and one line for each that is installed and is not."""
    usable, faults = plugin_classes(plugins.SIGNALS)
    return [cast(type[Signal[Any]], found) for found in usable], faults


def make_signal(choice: SignalChoice) -> Signal[Any]:
    """A fresh instance of the chosen signal under its settings."""
    return signal_class(choice.name)(choice.settings)


def signal_needs(choice: SignalChoice) -> frozenset[str]:
    """The needs of the chosen signal under its settings; nothing where none is chosen.

    Raises `ConfigError` for a need that no run can meet.
    """
    if not choice.chosen:
        return frozenset()
    signal = signal_class(choice.name)
    needs = signal.needs(choice.settings)
    if missing := sorted(needs - PROVIDED):
        raise ConfigError(f"signal '{choice.name}' needs '{missing[0]}', which no run can give a signal yet")
    return needs


def check_use(choice: SignalChoice, use: Use) -> None:
    """Raise `ConfigError` where the chosen signal, under its settings, cannot be used so."""
    signal = signal_class(choice.name)
    if use == "seeds" and "seed" not in signal.items:
        raise ConfigError(
            f"signal '{choice.name}' scores pairs and no seeds; 'harness signals --json' lists what each scores"
        )
    if why := signal.unfit(choice.settings, use):
        raise ConfigError(f"signal '{choice.name}' {why}")


def signal_terms(choice: SignalChoice) -> tuple[SignalChoice, ...]:
    """The signals that the chosen one is made of; itself where it is made of none."""
    own = signal_class(choice.name).terms(choice.settings) if choice.chosen else ()
    return cast(tuple[SignalChoice, ...], own) or (choice,)


def declares(choice: SignalChoice, what: Declared) -> bool:
    """Whether the chosen signal, or a term of it, declares this; False where none is chosen."""
    if not choice.chosen:
        return False
    return any(bool(getattr(signal_class(term.name), what)) for term in (choice, *signal_terms(choice)))


def signal_members(choice: SignalChoice) -> int:
    """The size of the ensemble that the chosen signal needs: of its terms, the largest."""
    return max((signal_class(term.name).members(term.settings) for term in signal_terms(choice)), default=0)


def cautions(choice: SignalChoice) -> list[str]:
    """What is to be known of the chosen signal's settings before a run, a sentence each."""
    if not choice.chosen:
        return []
    return [f"signal '{choice.name}': {line}" for line in signal_class(choice.name).cautions(choice.settings)]


def signal_uses(choice: SignalChoice) -> tuple[ModelUse, ...]:
    """The models that the chosen signal computes with; none where none is chosen."""
    return signal_class(choice.name).uses(choice.settings) if choice.chosen else ()


def signal_raters(choice: SignalChoice) -> tuple[RaterDeclaration, ...]:
    """The raters that the chosen signal asks; none where none is chosen."""
    return signal_class(choice.name).raters(choice.settings) if choice.chosen else ()


def signal_files(choice: SignalChoice) -> tuple[str, ...]:
    """The files that the chosen signal's settings name."""
    return signal_class(choice.name).files(choice.settings) if choice.chosen else ()


def describe_signal(signal: type[Signal[Any]]) -> dict[str, Any]:
    """The declarations of a signal, as plain values: what it needs and uses is that of its default settings."""
    settings = signal.Settings()
    return {
        "name": signal.name,
        "summary": signal.summary,
        "direction": signal.direction,
        "range": list(signal.range),
        "unit": signal.unit,
        "items": sorted(signal.items),
        "reads_validation": signal.reads_validation,
        "reads_seeds": signal.reads_seeds,
        "student_aware": signal.student_aware,
        "drawn": signal.drawn,
        "stateful": signal.stateful,
        "lab_only": signal.lab_only,
        "version": signal.version,
        "needs": sorted(signal.needs(settings)),
        "uses": [asdict(use) for use in signal.uses(settings)],
        "cost": cost_class(signal.uses(settings)),
        "settings": settings.model_dump(mode="json"),
        "presets": sorted(signal.presets),
    }


def sign(name: str) -> float:
    """1 where higher values of the signal called `name` are better, −1 where lower ones are."""
    return 1.0 if signal_class(name).direction == "higher" else -1.0


def cost_class(uses: tuple[ModelUse, ...]) -> CostClass:
    """The dearest thing that a score takes, in one word."""
    roles = {use.role for use in uses}
    if "judge" in roles:
        return "judge"
    if any(use.samples for use in uses):
        return "sampling"
    if any(use.backward for use in uses):
        return "backward"
    if "target" in roles:
        return "forward"
    if "rater" in roles:
        return "rating"
    return "embedding" if roles else "free"
