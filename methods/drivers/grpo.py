"""`grpo`: train the rubric writer with GRPO, rewarded by what the target makes of the pair (OptimSyn, Alg. 1).

One stage: every rollout batch is written with its rubric, pair, raw score, withheld score and reward, in the same
step as the checkpoint that it led to. Raw scores are logged beside rewards, because a min-max scaled reward is on
another scale at every step and shows no progress.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from harness import memory
from harness.config import SignalChoice
from harness.costs.estimator import LAB_RATES, AtOnce, Estimator
from harness.costs.records import Cost, Load, Part
from harness.costs.sizer import Sizer
from harness.errors import ConfigError
from harness.identity import identity
from harness.stage import Stage
from harness.training.grpo import rollout_steps
from harness.training.grpo_config import GrpoConfig
from harness.training.lora_modules import plain_names, settled_names
from harness.training.policy import PolicyTraining
from harness.training.recipe import LoraSettings, largest_divisor
from methods.drivers.base import Driver, common, finish, optional_selection
from methods.drivers.grpo_settings import GrpoSettings
from methods.drivers.grpo_training import PolicyRun, answered_together
from methods.plan import Plan
from methods.signals.catalogue import check_use
from methods.stages.scoring import REFERENCE, signal_settings, with_reference
from methods.stages.signal_cost import scoring_cost, scoring_parts
from methods.stages.synthesis import initial

VERSION = 5
"""Raised where other rollouts or another writer come from the same settings."""

DIVIDED = "which GRPO does not divide: set driver.tune=lora with driver.rollouts=server"
"""How a writer in training that is too large for a device goes on several."""


class Grpo(Driver[GrpoSettings]):
    """Train the drafting model of the route, then regenerate with it."""

    name = "grpo"
    summary = "train the model that drafts (by default the rubric writer) with GRPO on the scores of its pairs"
    Settings = GrpoSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # OptimSyn, arXiv 2604.00536, App. D; what it does not state is at the class's defaults.
        "optimsyn": {
            "prompts_per_step": 256,
            "group_size": 5,
            "epochs": 1.0,
            "learning_rate": 1e-6,
            "schedule": "constant",
            "temperature": 1.5,
            "max_tokens": 8192,
            # Named, so that they take the place of another preset's.
            "mini_batch_prompts": None,
            "kl_coefficient": 0.001,
            "reward": {"scope": "batch", "invalid": "penalty", "penalty": 0.1},
        },
        # AcquisitionSynthesis' released scripts (verl): one pass over 500 prompts is 41 steps.
        "acquisition_synthesis": {
            "prompts_per_step": 12,
            "mini_batch_prompts": 2,
            "group_size": 4,
            "epochs": 1.0,
            "learning_rate": 1e-6,
            "schedule": "constant",
            "kl_coefficient": 0.0,
            "temperature": 1.0,
            "max_tokens": 1024,
            "reward": {"scope": "none", "invalid": "zero", "penalty": 0.0},
        },
    }

    @classmethod
    def trains(cls, settings: GrpoSettings) -> PolicyTraining:
        """The drafting model, whose prompts are padded on the left."""
        shape = LoraSettings(settings.lora_rank, settings.lora_alpha, 0.0, settings.lora_modules)
        return PolicyTraining(
            label="GRPO",
            lora=shape if settings.tune == "lora" else None,
            layouts=(("left", "Use another writer: GRPO pads its prompts on the left"),),
        )

    def stages(self, plan: Plan, signal: SignalChoice) -> list[Stage]:
        """Common stages, GRPO, and the shared tail with the trained writer."""
        self._check(plan)
        check_use(signal, "reward")
        base = common(plan, signal)
        # Nothing has been trained yet: the first pairs are those of the model as it is.
        first = initial(plan, base.source)
        inputs = with_reference(plan, signal, first, base.signal_inputs, f"{REFERENCE}_of_reward")
        policy = grpo_stage(plan, self.settings, signal, inputs)
        return finish(plan, base, policy, optional_selection(plan, signal))

    def _check(self, plan: Plan) -> None:
        """Refuse rollouts without what they need."""
        role, policy = plan.route.drafts, plan.config.drafter
        if self.settings.reward.format_term != "none" and not plan.route.writes_tags:
            raise ConfigError(
                f"driver.reward.format_term reads tags, and route '{plan.route.name}' asks for none; leave it out, or "
                "take a route whose drafts have them, such as direct"
            )
        served = policy.backend == "vllm" and self.settings.tune == "lora"
        if self.settings.rollouts == "server" and not served:
            raise ConfigError(
                f"driver.rollouts=server needs models.{role}.backend=vllm and driver.tune=lora: the server is given "
                "the trained adapter before every batch; full fine-tuning needs rollouts=transformers or colocate"
            )


def grpo_stage(plan: Plan, g: GrpoSettings, signal: SignalChoice, inputs: tuple[Stage, ...]) -> Stage:
    """The policy training stage: rollouts as rows, the trained writer in `policy/`."""
    c = plan.config
    settings = {
        **plan.synthesis_settings(sampled=False),
        **signal_settings(plan, signal),
        "writer_model": plan.drafter_identity,
        "grpo": {
            **identity(g, exclude={"micro_batch"}),
            "lora_modules": list(settled_names(g.lora_modules, c.drafter.id)),
        },
    }
    if (together := answered_together(c, g)) < g.prompts_per_step * g.group_size:
        settings["answered_together"] = together
    return Stage(
        name="grpo",
        version=VERSION,
        settings=settings,
        inputs=inputs,
        work=lambda run: PolicyRun(run, plan, g, signal).go(),
        kind="policy",
        estimate=lambda e, before: _estimate(e, plan, g, signal),
        loads=lambda sizer: _load(sizer, plan, g, signal),
        lacks=g.lacks,
        signal=signal.name,
    )


def _estimate(e: Estimator, plan: Plan, g: GrpoSettings, signal: SignalChoice) -> Cost | None:
    """Rollouts, their scores and the updates; None where the number of seeds is not known."""
    draft, policy = e.way[0]
    if not g.steps and not e.seeds:
        return None
    steps = rollout_steps(g, e.seeds or 0)
    batch = g.prompts_per_step * g.group_size
    count = steps * batch
    note = f"{steps} steps of {g.prompts_per_step} x {g.group_size}"
    # A trainer that samples by itself draws all rollouts of a step in one call.
    at_once = AtOnce(batch, g.max_tokens, g.tune == "full") if g.rollouts == "transformers" else None
    made = e.trajectories(count, note, at_once)
    # The update, and where there is a KL term one pass of the reference model.
    learn = (e.passes + (g.kl_coefficient > 0)) * policy.flops(count * (draft.prompt + draft.completion))
    score = scoring_cost(e, plan, signal, made.out or 0)
    # A rollout's rate has one backward pass of the target in it.
    lab = LAB_RATES.rollout * count + LAB_RATES.scored * count * (score.passes - 1)
    extra = e.seconds(compute=learn + score.flops, moved=score.moved, known=score.known, lab=lab)
    if made.seconds is not None and extra is not None and not e.lab:
        extra += made.seconds
    return replace(
        made,
        tokens_in=made.tokens_in + sum(tokens for tokens, _ in score.models.values()),
        tokens_out=made.tokens_out + sum(tokens for _, tokens in score.models.values()),
        flops=made.flops + learn + score.flops + score.drawn,
        seconds=None if made.seconds is None else extra,
        compute=made.compute + learn + score.flops,
        moved=made.moved + score.moved,
        models={**made.models, **score.models},
        usd=None if made.usd is None or score.usd is None else made.usd + score.usd,
        group=g.group_size,
    )


def _load(sizer: Sizer, plan: Plan, g: GrpoSettings, signal: SignalChoice) -> Load:
    """The policy in training, the model that answers for the rest, and the scorer."""
    return Load("GRPO", (*_policy(sizer, g), *sizer.answers(), *scoring_parts(sizer, plan, signal)))


def _policy(sizer: Sizer, g: GrpoConfig) -> list[Part]:
    """The policy under GRPO: the larger of its update and of its rollouts, which transformers draws in one call.

    A vLLM server of the policy is a part of its own: at least what its sequences take; it reserves what it is told.
    """
    draft, policy = sizer.way[0]
    if policy.shape is None:
        return []
    mini = (g.mini_batch_prompts or g.prompts_per_step) * g.group_size
    rows = largest_divisor(mini, g.micro_batch)
    modules = plain_names(g.lora_modules, policy.shape)
    adapter = memory.Lora(g.lora_rank, modules) if g.tune == "lora" else None
    update = memory.grpo_update(
        policy.shape,
        policy.dtype,
        memory.Batch(rows, draft.prompt + draft.completion, rows > 1),
        adapter,
        accumulate=rows < mini,
        reference=g.kl_coefficient > 0,
        entropy=g.entropy_coefficient > 0,
        checkpointing=sizer.config.runtime.training.activation_checkpointing,
        cuda=sizer.cuda,
    )
    training = Part(policy.role, f"{g.tune} training", update.bytes, DIVIDED)
    if g.rollouts != "transformers":
        return [training, *sizer.writes()]
    count = g.prompts_per_step * g.group_size
    size = (count, draft.prompt, draft.completion)
    sampling = memory.generation(policy.shape, policy.dtype, *size, trained=adapter is None).bytes
    held = sum(update.parts.get(name, 0) for name in ("Adam", "reference"))
    if sampling + held > update.bytes:
        what = f"sampling {count:,} rollouts at once, beside Adam's moments"
        return [Part(policy.role, what, sampling + held, DIVIDED)]
    return [training]
