"""Rollouts from a server: the right adapter at the right time, equal prompts together, and a stale policy found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import StageError
from harness.models.decoding import set_aside
from harness.training.grpo import PolicyPrompt, RolloutBatch, train_policy
from harness.training.grpo_config import GrpoConfig
from harness.training.rollouts import Decoding, Drawn, Sampled, token_logprobs
from harness.types import Message
from support.tiny import make_tiny_model

CONFIG = GrpoConfig(
    prompts_per_step=2,
    group_size=2,
    steps=3,
    learning_rate=5e-2,
    temperature=1.0,
    max_tokens=6,
    kl_coefficient=0.0,
    tune="lora",
    lora_rank=4,
    rollouts="server",
    max_logprob_gap=1e-3,
)


class OwnSampler:
    """A server in the process: samples from the adapter that it was given, with transformers."""

    constrained = False

    def __init__(self, base: Path, stale: bool = False) -> None:
        self.base, self.stale = base, stale
        self.loaded: list[Path] = []
        self.lost: list[Path] = []
        self.asked: list[tuple[int, int]] = []
        self.model: Any = None

    def load(self, adapter: Path) -> str:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        # What it was given last it may have to load again, should it be started again at this moment.
        self.lost += [path for path in self.loaded[-2:] if not path.is_dir()]
        self.loaded.append(adapter)
        if self.model is None or not self.stale:
            self.model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(self.base), adapter).eval()
        return f"adapter-{len(self.loaded)}"

    def sample(
        self, name: str, prompts: Sequence[tuple[Sequence[int], int]], decoding: Decoding, seed: int
    ) -> list[list[Drawn]]:
        import torch

        torch.manual_seed(seed)
        self.asked += [(len(ids), count) for ids, count in prompts]
        result = []
        for ids, count in prompts:
            drawn = []
            for _ in range(count):
                out = self.model.generate(
                    input_ids=torch.tensor([list(ids)]), do_sample=True, top_k=0, max_new_tokens=decoding.max_tokens
                )
                tokens = out[0, len(ids) :].tolist()
                drawn.append(Drawn(tuple(tokens), tuple(token_logprobs(self.model, ids, tokens, 1.0))))
            result.append(drawn)
        return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "m", context=256)


def train(
    model: Path, folder: Path, sampler: OwnSampler | None, config: GrpoConfig = CONFIG
) -> tuple[list[Sampled], list[RolloutBatch]]:
    sampled: list[Sampled] = []
    batches: list[RolloutBatch] = []

    def trajectory(batch: RolloutBatch) -> list[float]:
        batches.append(batch)
        return [float(i) for i, _ in enumerate(batch.rollouts)]

    train_policy(
        model,
        [PolicyPrompt(str(i), (Message("user", f"write {'x' * i}"),)) for i in range(2)],
        config,
        trajectory,
        seed=1,
        folder=folder,
        dtype="float32",
        revision=None,
        checkpoint_every=10,
        before_mark=lambda step: None,
        on_step=lambda step, total: None,
        on_log=lambda step, logs: None,
        sampler=sampler,
        on_sampled=sampled.append,
    )
    return sampled, batches


Trained = tuple[Path, OwnSampler, list[Sampled], list[RolloutBatch]]


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three steps, sampled from a server."""
    folder, sampler = tmp_path_factory.mktemp("trained"), OwnSampler(model)
    return folder, sampler, *train(model, folder, sampler)


def test_every_batch_is_sampled_from_the_weights_that_it_trains(trained: Trained) -> None:
    _, sampler, sampled, batches = trained
    assert [s.step for s in sampled] == [0, 1, 2] == [b.step for b in batches]
    assert len({p.name for p in sampler.loaded}) == 3 and not sampler.lost
    assert all(s.gap_max < 1e-3 and not s.constrained for s in sampled)
    # One request for each prompt, with all members of its group; the batch knows what sampling took.
    assert [count for _, count in sampler.asked] == [2] * 6
    assert all(0 < b.seconds == s.seconds for b, s in zip(batches, sampled, strict=True))
    assert batches[0].usage("writer")[0].seconds == batches[0].seconds


def test_batches_are_counted_and_not_the_updates_on_them(model: Path, tmp_path: Path) -> None:
    sampled, batches = train(model, tmp_path, OwnSampler(model), CONFIG.model_copy(update={"mini_batch_prompts": 1}))
    assert [s.step for s in sampled] == [b.step for b in batches] == [0, 1, 2]


def test_the_policy_is_left_merged_with_its_adapter_beside_it(model: Path, trained: Trained) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    policy = trained[0] / "policy"
    merged = AutoModelForCausalLM.from_pretrained(policy)
    base = AutoModelForCausalLM.from_pretrained(model)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), policy / "adapter")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-4)
        assert not torch.allclose(merged(ids).logits, base(ids).logits, atol=1e-2)
    config = json.loads((policy / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(model)


def test_a_server_that_keeps_old_weights_stops_the_run(model: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"not the one that is trained.*at step 1"):
        train(model, tmp_path, OwnSampler(model, stale=True))


def test_under_a_schema_a_probe_is_compared_instead(model: Path, tmp_path: Path) -> None:
    sampler = OwnSampler(model)
    sampler.constrained = True
    sampled, _ = train(model, tmp_path, sampler, CONFIG.model_copy(update={"steps": 1}))
    assert sampled[0].constrained and sampled[0].gap_max < 1e-3
    assert [count for _, count in sampler.asked] == [2, 2, 1, 1]


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_rollouts_in_the_trainers_process_are_timed_and_decoded_by_the_settings(
    model: Path, tmp_path: Path, tune: str
) -> None:
    harsh = tmp_path / "harsh"
    shutil.copytree(model, harsh)
    asked = {**json.loads((harsh / "generation_config.json").read_text()), "repetition_penalty": 5.0}
    (harsh / "generation_config.json").write_text(json.dumps({**asked, "suppress_tokens": [*range(200)]}))
    config = CONFIG.model_copy(update={"rollouts": "transformers", "tune": tune, "steps": 1})
    texts = []
    for folder in (model, harsh):
        _, batches = train(folder, tmp_path / f"of-{folder.name}", None, config)
        assert len(batches) == 1 and batches[0].seconds > 0
        texts.append([rollout.text for rollout in batches[0].rollouts])
    assert texts[0] == texts[1]
    assert set_aside(harsh) and not set_aside(tmp_path / "of-harsh" / "policy")


def test_colocation_is_refused_where_it_cannot_work(model: Path, tmp_path: Path) -> None:
    import torch

    from harness.errors import PrerequisiteError

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(PrerequisiteError, match="needs CUDA"):
        train(model, tmp_path, None, CONFIG.model_copy(update={"rollouts": "colocate"}))


def test_log_probabilities_are_those_of_the_tokens(model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    net: Callable[..., Any] = AutoModelForCausalLM.from_pretrained(model).eval()
    own = token_logprobs(net, [5, 6], [7, 8], 0.5)
    with torch.inference_mode():
        rows = torch.log_softmax(net(torch.tensor([[5, 6, 7, 8]])).logits[0] / 0.5, dim=-1)
    assert own == pytest.approx([float(rows[1, 7]), float(rows[2, 8])], abs=1e-6)
