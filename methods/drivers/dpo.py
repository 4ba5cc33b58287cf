"""`dpo`: train the model that drafts by direct preference optimisation between its own drafts (Montessori-Instruct).

An iteration is a row of stages like any other: drafts of a set of seeds are probed by the signal, drafts of one prompt
are paired across a margin, the model that drafts is trained on the preferences, and the next iteration goes on from it.
Every iteration's model stays in the store, so that each can be regenerated from (`--iteration`), and a run with more
iterations takes over those of one with fewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from harness.config import SignalChoice
from harness.errors import ConfigError
from harness.stage import Stage
from harness.training.policy import PolicyTraining
from harness.training.recipe import LoraSettings
from methods.drivers.base import Common, Driver, common, finish, optional_selection
from methods.drivers.dpo_settings import DpoSettings
from methods.drivers.dpo_stages import policy_stage, preference_stage, probe_stage
from methods.plan import Plan
from methods.signals.catalogue import check_use, signal_class, signal_needs
from methods.stages.scoring import ONCE, REFERENCE, Reading, references, score_stage, with_reference
from methods.stages.synthesis import initial
from methods.stages.warmup import warmup


class Dpo(Driver[DpoSettings]):
    """Probe drafts, pair them by their scores, train the drafting model on the preferences; again from the trained."""

    name = "dpo"
    summary = "train the model that drafts with DPO on preferences between its own drafts, in iterations"
    Settings = DpoSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Montessori-Instruct's released configuration of the teacher; batch: 2 pairs on each of 8 GPUs.
        "montessori": {
            "iterations": 2,
            # 10,000 probes.
            "probe": 2500,
            "drafts": 4,
            "pairs": "sides",
            "margin": 0.0,
            "preferred": "draft",
            "rewarm": True,
            "beta": 0.1,
            "learning_rate": 1e-6,
            "epochs": 1,
            "batch_size": 16,
            "schedule": "warmup_stable_decay",
            "warmup_ratio": 0.1,
            "max_length": 1024,
        },
    }

    @classmethod
    def trains(cls, settings: DpoSettings) -> PolicyTraining:
        """The drafting model, whose conversations are padded on the right."""
        shape = LoraSettings(settings.lora_rank, settings.lora_alpha, 0.0, settings.lora_modules)
        return PolicyTraining(
            label="DPO",
            lora=shape if settings.tune == "lora" else None,
            layouts=(("right", "Use another model to draft: DPO pads its conversations on the right"),),
        )

    def stages(self, plan: Plan, signal: SignalChoice) -> list[Stage]:
        """The iterations one after the other, and the shared tail with the last one's model."""
        self._check(plan, signal)
        base = common(plan, signal)
        # All iterations are normalised by the first one's drafts, so that their scores can be compared.
        first = _Iteration(1, base, None).named(probe_stage(plan, self.settings, base.source, None, 1))
        inputs = with_reference(plan, signal, first, base.signal_inputs, f"{REFERENCE}_of_drafts")
        base = Common(base.source, inputs)
        policy: Stage | None = None
        for number in range(1, self._last(plan) + 1):
            policy = self._iteration(plan, signal, _Iteration(number, base, policy))
        return finish(plan, base, policy, optional_selection(plan, signal))

    def _iteration(self, plan: Plan, signal: SignalChoice, at: _Iteration) -> Stage:
        """The stages of one iteration; returns the one that trains."""
        g = self.settings
        inputs, reading = at.base.signal_inputs, ONCE
        if at.policy is not None and g.rewarm and _warms(plan, signal):
            first = at.named(initial(plan, at.base.source, at.policy))
            warm = at.named(warmup(plan, first))
            inputs, reading = (at.base.source, warm, *references(inputs)), Reading(warmup=warm.name)
        probe = at.named(probe_stage(plan, g, at.base.source, at.policy, at.number))
        scores = at.named(score_stage(plan, signal, probe, inputs, reading=reading))
        found = at.named(preference_stage(plan, g, signal, (at.base.source, probe, scores), at.policy, at.number))
        return at.named(policy_stage(plan, g, signal, (at.base.source, found), at.policy))

    def _last(self, plan: Plan) -> int:
        """The iteration whose model writes the data set."""
        asked = plan.config.iteration if plan.config.writer_from is None else None
        if asked is not None and asked > self.settings.iterations:
            raise ConfigError(
                f"--iteration {asked} is not among the {self.settings.iterations} of the run (driver.iterations); give "
                "one of them, or set driver.iterations"
            )
        return asked or self.settings.iterations

    def _check(self, plan: Plan, signal: SignalChoice) -> None:
        """Refuse signals whose scores cannot make a preference between two drafts, and settings that mean nothing."""
        found, g = signal_class(signal.name), self.settings
        if found.unit == "set":
            raise ConfigError(
                f"signal '{signal.name}' chooses sets, and driver 'dpo' prefers one draft to another by their scores; "
                "take a signal that scores pairs ('harness signals')"
            )
        if "sample" not in found.items:
            raise ConfigError(
                f"signal '{signal.name}' scores seeds and no pairs, and driver 'dpo' prefers drafts by the scores of "
                "their pairs; take another"
            )
        check_use(signal, "reward")
        low, high = found.range
        width = None if low is None or high is None else high - low
        if width == 0.0:
            raise ConfigError(
                f"no preference pair: signal '{signal.name}' scores every pair alike, so driver 'dpo' has nothing to "
                "learn; take a signal that tells drafts apart (control: random)"
            )
        if width is not None and g.margin_unit == "score" and g.margin >= width:
            raise ConfigError(
                f"no preference pair: driver.margin={g.margin:g}, and scores of signal '{signal.name}' lie within "
                f"{width:g} of each other; lower it, or set driver.margin_unit=sd"
            )
        if g.preferred == "pair" and plan.route.answers is None:
            raise ConfigError(
                f"driver.preferred=pair means nothing on route '{plan.route.name}', whose draft is the whole pair; "
                "leave it out, or take a route that asks for the rest, such as question"
            )


@dataclass(frozen=True, slots=True)
class _Iteration:
    """Its number from 1, the stages that precede all, and the one that trained the model it starts from."""

    number: int
    base: Common
    policy: Stage | None

    def named(self, stage: Stage) -> Stage:
        """A stage as that of this iteration."""
        return replace(stage, name=f"{stage.name}_{self.number}")


def _warms(plan: Plan, signal: SignalChoice) -> bool:
    """Whether the signal reads a target that the run warms up by itself."""
    return "warm_target" in signal_needs(signal) and not plan.config.warmup.adapter
