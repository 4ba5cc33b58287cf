"""The memory that a run's models need: every stage is asked what it loads together.

One list of facts serves both `plan`, which shows it, and the check before a run, which compares it with the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.costs.lengths import lengths
from harness.costs.records import Load
from harness.costs.sizer import Sizer
from harness.models.role_model import RoleModel
from harness.resolve import machine
from harness.resolve.role_models import embedder_model, label_call, role_models, way

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.stage import Stage

GPU_FROM = 1_000_000_000
"""Parameters from which a model is refused without a GPU: on CPU cores one run would take months."""


def runs_on_gpu(models: Sequence[RoleModel]) -> bool:
    """Whether the sizes are those of a GPU: where a model is too large for processor cores, or a GPU is here."""
    large = any(m.shape and m.shape.parameters >= GPU_FROM for m in models)
    return large or bool(machine.torch_cuda() and machine.gpus())


def make_sizer(config: RunConfig) -> Sizer:
    """Look up the models of a run."""
    models, sizes = role_models(config), lengths(config)
    return Sizer(
        config=config,
        sizes=sizes,
        target=models["target"],
        way=way(config, sizes, models),
        labels=label_call(config, sizes, models),
        embedder=embedder_model(config),
        cuda=runs_on_gpu(list(models.values())),
        students={role: models[role] for role in config.models.student_roles},
    )


def loads(config: RunConfig, stages: Sequence[Stage]) -> tuple[Load, ...]:
    """Memory of each part of the run, leaving out models of unknown size.

    Stages that load the same together share a line; of those that share its name, the largest stands for all.
    """
    sizer = make_sizer(config)
    found: dict[str, Load] = {}
    for load in (stage.loads(sizer) for stage in stages):
        if load.parts and (load.name not in found or load.bytes > found[load.name].bytes):
            found[load.name] = load
    return tuple(found.values())
