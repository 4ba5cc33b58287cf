"""Base of the signals that read an ensemble of targets: how many members, and how they are opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, field_validator

from harness.config_models import Section
from harness.errors import StageError
from harness.facts import Fact
from methods.signals.base import ModelUse, SignalContext, TargetState
from methods.signals.target.base import TargetSignal

if TYPE_CHECKING:
    from methods.signals.target.ensemble import Kind, Members


class EnsembleSettings(Section):
    """The ensemble that is read."""

    members: int = Field(4, ge=1)
    """Members of the ensemble, each a pass of every pair and, as a warm-up, a training of its own."""

    @field_validator("members")
    @classmethod
    def _several(cls, members: int) -> int:
        if members < 2:
            raise ValueError("an ensemble of one agrees with itself; take 2 members or more")
        return members


T = TypeVar("T", bound=EnsembleSettings)


class EnsembleSignal(TargetSignal[T]):
    """A signal of what members of an ensemble predict at the answer of an item."""

    ensemble: Members

    @classmethod
    def kind(cls, settings: T) -> Kind:
        """What members differ in."""
        return "warmups"

    @classmethod
    def members(cls, settings: T) -> int:
        """As the settings say, where members are warm-ups."""
        return settings.members if cls.kind(settings) == "warmups" else 0

    @classmethod
    def needs(cls, settings: T) -> frozenset[str]:
        """Several warm-ups, or the dropout of one."""
        return frozenset({"ensemble" if cls.kind(settings) == "warmups" else "warm_target"})

    @classmethod
    def uses(cls, settings: T) -> tuple[ModelUse, ...]:
        """A forward pass by each member."""
        return (ModelUse("target", forward=settings.members),)

    def _require(self, context: SignalContext, target: TargetState | None) -> TargetState:
        found = super()._require(context, target)
        if len(found.members) < self.members(self.settings):
            raise StageError(
                f"{self.name} needs {self.settings.members} warm-ups of the target; the driver provided "
                f"{len(found.members) or 'none'}"
            )
        return found

    def open(self) -> tuple[Any, Any]:
        """The model, under the first member's adapter, and its tokenizer."""
        from methods.signals.target.ensemble import Members

        kind, s = self.kind(self.settings), self.settings
        self.ensemble = Members(self.target, kind, s.members, self.target.dtype, self.context.seed)
        return self.ensemble.model, self.ensemble.tokenizer

    def ready(self) -> list[Fact]:
        """How many members are read."""
        return [Fact("members", self.settings.members, "members of the ensemble", "members")]
