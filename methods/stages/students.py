"""Other students: models beside the target that are fine-tuned on the run's data set by its recipe, and tested.

Scores are taken of the target alone, so these show whether data that were made for one model help another. Their stages
are the target's own, under a student's settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from harness.config_models import STUDENT
from harness.costs.estimator import Estimator
from harness.costs.records import Before, Cost, Load
from harness.costs.sizer import Sizer
from harness.stage import Kind, Stage
from methods.plan import Plan
from methods.stages.target import evaluate_stage, finetune_stage

KINDS: Mapping[Kind, Kind] = MappingProxyType(
    {
        "model": "student_model",
        "base_answers": "student_base_answers",
        "tuned_answers": "student_tuned_answers",
    }
)
"""What a student's stages leave, by what the target's do."""


def student_stages(plan: Plan, data: Stage) -> list[Stage]:
    """The last stages of all students: the evaluation of each, fine-tuned on `data`, and before it."""
    found = []
    for role in plan.config.models.student_roles:
        own = plan.for_student(role)
        tuned = _of_student(finetune_stage(own, data), role)
        found += [_of_student(evaluate_stage(own, stage), role) for stage in (tuned, None)]
    return found


def _of_student(stage: Stage, role: str) -> Stage:
    """A stage of the target as that of a student, which is in its name, its cost and its load."""

    def estimate(e: Estimator, before: Before) -> Cost | None:
        cost = stage.estimate(e.as_student(role), before)
        return cost and replace(cost, models={role if name == "target" else name: t for name, t in cost.models.items()})

    def loads(sizer: Sizer) -> Load:
        load = stage.loads(sizer.as_student(role))
        return replace(load, parts=tuple(replace(p, role=role) if p.role == "target" else p for p in load.parts))

    name = f"{stage.name}_{role.removeprefix(STUDENT)}"
    return replace(stage, name=name, kind=KINDS[stage.kind], student=role, estimate=estimate, loads=loads)
