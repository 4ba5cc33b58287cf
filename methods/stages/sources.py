"""`sources`: what a run may use: seeds and validation items that share nothing with the tests or with each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evals.data import load_training
from evals.overlap import split_without_overlaps
from evals.read import find_source
from harness.costs.estimator import Estimator
from harness.costs.records import Cost, Load
from harness.costs.sizer import Sizer
from harness.identity import identity
from harness.models.embedder import embedder_identity
from harness.shards import ShardOutput
from harness.stage import Stage, StageRun
from harness.synthesis.seeds import SeedReport, read_seeds
from harness.synthesis.tables import fingerprint
from harness.types import Message, Reject, Seed, chat, stable_hash
from methods.plan import Plan
from methods.signals.base import ValidationExample
from methods.stages.gate import gate_settings, leaks
from methods.stages.guide import candidate_items, check_guide, guide_answers, guide_choice


@dataclass(frozen=True, slots=True)
class GuideRow:
    """A validation item as the `sources` stage stores it."""

    id: str
    messages: tuple[Message, ...]
    withheld: bool
    subtask: str

    def example(self) -> ValidationExample:
        """The form that signals take."""
        return ValidationExample(self.id, self.messages, self.withheld, self.subtask)


def sources(plan: Plan) -> Stage:
    """Seeds as main table; validation items as side table `validation`, and `capabilities` where a tree chose them."""
    c = plan.config
    check_guide(plan)
    origin: Any = identity(c.seeds)
    if c.seeds.source == "lab":
        origin = {"lab": plan.world.key if plan.world else None, "n": c.lab.seeds if c.lab else 0}
        if c.lab is not None and c.lab.labelled:
            origin["labelled"] = True
    elif c.seeds.training_set is not None:
        origin = {**origin, "source": plan.training_identity(c.seeds.training_set)}
    else:
        origin = {**origin, "source": fingerprint(c.seeds.sources)}
    settings: dict[str, Any] = {
        "seeds": origin,
        "guide": identity(c.guide),
        **gate_settings(plan),
        "seed": c.synthesis_seed,
    }
    if c.guide.strategy != "random":
        settings["embedder"] = embedder_identity(c.models.embedder)
    inputs = (guide_answers(plan),) if c.guide.strategy == "capability_tree" else ()
    # The lab's documents are read from no file, so what is read of files does not change them.
    version = 3 if c.seeds.source == "lab" else 5
    return Stage(
        name="sources",
        version=version,
        settings=settings,
        inputs=inputs,
        work=lambda run: _work(run, plan),
        kind="seeds",
        estimate=lambda e, before: _estimate(e, plan),
        loads=_loads,
    )


def _estimate(e: Estimator, plan: Plan) -> Cost:
    count = candidate_items(plan)
    if plan.config.guide.strategy == "random" or count is None:
        return Cost(rows=e.seeds, out=e.seeds, note="documents, before overlaps go")
    # Choosing compares the embeddings of all candidates.
    return e.embedded(e.seeds, count * e.test_prompt, f"documents; {count:,} items embedded")


def _loads(sizer: Sizer) -> Load:
    chooses = sizer.config.guide.strategy != "random"
    return Load("choosing validation items", tuple(sizer.embeds() if chooses else ()))


def read_documents(plan: Plan) -> SeedReport:
    """The run's documents, before any that overlap with tests or validation items go."""
    c = plan.config
    if c.seeds.source == "lab":
        from harness.lab.world import World

        world, count = World.of(plan.world), c.lab.seeds if c.lab else 0
        seeds = world.questions(count) if c.lab is not None and c.lab.labelled else world.seeds(count)
        return SeedReport("lab", tuple(seeds), len(seeds))
    if c.seeds.training_set is not None:
        return _training_seeds(plan, c.seeds.training_set)
    return read_seeds(c.seeds, domain=plan.suite.domain, keys=_key_names(plan))


def local_training(plan: Plan) -> bool:
    """Whether the suite's training set, where it gives the seeds, is on this machine; True for other seeds."""
    name = plan.config.seeds.training_set
    if name is None:
        return True
    rows = plan.suite.training_set(name).rows
    return find_source(rows, f"training set '{name}'", plan.data, plan.suite.folder)[0].hub is None


def _training_seeds(plan: Plan, name: str) -> SeedReport:
    """The items of a training set of the suite as labelled seeds, in order, as many as `seeds.limit` allows."""
    settings = plan.config.seeds
    items = load_training(plan.suite, name, plan.data)[: settings.limit]
    source = f"suite:{plan.suite.name}:{name}"
    seeds = tuple(
        Seed(
            id=stable_hash(source, item.id, chat(item.messages)),
            text=None,
            messages=item.messages,
            domain=settings.domain or plan.suite.domain,
            source=f"{source}#{item.id}",
            licence=settings.licence or plan.suite.benchmark(plan.suite.training_set(name).like).licence,
            keys=dict(item.keys),
        )
        for item in items
    )
    return SeedReport(source, seeds, len(seeds))


def _key_names(plan: Plan) -> tuple[str, ...]:
    names = {name for b in plan.suite.benchmarks for name in b.keys}
    names |= {name for v in plan.suite.validation for name in v.keys}
    return tuple(sorted(names))


def _work(run: StageRun, plan: Plan) -> Mapping[str, Any]:
    c = plan.config
    report = read_documents(plan)
    choice = guide_choice(run, plan)
    split = split_without_overlaps(
        plan.suite,
        c.guide.set,
        c.guide.n,
        c.synthesis_seed,
        report.seeds,
        plan.data,
        rendering=c.guide.rendering,
        leaks=lambda rows, columns: leaks(run, plan, rows, columns),
        choose=choice,
    )
    withheld = int(len(split.validation) * c.guide.withhold)
    guides = [GuideRow(v.id, v.messages, index < withheld, v.subtask) for index, v in enumerate(split.validation)]
    by_id = {seed.id: seed for seed in report.seeds}
    rejects = list(report.rejects)
    for overlap in split.dropped_seeds:
        seed = by_id[overlap.id]
        rejects.append(Reject(seed.id, "overlap", seed.text or "", f"shares {overlap.reason} with {overlap.other_id}"))
    tables = {"validation": guides, "capabilities": choice.table if choice else ()}
    output = ShardOutput(split.seeds, rejects, tables=tables, rows_in=report.read)
    run.write(0, output, 0.0)
    run.observer.progress("sources", 1, 1, report.summary())
    return {
        "validation": len(guides),
        "withheld": withheld,
        "validation_dropped_overlaps": len(split.dropped_validation),
        "declared_overlaps": dict(split.declared_overlaps),
        **(choice.facts if choice else {}),
    }
