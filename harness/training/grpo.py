"""GRPO of a policy with TRL's trainer; the caller supplies the trajectory that turns completions into rewards.

The learner's advantages, clipping, KL and entropy terms are TRL's (its unbiased standard deviation + 1e-4 included).
Ours is what must survive a kill: a checkpoint counts only after the rollouts up to it are on disk, and a resumed
trainer starts at a rollout boundary, so nothing is scored twice or lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, InputError, PrerequisiteError
from harness.stage import SCRATCH
from harness.training.chat import prompt_ids
from harness.training.grpo_config import GrpoConfig
from harness.training.grpo_loss import WholeStep
from harness.training.layouts import settle_left_padding
from harness.training.lora_modules import meta_model
from harness.training.recipe import LoraSettings, largest_divisor, lora_config
from harness.training.rollouts import Sampled, Sampler, ServerRollouts, generation_timer
from harness.training.trainer import (
    begin,
    callback,
    common_arguments,
    model_arguments,
    require_one_side,
    save_policy,
    settle_tokens,
    train,
)
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

    def usage(self, role: str) -> list[Usage]:
        """The policy's own cost, under its role: sampling (2 FLOPs per parameter and token) and one update (6)."""
        prompt = sum(r.prompt_tokens for r in self.rollouts)
        completion = sum(r.completion_tokens for r in self.rollouts)
        flops = self.policy_parameters * (prompt + completion)
        return [
            Usage(
                role=role,
                model="policy sampling",
                prompt_tokens=prompt,
                completion_tokens=completion,
                calls=len(self.rollouts),
                seconds=self.seconds,
                flops=2 * flops,
            ),
            Usage(
                role=role,
                model="policy training",
                prompt_tokens=prompt + completion,
                completion_tokens=0,
                calls=0,
                seconds=0.0,
                flops=6 * flops,
            ),
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
    server that `driver.rollouts=server` samples from. Raises `InputError` where there are fewer prompts than one
    rollout batch takes: TRL would stop without a single step.
    """
    from harness.models.tokenizers import load_tokenizer

    if lack := config.lacks(len(prompts)):
        raise InputError(lack)
    begin(seed)
    tokenizer = load_tokenizer(model_path, revision)
    lengths = _lengths(tokenizer, prompts)
    longest = max(lengths.values()) + config.max_tokens
    require_one_side(model_path, revision, longest, "GRPO computes rollouts together", "its max_length")
    sizes = batch_sizes(config)
    updates = sizes["steps_per_generation"] // sizes["gradient_accumulation_steps"]
    steps = rollout_steps(config, len(prompts))
    common = common_arguments(folder / SCRATCH, seed, checkpoint_every * updates, dtype, checkpointing=checkpointing)
    arguments = trl_arguments(config, steps * updates, common)
    adapter = _lora(config, seed, meta_model(model_path, revision)) if config.tune == "lora" else None
    arguments.model_init_kwargs = model_arguments(dtype, revision, None, adapter=adapter is not None)
    server = None
    if sampler is not None:
        server = ServerRollouts(sampler, config, folder / SCRATCH / "served", seed, updates, on_sampled)
    ordered = [prompts[i] for i in prompt_order(len(prompts), config.prompts_per_step, steps, seed)]
    watch = callback(
        lambda step, total: on_step(step // updates, total // updates),
        lambda step: before_mark(step // updates),
        lambda step, logs: on_log(step // updates, logs),
    )
    side = _TrlSide(trajectory, updates, lengths, server)
    trainer = _trainer(model_path, ordered, arguments, tokenizer, adapter, watch, side)
    moved = train(trainer, folder / SCRATCH)
    save_policy(trainer, tokenizer, folder, merge=adapter is not None)
    return moved


def _trainer(
    model_path: Path | str,
    prompts: Sequence[PolicyPrompt],
    arguments: Any,
    tokenizer: Any,
    adapter: Any,
    watch: Any,
    side: _TrlSide,
) -> Any:
    """TRL's trainer on our tokens, positions and rewards; `prompts` are in the order in which it takes them."""
    from datasets import Dataset
    from trl import GRPOTrainer

    class Trainer(WholeStep, GRPOTrainer):
        pass

    trainer = Trainer(
        model=str(model_path),
        reward_funcs=side.reward,
        args=arguments,
        train_dataset=Dataset.from_dict(
            {"prompt": [chat(p.messages) for p in prompts], "key": [p.key for p in prompts]}
        ),
        processing_class=tokenizer,
        peft_config=adapter,
        rollout_func=side.server,
        callbacks=[watch],
    )
    _one_way_to_tokens(trainer, tokenizer)
    settle_left_padding(trainer.model, *([trainer.ref_model] if trainer.ref_model is not None else []))
    side.attach(trainer)
    return trainer


def _lengths(tokenizer: Any, prompts: Sequence[PolicyPrompt]) -> dict[str, int]:
    """Tokens of every prompt as the policy sees it, by key."""
    return {p.key: len(prompt_ids(tokenizer, p.messages)) for p in prompts}


def _one_way_to_tokens(trainer: Any, tokenizer: Any) -> None:
    """Have TRL prompt the policy with `chat.prompt_ids`, and end its completions where the template ends a turn."""
    from harness.models.tokenizers import stop_ids

    stops = stop_ids(settle_tokens(trainer, tokenizer), tokenizer)
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
        self._trajectory, self._updates, self._lengths, self.server = trajectory, updates, lengths, server

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
            Rollout(
                key=k,
                text=c[0]["content"],
                finish_reason="stop" if ids and ids[-1] in ends else "length",
                prompt_tokens=self._lengths[k],
                completion_tokens=len(ids),
            )
            for k, c, ids in zip(key, completions, completion_ids, strict=True)
        )
        seconds = self.server.seconds if self.server else self._generating["seconds"]
        self._generating["seconds"] = 0.0
        return list(self._trajectory(RolloutBatch(step, rollouts, self._parameters, seconds)))


def _lora(config: GrpoConfig, seed: int, model: Any) -> Any:
    """The adapter of the policy; no dropout, since a token's probability must be the same in sampling and training."""
    settings = LoraSettings(config.lora_rank, config.lora_alpha, 0.0, config.lora_modules)
    chosen = lora_config(settings, seed, model, "driver.lora_modules")
    if chosen.target_parameters and config.rollouts == "server":
        raise ConfigError(
            f"driver.lora_modules adapts experts ({', '.join(chosen.target_parameters)}), which a server cannot be "
            "given as an adapter; set driver.lora_modules=attention, or driver.rollouts=transformers"
        )
    return chosen


def _colocate() -> dict[str, Any]:
    """TRL's own vLLM in the trainer's process. How it moves weights only works on CUDA (TRL 1.16 with vLLM 0.32)."""
    import importlib.util

    import torch

    if not torch.cuda.is_available() or importlib.util.find_spec("vllm") is None:
        lacks = "vLLM in this environment" if torch.cuda.is_available() else "CUDA"
        raise PrerequisiteError(
            f"driver.rollouts=colocate needs {lacks}; use driver.rollouts=server with driver.tune=lora, or transformers"
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
    micro = largest_divisor(mini, config.micro_batch)
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": mini // micro,
        "steps_per_generation": batch // micro,
    }
