"""Rollouts of a policy from a server: the adapter goes there before every batch, completions come back as token ids.

TRL's own server mode moves whole weights over NCCL, which needs CUDA; an adapter is a few megabytes on disk that vLLM
loads at run time, on any device. The trainer calls `rollout_func`, which TRL calls experimental.

**On-policy or not.** A batch is sampled from the very weights that are then updated, so no importance correction is
applied (with several mini-batches a step, TRL's ratio to its own earlier log-probabilities applies as it does without a
server). Whether the server really has those weights, and computes as the trainer does, is measured with every batch:
the mean absolute difference between the log-probability that a token was sampled with and the one that it has in the
trainer. A stale or wrong adapter shows there, and stops the run. Under a JSON schema, and with nucleus sampling,
tokens come from a narrower distribution than the one that is trained; then a few tokens without either are compared,
and the batch is recorded as `constrained`: its gradient treats samples of the narrower distribution as the policy's.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.errors import StageError
from harness.training.chat import prompt_ids
from harness.training.grpo_config import GrpoConfig
from harness.types import Message, derive_seed

COMPARED = 8
"""Completions of a batch whose log-probabilities are compared."""
PROBE_TOKENS = 16
"""Tokens that are sampled for the comparison where the batch itself cannot serve."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One completion: token ids (the end token included where it ended), and the log-probability of each."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Decoding:
    """The decoding of a batch. `free` ignores the server's schema; `stops` end a completion beside its own end."""

    temperature: float
    top_p: float
    max_tokens: int
    free: bool = False
    stops: tuple[int, ...] = ()


class Sampler(Protocol):
    """A server that samples from the policy's adapter."""

    @property
    def constrained(self) -> bool:
        """Whether a schema holds completions to a form."""

    def load(self, adapter: Path) -> str:
        """Serve the adapter in this folder; returns what it is called there."""

    def sample(
        self, name: str, prompts: Sequence[tuple[Sequence[int], int]], decoding: Decoding, seed: int
    ) -> list[list[Drawn]]:
        """For every prompt (token ids, number of completions) its completions."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The account of batch `step`, from 0; `gap_mean` and `gap_max` are differences of log-probabilities, in nats."""

    step: int
    adapter: str
    completions: int
    seconds: float
    gap_mean: float
    gap_max: float
    constrained: bool


class ServerRollouts:
    """`rollout_func` of a GRPO trainer. `on_sampled` is told of every batch; `seconds` is what the last one took.

    `updates` is the number of optimizer steps on a batch: the trainer counts those, and accounts count batches.
    """

    def __init__(
        self,
        sampler: Sampler,
        config: GrpoConfig,
        folder: Path,
        seed: int,
        updates: int,
        on_sampled: Callable[[Sampled], None],
    ) -> None:
        self._sampler, self._config, self._seed, self._on_sampled = sampler, config, seed, on_sampled
        self._folder, self._updates = folder, updates
        self.seconds = 0.0
        # TRL warns that `rollout_func` is experimental; our tests hold it to what is used of it.
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """Completions of `prompts`, one for each entry; TRL repeats a prompt for every member of its group."""
        started = time.perf_counter()
        step = int(trainer.state.global_step)
        model = trainer.accelerator.unwrap_model(trainer.model)
        adapter = self._save(model, step)
        name = self._sampler.load(adapter)
        self._tidy()
        ids = [prompt_ids(trainer.processing_class, [Message(**turn) for turn in p]) for p in prompts]
        c = self._config
        stops = tuple(i for i in trainer.eos_token_ids if i != trainer.processing_class.eos_token_id)
        decoding = Decoding(temperature=c.temperature, top_p=c.top_p, max_tokens=c.max_tokens, stops=stops)
        drawn = self._draw(name, ids, decoding, derive_seed(self._seed, step))
        gap = self._gap(model, name, ids, drawn, decoding)
        self.seconds = time.perf_counter() - started
        constrained = self._sampler.constrained or c.top_p < 1
        batch = step // self._updates
        self._on_sampled(
            Sampled(
                step=batch,
                adapter=name,
                completions=len(drawn),
                seconds=self.seconds,
                gap_mean=gap[0],
                gap_max=gap[1],
                constrained=constrained,
            )
        )
        if not gap[0] <= c.max_logprob_gap:
            raise StageError(
                "the policy on the server is not the one that is trained: log-probabilities of the same tokens differ "
                f"by {gap[0]:.3g} on average (driver.max_logprob_gap {c.max_logprob_gap:g}) at step {batch}; use the "
                "same dtype on both sides, or driver.rollouts=transformers"
            )
        return {"prompt_ids": ids, "completion_ids": [list(d.ids) for d in drawn], "logprobs": None}

    def _save(self, model: Any, step: int) -> Path:
        """The adapter of this step."""
        path = self._folder / f"step-{step}"
        shutil.rmtree(path, ignore_errors=True)
        model.save_pretrained(path)
        return path

    def _tidy(self) -> None:
        """Delete what a server that is started again does not load again: all but the last two that it was given.

        Until it has the latest it may want the one that goes now.
        """
        for old in sorted(self._folder.glob("step-*"), key=lambda p: int(p.name.partition("-")[2]))[:-2]:
            shutil.rmtree(old, ignore_errors=True)

    def _draw(self, name: str, ids: Sequence[Sequence[int]], decoding: Decoding, seed: int) -> list[Drawn]:
        """One completion per entry; entries of equal prompts are one request."""
        places: dict[tuple[int, ...], list[int]] = {}
        for i, prompt in enumerate(ids):
            places.setdefault(tuple(prompt), []).append(i)
        wanted = [(prompt, len(where)) for prompt, where in places.items()]
        result: list[Drawn | None] = [None] * len(ids)
        for where, drawn in zip(places.values(), self._sampler.sample(name, wanted, decoding, seed), strict=True):
            for i, one in zip(where, drawn, strict=True):
                result[i] = one
        return [d for d in result if d is not None]

    def _gap(
        self, model: Any, name: str, ids: Sequence[Sequence[int]], drawn: Sequence[Drawn], decoding: Decoding
    ) -> tuple[float, float]:
        """Mean and largest difference of log-probabilities between server and trainer."""
        pairs = list(zip(ids, drawn, strict=True))[:COMPARED]
        if self._sampler.constrained or decoding.top_p < 1:
            decoding = Decoding(temperature=1.0, top_p=1.0, max_tokens=PROBE_TOKENS, free=True)
            distinct = list(dict.fromkeys(tuple(prompt) for prompt in ids))[:COMPARED]
            answers = self._sampler.sample(name, [(prompt, 1) for prompt in distinct], decoding, self._seed)
            pairs = [(prompt, answer[0]) for prompt, answer in zip(distinct, answers, strict=True)]
        differences: list[float] = []
        for prompt, one in pairs:
            own = token_logprobs(model, prompt, one.ids, decoding.temperature)
            differences += [abs(a - b) for a, b in zip(own, one.logprobs, strict=True)]
        if not differences:
            return math.nan, math.nan
        return sum(differences) / len(differences), max(differences)


def token_logprobs(model: Any, prompt: Sequence[int], completion: Sequence[int], temperature: float) -> list[float]:
    """log p(token | what precedes it) of every completion token, from logits divided by the temperature."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            ids = torch.tensor([[*prompt, *completion]], device=model.device)
            logits = model(ids).logits[0, len(prompt) - 1 : -1].float() / temperature
            rows = torch.log_softmax(logits, dim=-1)
            chosen = rows.gather(1, ids[0, len(prompt) :, None])[:, 0]
        return [float(value) for value in chosen]
    finally:
        model.train(was_training)


def generation_timer(model: Any) -> dict[str, float]:
    """Time spent in `model.generate`, under `seconds`, for rollouts in the trainer's process; reset by the reader."""
    spent = {"seconds": 0.0}
    plain = model.generate

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return plain(*arguments, **options)
        finally:
            spent["seconds"] += time.perf_counter() - started

    model.generate = timed
    return spent
