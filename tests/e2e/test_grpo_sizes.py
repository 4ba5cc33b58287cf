"""GRPO over TRL: batch sizes of the presets, step numbering, group order, finish reasons, and None as no reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.resolve.layers import resolve_run
from harness.training.grpo import PolicyPrompt, RolloutBatch, batch_sizes, rollout_steps, train_policy
from harness.training.grpo_config import GrpoConfig
from harness.types import Message
from support.tiny import make_tiny_model


def preset(name: str) -> GrpoConfig:
    return resolve_run(method="optimsyn", target="qwen3-8b", preset=name).config.driver.settings


def completions(sizes: dict[str, int]) -> tuple[int, int]:
    """Completions of one optimizer step and of one rollout batch."""
    micro = sizes["per_device_train_batch_size"]
    return micro * sizes["gradient_accumulation_steps"], micro * sizes["steps_per_generation"]


def test_the_papers_step_takes_1280_completions() -> None:
    config = preset("paper")
    assert (config.prompts_per_step, config.group_size) == (256, 5)
    assert completions(batch_sizes(config)) == (1280, 1280)


def test_the_codes_rollout_batch_is_split_into_mini_batches_of_64_prompts() -> None:
    config = preset("code")
    assert (config.prompts_per_step, config.mini_batch_prompts, config.group_size) == (256, 64, 15)
    assert completions(batch_sizes(config)) == (960, 3840)


@pytest.mark.parametrize("micro", [1, 2, 3, 7, 8, 30, 5000])
@pytest.mark.parametrize("mini", [None, 1, 2, 4])
def test_a_micro_batch_changes_no_size_that_matters(micro: int, mini: int | None) -> None:
    sizes = batch_sizes(GrpoConfig(prompts_per_step=4, mini_batch_prompts=mini, group_size=6, micro_batch=micro))
    assert completions(sizes) == (6 * (mini or 4), 24)
    assert sizes["per_device_train_batch_size"] <= micro


def test_mini_batches_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="multiple"):
        GrpoConfig(prompts_per_step=6, mini_batch_prompts=4)


def test_steps_follow_the_prompts_unless_they_are_set() -> None:
    assert rollout_steps(GrpoConfig(prompts_per_step=256), 20_000) == 78
    assert rollout_steps(GrpoConfig(prompts_per_step=256, epochs=2.0), 20_000) == 156
    assert rollout_steps(GrpoConfig(prompts_per_step=256), 10) == 1
    assert rollout_steps(GrpoConfig(prompts_per_step=256, steps=7), 20_000) == 7


def letters(text: str) -> float:
    """A reward that differs between completions."""
    return float(len(set(text)))


class Recorder:
    """A trajectory that keeps what it is given and rewards many different letters; every fifth cannot be measured."""

    def __init__(self) -> None:
        self.batches: list[RolloutBatch] = []
        self.marks: list[int] = []
        self.steps: list[tuple[int, int]] = []
        self.logs: list[tuple[int, dict[str, float]]] = []

    def trajectory(self, batch: RolloutBatch) -> Sequence[float | None]:
        self.batches.append(batch)
        return [None if i % 5 == 4 else letters(r.text) for i, r in enumerate(batch.rollouts)]

    def train(self, model: Path, folder: Path, config: GrpoConfig, prompts: int = 6, every: int = 1) -> None:
        train_policy(
            model,
            [PolicyPrompt(f"k{i}", (Message("user", "yes " * (1 + i)),)) for i in range(prompts)],
            config,
            self.trajectory,
            seed=3,
            folder=folder,
            dtype="float32",
            revision=None,
            checkpoint_every=every,
            before_mark=self.marks.append,
            on_step=lambda step, total: self.steps.append((step, total)),
            on_log=lambda step, logs: self.logs.append((step, dict(logs))),
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("policy"))


def config(**changes: Any) -> GrpoConfig:
    sizes: dict[str, Any] = {"prompts_per_step": 4, "group_size": 3, "micro_batch": 4, "steps": 3, "max_tokens": 6}
    return GrpoConfig(**{**sizes, "kl_coefficient": 0.0, "temperature": 1.0, "learning_rate": 1e-3, **changes})


@pytest.fixture(scope="module")
def split(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Path]:
    """Three rollout batches, each split into two updates."""
    recorder, folder = Recorder(), tmp_path_factory.mktemp("split")
    recorder.train(model, folder, config(mini_batch_prompts=2))
    return recorder, folder


def test_a_split_rollout_batch_is_numbered_once(split: tuple[Recorder, Path]) -> None:
    recorder, folder = split
    assert [b.step for b in recorder.batches] == [0, 1, 2]
    assert recorder.marks == [1, 2, 3]
    assert recorder.steps[-1] == (3, 3) and len(recorder.steps) == 6
    assert (folder / "policy" / "model.safetensors").exists()
    assert sorted(p.name for p in (folder / "trainer").glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


def test_groups_are_contiguous(split: tuple[Recorder, Path]) -> None:
    for batch in split[0].batches:
        keys = [r.key for r in batch.rollouts]
        groups = [keys[i : i + 3] for i in range(0, 12, 3)]
        assert all(len(set(group)) == 1 for group in groups)
        assert len({group[0] for group in groups}) == 4


def test_a_rollout_carries_its_own_counts(split: tuple[Recorder, Path], model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    for rollout in (r for b in split[0].batches for r in b.rollouts):
        number = int(rollout.key[1:])
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "yes " * (1 + number)}], add_generation_prompt=True, tokenize=False
        )
        assert rollout.prompt_tokens == len(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert 1 <= rollout.completion_tokens <= 6
        if rollout.completion_tokens < 6:
            assert rollout.finish_reason == "stop"
    usage = split[0].batches[0].usage("writer")
    assert sum(u.calls for u in usage) == 12
    parameters = split[0].batches[0].policy_parameters
    assert sum(u.flops for u in usage) == pytest.approx(8 * parameters * usage[1].prompt_tokens)


def test_finish_reason_is_stop_for_every_end_token(model: Path, tmp_path: Path) -> None:
    """A model may declare several end tokens; a completion that ends with any of them is whole."""
    import json
    import shutil

    from transformers import AutoTokenizer

    every = len(AutoTokenizer.from_pretrained(model))
    stopping = shutil.copytree(model, tmp_path / "model")
    settings = json.loads((stopping / "generation_config.json").read_text())
    (stopping / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": list(range(every))}))
    recorder = Recorder()
    recorder.train(stopping, tmp_path / "run", config(steps=1))
    rollouts = recorder.batches[0].rollouts
    assert {(r.finish_reason, r.completion_tokens) for r in rollouts} == {("stop", 1)}
    recorder = Recorder()
    recorder.train(model, tmp_path / "other", config(steps=1, max_tokens=1))
    assert "length" in {r.finish_reason for r in recorder.batches[0].rollouts}


def test_the_policy_learns_and_none_is_no_reward(model: Path, tmp_path: Path) -> None:
    """TRL takes the mean over what was measured; a None that counted as 0 would lower it."""
    recorder = Recorder()
    recorder.train(model, tmp_path, config(steps=2))
    logged = [logs["reward"] for _, logs in recorder.logs if "reward" in logs]
    means = []
    for batch in recorder.batches:
        rewards = [letters(r.text) for i, r in enumerate(batch.rollouts) if i % 5 != 4]
        means.append(sum(rewards) / len(rewards))
    assert logged == pytest.approx(means, rel=1e-5) and len(means) == 2
    from safetensors.torch import load_file

    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "policy" / "model.safetensors")
    assert any(not before[name].equal(after[name]) for name in before)


def test_rewards_of_none_leave_the_policy_as_it_was(model: Path, tmp_path: Path) -> None:
    class Nothing(Recorder):
        def trajectory(self, batch: RolloutBatch) -> Sequence[float | None]:
            return [None] * len(batch.rollouts)

    Nothing().train(model, tmp_path, config(steps=1))
    from safetensors.torch import load_file

    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "policy" / "model.safetensors")
    assert all(before[name].equal(after[name]) for name in before)


def test_fewer_prompts_than_a_batch_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes 4 prompts and there are 3"):
        Recorder().train(model, tmp_path, config(), prompts=3)
