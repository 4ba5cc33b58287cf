"""The plan that a driver works with: the resolved settings, the suite, and the identities of what they name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evals.read import DataContext
from evals.suite import Suite
from harness.config import ModelConfig, RunConfig
from harness.identity import identity
from harness.models.open import model_identity
from harness.synthesis.route import Route
from harness.types import Json, WorldId, file_hash, stable_hash
from methods.routes.catalogue import make_route


@dataclass(frozen=True)
class Plan:
    """A run before it runs.

    `suite` guides, guards against leaks and, unless `other_tests` takes its place, is what the target is scored on.
    `policy` is a trained writer to start from: its stage identity and its folder. `tuned` is the role of the model that
    is fine-tuned: another student's stages have it in the target's place.
    """

    config: RunConfig
    suite: Suite
    policy: tuple[str, Path] | None = None
    other_tests: Suite | None = None
    tuned: str = "target"

    def with_config(self, **changes: Any) -> Plan:
        """The plan with some sections of its settings replaced."""
        return dataclasses.replace(self, config=self.config.model_copy(update=changes))

    def for_student(self, role: str) -> Plan:
        """The plan of another student's fine-tuning and tests."""
        return dataclasses.replace(self, config=self.config.for_student(role), tuned=role)

    @property
    def tests(self) -> Suite:
        """The suite that the target is scored on."""
        return self.other_tests or self.suite

    @property
    def world(self) -> WorldId | None:
        """The lab world, where the run lives in one."""
        return self.config.lab.id if self.config.lab else None

    @property
    def data(self) -> DataContext:
        """The way in which the suite's items are read."""
        lab = self.config.lab
        if lab is None:
            return DataContext()
        return DataContext(
            world=lab.id,
            test_items=lab.test_items,
            validation_items=lab.validation_items,
        )

    def identity(self, model: ModelConfig) -> str:
        """Identity of a role's weights."""
        return model_identity(model, self.world)

    @cached_property
    def suite_identity(self) -> Json:
        """The identity of the items of the suite that guides and guards."""
        return self.identity_of(self.suite)

    def training_identity(self, name: str) -> Json:
        """The identity of the items of a training set of the suite: its declaration and the local copies in use."""
        declared = self.suite.training_set(name)
        files = [self._local(self.suite, source.file) for source in declared.rows.sources]
        return [name, stable_hash(repr(declared)), [file_hash(path) for path in files if path is not None]]

    def identity_of(self, suite: Suite) -> Json:
        """The identity of a suite's items: its declaration, the local copies in use, and the lab's sizes."""
        rows = [b.rows for b in suite.benchmarks] + [v.rows for v in suite.validation]
        names = [source.file for r in rows for source in r.sources]
        files = [file_hash(path) for path in (self._local(suite, name) for name in names) if path is not None]
        data = self.data
        lab: list[Json] = [data.world.key, data.test_items, data.validation_items] if self.config.lab else []
        return [suite.name, stable_hash(repr(suite.benchmarks), repr(suite.validation)), list(files), lab]

    def _local(self, suite: Suite, name: str | None) -> Path | None:
        if not name:
            return None
        candidates = [suite.folder / name]
        folder = self.data.folder()
        if folder is not None:
            candidates += [folder / Path(name).name, folder / "eval" / Path(name).name]
        return next((path for path in candidates if path.is_file()), None)

    @cached_property
    def route(self) -> Route[Any]:
        """The run's route, with its prompts checked."""
        return make_route(self.config)

    @property
    def drafter_identity(self) -> str:
        """The identity of the weights that draft: a trained policy's, where the run starts from one."""
        return f"policy:{self.policy[0]}" if self.policy else self.untrained_identity

    @property
    def untrained_identity(self) -> str:
        """The identity of the weights that draft as they came; `none` where the seeds hold the pairs."""
        return self.identity(self.config.drafter) if self.config.route_roles else "none"

    def synthesis_settings(self, *, sampled: bool = True) -> dict[str, Any]:
        """The settings of synthesis that change its rows; the decoding among them where the stage does not set it."""
        s, models, route = self.config.synthesis, self.config.models, self.route
        roles = self.config.route_roles
        # The route of the first versions goes unnamed, as it did: stages that were computed then stay valid.
        named = {"route": self.config.route.identity()} if self.config.route.identity() != {"name": "rubric"} else {}
        key = f"{route.answers}_model" if sampled else f"{route.answers}"
        rest = {key: self.identity(models.of(route.answers))} if route.answers else {}
        return {
            "prompts": route.hash,
            # What stands at its default is left out, so that a new threshold moves no identity.
            "validity": s.validity.model_dump(mode="json", exclude_defaults=True),
            **rest,
            "lengths": [models.of(role).max_length for role in roles],
            **named,
            **({role: identity(getattr(s, role)) for role in roles} if sampled else {}),
        }
