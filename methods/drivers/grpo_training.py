"""The execution of a GRPO stage: rubrics to pairs to scores to rewards, batch by batch, and what is kept of each.

A batch's rows are written in the same step as the checkpoint that it led to, so that a resumed stage has each once.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.config import RunConfig, SignalChoice
from harness.errors import BudgetError, StageError
from harness.facts import Fact, facts_to_rows
from harness.models.access import access, connect
from harness.models.open import model_path
from harness.models.sampler import ServerSampler
from harness.shards import ShardOutput, parts, read_metadata, read_records, summarise, write_shard
from harness.stage import SCRATCH, StageRun
from harness.synthesis.route import Attempt, Draft, Draw
from harness.synthesis.synthesize import Counter, Synthesizer
from harness.training.grpo import PolicyPrompt, RolloutBatch, train_policy
from harness.training.trainer import checkpoint_step, last_checkpoint
from harness.types import Reject, Sample, Score, Seed, Usage, derive_seed, stable_hash
from methods.drivers.grpo_settings import GrpoSettings
from methods.drivers.rollout_rows import RolloutRow, accepted
from methods.drivers.shaping import shape, without_spread
from methods.plan import Plan
from methods.signals.base import Archive, Signal
from methods.signals.catalogue import declares, sign
from methods.stages.scoring import prepare_signal
from methods.stages.synthesis import TEACHERS, add_usage, upstream_usage
from methods.stages.trajectories import drafting_prompts, sampling_of, synthesizer

COLOCATED_GAP = "sampling/sampling_logp_difference/mean"
"""TRL's name for the difference of log-probabilities between its own vLLM and the trainer."""


def answered_together(config: RunConfig, g: GrpoSettings) -> int:
    """Number of drafts that the generator gets at once: all of a step, or in the process as many as in other stages.

    There its memory would grow with the step.
    """
    step = g.prompts_per_step * g.group_size
    return step if config.models.of(config.route_roles[-1]).served else min(step, config.synthesis.shard_size)


class PolicyRun:
    """One execution of the stage; holds what the trajectory needs."""

    def __init__(self, run: StageRun, plan: Plan, grpo: GrpoSettings, signal: SignalChoice) -> None:
        self.run, self.plan, self.choice, self.name = run, plan, signal, signal.name
        self.grpo, self.role = grpo, plan.config.drafting_role
        self.stateful = declares(signal, "stateful")
        self.seeds = {s.id: s for s in run.records("sources", Seed)}
        self.rows: list[RolloutRow] = []
        self.rejects: list[Reject] = []
        self.accepted: list[Sample] = []
        self.usage: list[Usage] = []
        self.cut: set[str] = set()
        self.shortened = self.mended = self.flat = 0
        self.diagnostics: Sequence[Fact] = ()
        self.started = time.perf_counter()

    def go(self) -> Mapping[str, Any]:
        """Train from the last checkpoint, or from the start, to the last step; the stage's facts."""
        c = self.plan.config
        resumed = self._forget_beyond_checkpoint()
        signal, prepared = prepare_signal(self.run.inputs, self.plan, self.choice)
        self.run.event("signal_prepared", signal=self.name, **prepared.to_json())
        self.signal: Signal[Any] = signal
        self._accept(read_records(self.run.folder, RolloutRow))
        self.sign = sign(self.name)
        self.access = access(c, self.run)
        self.maker: Synthesizer = synthesizer(self.plan, list(self.seeds.values()), self.access)
        path = self.plan.policy[1] if self.plan.policy else model_path(c.drafter, self.plan.world)
        # A resumed stage prepares again: that costs this run, and is in the stage's account already.
        spent = signal.usage()
        self.run.spend(spent)
        self.usage += [] if resumed else spent
        moved = train_policy(
            path,
            self._prompts(path),
            self.grpo,
            self._trajectory,
            seed=derive_seed(self.run.seed, c.synthesis_seed),
            folder=self.run.folder,
            dtype=c.drafter.dtype,
            revision=None if self.plan.policy else c.drafter.revision,
            checkpoint_every=c.runtime.checkpoint_every,
            checkpointing=c.runtime.training.activation_checkpointing,
            before_mark=self._flush,
            on_step=lambda step, total: self.run.observer.progress("grpo", step, total, self._note(step)),
            on_log=lambda step, logs: self._log(step, logs),
            sampler=self._sampler(path) if self.grpo.rollouts == "server" else None,
            on_sampled=lambda sampled: self.run.event("grpo_sampled", **asdict(sampled)),
        )
        if not moved:
            self.run.event("notice", text="GRPO moved no weight of the policy: its rewards told no rollouts apart")
        # Read back: the last batch may have been an earlier process's.
        last = read_metadata(max(parts(self.run.folder))).get("notes", {})
        return {"prepared": prepared.to_json(), **last}

    def _sampler(self, path: Any) -> ServerSampler:
        """The policy's server, which samples from every adapter that training leads to."""
        model = self.plan.config.drafter
        form = self.plan.route.ask(next(iter(self.seeds.values()))).form
        return ServerSampler(
            lambda: connect(model, self.role, self.access, self.plan.identity(model), path),
            form if model.structured else None,
            model.structured_chars,
        )

    def _spend(self, usage: Sequence[Usage]) -> None:
        """Into the run's ledger now, into the stage's own account with the next shard."""
        self.usage += usage
        self.run.spend(usage)

    def _forget_beyond_checkpoint(self) -> bool:
        """Rollouts after the newest complete checkpoint are made again, so their rows must go; whether there is one."""
        checkpoint = last_checkpoint(self.run.folder / SCRATCH)
        mini = self.grpo.mini_batch_prompts or self.grpo.prompts_per_step
        updates = self.grpo.prompts_per_step // mini
        done = checkpoint_step(checkpoint) // updates if checkpoint else 0
        for part in (*parts(self.run.folder / "rejects"), *parts(self.run.folder)):
            if int(part.stem.rpartition("-")[2]) > done:
                part.unlink()
        if checkpoint:
            self.run.event("grpo_resumed", step=done)
        return checkpoint is not None

    def _prompts(self, path: Any) -> list[PolicyPrompt]:
        """The policy's prompts, shortened to its context where needed."""
        seeds = list(self.seeds.values())
        found = drafting_prompts(self.plan, self.maker, seeds, path, self.grpo.max_tokens)
        self.cut |= {key for key, (_, cut) in found.items() if cut}
        return [PolicyPrompt(key, messages) for key, (messages, _) in found.items()]

    def _trajectory(self, batch: RolloutBatch) -> Sequence[float | None]:
        """Drafts to pairs to scores to rewards for one rollout batch."""
        counter = Counter()
        drafts = [
            Draft(
                draw=Draw(self.seeds[r.key], i, f"grpo-{batch.step}"),
                text=r.text,
                finish_reason=r.finish_reason,
                shortened=r.key in self.cut,
                model=f"{self.plan.config.drafter.id} (in training)",
                prompt_tokens=r.prompt_tokens,
                completion_tokens=r.completion_tokens,
            )
            for i, r in enumerate(batch.rollouts)
        ]
        seed = derive_seed(self.run.seed, "rollout", batch.step)
        size = answered_together(self.plan.config, self.grpo)
        attempts = [
            attempt
            for start in range(0, len(drafts), size)
            for attempt in self.maker.realise(
                drafts[start : start + size],
                sampling_of(self.grpo.generator),
                derive_seed(seed, "part", start) if start else seed,
                counter,
            )
        ]
        samples = [a.sample for a in attempts if a.sample is not None]
        scores = {s.item_id: s for s in self.signal.score(samples, Archive(tuple(self.accepted)))}
        values = [self._value(a, scores) for a in attempts]
        valid = [a.sample is not None for a in attempts]
        group = [i // self.grpo.group_size for i in range(len(attempts))]
        rewards = shape(values, valid, group, self.grpo.reward, [r.text for r in batch.rollouts])
        self.flat = without_spread(rewards, group)
        self.shortened += counter.shortened
        self.mended += counter.mended
        usage = [*counter.usage, *self.signal.usage(), *batch.usage(self.role)]
        known = len(self.rows)
        self._keep(batch, attempts, scores, rewards)
        self._spend(usage)
        self._check_budget(batch.step)
        self._report(batch.step, attempts, values, scores, rewards)
        self._accept(self.rows[known:])
        return rewards

    def _accept(self, rows: Sequence[RolloutRow]) -> None:
        """Add to the archive of the next step, where the signal reads one."""
        if self.stateful:
            self.accepted += accepted(rows, self.grpo.group_size, self.plan.config.synthesis.system_message)

    def _check_budget(self, step: int) -> None:
        """Stop at the step that spends the last of the budget, rather than learn of it once training is over."""
        c = self.plan.config
        if c.match not in ("teacher_tokens", "flops"):
            return
        before = upstream_usage(self.run, TEACHERS)
        own = add_usage([*summarise(self.run.folder).usage, *self.usage], TEACHERS)
        which = 0 if c.match == "teacher_tokens" else 1
        if before[which] + own[which] >= c.budget:
            raise BudgetError(
                f"the budget of {c.budget:g} {c.match} is spent in step {step + 1} of the {self.role}'s training, "
                f"before any of the data set is generated ({before[which] + own[which]:g} so far); raise --budget"
            )

    def _value(self, attempt: Attempt, scores: Mapping[str, Score]) -> float | None:
        if attempt.sample is None:
            return None
        value = scores[attempt.sample.id].value
        return None if value is None else self.sign * value

    def _keep(
        self,
        batch: RolloutBatch,
        attempts: Sequence[Attempt],
        scores: Mapping[str, Score],
        rewards: Sequence[float | None],
    ) -> None:
        for i, (rollout, attempt, reward) in enumerate(zip(batch.rollouts, attempts, rewards, strict=True)):
            sample: Sample | None = attempt.sample
            score = scores.get(sample.id) if sample else None
            if attempt.reject is not None:
                self.rejects.append(attempt.reject)
            self.rows.append(
                RolloutRow(
                    id=sample.id if sample else f"{batch.step}-{i}",
                    step=batch.step,
                    seed_id=rollout.key,
                    rubric=rollout.text,
                    question_type=attempt.question_type,
                    question=sample.question if sample else "",
                    answer=sample.answer if sample else "",
                    reason=attempt.reject.reason if attempt.reject else (score.reason if score else ""),
                    value=score.value if score else None,
                    withheld=score.parts.get("withheld") if score else None,
                    reward=reward,
                    completion_tokens=rollout.completion_tokens,
                )
            )

    def _report(
        self,
        step: int,
        attempts: Sequence[Attempt],
        values: Sequence[float | None],
        scores: Mapping[str, Score],
        rewards: Sequence[float | None],
    ) -> None:
        measured = [v for v in values if v is not None]
        withheld = [s.parts["withheld"] for s in scores.values() if "withheld" in s.parts]
        rewarded = [r for r in rewards if r is not None]
        self.last = {
            "mean_value": _mean([self.sign * v for v in measured]),
            "mean_withheld": _mean(withheld),
            "mean_reward": _mean(rewarded),
            "valid": sum(a.sample is not None for a in attempts) / len(attempts),
            "unscorable": sum(s.value is None for s in scores.values()),
        }
        types = Tally(a.question_type or "none" for a in attempts)
        self.diagnostics = self.signal.diagnose(list(scores.values()))
        figures = {fact.name: fact.value for fact in self.diagnostics}
        archive: dict[str, Any] = {}
        if self.stateful:
            # What scores were taken against: its size, and a hash of its ids in order.
            ids = [s.id for s in self.accepted]
            archive = {"archive": {"size": len(ids), "hash": stable_hash(ids)}}
        self.run.event(
            "grpo_step",
            step=step,
            **self.last,
            groups_without_spread=self.flat,
            **archive,
            question_types=dict(types),
            diagnostics=figures,
        )

    def _note(self, step: int) -> str:
        value = self.last["mean_value"]
        shown = "not measured" if value is None else f"{value:.4f}"
        flat = f", {self.flat} groups without spread" if self.flat else ""
        return f"mean {self.name} {shown}, valid {self.last['valid']:.0%}{flat}"

    def _log(self, step: int, logs: Mapping[str, float]) -> None:
        wanted = ("loss", "entropy", "kl", "grad_norm", "frac_reward_zero_std", "step_time")
        gap = logs.get(COLOCATED_GAP)
        if gap is not None and gap > self.grpo.max_logprob_gap:
            raise StageError(
                f"log-probabilities of sampled tokens differ by {gap:.3g} between vLLM and the trainer on average "
                f"(driver.max_logprob_gap {self.grpo.max_logprob_gap:g}); use driver.rollouts=server or transformers"
            )
        kept = {k: round(v, 6) for k, v in logs.items() if k in (*wanted, COLOCATED_GAP)}
        if kept:
            self.run.event("grpo_learner", step=step, **kept)

    def _flush(self, steps: int) -> None:
        """Commit the rollouts since the last checkpoint as one shard, named by the batches done."""
        if not self.rows:
            return
        seconds = time.perf_counter() - self.started
        spent = sum(u.seconds for u in self.usage)
        training = Usage(self.role, "policy training", seconds=max(0.0, seconds - spent))
        self.run.spend([training])
        usage = [*self.usage, training]
        valid = len(self.rows) - len(self.rejects)
        output = ShardOutput(
            self.rows,
            self.rejects,
            usage,
            rows_in=len(self.rows),
            kept=valid,
            shortened=self.shortened,
            mended=self.mended,
            notes={"diagnostics": facts_to_rows(self.diagnostics)},
        )
        write_shard(self.run.folder, steps, output, seconds)
        self.run.event("shard", index=steps, kept=valid, rejected=len(self.rejects), seconds=round(seconds, 3))
        self.rows, self.rejects, self.usage, self.shortened, self.mended = [], [], [], 0, 0
        self.started = time.perf_counter()


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
