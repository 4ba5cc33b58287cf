"""GRPO's update is the same however its batch is cut, under every loss; the KL term is what the settings say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.resolve.layers import resolve_run
from harness.training.sft import finetune
from support.learners import RECIPE, agreement, change, grpo, prefer, samples
from support.tiny import make_architecture, make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize("loss", ["grpo", "dapo", "bnpo", "dr_grpo"])
def test_the_micro_batch_changes_nothing(loss: str, model: Path, tmp_path: Path) -> None:
    """With KL term, entropy bonus and two updates a batch; the gradient's norm tells them apart to seven digits."""
    more: dict[str, Any] = {"loss": loss, "kl_coefficient": 0.1, "entropy_coefficient": 0.05, "learning_rate": 1e-4}
    whole, logs = grpo(model, tmp_path / "6", "float32", micro_batch=6, mini_batch_prompts=2, **more)
    for micro in (1, 4):
        cut, own = grpo(model, tmp_path / str(micro), "float32", micro_batch=micro, mini_batch_prompts=2, **more)
        assert [e["grad_norm"] for e in own] == pytest.approx([e["grad_norm"] for e in logs], rel=1e-5)
        ratio, cosine = agreement(change(model, whole)[0], change(model, cut)[0])
        assert ratio == pytest.approx(1.0, abs=1e-4) and cosine > 0.9999
        assert {e["entropy_coef"] for e in own} == {0.05}


def test_the_kl_term_is_plain_k3_where_the_settings_say_so(model: Path, tmp_path: Path) -> None:
    """At the first step policy and reference agree: plain k3 has no gradient there, and neither has the other's."""
    more = {"kl_coefficient": 10.0, "learning_rate": 1e-2, "steps": 2}
    plain = grpo(model, tmp_path / "plain", "float32", kl_bias_correction=False, **more)[1]
    ratio = grpo(model, tmp_path / "ratio", "float32", kl_bias_correction=True, **more)[1]
    assert plain[0]["grad_norm"] == pytest.approx(ratio[0]["grad_norm"], rel=1e-5)
    assert abs(plain[1]["grad_norm"] / ratio[1]["grad_norm"] - 1) > 1e-2


def test_the_preset_of_the_code_has_plain_k3() -> None:
    def corrected(name: str) -> bool:
        return resolve_run(method="optimsyn", target="qwen3-8b", preset=name).config.driver.settings.kl_bias_correction

    assert not corrected("code") and corrected("paper")


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_a_mixtures_load_balancing_is_left_out(kind: str, tmp_path: Path) -> None:
    """Its published settings stay as they were; the parts of a batch give the gradient of the whole."""
    from transformers import AutoConfig

    make_architecture(kind, tmp_path / "model")
    changes = []
    for micro in (8, 2):
        recipe = replace(RECIPE, micro_batch=micro, learning_rate=1e-4)
        finetune(tmp_path / "model", samples(), recipe, seed=1, folder=tmp_path / str(micro), output="out")
        changes.append(change(tmp_path / "model", tmp_path / str(micro) / "out")[0])
    ratio, cosine = agreement(*changes)
    assert ratio == pytest.approx(1.0, abs=1e-3) and cosine > 0.999
    before, after = (AutoConfig.from_pretrained(p) for p in (tmp_path / "model", tmp_path / "8" / "out"))
    assert after.router_aux_loss_coef == before.router_aux_loss_coef > 0


def test_no_learner_adds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import DPOTrainer, GRPOTrainer

    make_architecture("qwen3_moe", tmp_path / "model")
    seen: list[bool] = []
    for trainer in (DPOTrainer, GRPOTrainer):
        plain = trainer.train
        monkeypatch.setattr(
            trainer, "train", lambda own, plain=plain, **k: (seen.append(own.aux_loss_enabled), plain(own, **k))[1]
        )
    grpo(tmp_path / "model", tmp_path / "grpo", "float32", steps=1)
    prefer(tmp_path / "model", tmp_path / "dpo", "float32")
    assert seen == [False, False]
