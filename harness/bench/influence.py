"""`harness bench influence`: what scoring costs against the step that it cannot beat, and how closely it agrees.

On one model and one set of samples, in one run, in turns: a plain batched forward and backward pass of the same LoRA
model with the same batches, loss and logits (the limit: training does that and then updates), the engine, the
definition one sample at a time, a LESS-style loop, and bergson where another environment has it. Machines are noisy,
so a speed is given as a ratio to what ran in the same turn, and the median over turns is reported with its range.
"""

from __future__ import annotations

import copy
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import torch

from harness.bench import oracle
from harness.bench.bergson import Bergson, BergsonScores, bergson_scores, find_bergson
from harness.bench.less_loop import LessLoop
from harness.bench.made import BenchSize, make_items, make_model, make_state
from harness.bench.memory import peak_tensor_bytes
from harness.config_runtime import ScoringConfig
from harness.statistics import spearman
from harness.training.batches import batches, collate
from harness.training.chat import Encoded
from methods.signals.influence.directions import Guidance, best, guidance, halves
from methods.signals.influence.gamma import UpdateRule, update_rule
from methods.signals.influence.products import influence
from methods.signals.influence.settings import InfluenceSettings
from methods.signals.target.engine import LoraGradients

PLAIN, ENGINE, LESS, BARE = "plain step", "engine", "LESS-style loop", "LESS-style loop, projection free"
Progressed = Callable[..., None]
"""Told what is going on: a label, steps done, steps in all, a note."""


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """The plan of a benchmark. `slow` bounds the samples of contestants that go one by one; `turns` are repetitions.

    `bergson` is the Python of an environment that has it.
    """

    size: BenchSize
    influence: InfluenceSettings
    scoring: ScoringConfig
    batch_size: int = 256
    turns: int = 5
    slow: int = 16
    full_logits: bool = False
    validation_sizes: tuple[int, ...] = (10, 1000)
    bergson: str | None = None


@dataclass(frozen=True, slots=True)
class Contestant:
    """One contestant: samples and tokens per second (median turn), and its speed relative to the plain step's.

    `low` and `high` bound the relative speed over turns; `peak` is tensor memory above the loaded model, in bytes, None
    where it was not measured.
    """

    name: str
    samples: int
    samples_per_second: float
    tokens_per_second: float
    relative: float
    low: float
    high: float
    peak: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Engine against the definition: largest error over the rms of the definition's scores, and Spearman's ρ."""

    samples: int
    largest_error_of_rms: float
    spearman: float | None


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All that one run measured."""

    machine: dict[str, str]
    plan: BenchPlan
    parameters: int
    adapter_parameters: int
    rows: tuple[Contestant, ...]
    agreement: Agreement
    seconds_per_candidate: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "plan": _plain(self.plan)}


def _plain(plan: BenchPlan) -> dict[str, Any]:
    return {
        **{key: value for key, value in asdict(plan).items() if key not in ("influence", "scoring")},
        "influence": plan.influence.model_dump(),
        "scoring": plan.scoring.model_dump(),
    }


class InfluenceBench:
    """The contestants on one model. Engine and plain step share it: they differ in what they ask of autograd."""

    def __init__(self, plan: BenchPlan) -> None:
        self.plan = plan
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        size = plan.size
        self.model = make_model(size, self.device)
        self.items = make_items(size.samples, size, seed=1)
        self.validation = make_items(size.validation, size, seed=2)
        self.state = make_state(self.model, self.validation)
        self.adapter = [p for p in self.model.parameters() if p.requires_grad]
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.gradients = LoraGradients(
            self.model, 0, plan.batch_size, plan.scoring, restrict_logits=not plan.full_logits
        )
        self.rule = update_rule(copy.deepcopy(self.state), plan.influence)
        self.guidance = self.guide(self.validation)

    def guide(self, items: Sequence[Encoded]) -> Guidance:
        """The directions of validation items."""
        count = len(items)
        parts = halves([f"{i:06}" for i in range(count)], [""] * count, [False] * count)
        return guidance(self.gradients, items, parts, self.plan.influence.aggregate)

    def plain_step(self) -> None:
        """Forward and backward of all samples, adapter gradients included, in the engine's batches."""
        with self.trainable():
            scoring = self.plan.scoring
            lengths = [len(item.ids) for item in self.items]
            for rows in batches(lengths, self.plan.batch_size, scoring.batch_tokens, scoring.layout):
                items = [self.items[i] for i in rows]
                batch = collate(items, [1.0] * len(rows), 0, scoring.layout, self.device)
                self.gradients.loss(batch).backward()
                for parameter in self.adapter:
                    parameter.grad = None

    def engine(self) -> torch.Tensor:
        """Scores of all samples."""
        return self.score(self.items, self.guidance)

    def score(self, items: Sequence[Encoded], found: Guidance, rule: UpdateRule | None = None) -> torch.Tensor:
        """The engine's scores of `items` [N], float64, under the plan's update rule or another."""
        aggregate = self.plan.influence.aggregate
        dots, _ = influence(self.gradients, items, found.vectors, rule or self.rule, cosine=aggregate != "mean_dot")
        return best(found.combine(dots, aggregate, ("a", "b")))

    def definition(self, items: Sequence[Encoded]) -> list[float]:
        """The oracle's scores of `items`, in float32 whatever the model's type."""
        with self.trainable():
            wide = copy.deepcopy(self.model).float() if self.plan.size.dtype != "float32" else self.model
            validation = [oracle.gradient(wide, v) for v in self.validation]
            candidates = [oracle.gradient(wide, item) for item in items]
            self.model.zero_grad()
        return oracle.scores(candidates, validation, self.state, self.plan.influence)

    def one_by_one(self) -> None:
        """The cost of the definition: a pass and Γ for every sample, one at a time."""
        target = {name: v.sum(dim=0).double() for name, v in self.guidance.vectors.items()}
        with self.trainable():
            for item in self.items[: self.plan.slow]:
                gamma = oracle.adam_direction(oracle.gradient(self.model, item), self.state, self.plan.influence)
                sum(float(target[n] @ g.flatten()) for n, g in gamma.items())
            self.model.zero_grad()

    def trainable(self) -> _Trainable:
        """While open, the adapter's weights require gradients."""
        return _Trainable(self.adapter)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


class _Trainable:
    """While open, the adapter's weights require gradients, as in training."""

    def __init__(self, adapter: Sequence[torch.nn.Parameter]) -> None:
        self.adapter = adapter

    def __enter__(self) -> None:
        for parameter in self.adapter:
            parameter.requires_grad_(True)

    def __exit__(self, *exception: object) -> None:
        for parameter in self.adapter:
            parameter.requires_grad_(False)
            parameter.grad = None


def bench_influence(plan: BenchPlan, progress: Progressed = lambda *_: None) -> BenchResult:
    """Build the model, run all contestants in turns, and compare the engine's scores with the definition's."""
    bergson = find_bergson(plan.bergson) if plan.bergson else None
    bench = InfluenceBench(plan)
    by_bergson = _run_bergson(bench, bergson, progress) if bergson else None
    slow = bench.items[: plan.slow]
    with bench.trainable():
        loop = LessLoop(bench.model, bench.validation, bench.state, plan.influence)
        bench.model.zero_grad()

    def less() -> float:
        with bench.trainable():
            return loop.score(slow).seconds_without_projection

    work: dict[str, tuple[Callable[[], Any], Sequence[Encoded]]] = {
        PLAIN: (bench.plain_step, bench.items),
        ENGINE: (bench.engine, bench.items),
        "definition, one by one": (bench.one_by_one, slow),
        LESS: (less, slow),
    }
    for name in (PLAIN, ENGINE):
        work[name][0]()
    seconds: dict[str, list[float]] = {name: [] for name in (*work, BARE)}
    for turn in range(plan.turns):
        for name in _order(turn, work):
            contestant = work[name][0]
            progress("turns", turn, plan.turns, name)
            bench.synchronise()
            started = time.perf_counter()
            outcome = contestant()
            bench.synchronise()
            seconds[name].append(time.perf_counter() - started)
            if name == LESS:
                seconds[BARE].append(outcome)
    items = {**{name: of for name, (_, of) in work.items()}, BARE: slow}
    progress("memory", 0, 1)
    peaks = {name: peak_tensor_bytes(work[name][0], bench.device) for name in (PLAIN, ENGINE)}
    rows = [_row(name, seconds, items, peaks.get(name)) for name in items]
    if bergson and by_bergson:
        rows.append(_bergson_row(bench, bergson, by_bergson, statistics.median(seconds[PLAIN])))
    return BenchResult(
        machine=_machine(bench.device),
        plan=plan,
        parameters=bench.parameters,
        adapter_parameters=sum(p.numel() for p in bench.adapter),
        rows=tuple(rows),
        agreement=_agreement(bench, slow),
        seconds_per_candidate=_against_validation_size(bench, plan, progress),
    )


def _order(turn: int, names: Iterable[str]) -> list[str]:
    """Another order in every turn, the same in every run: who follows whom must not favour anyone."""
    order = list(names)
    random.Random(turn).shuffle(order)
    return order


def _row(
    name: str, seconds: dict[str, list[float]], items: dict[str, Sequence[Encoded]], peak: int | None
) -> Contestant:
    own = seconds[name]
    tokens = sum(len(i.ids) for i in items[name])
    plain_tokens = sum(len(i.ids) for i in items[PLAIN])
    # Contestants that see fewer samples are compared by tokens.
    ratios = [(p / plain_tokens) / (s / tokens) for p, s in zip(seconds[PLAIN], own, strict=True)]
    middle = statistics.median(own)
    return Contestant(
        name=name,
        samples=len(items[name]),
        samples_per_second=len(items[name]) / middle,
        tokens_per_second=tokens / middle,
        relative=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        peak=peak,
    )


def _run_bergson(bench: InfluenceBench, bergson: Bergson, progress: Progressed) -> BergsonScores:
    plan = bench.plan
    progress(f"bergson {bergson.version}", 0, 1)
    return bergson_scores(
        bergson,
        bench.model,
        bench.items,
        bench.validation,
        plan.scoring,
        batch_size=plan.batch_size,
        turns=plan.turns,
    )


def _bergson_row(bench: InfluenceBench, bergson: Bergson, found: BergsonScores, plain: float) -> Contestant:
    """bergson's row, its speed relative to `plain`, the plain step's median seconds on the same samples."""
    engine = bench.score(bench.items, bench.guidance, UpdateRule(plain=True, constant={}, floor={})).tolist()
    same = _compare(found.scores, engine)
    rank = "not defined" if same.spearman is None else f"{same.spearman:.4f}"
    note = (
        f"cosine of plain gradients, in a process of its own (torch {found.torch}) and not in turns; with the engine's "
        f"scores under update=sgd: Spearman {rank}, largest difference {same.largest_error_of_rms:.1e} of their rms"
    )
    count, tokens = len(bench.items), sum(len(item.ids) for item in bench.items)
    middle = statistics.median(found.seconds)
    ratios = [plain / taken for taken in found.seconds]
    return Contestant(
        name=f"bergson {bergson.version}",
        samples=count,
        samples_per_second=count / middle,
        tokens_per_second=tokens / middle,
        relative=plain / middle,
        low=min(ratios),
        high=max(ratios),
        note=note,
    )


def _agreement(bench: InfluenceBench, items: Sequence[Encoded]) -> Agreement:
    return _compare(bench.score(items, bench.guidance).tolist(), bench.definition(items))


def _compare(got: Sequence[float], wanted: Sequence[float]) -> Agreement:
    rms = (sum(w * w for w in wanted) / len(wanted)) ** 0.5
    worst = max(abs(g - w) for g, w in zip(got, wanted, strict=True))
    return Agreement(len(wanted), worst / rms, spearman(got, wanted))


def _against_validation_size(bench: InfluenceBench, plan: BenchPlan, progress: Progressed) -> dict[int, float]:
    """Seconds per candidate by number of validation items, in turns; the directions are made before the clock runs.

    The items are short ones, since only their number is in question.
    """
    found = {}
    short = replace(plan.size, length=(8, 16))
    for count in plan.validation_sizes:
        progress(f"direction of {count} validation items", 0, 1)
        found[count] = bench.guide(make_items(count, short, seed=3))
    taken: dict[int, list[float]] = {count: [] for count in found}
    for _ in range(plan.turns):
        for count, guide in found.items():
            bench.synchronise()
            started = time.perf_counter()
            bench.score(bench.items, guide)
            bench.synchronise()
            taken[count].append((time.perf_counter() - started) / len(bench.items))
    return {count: statistics.median(times) for count, times in taken.items()}


def _machine(device: str) -> dict[str, str]:
    from harness.runtime.manifest import hardware

    found = hardware()
    name = found["gpus"][0] if device == "cuda" else f"{found['processor']}, {found['threads']} threads"
    packages = {p: version(p) for p in ("torch", "transformers", "peft")}
    return {"device": name, "python": platform.python_version(), **packages}


def gpu_plan(plan: BenchPlan) -> BenchPlan:
    """The sizes of a GPU run: LoRA rank 128 on attention, bf16, 512-token samples."""
    size = replace(
        plan.size,
        shape="qwen3-8b",
        dtype="bfloat16",
        rank=128,
        modules=("q_proj", "k_proj", "v_proj", "o_proj"),
        length=(512, 512),
    )
    return replace(plan, size=size)
