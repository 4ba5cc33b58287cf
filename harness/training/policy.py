"""The policy that a driver trains: whose model, all of its weights or an adapter, and its batch layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.config import DriverChoice
from harness.training.recipe import LoraSettings

if TYPE_CHECKING:
    from harness.training.batches import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTraining:
    """The training of the model that drafts on the run's route. `lora` is None where all weights are trained.

    `label` names it in tables. `layouts` are its batch layouts, each with what to do where the model fails in it.
    """

    label: str
    lora: LoraSettings | None
    layouts: tuple[tuple[Layout, str], ...] = ()


def policy_training(driver: DriverChoice) -> PolicyTraining | None:
    """The training of the chosen driver under its settings; None for one that trains nothing."""
    plugin: Any = driver.plugin
    training: PolicyTraining | None = plugin.trains(driver.settings)
    return training
