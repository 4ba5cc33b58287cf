"""Self-consistent labels: the generator's answer gives way to the one that a labelling model agrees on with itself.

The labeller sees the question alone and answers it several times; the largest group of equal answers is the label, if
it is large enough (self-consistency, Wang et al., arXiv 2203.11171; as labels of synthetic questions in
AcquisitionSynthesis, arXiv 2605.13149). Answers that were cut off or empty count among those that do not agree. The
pair is checked again with its new answer. Both answers and the agreement are kept in the side table `labels`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.config_labels import LabelsConfig
from harness.costs.estimator import LAB_RATES, Estimator
from harness.costs.records import Cost
from harness.errors import ConfigError
from harness.models.access import Access
from harness.models.backend import Backend, Completion, PromptRequest, Sampling
from harness.models.embedder import embedder_identity, open_embedder
from harness.models.open import open_backend
from harness.synthesis.agreement import Consensus, consensus, value_of
from harness.synthesis.parsing import Failure
from harness.synthesis.reading import read_answer
from harness.synthesis.route import Attempt, turns
from harness.synthesis.synthesize import Counter, fit
from harness.types import Reject, Usage, derive_seed
from methods.plan import Plan
from methods.routes.prompts import answer_prompt

ROLE = "labeller"
NO_AGREEMENT = "no_agreement"
"""Reason code of a pair whose largest group of answers is smaller than asked for."""


@dataclass(frozen=True, slots=True)
class Label:
    """The outcome for one pair's answer: the generator's, the label, the share that agreed, and groups of answers."""

    id: str
    generated: str
    label: str
    agreement: float
    groups: int


class Labeller:
    """Labels the pairs of shards; calls of the model go into the given counter, the embedder's into `usage`."""

    def __init__(
        self, plan: Plan, settings: LabelsConfig, loaded: Mapping[str, Backend], access: Access | None = None
    ) -> None:
        """`loaded` are models by role that are open already, as they are: a labeller that is one of them is that."""
        self.plan, self.settings = plan, settings
        own, models = plan.config.models.of(ROLE), plan.config.models
        shared = next((model for role, model in loaded.items() if models.of(role) is own), None)
        self.model = shared or open_backend(own, plan.world, [], role=ROLE, access=access)
        self.prompt = answer_prompt(settings.prompt, compact=not plan.route.wording.json)
        self.embedder = open_embedder(plan.config.models.embedder) if settings.group == "embedding" else None

    def label(self, attempts: Sequence[Attempt], seed: int, counter: Counter) -> tuple[list[Attempt], list[Label]]:
        """The attempts with their pairs labelled, or rejected for want of agreement, and a row for every label."""
        made = [at for at, attempt in enumerate(attempts) if attempt.sample is not None]
        answers = self._answers([attempts[at] for at in made], seed, counter)
        found, rows = list(attempts), []
        for at, own in zip(made, answers, strict=True):
            found[at], row = self._labelled(attempts[at], own)
            rows += [row] if row else []
        return found, rows

    def usage(self) -> list[Usage]:
        """The embedder's usage since it was last asked."""
        return self.embedder.usage() if self.embedder is not None else []

    def _answers(self, attempts: Sequence[Attempt], seed: int, counter: Counter) -> list[list[Completion]]:
        s = self.settings
        sampling = Sampling(s.temperature, s.top_p, s.max_tokens)
        requests = []
        for attempt in attempts:
            assert attempt.sample is not None
            variables = {
                "question": attempt.sample.question,
                "domain": attempt.draft.draw.seed.domain,
                "system_message": self.plan.route.system_message,
            }
            messages, _ = fit(self.prompt, variables, self.model, sampling, "question")
            requests += [PromptRequest(messages, variables)] * s.samples
        started = time.perf_counter()
        drawn = self.model.generate(requests, sampling, derive_seed(seed, ROLE)) if requests else []
        counter.add(ROLE, self.model, drawn, time.perf_counter() - started)
        return [drawn[i : i + s.samples] for i in range(0, len(drawn), s.samples)]

    def _labelled(self, attempt: Attempt, drawn: Sequence[Completion]) -> tuple[Attempt, Label | None]:
        sample = attempt.sample
        assert sample is not None
        compact = not self.plan.route.wording.json
        read = [
            Failure(c.failure) if c.failure else read_answer(c.text, c.finish_reason, compact=compact) for c in drawn
        ]
        texts = ["" if isinstance(found, Failure) else found for found in read]
        agreed = self._agreed([value_of(text, self.settings.marker) for text in texts])
        share = agreed.size / len(drawn) if agreed else 0.0
        groups = agreed.groups if agreed else 0
        if agreed is None or share < self.settings.agreement:
            detail = f"{share:.2f} of {len(drawn)} answers agree, in {groups} groups"
            return replace(attempt, sample=None, reject=Reject(sample.id, NO_AGREEMENT, sample.raw, detail)), None
        label = texts[agreed.place]
        pair = turns(self.plan.route.system_message, sample.question, label)
        completion = Completion(sample.raw, sample.finish_reason, sample.prompt_tokens, sample.completion_tokens)
        by = f"{sample.generator}, labelled by {self.model.name}"
        checked = self.plan.route.ended(replace(attempt, sample=None), pair, completion, sample.id, by)
        row = Label(id=sample.id, generated=sample.answer, label=label, agreement=share, groups=groups)
        return checked, row if checked.sample is not None else None

    def _agreed(self, values: Sequence[str]) -> Consensus | None:
        return consensus(values, self.embedder.embed(values) if self.embedder is not None else None)


def label_settings(plan: Plan) -> dict[str, Any]:
    """The settings of labels that change rows; nothing where pairs keep the generator's answers.

    Raises `ConfigError` for a labeller that is no language model.
    """
    c = plan.config
    if c.labels is None:
        return {}
    model = c.models.of(ROLE)
    if model.backend == "extractive":
        raise ConfigError(
            "labels have every question answered without its text, which the extractive generator cannot do; set "
            "models.labeller.id to a language model, or leave labels out"
        )
    own = {
        "settings": c.labels.model_dump(mode="json", exclude={"prompt"}, exclude_defaults=True),
        "model": plan.identity(model),
        "length": model.max_length,
        "prompt": answer_prompt(c.labels.prompt, compact=not plan.route.wording.json).hash,
    }
    if c.labels.group == "embedding":
        own["embedder"] = embedder_identity(c.models.embedder)
    return {"labels": own}


def with_labels(e: Estimator, made: Cost) -> Cost:
    """The cost of making pairs, and that of labelling those that survive: every question is answered several times."""
    labels = e.config.labels
    if labels is None or e.labels is None or made.out is None:
        return made
    call, model = e.labels
    count = made.out * labels.samples
    read, written = count * call.prompt, count * call.completion
    compute = e.here(model, model.flops(read))
    moved = e.decoding(model, count, call.prompt, call.completion, labels.max_tokens)
    more = e.seconds(compute=compute, moved=moved, known=model.sized, lab=LAB_RATES.trajectory * count)
    models = {**made.models, ROLE: (read, written)}
    return replace(
        made,
        tokens_in=made.tokens_in + read,
        tokens_out=made.tokens_out + written,
        flops=made.flops + compute + e.here(model, model.flops(written)),
        seconds=None if made.seconds is None or more is None else made.seconds + more,
        compute=made.compute + compute,
        moved=made.moved + moved,
        models=models,
        usd=e.usd(models),
    )
