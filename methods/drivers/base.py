"""The base of every driver: from a plan and a signal to stages, of which the last evaluates the target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

from harness import plugins
from harness.choice import Plugin
from harness.config import SignalChoice
from harness.config_models import Section
from harness.errors import ConfigError
from harness.stage import Stage
from harness.training.policy import PolicyTraining
from methods.plan import Plan
from methods.signals.catalogue import signal_class, signal_members, signal_needs
from methods.stages.dataset import dataset
from methods.stages.decontaminate import decontaminate
from methods.stages.scoring import score_stage
from methods.stages.selection import Selection
from methods.stages.sources import sources
from methods.stages.students import student_stages
from methods.stages.synthesis import initial, regenerate
from methods.stages.target import evaluate_stage, finetune_stage
from methods.stages.warmup import ensemble, given_warmup, warmup

S = TypeVar("S", bound=Section)


class Driver(Plugin, ABC, Generic[S]):
    """A driver: what it declares, and the stages it lays out. A subclass is the whole driver, settings included.

    Declared on the class, beside what every plug-in declares (`harness.choice.Plugin`): `uses_signal`, whether it reads
    scores; `signal_settings`, settings that its signal has by default where it knows them. It is registered in the
    entry-point group `harness.drivers`.
    """

    group = plugins.DRIVERS

    uses_signal: ClassVar[bool] = True
    signal_settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @classmethod
    def trains(cls, settings: S) -> PolicyTraining | None:
        """The training of the route's drafting model under these settings; None where it trains none."""
        return None

    @abstractmethod
    def stages(self, plan: Plan, signal: SignalChoice) -> list[Stage]:
        """The run's last stages: the evaluation of the fine-tuned target, and of the target before it.

        What they need comes with them through their inputs. Raises `ConfigError` for settings that do not fit the run.
        """


@dataclass(frozen=True, slots=True)
class Common:
    """The stages that precede any feedback: sources, and what the signal needs."""

    source: Stage
    signal_inputs: tuple[Stage, ...]


def common(plan: Plan, signal: SignalChoice | None, first: Stage | None = None) -> Common:
    """Sources, and the warmed-up target where the signal needs one; `first` replaces the pairs it is warmed up on."""
    source = sources(plan)
    needs = signal_needs(signal) if signal is not None else frozenset()
    inputs = [source]
    if "warm_target" in needs:
        given = plan.config.warmup.adapter
        inputs.append(given_warmup(plan) if given else warmup(plan, first or initial(plan, source)))
    if signal is not None and "ensemble" in needs:
        inputs += ensemble(plan, first or initial(plan, source), signal_members(signal))
    return Common(source, tuple(inputs))


def finish(plan: Plan, base: Common, policy: Stage | None, selection: Selection) -> list[Stage]:
    """Regenerate, gate, select, fine-tune and evaluate, other students too: the tail that all drivers share."""
    samples = decontaminate(plan, regenerate(plan, base.source, policy, selection), base.source)
    scores: Stage | None = None
    if selection.signal is not None:
        inputs = common(plan, selection.signal).signal_inputs
        scores = score_stage(plan, selection.signal, samples, inputs, selection)
    data = dataset(plan, samples, scores, selection)
    tuned = finetune_stage(plan, data)
    return [evaluate_stage(plan, tuned), evaluate_stage(plan, None), *student_stages(plan, data)]


def optional_selection(plan: Plan, signal: SignalChoice) -> Selection:
    """The selection after regeneration by section `select`: the best share by its signal or the run's; else all."""
    per_seed, select = plan.config.synthesis.samples_per_seed, plan.config.select
    if select is None:
        return Selection(per_seed=per_seed)
    own = select.signal or signal
    if not own.chosen:
        raise ConfigError("select keeps the best-scored pairs and this run has no signal; set select.signal=NAME")
    if select.rule != "top" and signal_class(own.name).unit == "set":
        raise ConfigError(
            f"select.rule={select.rule} ranks pairs by their own scores, and signal '{own.name}' chooses a set; leave "
            "select.rule out, or take a signal of single pairs"
        )
    return Selection(
        per_seed=per_seed,
        rule="top_share",
        keep=select.keep,
        signal=own,
        order=select.rule,
        temperature=select.temperature,
        seed=plan.config.synthesis_seed,
    )
