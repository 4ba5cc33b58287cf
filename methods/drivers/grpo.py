"""`grpo`: train the rubric writer with GRPO, rewarded by what the target makes of the pair (OptimSyn, Alg. 1).

One stage: every rollout batch is written with its rubric, pair, raw score, withheld score and reward, in the same
step as the checkpoint that it led to. Raw scores are logged beside rewards, because a min-max scaled reward is on
another scale at every step and shows no progress.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import model_validator

from harness import memory
from harness.config import SamplingConfig, SignalChoice
from harness.costs.estimator import LAB_RATES, AtOnce, Estimator
from harness.costs.records import Cost, Load, Part
from harness.costs.sizer import Sizer
from harness.errors import BudgetError, ConfigError, StageError
from harness.facts import Fact, facts_to_rows
from harness.identity import identity
from harness.models.access import access, connect
from harness.models.backend import Sampling
from harness.models.open import model_path, open_backend
from harness.models.sampler import ServerSampler
from harness.shards import ShardOutput, parts, read_metadata, summarise, write_shard
from harness.stage import SCRATCH, Stage, StageRun
from harness.synthesis.forms import RUBRIC_FORM
from harness.synthesis.synthesize import Attempt, Counter, Draft, Draw, Synthesizer
from harness.training.grpo import PolicyPrompt, RolloutBatch, rollout_steps, train_policy
from harness.training.grpo_config import GrpoConfig
from harness.training.lora_modules import plain_names, settled_names
from harness.training.policy import PolicyTraining
from harness.training.recipe import LoraSettings, largest_divisor
from harness.training.trainer import checkpoint_step, last_checkpoint
from harness.types import Reject, Sample, Score, Seed, Usage, derive_seed
from methods.drivers.base import Driver, common, finish, optional_selection
from methods.drivers.shaping import RewardConfig, shape
from methods.plan import Plan
from methods.signals.base import Archive, Signal
from methods.signals.catalogue import sign
from methods.stages.scoring import prepare_signal, signal_settings
from methods.stages.signal_cost import scoring_cost, scoring_parts
from methods.stages.synthesis import add_usage, sampling_of, synthesizer, upstream_usage

VERSION = 5
"""Raised where other rollouts or another writer come from the same settings."""

COLOCATED_GAP = "sampling/sampling_logp_difference/mean"
"""TRL's name for the difference of log-probabilities between its own vLLM and the trainer."""

DIVIDED = "which GRPO does not divide: set driver.tune=lora with driver.rollouts=server"
"""How a writer in training that is too large for a device goes on several."""


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One rollout as stored: what was written, what became of it, what it scored, what the learner was given.

    `value` is the signal's raw score and `withheld` its score on withheld validation items; both None where nothing was
    measured. `reason` is empty for a valid pair.
    """

    id: str
    step: int
    seed_id: str
    rubric: str
    question_type: str
    question: str
    answer: str
    reason: str
    value: float | None
    withheld: float | None
    reward: float | None
    completion_tokens: int


class GrpoSettings(GrpoConfig):
    """Settings of the training, the decoding of pairs whose scores reward it, and the shaping of the reward."""

    generator: SamplingConfig = SamplingConfig(temperature=0.0, max_tokens=8192)
    """Decoding of the pairs that rollouts lead to."""
    reward: RewardConfig = RewardConfig()
    """From scores to rewards."""

    @model_validator(mode="after")
    def _scaled(self) -> GrpoSettings:
        if self.reward.scope == "none" and self.advantage_scale == "none":
            raise ValueError(
                "reward.scope and advantage_scale are both 'none': raw scores would reach the learner without a scale; "
                "set one of them to 'batch' or 'group'"
            )
        return self


class Grpo(Driver[GrpoSettings]):
    """Train the writer, then regenerate with it."""

    name = "grpo"
    summary = "train the rubric writer with GRPO on the score of the pair that its rubric leads to"
    Settings = GrpoSettings

    @classmethod
    def trains(cls, settings: GrpoSettings) -> PolicyTraining:
        """The writer, whose prompts are padded on the left."""
        shape = LoraSettings(settings.lora_rank, settings.lora_alpha, 0.0, settings.lora_modules)
        return PolicyTraining(
            role="writer",
            label="GRPO",
            lora=shape if settings.tune == "lora" else None,
            layouts=(("left", "Use another writer: GRPO pads its prompts on the left"),),
        )

    def stages(self, plan: Plan, signal: SignalChoice) -> list[Stage]:
        """Common stages, GRPO, and the shared tail with the trained writer."""
        self._check(plan)
        base = common(plan, signal)
        policy = grpo_stage(plan, self.settings, signal, base.signal_inputs)
        return finish(plan, base, policy, optional_selection(plan, signal))

    def _check(self, plan: Plan) -> None:
        """Refuse rollouts without what they need."""
        served = plan.config.models.writer.backend == "vllm" and self.settings.tune == "lora"
        if self.settings.rollouts == "server" and not served:
            raise ConfigError(
                "driver.rollouts=server needs models.writer.backend=vllm and driver.tune=lora: the server is given the "
                "trained adapter before every batch; full fine-tuning needs driver.rollouts=transformers or colocate"
            )


def grpo_stage(plan: Plan, g: GrpoSettings, signal: SignalChoice, inputs: tuple[Stage, ...]) -> Stage:
    """The policy training stage: rollouts as rows, the trained writer in `policy/`."""
    c = plan.config
    settings = {
        **plan.synthesis_settings(),
        **signal_settings(plan, signal),
        "writer_model": f"policy:{plan.policy[0]}" if plan.policy else plan.identity(c.models.writer),
        "grpo": {
            **identity(g, exclude={"micro_batch"}),
            "lora_modules": list(settled_names(g.lora_modules, c.models.writer.id)),
        },
    }
    return Stage(
        "grpo",
        VERSION,
        settings,
        inputs,
        lambda run: _Training(run, plan, g, signal).go(),
        kind="policy",
        estimate=lambda e, before: _estimate(e, plan, g, signal),
        loads=lambda sizer: _load(sizer, plan, g, signal),
        lacks=g.lacks,
        signal=signal.name,
    )


def _estimate(e: Estimator, plan: Plan, g: GrpoSettings, signal: SignalChoice) -> Cost | None:
    """Rollouts, their scores and the updates; None where the number of seeds is not known."""
    s = e.sizes
    if not g.steps and not e.seeds:
        return None
    steps = rollout_steps(g, e.seeds or 0)
    batch = g.prompts_per_step * g.group_size
    count = steps * batch
    note = f"{steps} steps of {g.prompts_per_step} x {g.group_size}"
    # A trainer that samples by itself draws all rollouts of a step in one call.
    at_once = AtOnce(batch, g.tune == "full") if g.rollouts == "transformers" else None
    made = e.trajectories(count, note, at_once)
    # The update, and where there is a KL term one pass of the reference model.
    learn = (e.passes + (g.kl_coefficient > 0)) * e.writer.flops(count * (s.writer_prompt + s.rubric))
    score = scoring_cost(e, plan, signal, made.out or 0)
    # A rollout's rate has one backward pass of the target in it.
    lab = LAB_RATES.rollout * count + LAB_RATES.scored * count * (score.passes - 1)
    extra = e.seconds(compute=learn + score.flops, known=score.known, lab=lab)
    if made.seconds is not None and extra is not None and not e.lab:
        extra += made.seconds
    return replace(
        made,
        tokens_in=made.tokens_in + sum(tokens for tokens, _ in score.models.values()),
        flops=made.flops + learn + score.flops,
        seconds=None if made.seconds is None else extra,
        compute=made.compute + learn + score.flops,
        models={**made.models, **score.models},
        usd=None if made.usd is None or score.usd is None else made.usd + score.usd,
        group=g.group_size,
    )


def _load(sizer: Sizer, plan: Plan, g: GrpoSettings, signal: SignalChoice) -> Load:
    """The writer in training, the generator and the scorer."""
    return Load("GRPO", (*_policy(sizer, g), *sizer.answers(), *scoring_parts(sizer, plan, signal)))


def _policy(sizer: Sizer, g: GrpoConfig) -> list[Part]:
    """The writer under GRPO: the larger of its update and of its rollouts, which transformers draws in one call.

    A vLLM server of the writer is a part of its own: at least what its sequences take; it reserves what it is told.
    """
    writer, s = sizer.writer, sizer.sizes
    if writer.shape is None:
        return []
    mini = (g.mini_batch_prompts or g.prompts_per_step) * g.group_size
    rows = largest_divisor(mini, g.micro_batch)
    modules = plain_names(g.lora_modules, writer.shape)
    adapter = memory.Lora(g.lora_rank, modules) if g.tune == "lora" else None
    update = memory.policy_training(
        writer.shape,
        writer.dtype,
        memory.Batch(rows, s.writer_prompt + s.rubric, rows > 1),
        adapter,
        accumulate=rows < mini,
        reference=g.kl_coefficient > 0,
        entropy=g.entropy_coefficient > 0,
        checkpointing=sizer.config.runtime.training.activation_checkpointing,
        cuda=sizer.cuda,
    )
    training = Part("writer", f"{g.tune} training", update.bytes, DIVIDED)
    if g.rollouts != "transformers":
        return [training, *sizer.writes()]
    count = g.prompts_per_step * g.group_size
    size = (count, s.writer_prompt, s.rubric)
    sampling = memory.generation(writer.shape, writer.dtype, *size, trained=adapter is None).bytes
    held = sum(update.parts.get(name, 0) for name in ("Adam", "reference"))
    if sampling + held > update.bytes:
        what = f"sampling {count:,} rollouts at once, beside Adam's moments"
        return [Part("writer", what, sampling + held, DIVIDED)]
    return [training]


class _Training:
    """One execution of the stage; holds what the trajectory needs."""

    def __init__(self, run: StageRun, plan: Plan, grpo: GrpoSettings, signal: SignalChoice) -> None:
        self.run, self.plan, self.choice, self.name = run, plan, signal, signal.name
        self.grpo = grpo
        self.seeds = {s.id: s for s in run.records("sources", Seed)}
        self.rows: list[RolloutRow] = []
        self.rejects: list[Reject] = []
        self.usage: list[Usage] = []
        self.cut: set[str] = set()
        self.shortened = self.mended = 0
        self.diagnostics: Sequence[Fact] = ()
        self.started = time.perf_counter()

    def go(self) -> Mapping[str, Any]:
        c = self.plan.config
        resumed = self._forget_beyond_checkpoint()
        signal, prepared = prepare_signal(self.run.inputs, self.plan, self.choice)
        self.run.event("signal_prepared", signal=self.name, **prepared.to_json())
        self.signal: Signal[Any] = signal
        self.sign = sign(self.name)
        self.access = access(c, self.run)
        self.maker: Synthesizer = synthesizer(self.plan, list(self.seeds.values()), self.access)
        path = self.plan.policy[1] if self.plan.policy else model_path(c.models.writer, self.plan.world)
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
            dtype=c.models.writer.dtype,
            revision=None if self.plan.policy else c.models.writer.revision,
            checkpoint_every=c.runtime.checkpoint_every,
            checkpointing=c.runtime.training.activation_checkpointing,
            before_mark=self._flush,
            on_step=lambda step, total: self.run.observer.progress("grpo", step, total, self._note(step)),
            on_log=lambda step, logs: self._log(step, logs),
            sampler=self._sampler(path) if self.grpo.rollouts == "server" else None,
            on_sampled=lambda sampled: self.run.event("grpo_sampled", **asdict(sampled)),
        )
        if not moved:
            self.run.event("notice", text="GRPO moved no weight of the writer: its rewards told no rollouts apart")
        # Read back: the last batch may have been an earlier process's.
        last = read_metadata(max(parts(self.run.folder))).get("notes", {})
        return {"prepared": prepared.to_json(), **last}

    def _sampler(self, path: Any) -> ServerSampler:
        """The writer's server, which samples from every adapter that training leads to."""
        model = self.plan.config.models.writer
        return ServerSampler(
            lambda: connect(model, "writer", self.access, self.plan.identity(model), path),
            RUBRIC_FORM if model.structured else None,
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
        """The writer's prompts, shortened to its context where needed."""
        # Only to count tokens: prompts are cut before the trainer sees them, so whoever samples gets the same.
        counting = self.plan.config.models.writer.model_copy(
            update={"backend": "transformers", "base_url": None, "structured": False}
        )
        writer = open_backend(counting, self.plan.world, [], path)
        sampling = Sampling(max_tokens=self.grpo.max_tokens)
        prompts = []
        for seed in self.seeds.values():
            messages, cut = self.maker.writer_messages(seed, writer, sampling)
            if cut:
                self.cut.add(seed.id)
            prompts.append(PolicyPrompt(seed.id, messages))
        return prompts

    def _trajectory(self, batch: RolloutBatch) -> Sequence[float | None]:
        """Rubrics to pairs to scores to rewards for one rollout batch."""
        counter = Counter()
        drafts = [
            Draft(Draw(self.seeds[r.key], i, f"grpo-{batch.step}"), r.text, r.finish_reason, r.key in self.cut)
            for i, r in enumerate(batch.rollouts)
        ]
        seed = derive_seed(self.run.seed, "rollout", batch.step)
        attempts = self.maker.realise(drafts, sampling_of(self.grpo.generator), seed, counter)
        samples = [a.sample for a in attempts if a.sample is not None]
        scores = {s.item_id: s for s in self.signal.score(samples, Archive())}
        values = [self._value(a, scores) for a in attempts]
        valid = [a.sample is not None for a in attempts]
        group = [i // self.grpo.group_size for i in range(len(attempts))]
        rewards = shape(values, valid, group, self.grpo.reward)
        self.shortened += counter.shortened
        self.mended += counter.mended
        usage = [*counter.usage, *self.signal.usage(), *batch.usage()]
        self._keep(batch, attempts, scores, rewards)
        self._spend(usage)
        self._check_budget(batch.step)
        self._report(batch.step, attempts, values, scores, rewards)
        return rewards

    def _check_budget(self, step: int) -> None:
        """Stop at the step that spends the last of the budget, rather than learn of it once training is over."""
        c = self.plan.config
        if c.match not in ("teacher_tokens", "flops"):
            return
        before = upstream_usage(self.run, "generator")
        own = add_usage([*summarise(self.run.folder).usage, *self.usage], "generator")
        which = 0 if c.match == "teacher_tokens" else 1
        if before[which] + own[which] >= c.budget:
            raise BudgetError(
                f"the budget of {c.budget:g} {c.match} is spent in step {step + 1} of the writer's training, before "
                f"any of the data set is generated ({before[which] + own[which]:g} so far); raise --budget"
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
        self.run.event("grpo_step", step=step, **self.last, question_types=dict(types), diagnostics=figures)

    def _note(self, step: int) -> str:
        value = self.last["mean_value"]
        shown = "not measured" if value is None else f"{value:.4f}"
        return f"mean {self.name} {shown}, valid {self.last['valid']:.0%}"

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
        training = Usage("writer", "policy training", seconds=max(0.0, seconds - spent))
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
