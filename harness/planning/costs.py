"""The costs of a run's stages, and the facts that they follow from: its models, how many documents, the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.costs.estimator import Estimator
from harness.costs.lengths import lengths
from harness.costs.records import Cost
from harness.devices import REFERENCE
from harness.planning.speed import MachineSpeed
from harness.resolve.role_models import embedder_model, label_call, role_models, way
from harness.stage import Stage, ordered

if TYPE_CHECKING:
    from harness.config import RunConfig


def make_estimator(config: RunConfig, here: MachineSpeed | None = None) -> Estimator:
    """Look up models and read the seeds; reads only local files. Raises `InputError` where a run would."""
    models, sizes = role_models(config), lengths(config)
    seeds, documents = count_seeds(config)
    return Estimator(
        config=config,
        seeds=seeds,
        sizes=sizes,
        target=models["target"],
        way=way(config, sizes, models),
        labels=label_call(config, sizes, models),
        embedder=embedder_model(config),
        documents=documents,
        device=here.device if here else REFERENCE,
        start=here.start if here else 0.0,
        students={role: models[role] for role in config.models.student_roles},
    )


def count_seeds(config: RunConfig) -> tuple[int | None, str]:
    """Number of usable documents, read as a run reads them, and what was found in words; None for what is not here."""
    from harness.synthesis.seeds import read_seeds
    from harness.synthesis.tables import find_tables

    limit = config.seeds.limit
    if config.seeds.source == "lab":
        count = config.lab.seeds if config.lab else None
        return count, f"{count:,} documents" if count else "any number of documents"
    if config.seeds.training_set is not None:
        count = _training_items(config)
        return count, f"{count:,} labelled questions" if count else "labelled questions of the suite, not here yet"
    if not all(Path(table).exists() for table in find_tables(config.seeds.tables)):
        return limit, f"at most {limit:,} documents" if limit else "any number of documents"
    report = read_seeds(config.seeds)
    dropped = "".join(f", {count:,} {reason}" for reason, count in report.dropped.items())
    return report.kept, f"{report.kept:,} documents" + (f" of {report.read:,} read{dropped}" if dropped else "")


def _training_items(config: RunConfig) -> int | None:
    """The number of usable items of the suite's training set; None where the hub has to send them."""
    from evals.catalogue import load_suite
    from methods.plan import Plan
    from methods.stages.sources import local_training, read_documents

    plan = Plan(config, load_suite(config.suite))
    return read_documents(plan).kept if local_training(plan) else None


def estimates(stages: Sequence[Stage], estimator: Estimator) -> Mapping[str, Cost | None]:
    """Costs of `stages` and all that they need, by identity; None for one that is not known in advance."""
    found: dict[str, Cost | None] = {}
    for stage in ordered(stages):
        before = {s.name: found[s.identity] for s in ordered(stage.inputs)}
        found[stage.identity] = stage.estimate(estimator, before)
    return found
