"""GRPO of a policy with TRL's trainer; the caller supplies the trajectory that turns completions into rewards.

The learner's advantages, clipping, KL and entropy terms are TRL's (its unbiased standard deviation + 1e-4 included).
Ours is what must survive a kill: a checkpoint counts only after the rollouts up to it are on disk, and a resumed
trainer starts at a rollout boundary, so nothing is scored twice or lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import GrpoConfig
from harness.errors import ConfigError, InputError, PrerequisiteError
from harness.models.access import ADAPTER
from harness.models.rope import rope_switch
from harness.stage import SCRATCH
from harness.training.chat import prompt_ids
from harness.training.grpo_loss import WholeStep
from harness.training.layouts import settle_left_padding
from harness.training.lora_modules import meta_model
from harness.training.recipe import LoraSettings, lora_config
from harness.training.rollouts import Sampled, Sampler, ServerRollouts, generation_timer
from harness.training.trainer import callback, common_arguments, loaded_dtype, publish, quiet_libraries, train
from harness.types import Message, Usage, chat


@dataclass(frozen=True, slots=True)
class PolicyPrompt:
    """One training prompt: the chat that the policy completes, and the key by which the trajectory finds its seed."""

    key: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion as the trajectory receives it."""

    key: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """The completions of one rollout batch, in order, `group_size` in a row for each prompt; `step` counts from 0.

    `policy_parameters` is the policy's size, from which its cost follows; `seconds` is what sampling took.
    """

    step: int
    rollouts: tuple[Rollout, ...]
    policy_parameters: float
    seconds: float = 0.0

    def usage(self) -> list[Usage]:
        """The policy's own cost: sampling (2 FLOPs per parameter and token) and one update (6)."""
        prompt = sum(r.prompt_tokens for r in self.rollouts)
        completion = sum(r.completion_tokens for r in self.rollouts)
        flops = self.policy_parameters * (prompt + completion)
        return [
            Usage("writer", "policy sampling", prompt, completion, len(self.rollouts), self.seconds, 2 * flops),
            Usage("writer", "policy training", prompt + completion, 0, 0, 0.0, 6 * flops),
        ]


Trajectory = Callable[[RolloutBatch], Sequence[float | None]]
"""Rewards for the rollouts of one batch; None where nothing could be measured."""


def rollout_steps(config: GrpoConfig, prompts: int) -> int:
    """Number of rollout batches: `steps`, or as many as `epochs` over the prompts take."""
    if config.steps is not None:
        return config.steps
    return max(1, int(config.epochs * prompts / config.prompts_per_step))


def prompt_order(prompts: int, batch: int, steps: int, seed: int) -> list[int]:
    """Indices of the prompts of `steps` rollout batches: pass after pass, each shuffled anew and cut to whole batches.

    The trainer sees them as one epoch. TRL's own sampler carries its random state from pass to pass and cannot be
    wound forward, so that a trainer resumed in its second pass would repeat the order of the first.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < batch * steps:
        order += torch.randperm(prompts, generator=generator).tolist()[: prompts // batch * batch]
    return order[: batch * steps]


def train_policy(
    model_path: Path | str,
    prompts: Sequence[PolicyPrompt],
    config: GrpoConfig,
    trajectory: Trajectory,
    *,
    seed: int,
    folder: Path,
    dtype: str,
    revision: str | None,
    checkpoint_every: int,
    before_mark: Callable[[int], None],
    on_step: Callable[[int, int], None],
    on_log: Callable[[int, Mapping[str, float]], None],
    checkpointing: bool = False,
    sampler: Sampler | None = None,
    on_sampled: Callable[[Sampled], None] = lambda sampled: None,
) -> bool:
    """Train the policy and leave it in `folder/policy`, loadable by `from_pretrained`; its adapter in `adapter` there.

    Returns whether any weight has moved: rewards that are all equal, or all None, move none.

    `before_mark(rollout_batches)` is called when a checkpoint has been written and before it counts. `sampler` is the
    server that `grpo.rollouts=server` samples from. Raises `InputError` where there are fewer prompts than one rollout
    batch takes: TRL would stop without a single step.
    """
    import torch
    from datasets import Dataset
    from trl import GRPOTrainer

    from harness.models.tokenizers import load_tokenizer

    class Trainer(WholeStep, GRPOTrainer):
        pass

    if len(prompts) < config.prompts_per_step:
        raise InputError(
            f"a rollout batch takes {config.prompts_per_step} prompts and there are {len(prompts)}; use more seeds, or "
            f"set grpo.prompts_per_step (and grpo.mini_batch_prompts) to at most {len(prompts)}"
        )
    quiet_libraries()
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(model_path, revision)
    sizes = batch_sizes(config)
    updates = sizes["steps_per_generation"] // sizes["gradient_accumulation_steps"]
    steps = rollout_steps(config, len(prompts))
    common = common_arguments(folder / SCRATCH, seed, checkpoint_every * updates, dtype, checkpointing=checkpointing)
    arguments = trl_arguments(config, steps * updates, common)
    adapter = config.tune == "lora"
    arguments.model_init_kwargs = {"dtype": loaded_dtype(dtype, adapter=adapter), "revision": revision or "main"}
    server = None
    if sampler is not None:
        server = ServerRollouts(sampler, config, folder / SCRATCH / "served", seed, updates, on_sampled)
    ordered = [prompts[i] for i in prompt_order(len(prompts), config.prompts_per_step, steps, seed)]
    rows = Dataset.from_dict({"prompt": [chat(p.messages) for p in ordered], "key": [p.key for p in ordered]})
    side = _TrlSide(trajectory, updates, _lengths(tokenizer, prompts), server)
    trainer = Trainer(
        model=str(model_path),
        reward_funcs=side.reward,
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=_lora(config, seed, meta_model(model_path, revision)) if adapter else None,
        rollout_func=server,
        callbacks=[
            callback(
                lambda step, total: on_step(step // updates, total // updates),
                lambda step: before_mark(step // updates),
                lambda step, logs: on_log(step // updates, logs),
            )
        ],
    )
    _one_way_to_tokens(trainer, tokenizer)
    _require_one_side(trainer.model.config, side.longest, config)
    settle_left_padding(trainer.model, *([trainer.ref_model] if trainer.ref_model is not None else []))
    side.attach(trainer)
    moved = train(trainer, folder / SCRATCH)
    _save(trainer, tokenizer, folder, merge=adapter)
    return moved


def _require_one_side(model_config: Any, longest: int, config: GrpoConfig) -> None:
    """Raise `ConfigError` where RoPE that depends on length would mix two sets of frequencies in a rollout batch."""
    switch = rope_switch(model_config)
    if switch is not None and longest + config.max_tokens > switch.boundary:
        raise ConfigError(
            f"the writer's RoPE ({switch.kind}) takes other frequencies beyond {switch.boundary} tokens, and GRPO "
            f"computes rollouts together: the longest prompt has {longest} tokens and grpo.max_tokens is "
            f"{config.max_tokens}; lower it to at most {max(0, switch.boundary - longest)}, or take shorter documents"
        )


def _lengths(tokenizer: Any, prompts: Sequence[PolicyPrompt]) -> dict[str, int]:
    """Tokens of every prompt as the policy sees it, by key."""
    return {p.key: len(prompt_ids(tokenizer, p.messages)) for p in prompts}


def _one_way_to_tokens(trainer: Any, tokenizer: Any) -> None:
    """Have TRL prompt the policy with `chat.prompt_ids`, and end its completions where the template ends a turn."""
    from harness.models.tokenizers import declare_stop, fit_padding, stop_ids

    model = trainer.accelerator.unwrap_model(trainer.model)
    declare_stop(model, tokenizer)
    fit_padding(model, tokenizer)
    stops = stop_ids(model, tokenizer)
    trainer.eos_token_ids = stops
    trainer.generation_config.eos_token_id = trainer.generation_kwargs["eos_token_id"] = stops or None
    trainer._tokenize_prompts = lambda prompts: (
        [prompt_ids(tokenizer, [Message(**turn) for turn in p]) for p in prompts],
        None,
        {},
    )


class _TrlSide:
    """Between TRL and the trajectory: its `reward` is TRL's reward function, which is called once a rollout batch."""

    def __init__(
        self, trajectory: Trajectory, updates: int, lengths: Mapping[str, int], server: ServerRollouts | None
    ) -> None:
        self._trajectory, self._updates, self._lengths, self._server = trajectory, updates, lengths, server

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self._lengths.values())

    def attach(self, trainer: Any) -> None:
        """The trainer, which is made with `reward` and so after this object."""
        self._trainer = trainer
        self._parameters = float(trainer.model.num_parameters())
        self._generating = generation_timer(trainer.model)

    def reward(
        self, completions: list[Any], completion_ids: list[list[int]], key: list[str], **extra: Any
    ) -> list[float | None]:
        """The trajectory's rewards of a batch, with each completion's end as it was."""
        step = extra["trainer_state"].global_step // self._updates
        ends = self._trainer.eos_token_ids
        rollouts = tuple(
            Rollout(k, c[0]["content"], "stop" if ids and ids[-1] in ends else "length", self._lengths[k], len(ids))
            for k, c, ids in zip(key, completions, completion_ids, strict=True)
        )
        seconds = self._server.seconds if self._server else self._generating["seconds"]
        self._generating["seconds"] = 0.0
        return list(self._trajectory(RolloutBatch(step, rollouts, self._parameters, seconds)))


def _save(trainer: Any, tokenizer: Any, folder: Path, *, merge: bool) -> None:
    """The policy in `policy`; a LoRA policy is merged, with the adapter beside it for a server that takes one."""
    temporary = folder / ".policy.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    if merge:
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.save_pretrained(temporary / ADAPTER)
        model.generation_config.save_pretrained(temporary / ADAPTER)
        # A sum in bfloat16 would round most of the adapter away; the processor has room for the base in float32.
        model.to("cpu").float().merge_and_unload().save_pretrained(temporary)
    else:
        trainer.save_model(str(temporary))
    tokenizer.save_pretrained(temporary)
    publish(temporary, folder / "policy")


def _lora(config: GrpoConfig, seed: int, model: Any) -> Any:
    """The adapter of the policy; no dropout, since a token's probability must be the same in sampling and training."""
    settings = LoraSettings(config.lora_rank, config.lora_alpha, 0.0, config.lora_modules)
    chosen = lora_config(settings, seed, model, "grpo.lora_modules")
    if chosen.target_parameters and config.rollouts == "server":
        raise ConfigError(
            f"grpo.lora_modules adapts experts ({', '.join(chosen.target_parameters)}), which a server cannot be given "
            "as an adapter; set grpo.lora_modules=attention, or grpo.rollouts=transformers"
        )
    return chosen


def _colocate() -> dict[str, Any]:
    """TRL's own vLLM in the trainer's process. How it moves weights only works on CUDA (TRL 1.16 with vLLM 0.32)."""
    import importlib.util

    import torch

    if not torch.cuda.is_available() or importlib.util.find_spec("vllm") is None:
        lacks = "vLLM in this environment" if torch.cuda.is_available() else "CUDA"
        raise PrerequisiteError(
            f"grpo.rollouts=colocate needs {lacks}; use grpo.rollouts=server with grpo.tune=lora, or transformers"
        )
    return {"use_vllm": True, "vllm_mode": "colocate"}


def trl_arguments(config: GrpoConfig, updates: int, common: Mapping[str, Any]) -> Any:
    """TRL's settings for `updates` optimizer steps; each rollout batch is used once, in the order of the rows."""
    from trl import GRPOConfig

    return GRPOConfig(
        **common,
        **batch_sizes(config),
        **(_colocate() if config.rollouts == "colocate" else {}),
        max_steps=updates,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=0,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        num_generations=config.group_size,
        max_completion_length=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=0,
        beta=config.kl_coefficient,
        use_bias_correction_kl=config.kl_bias_correction,
        epsilon=config.clip_epsilon,
        entropy_coef=config.entropy_coefficient,
        loss_type=config.loss,
        scale_rewards=config.advantage_scale,
        num_iterations=1,
        shuffle_dataset=False,
        mask_truncated_completions=False,
        remove_unused_columns=False,
    )


def batch_sizes(config: GrpoConfig) -> dict[str, int]:
    """TRL's batch sizes for one process: completions a micro batch, micro batches an update, and a rollout batch."""
    batch = config.prompts_per_step * config.group_size
    mini = (config.mini_batch_prompts or config.prompts_per_step) * config.group_size
    micro = max(d for d in range(1, min(config.micro_batch, mini) + 1) if mini % d == 0)
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": mini // micro,
        "steps_per_generation": batch // micro,
    }
