"""LoRA modules over architectures: words mean each one's own layers, and names that match nothing are named."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from peft import get_peft_model

from harness.config_runtime import ScoringConfig
from harness.errors import ConfigError
from harness.estimate import shape_from_folder
from harness.models.rope import forget_lengths
from harness.training.chat import Encoded
from harness.training.lora_modules import adapted, count_parameters, meta_model, plain_names, settled_names
from harness.training.recipe import LoraSettings, lora_config
from methods.signals.target.engine import LoraGradients
from methods.signals.target.losses import ReferenceLoss
from methods.signals.target.selfcheck import distance, engine_checks, item_gradients
from support.tiny import ARCHITECTURES, ROPE_BOUNDARY, make_architecture

QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")
WANTED = {
    **{kind: (QKVO, (*QKVO, *MLP)) for kind in ("llama", "mistral", "gemma2", "gemma3", "qwen3", "dynamic")},
    **{
        kind: (("o_proj", "qkv_proj"), ("o_proj", "qkv_proj", "gate_up_proj", "down_proj"))
        for kind in ("phi3", "longrope")
    },
    **{kind: (QKVO, (*QKVO, *EXPERTS)) for kind in ("qwen3_moe", "mixtral")},
    **{
        kind: (("query_key_value", "dense"), ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"))
        for kind in ("bloom", "falcon")
    },
    "gpt2": (("c_attn", "attn.c_proj"), ("c_attn", "c_proj", "c_fc")),
    "mpt": (("Wqkv", "out_proj"), ("Wqkv", "out_proj", "up_proj", "down_proj")),
    "opt": (("k_proj", "v_proj", "q_proj", "out_proj"), ("k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2")),
    "mamba": (("in_proj", "x_proj"), ("in_proj", "x_proj")),
    "qwen3_next": (
        ("in_proj_qkvz", "in_proj_ba", "out_proj", *QKVO),
        ("in_proj_qkvz", "in_proj_ba", "out_proj", *QKVO, *EXPERTS),
    ),
}  # fmt: skip


def lora(model: torch.nn.Module, *names: str, dropout: float = 0.0) -> torch.nn.Module:
    wrapped = get_peft_model(model, lora_config(LoraSettings(4, 8, dropout, names), 0, model, "warmup.lora_modules"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return wrapped


def items() -> list[Encoded]:
    generator = torch.Generator().manual_seed(0)
    return [Encoded(tuple(torch.randint(3, 250, (n,), generator=generator).tolist()), 3) for n in (6, 11, 9)]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_words_mean_the_layers_of_the_architecture(kind: str) -> None:
    model = make_architecture(kind)
    for word, wanted in zip(("attention", "all-linear"), WANTED[kind], strict=True):
        chosen = adapted(model, (word,), "warmup.lora_modules")
        assert chosen.names == wanted
        trained = sum(p.numel() for p in lora(make_architecture(kind), word).parameters() if p.requires_grad)
        assert count_parameters(model, chosen, 4) == trained


@pytest.mark.parametrize("kind", [k for k in ARCHITECTURES if k != "longrope"])
def test_what_is_trained_is_what_is_scored(kind: str) -> None:
    gradients = LoraGradients(lora(make_architecture(kind), "attention"), 0)
    failed = [check.line() for check in engine_checks(gradients, items()) if check.status == "failed"]
    assert not failed


@pytest.mark.parametrize("names", [("lm_head",), ("q_proj", "shared_expert_gate")])
def test_heads_and_flattened_layers_are_scored_too(names: tuple[str, ...]) -> None:
    kind = "llama" if names == ("lm_head",) else "qwen3_next"
    gradients = LoraGradients(lora(make_architecture(kind), *names), 0)
    assert {check.status for check in engine_checks(gradients, items())} == {"passed"}


@pytest.mark.parametrize(
    ("kind", "names", "said"),
    [
        ("phi3", QKVO, "q_proj, k_proj, v_proj match nothing. It has o_proj, qkv_proj, gate_up_proj, down_proj"),
        ("mixtral", (*QKVO, *MLP), "gate_proj, up_proj, down_proj match nothing"),
        ("qwen3_next", ("down_proj",), "down_proj would be taken for the experts' weights"),
        ("mixtral", ("gate",), "gate is a MixtralTopKRouter, which LoRA cannot adapt"),
        ("gpt2", ("q_proj",), "q_proj matches nothing. It has c_attn, c_proj, c_fc"),
        ("llama", ("q_proj", "v_porj"), "v_porj matches nothing"),
    ],
)
def test_names_that_match_nothing_are_named(kind: str, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        adapted(make_architecture(kind), names, "warmup.lora_modules")
    assert str(caught.value).startswith("warmup.lora_modules does not fit") and said in str(caught.value)


def test_experts_take_no_dropout() -> None:
    with pytest.raises(ConfigError, match=r"warmup\.lora_dropout=0, or warmup\.lora_modules=attention"):
        lora(make_architecture("mixtral"), "all-linear", dropout=0.1)


def test_names_of_a_dense_model_stand_in_identities_as_before(tmp_path: Path) -> None:
    make_architecture("qwen3", tmp_path / "dense")
    make_architecture("mixtral", tmp_path / "experts")
    dense, experts = str(tmp_path / "dense"), str(tmp_path / "experts")
    assert settled_names(("all-linear",), "lab:target") == settled_names(("all-linear",), dense) == (*QKVO, *MLP)
    assert settled_names(("attention",), dense) == settled_names(QKVO, dense) == QKVO
    assert settled_names(("all-linear",), experts) == ("all-linear",)
    bare = meta_model(dense)
    shape = shape_from_folder(tmp_path / "dense")
    assert shape is not None
    for word in ("attention", "all-linear"):
        names = plain_names((word,), shape)
        assert shape.lora_parameters(4, names) == count_parameters(bare, adapted(bare, (word,), "x"), 4)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_short_items_do_not_depend_on_long_ones(kind: str, layout: Literal["right", "left", "packed"]) -> None:
    model = lora(make_architecture(kind), "attention")
    forget_lengths(model)
    gradients = LoraGradients(model, 0, scoring=ScoringConfig(layout=layout))
    generator = torch.Generator().manual_seed(0)
    mixed = [
        Encoded(tuple(torch.randint(3, 250, (n,), generator=generator).tolist()), 3)
        for n in (6, ROPE_BOUNDARY, ROPE_BOUNDARY + 1, 50, 50, 61)
    ]
    alone = [item_gradients(gradients, [item])[0] for item in mixed]
    assert all(distance(got, alone[i]) < 1e-4 for i, got in enumerate(item_gradients(gradients, mixed)))
    losses = ReferenceLoss(model, 0, 8192).plain(mixed)
    one_by_one = torch.cat([ReferenceLoss(model, 0, 8192).plain([item]) for item in mixed])
    assert torch.allclose(losses, one_by_one, rtol=1e-5)
