"""`active_loop`: rounds of choosing seeds by what the student makes of them (arXiv 2512.00884; no code was published).

In every round the student of the round before scores a pool of seeds, some are chosen, the route makes new pairs after
them, and the target is fine-tuned from its base on the pairs of all rounds, and evaluated. The pool is never depleted.
A round's stages are stages like any other, with the round in their names.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from harness.config import SignalChoice
from harness.config_models import Section
from harness.errors import ConfigError
from harness.stage import Stage
from methods.drivers.base import Driver
from methods.plan import Plan
from methods.signals.catalogue import check_use, declares, signal_class, signal_needs
from methods.stages.dataset import dataset
from methods.stages.decontaminate import decontaminate
from methods.stages.rounds import Reader, SeedPool, score_children, score_seeds, select_seeds
from methods.stages.seed_choice import SeedRule
from methods.stages.selection import Selection
from methods.stages.sources import sources
from methods.stages.students import student_stages
from methods.stages.synthesis import Round, regenerate
from methods.stages.target import evaluate_stage, finetune_stage


class ActiveLoopSettings(Section):
    """Number of rounds, the pool of seeds and the rule that chooses from it, and where fine-tuning starts."""

    rounds: int = Field(5, ge=1)
    """Rounds; each adds an equal part of the budget."""
    pool: int = Field(2000, ge=1)
    """Most seeds that are scored, drawn once for all rounds."""
    choose: int | None = Field(None, ge=1)
    """Seeds that a round chooses; by default as many as it makes pairs."""
    rule: SeedRule = "top"
    """Which: the best-scored (`top`), the worst (`bottom`), as many by chance out of either half of the scores
    (`balanced`), or what a signal that chooses sets takes, as `badge` does by k-means++ (`set`)."""
    score_children: bool = True
    """Scores new pairs as their seeds were scored, which shows whether what is chosen in seeds is found in pairs."""
    start: Literal["base", "student"] = "base"
    """Where each round's fine-tuning starts: at the base, on all pairs, or, a variant that forgets, at the last round's
    student, on the new pairs alone."""


class ActiveLoop(Driver[ActiveLoopSettings]):
    """Rounds of scoring seeds, choosing, generating, fine-tuning and evaluating."""

    name = "active_loop"
    summary = "rounds: the student scores seeds, pairs are made after the chosen ones, it is fine-tuned on all pairs"
    Settings = ActiveLoopSettings
    # The student takes the warmed-up target's place.
    signal_settings = MappingProxyType({"checkpoint": "base"})

    def stages(self, plan: Plan, signal: SignalChoice) -> list[Stage]:
        """The stages of all rounds, and the evaluation of the target before them."""
        self._check(plan, signal)
        source, pool = sources(plan), self._pool(plan)
        student: Stage | None = None
        round_, last = Round(0, pool.count), []
        for number in range(1, self.settings.rounds + 1):
            own = plan.with_config(budget=self._line(plan, number))
            reader = _reader(signal, student, number)
            round_ = replace(round_, number=number)
            data = self._pairs(own, reader, source, round_)
            if self.settings.score_children and _scores_pairs(signal):
                last.append(in_round(score_children(own, reader, source, data, number), number))
            more = self.settings.start == "student" and student is not None
            tuned = finetune_stage(own, data, student if more else None, round_.prior if more else None)
            student = in_round(tuned, number)
            last.append(in_round(evaluate_stage(own, student), number))
            round_ = replace(round_, before=own.config.budget, prior=data)
        others = student_stages(plan, round_.prior) if round_.prior else []
        return [*last, evaluate_stage(plan, None), *others]

    def _pairs(self, plan: Plan, reader: Reader, source: Stage, round_: Round) -> Stage:
        """The data set by the end of a round: the pairs made after the seeds that it chooses, and those before them."""
        number, pool = round_.number, self._pool(plan, round_.chosen)
        scores = in_round(score_seeds(plan, reader, source, pool), reader.number)
        chosen = in_round(select_seeds(plan, source, scores, pool, number), number)
        selection = Selection(per_seed=plan.config.synthesis.samples_per_seed)
        made = in_round(regenerate(plan, chosen, None, selection, round_), number)
        passed = in_round(decontaminate(plan, made, source, round_), number)
        return in_round(dataset(plan, passed, None, selection), number)

    def _line(self, plan: Plan, number: int) -> float:
        """Number of pairs that the data set of all rounds up to this one is to have."""
        line = plan.config.budget * number / self.settings.rounds
        return float(round(line)) if plan.config.match == "samples" else line

    def _pool(self, plan: Plan, count: int = 0) -> SeedPool:
        """The pool, of which a round takes `count`, or by default what the settings say."""
        s = self.settings
        if not count:
            steps = [self._line(plan, n) - self._line(plan, n - 1) for n in range(1, s.rounds + 1)]
            count = s.choose or math.ceil(max(steps) / plan.config.synthesis.samples_per_seed)
        return SeedPool(size=s.pool, rule=s.rule, count=count)

    def _check(self, plan: Plan, signal: SignalChoice) -> None:
        """Refuse a signal that cannot score seeds so, and settings that do not fit."""
        c, s = plan.config, self.settings
        check_use(signal, "seeds")
        if "warm_target" in signal_needs(signal):
            raise ConfigError(
                f"signal '{signal.name}' reads a warmed-up target, and driver 'active_loop' has each round's student "
                "in its place; set signal.checkpoint=base, which reads that, or take another signal"
            )
        by_set = signal_class(signal.name).unit == "set"
        if by_set != (s.rule == "set"):
            how = "chooses sets" if by_set else "scores seeds one by one"
            other = "driver.rule=set" if by_set else "driver.rule=top, bottom or balanced"
            raise ConfigError(f"signal '{signal.name}' {how}, and driver.rule={s.rule}; set {other}")
        if c.select:
            raise ConfigError("driver 'active_loop' chooses seeds and keeps their pairs; drop select")
        if c.match == "samples" and c.budget < s.rounds:
            raise ConfigError(
                f"a budget of {c.budget:g} samples is less than one a round; lower driver.rounds={s.rounds}"
            )
        if c.match != "samples" and s.choose is None:
            raise ConfigError(f"under --match {c.match} a round's pairs do not say how many seeds; set driver.choose")


def in_round(stage: Stage, number: int) -> Stage:
    """A stage as that of a round, which is in its name; as it is in round 0, which is none."""
    return replace(stage, name=f"{stage.name}_{number}", round=number) if number else stage


def _reader(signal: SignalChoice, student: Stage | None, number: int) -> Reader:
    """The reader of a round's seeds: anew where the signal reads the student or is a draw, else once for all."""
    aware = declares(signal, "student_aware")
    anew = aware or declares(signal, "drawn")
    return Reader(signal, student if aware else None, number if anew else 0)


def _scores_pairs(signal: SignalChoice) -> bool:
    found = signal_class(signal.name)
    return "sample" in found.items and found.unit == "item"
