"""What the cost of every stage follows from: the models, counts and lengths of a run, and rates.

Counts follow from the settings; lengths are typical values, printed with the figures. Lab models are too small for
FLOPs to say anything of their time, so theirs comes from rates measured on a reference run; other models' time is
operations and moved bytes over what a device reaches (`harness.devices`), or this machine (`harness.runtime.here`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness import estimate
from harness.devices import REFERENCE, DeviceClass
from harness.runtime.here import Here
from harness.runtime.needs import Lengths, lengths
from harness.runtime.role_models import RoleModel, embedder_model, role_models

if TYPE_CHECKING:
    from evals.suite import Suite
    from harness.config import RunConfig


@dataclass(frozen=True, slots=True)
class Cost:
    """One stage's estimate. `rows` is what it reads and `out` what it keeps; None means not estimated.

    `seconds` is None where a model's size is unknown. `compute` are the operations of training, scoring and reading,
    `moved` the bytes that decoding reads; `usd` what endpoints with a known price charge, None where a model that the
    stage calls has none. `models` has tokens in and out by role. `note` names what the figures count.
    """

    rows: int | None
    out: int | None
    tokens_in: int = 0
    tokens_out: int = 0
    flops: float = 0.0
    seconds: float | None = 0.0
    note: str = ""
    compute: float = 0.0
    moved: float = 0.0
    models: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds measured on lab models: per trajectory, per GRPO rollout (all that is done with it), per trained, scored
    and tested item. `start` is what a stage pays for imports and set-up before its first row.
    """

    trajectory: float
    rollout: float
    trained: float
    scored: float
    tested: float
    start: float


LAB_RATES = Rates(trajectory=0.015, rollout=0.02, trained=0.006, scored=0.006, tested=0.013, start=1.5)
"""Rough, from one thread of a busy cloud machine under the influence signal. `rollout` is processor time over 8
steps of a full-scale run; `scored` was not measured and is taken from `trained`; the others are derived from the wall
times of one smoke run, imports taken off by eye."""


@dataclass(frozen=True, slots=True)
class Estimator:
    """The facts from which all stages' costs follow. `seeds` is None where their number is not known in advance.

    `documents` says in words what the seeds' source holds.
    """

    config: RunConfig
    suite: Suite
    seeds: int | None
    sizes: Lengths
    target: RoleModel
    writer: RoleModel
    generator: RoleModel
    stages: frozenset[str]
    embedder: RoleModel | None = None
    documents: str = "any number of documents"
    here: Here | None = None

    @property
    def device(self) -> DeviceClass:
        """The device whose time is estimated: the machine at hand where it was measured."""
        return self.here.device if self.here else REFERENCE

    @property
    def lab(self) -> bool:
        """Whether the time comes from lab rates."""
        return self.target.kind == "lab"

    def seconds(self, *, compute: float, moved: float = 0.0, known: bool, lab: float) -> float | None:
        """Time from `lab` seconds, or on the device where the models' sizes are known.

        On the machine at hand a stage that computes also loads its model.
        """
        if self.lab:
            return LAB_RATES.start + lab
        if not known:
            return None
        start = self.here.start if self.here and compute + moved > 0 else 0.0
        return start + self.device.seconds(compute, moved)

    def decoding(
        self, model: RoleModel, count: int, prompt: int, completion: int, together: int | None = None
    ) -> float:
        """Bytes that sampling `count` completions moves: at every step of a batch, its weights and its cache.

        `together` are the completions of a batch that a trainer samples by itself. A policy all of whose weights are
        trained keeps them in float32: computed in bfloat16, a step reads them, writes their casts and reads those, and
        its keys are float32.
        """
        if model.shape is None:
            return 0.0
        settings = getattr(self.config.models, model.role)
        if settings.base_url:
            return 0.0
        batch = self.config.runtime.vllm.max_num_seqs if settings.served else self.config.runtime.batch_size
        wide = together is not None and self.config.grpo.tune == "full" and model.dtype == "bfloat16"
        batch = together or batch
        cache = model.shape.kv_bytes_per_token * estimate.BYTES[model.dtype] / 2 * (prompt + completion / 2)
        read = (model.weight_bytes or 0) / min(batch, max(1, count))
        return float(count) * completion * (4 * read + 1.5 * cache if wide else read + cache)


def make_estimator(config: RunConfig, suite: Suite, stages: frozenset[str], here: Here | None = None) -> Estimator:
    """Look up models and read the seeds; reads only local files. Raises `InputError` where a run would."""
    target, writer, generator = role_models(config)
    sizes, embedder = lengths(config), embedder_model(config)
    seeds, documents = count_seeds(config)
    return Estimator(
        config=config,
        suite=suite,
        seeds=seeds,
        sizes=sizes,
        target=target,
        writer=writer,
        generator=generator,
        stages=stages,
        embedder=embedder,
        documents=documents,
        here=here,
    )


def count_seeds(config: RunConfig) -> tuple[int | None, str]:
    """Number of usable documents, read as a run reads them, and what was found in words; None for what is not here."""
    from harness.synthesis.seeds import read_seeds
    from harness.synthesis.tables import find_tables

    limit = config.seeds.limit
    if config.seeds.source == "lab":
        count = config.lab.seeds if config.lab else None
        return count, f"{count:,} documents" if count else "any number of documents"
    if not all(Path(table).exists() for table in find_tables(config.seeds.sources)):
        return limit, f"at most {limit:,} documents" if limit else "any number of documents"
    report = read_seeds(config.seeds)
    dropped = "".join(f", {count:,} {reason}" for reason, count in report.dropped.items())
    return report.kept, f"{report.kept:,} documents" + (f" of {report.read:,} read{dropped}" if dropped else "")
