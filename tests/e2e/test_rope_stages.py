"""RoPE that depends on length, in every stage: lengths are kept apart, or refused before any work is done."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evals.model import load_model
from harness.checks.prerequisites import check_prerequisites, require_prerequisites
from harness.errors import ConfigError, PrerequisiteError
from harness.models.backend import PromptRequest, Sampling
from harness.models.transformers_backend import TransformersBackend, load_causal_lm
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.training import sft
from harness.training.chat import encode, prompt_ids
from harness.training.dpo import DpoRecipe, Preference, train_preferences
from harness.training.grpo import PolicyPrompt, RolloutBatch, train_policy
from harness.training.grpo_config import GrpoConfig
from harness.training.recipe import Recipe
from harness.training.sft import finetune
from harness.training.trainer import require_one_side
from harness.types import Message, Sample
from support.tiny import ROPE_BOUNDARY, make_architecture

KINDS = ("longrope", "dynamic")
SHORT, LONG = "is it", "is it so " * 8
"""Questions whose conversations lie on the two sides of the boundary."""


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    make_architecture(request.param, folder)
    return folder


def turns(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def lengths(model: Path) -> tuple[int, int]:
    _, tokenizer = load_causal_lm(model)
    short, long = (len(prompt_ids(tokenizer, turns(text))) for text in (SHORT, LONG))
    assert short + 4 < ROPE_BOUNDARY < long
    return short, long


def policy(model: Path, folder: Path, texts: tuple[str, str]) -> list[RolloutBatch]:
    batches: list[RolloutBatch] = []

    def reward(batch: RolloutBatch) -> list[float | None]:
        batches.append(batch)
        return [float(i % 2) for i, _ in enumerate(batch.rollouts)]

    sizes: dict[str, Any] = {"prompts_per_step": 2, "group_size": 2, "micro_batch": 2, "steps": 1, "max_tokens": 4}
    train_policy(
        model,
        [PolicyPrompt(f"k{i}", turns(text)) for i, text in enumerate(texts)],
        GrpoConfig(**sizes, kl_coefficient=0.0),
        reward,
        seed=0,
        folder=folder,
        dtype="float32",
        revision=None,
        checkpoint_every=1,
        before_mark=lambda step: None,
        on_step=lambda step, total: None,
        on_log=lambda step, logs: None,
    )
    return batches


def test_the_policys_trainer_takes_one_side_alone(model: Path, tmp_path: Path) -> None:
    _, long = lengths(model)
    with pytest.raises(ConfigError, match=rf"beyond {ROPE_BOUNDARY} tokens.*up to {long + 4} tokens.*at most 32"):
        policy(model, tmp_path, (SHORT, LONG))
    assert len(policy(model, tmp_path, (SHORT, SHORT))) == 1


def test_a_model_without_such_positions_has_no_bound(tmp_path: Path) -> None:
    make_architecture("llama", tmp_path)
    require_one_side(tmp_path, None, 10 * ROPE_BOUNDARY, "a trainer mixes them", "a setting")


def test_preferences_are_trained_on_one_side_alone(model: Path, tmp_path: Path) -> None:
    recipe = DpoRecipe(batch_size=1, micro_batch=1)
    with pytest.raises(ConfigError, match=r"DPO computes pairs together.*set max_length to at most 32"):
        train_preferences(model, [Preference(turns(LONG), "yes", "no")], recipe, seed=0, folder=tmp_path)
    train_preferences(model, [Preference(turns(SHORT), "yes", "no")], recipe, seed=0, folder=tmp_path)


def test_a_run_that_would_mix_sides_is_refused_before_any_work(model: Path) -> None:
    def resolved(method: str, **sets: Any) -> Any:
        sets = {"models.writer.id": str(model), **{f"models.writer.{key}": value for key, value in sets.items()}}
        return resolve_run(method=method, signal="length" if method == "optimsyn" else None, target="nano", sets=sets)

    def problems(config: Any) -> list[str]:
        return [str(p) for p in check_prerequisites(config, assemble(config).stages) if p.what.startswith("RoPE")]

    mixed = resolved("optimsyn", max_length=64).config
    (problem,) = problems(mixed)
    assert "prompt and completion within 32 tokens" in problem and "max_length is 64" in problem
    assert "--set models.writer.max_length=32, which shortens longer documents" in problem
    with pytest.raises(PrerequisiteError, match="RoPE of the writer"):
        require_prerequisites(mixed, assemble(mixed).stages)
    assert not problems(resolved("optimsyn", max_length=32).config)
    assert not problems(resolved("static", max_length=64).config)


def test_answers_do_not_depend_on_what_is_generated_beside_them(model: Path) -> None:
    requests = [PromptRequest(turns(text)) for text in (LONG, SHORT, LONG + "one")]
    backend = TransformersBackend(str(model), name="m", max_length=200)
    greedy = Sampling(0, 1, 6)
    together = [c.text for c in backend.generate(requests, greedy, 0)]
    assert together == [backend.generate([request], greedy, 0)[0].text for request in requests]


def test_test_answers_do_not_depend_on_the_batch(model: Path) -> None:
    lengths(model)
    tested = {size: load_model(str(model), size, True) for size in (1, 4)}

    def asked(size: int, text: str, *more: Any) -> Any:
        context = tested[size].apply_chat_template([{"role": "user", "content": text}])
        return SimpleNamespace(args=(context, *more), arguments=(context, *more))

    found = {}
    for size, engine in tested.items():
        choices = [asked(size, text, choice) for text in (SHORT, LONG) for choice in ("yes", "no")]
        until = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
        found[size] = (
            [value for value, _ in engine.loglikelihood(choices)],
            engine.generate_until([asked(size, text, until) for text in (SHORT, LONG)]),
        )
    assert found[4][0] == pytest.approx(found[1][0], rel=1e-5)
    assert found[4][1] == found[1][1]


@pytest.mark.parametrize("kind", KINDS)
def test_fine_tuning_on_both_sides_goes_one_by_one(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_architecture(kind, tmp_path / "m")
    samples = [
        Sample(text, ("d",), None, "", (*turns(text), Message("assistant", "yes")), "", "t", "stop")
        for text in (SHORT, LONG, "is it one", LONG + "one")
    ]
    tokenizer = load_causal_lm(tmp_path / "m")[1]
    sides = [len(encode(tokenizer, s.messages, 256).ids) > ROPE_BOUNDARY for s in samples]
    assert sides == [False, True, False, True]

    def tuned(name: str, micro: int, rows: list[Sample]) -> dict[str, torch.Tensor]:
        recipe = Recipe(1e-2, 1, len(rows), micro, "constant", 0.0, 0.0, 0.999, 256)
        finetune(tmp_path / "m", rows, recipe, seed=0, folder=tmp_path / name, output="out")
        return load_file(tmp_path / name / "out" / "model.safetensors")

    alone, together = tuned("alone", 1, samples), tuned("together", 4, samples)
    assert all(torch.equal(alone[name], value) for name, value in together.items())
    monkeypatch.setattr(sft, "_kept_apart", lambda model, rows: False)
    mixed = tuned("mixed", 4, samples)
    assert max((alone[name] - value).abs().max() for name, value in mixed.items()) > 1e-4
