"""The worker of shards of trajectories: which models a route needs open, in whose process, and what a shard holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.config_labels import LabelsConfig
from harness.executor import InProcess, ShardWorker, Work
from harness.models.access import Access, access
from harness.models.backend import Backend, Sampling
from harness.models.open import open_backend
from harness.shards import ShardOutput
from harness.stage import StageRun
from harness.synthesis.route import Draw, document_of
from harness.synthesis.synthesize import Counter, Synthesizer
from harness.types import Message, Seed
from methods.plan import Plan
from methods.stages.embedding import EmbeddingWorker, embedding_worker, with_vectors
from methods.stages.gate import embedded_texts
from methods.stages.labels import Label, Labeller


def sampling_of(config: Any) -> Sampling:
    """Decoding settings from a configuration section."""
    return Sampling(config.temperature, config.top_p, config.max_tokens)


def synthesizer(plan: Plan, seeds: Sequence[Seed], access: Access | None = None) -> Synthesizer:
    """The run's route with the model that it asks after the draft; the seeds are the extractive generator's corpus."""
    role = plan.route.answers
    if role is None:
        return Synthesizer(plan.route, None)
    corpus = [document_of(s) for s in seeds]
    return Synthesizer(
        plan.route, open_backend(plan.config.models.of(role), plan.world, corpus, role=role, access=access)
    )


def drafter(
    plan: Plan, seeds: Sequence[Seed], maker: Synthesizer, policy: Path | None, access: Access | None = None
) -> Backend | None:
    """The model that drafts, or a trained `policy` in its place; one that answers as well is loaded once.

    None where the seeds hold the pairs.
    """
    role, models = plan.route.drafts, plan.config.models
    if role is None:
        return None
    rest = plan.route.answers
    if policy is None and maker.rest is not None and rest is not None and models.of(rest) is models.of(role):
        return maker.rest
    corpus = [document_of(s) for s in seeds]
    return open_backend(models.of(role), plan.world, corpus, policy, role=role, access=access)


def untrained(plan: Plan, maker: Synthesizer, drafts: Backend | None, policy: Path | None) -> dict[str, Backend]:
    """The models of a route by role that are open as they came, which others may use, too."""
    rest = {plan.route.answers: maker.rest} if plan.route.answers and maker.rest else {}
    return {
        **({str(plan.route.drafts): drafts} if drafts is not None and not policy else {}),
        **{str(role): model for role, model in rest.items()},
    }


def drafting_prompts(
    plan: Plan, maker: Synthesizer, seeds: Sequence[Seed], policy: Path | str, max_tokens: int
) -> dict[str, tuple[tuple[Message, ...], bool]]:
    """By seed, the chat that the drafting model is asked with, and whether its document was cut to fit the context.

    `policy` is where its weights are, of which only the tokenizer is read: a trainer is given its prompts cut already,
    so that whoever samples gets the same.
    """
    counting = plan.config.drafter.model_copy(
        update={"backend": "transformers", "base_url": None, "structured": False, "structured_chars": None}
    )
    counter = open_backend(counting, plan.world, [], policy)
    return {seed.id: maker.messages(seed, counter, Sampling(max_tokens=max_tokens)) for seed in seeds}


@dataclass(frozen=True, slots=True)
class DraftText:
    """The text that the drafting model wrote for a pair, by the pair's id."""

    id: str
    text: str


DRAFTS = "drafts"
"""The side table of `DraftText`."""


def synthesize_shard(
    plan: Plan,
    maker: Synthesizer,
    drafts: Backend | None,
    labeller: Labeller | None,
    keep_drafts: bool,
    draws: Sequence[Draw],
    seed: int,
) -> ShardOutput:
    """One shard of trajectories under the settings of synthesis, their pairs labelled where there is a labeller.

    `keep_drafts` adds the side table `DRAFTS`, of the drafts that became pairs.
    """
    s, counter = plan.config.synthesis, Counter()
    sampled = [sampling_of(getattr(s, role)) for role in plan.config.route_roles]
    first, last = (sampled[0], sampled[-1]) if sampled else (None, None)
    written = maker.write(drafts, draws, first, seed, counter)
    attempts = maker.realise(written, last, seed, counter)
    labels: list[Label] = []
    if labeller is not None:
        attempts, labels = labeller.label(attempts, seed, counter)
    return ShardOutput(
        rows=[a.sample for a in attempts if a.sample is not None],
        rejects=[a.reject for a in attempts if a.reject is not None],
        usage=[*counter.usage, *(labeller.usage() if labeller is not None else [])],
        tables={
            "rubrics": [a.rubric for a in attempts if a.rubric is not None],
            **({"labels": labels} if labeller is not None else {}),
            **({DRAFTS: [DraftText(a.sample.id, a.draft.text) for a in attempts if a.sample]} if keep_drafts else {}),
        },
        rows_in=len(draws),
        shortened=counter.shortened,
        mended=counter.mended,
    )


@dataclass(frozen=True)
class SynthesisWorker:
    """Runs trajectories of one drafting model (`policy`: its trained weights) wherever the models can be loaded.

    `embedding` has it embed what the gate compares, so that counting survivors waits for no worker; `labels` has it
    label pairs, `keep_drafts` keep their drafts.
    """

    plan: Plan
    seeds: tuple[Seed, ...]
    policy: Path | None
    embedding: EmbeddingWorker | None = None
    labels: LabelsConfig | None = None
    keep_drafts: bool = False

    def open(self) -> Work:
        """Set up the models; they are loaded at the first trajectory."""
        maker = synthesizer(self.plan, self.seeds)
        drafts = drafter(self.plan, self.seeds, maker, self.policy)
        embed = self.embedding.open() if self.embedding else None
        labeller = None
        if self.labels:
            labeller = Labeller(self.plan, self.labels, untrained(self.plan, maker, drafts, self.policy))

        def shard(items: Sequence[Any], index: int, seed: int) -> ShardOutput:
            made = synthesize_shard(self.plan, maker, drafts, labeller, self.keep_drafts, items, seed)
            return with_vectors(made, embedded_texts(self.plan, made.rows), embed) if embed else made

        return shard


def synthesis_worker(
    run: StageRun,
    plan: Plan,
    seeds: Sequence[Seed],
    policy: Path | None,
    *,
    gated: bool = False,
    keep_drafts: bool = False,
) -> ShardWorker:
    """The worker that runs trajectories: anybody, or where a server answers for a model only this process.

    It alone has the ledger, the answers that were paid for and the limits; a server is scaled by itself. `gated`: the
    pairs are for the data set, so they are labelled where that is asked for, and will be compared with test items.
    `keep_drafts`: see `synthesize_shard`.
    """
    c = plan.config
    labels = c.labels if gated else None
    models = [c.models.of(role) for role in (*c.route_roles, *(["labeller"] if labels else []))]
    if not any(model.served for model in models):
        # Only the extractive generator reads other documents than the one at hand.
        corpus = tuple(seeds) if any(model.backend == "extractive" for model in models) else ()
        embedding = embedding_worker(c.models.embedder) if gated and "embedding" in c.decontam.modes else None
        embedding = embedding if isinstance(embedding, EmbeddingWorker) else None
        return SynthesisWorker(
            plan=plan,
            seeds=corpus,
            policy=policy.absolute() if policy else None,
            embedding=embedding,
            labels=labels,
            keep_drafts=keep_drafts,
        )
    reach = access(c, run)
    maker = synthesizer(plan, seeds, reach)
    drafts = drafter(plan, seeds, maker, policy, reach)
    labeller = Labeller(plan, labels, untrained(plan, maker, drafts, policy), reach) if labels else None
    shard = partial(synthesize_shard, plan, maker, drafts, labeller, keep_drafts)
    return InProcess(lambda items, index, seed: shard(items, seed))
