"""The basis of every stage's cost: the models, counts and lengths of a run, and rates.

Counts follow from the settings; lengths are typical values, printed with the figures. Lab models are too small for
FLOPs to say anything of their time, so theirs comes from rates measured on a reference run; other models' time is
operations and moved bytes over what a device reaches (`harness.devices`), or this machine (`harness.planning.speed`).
What is not known, such as the size of a model or the number of items, makes a figure unknown and never smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness import estimate
from harness.costs.lengths import LAB_TEST_PROMPT, TEST_PROMPT, CallLengths, Lengths, decoding_batch
from harness.costs.records import Cost
from harness.devices import REFERENCE, DeviceClass
from harness.models.role_model import RoleModel

if TYPE_CHECKING:
    from harness.config import RunConfig

SURVIVE = 0.75
"""Assumed share of drawn samples that survive validity checks, duplicate removal and the contamination gate."""


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
"""Rough, from one thread of a busy cloud machine under a signal that takes gradients. `rollout` is processor time over
8 steps of a full-scale run; `scored` was not measured and is taken from `trained`; the others are derived from the wall
times of one smoke run, imports taken off by eye."""


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Completions that one call samples: how many, the most tokens of one, and whether by a policy in training.

    A policy all of whose weights are `trained` keeps them in float32.
    """

    count: int
    longest: int
    trained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """The facts from which all stages' costs follow, and the arithmetic that their estimates share.

    `way` are the calls of a draw on the run's route, the drafting one first, each with its model, and `labels` the
    call that labels a pair, once for each sample, where pairs are labelled. `seeds` is None where
    their number is not known in advance; `documents` says in words what their source holds.
    `device` is whose time is estimated, and `start` the seconds that a stage takes there to load its model. `students`
    are the other models that are fine-tuned and tested, by role.
    """

    config: RunConfig
    seeds: int | None
    sizes: Lengths
    target: RoleModel
    way: tuple[tuple[CallLengths, RoleModel], ...]
    labels: tuple[CallLengths, RoleModel] | None = None
    embedder: RoleModel | None = None
    documents: str = "any number of documents"
    device: DeviceClass = REFERENCE
    start: float = 0.0
    students: Mapping[str, RoleModel] = field(default_factory=dict)

    def as_student(self, role: str) -> Estimator:
        """The same with a student in the target's place."""
        return replace(self, config=self.config.for_student(role), target=self.students[role])

    @property
    def lab(self) -> bool:
        """Whether the time comes from lab rates."""
        return self.target.kind == "lab"

    @property
    def test_prompt(self) -> int:
        """Typical prompt tokens of a test or validation item."""
        return LAB_TEST_PROMPT if self.lab and self.config.suite == "lab" else TEST_PROMPT

    @property
    def passes(self) -> int:
        """Forward passes that one training pass costs: 3, or 4 where activations are computed again."""
        return 4 if self.config.runtime.training.activation_checkpointing else 3

    def seconds(self, *, compute: float, moved: float = 0.0, known: bool, lab: float) -> float | None:
        """Time from `lab` seconds, or on the device where the models' sizes are known.

        On the machine at hand a stage that computes also loads its model.
        """
        if self.lab:
            return LAB_RATES.start + lab
        if not known:
            return None
        return (self.start if compute + moved > 0 else 0.0) + self.device.seconds(compute, moved)

    def decoding(
        self, model: RoleModel, count: int, prompt: int, completion: int, longest: int, at_once: AtOnce | None = None
    ) -> float:
        """Bytes that sampling `count` completions moves: at every step of a batch, its weights and its cache.

        A server puts the next prompt into a finished one's place; in the process a batch goes on to its longest, taken
        as twice the typical length where `longest`, which it may not pass, leaves room for that.

        Float32 weights computed in bfloat16: a step reads them, writes their casts and reads those, and its keys are
        float32.
        """
        if model.shape is None:
            return 0.0
        settings = self.config.models.of(model.role)
        if settings.base_url:
            return 0.0
        steps = completion if settings.served else min(longest, 2 * completion)
        wide = at_once is not None and at_once.trained and model.dtype == "bfloat16"
        batch = at_once.count if at_once else decoding_batch(self.config, settings)
        cache = model.shape.kv_bytes_per_token * estimate.BYTES[model.dtype] / 2 * (prompt + steps / 2)
        read = (model.weight_bytes or 0) / min(batch, max(1, count))
        return float(count) * steps * (4 * read + 1.5 * cache if wide else read + cache)

    def read(self, model: RoleModel, count: int, prompt: int, shared: int) -> int:
        """Tokens that a model goes through for `count` prompts whose first `shared` tokens every batch reads once."""
        settings = self.config.models.of(model.role)
        batch = decoding_batch(self.config, settings)
        return count * (prompt - shared) + -(-count // batch) * shared

    def here(self, model: RoleModel, flops: float) -> float:
        """Operations of a model that runs on this side; none where somebody else's server answers."""
        return 0.0 if self.config.models.of(model.role).base_url else flops

    def usd(self, models: Mapping[str, tuple[int, int]]) -> float | None:
        """The price of tokens at endpoints, by role: 0 where there is none, None where one has no known price."""
        total = 0.0
        for role, (tokens_in, tokens_out) in models.items():
            settings = self.config.models.of(role)
            if not settings.base_url:
                continue
            if settings.price is None:
                return None
            total += settings.price.usd(tokens_in, tokens_out)
        return total

    def trajectories(self, count: int, note: str, at_once: AtOnce | None = None) -> Cost:
        """`count` drafts and the pairs made from them, of which the assumed share survives.

        `at_once`: see `decoding`, for the drafts.
        """
        compute = moved = written = 0.0
        models: dict[str, tuple[int, int]] = {}
        for at, (call, model) in enumerate(self.way):
            # A trainer that samples by itself reads every prompt of the drafting model whole.
            drafting = at_once if at == 0 else None
            longest = drafting.longest if drafting else getattr(self.config.synthesis, call.role).max_tokens
            read = self.read(model, count, call.prompt, 0 if drafting else call.shared)
            compute += self.here(model, model.flops(read))
            moved += self.decoding(model, count, call.prompt, call.completion, longest, drafting)
            written += self.here(model, model.flops(count * call.completion))
            models[call.role] = (count * call.prompt, count * call.completion)
        return Cost(
            rows=count,
            out=round(count * SURVIVE),
            tokens_in=sum(m[0] for m in models.values()),
            tokens_out=sum(m[1] for m in models.values()),
            flops=compute + written,
            seconds=self.seconds(
                compute=compute,
                moved=moved,
                known=all(model.sized for _, model in self.way),
                lab=LAB_RATES.trajectory * count,
            ),
            note=note,
            compute=compute,
            moved=moved,
            models=models,
            usd=self.usd(models),
        )

    def embedded(self, rows: int | None, tokens: int, note: str) -> Cost:
        """`rows` that are kept as they are, and `tokens` of them and others through the embedder."""
        model = self.embedder
        flops = model.flops(tokens) if model else 0.0
        return Cost(
            rows=rows,
            out=rows,
            tokens_in=tokens,
            flops=flops,
            seconds=self.device.seconds(flops, 0.0) if model is None or model.sized else None,
            note=note,
            compute=flops,
            models=self.embedder_tokens(tokens),
            usd=self.embedder_usd,
        )

    def embedder_tokens(self, tokens: int) -> dict[str, tuple[int, int]]:
        """`tokens` by role; none where no model embeds."""
        runs = self.embedder is not None and self.embedder.kind not in ("built-in", "vectors")
        return {"embedder": (tokens, 0)} if runs else {}

    @property
    def embedder_usd(self) -> float | None:
        """The price of embedding: the settings have no price for one at an endpoint."""
        return None if self.embedder is not None and self.embedder.kind == "endpoint" else 0.0

    def read_by_target(self, rows: int, tokens: int, lab: float, note: str) -> Cost:
        """`rows` that are kept, of `tokens` tokens, in a forward pass of the target; `lab`: seconds of a lab model."""
        flops = self.target.flops(tokens)
        return Cost(
            rows=rows,
            out=rows,
            tokens_in=tokens,
            flops=flops,
            seconds=self.seconds(compute=flops, known=self.target.shape is not None, lab=lab),
            note=note,
            compute=flops,
            models={"target": (tokens, 0)},
            usd=0.0,
        )

    def trained(self, count: int, epochs: int, note: str) -> Cost:
        """The target trained on `count` rows, which leaves none: each token costs the passes of a training."""
        tokens, lab = count * epochs * self.sizes.row, LAB_RATES.trained * count * epochs
        read = self.read_by_target(count, tokens, lab, note)
        flops = self.passes * read.flops
        seconds = self.seconds(compute=flops, known=self.target.shape is not None, lab=lab)
        return replace(read, out=None, flops=flops, compute=flops, seconds=seconds)


def times(epochs: int) -> str:
    """A number of epochs in words."""
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"
