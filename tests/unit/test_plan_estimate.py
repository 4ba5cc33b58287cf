"""Sizes of models against published totals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import estimate
from harness.estimate import KNOWN, gigabytes, known_shape, shape_from_folder

# Totals of transformers' own models, built without weights from the published configurations.
TOTALS = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-235B-A22B": 235_093_634_560,
    "Llama-3-8B": 8_030_261_248,
}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_parameters_are_exact(name: str) -> None:
    assert KNOWN[name].parameters == TOTALS[name]


def test_active_parameters_of_a_mixture() -> None:
    assert KNOWN["Qwen3-235B-A22B"].active_parameters == pytest.approx(22.2e9, rel=0.01)
    assert KNOWN["Qwen3-8B"].active_parameters == KNOWN["Qwen3-8B"].parameters


def test_lora_parameters() -> None:
    modules = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert KNOWN["Qwen3-8B"].lora_parameters(128, modules) == 122_683_392


def test_a_tiny_model_agrees_with_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen3Config(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.Qwen3ForCausalLM(config)
    shape = estimate.ModelShape(32, 48, 3, 4, 2, 16, 100, tied=True)
    assert shape.parameters == model.num_parameters()


@pytest.mark.parametrize(
    ("model_id", "family"),
    [
        ("Qwen/Qwen3-8B-Base", "Qwen3-8B"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", "Qwen3-235B-A22B"),
        ("meta-llama/Meta-Llama-3-8B", "Llama-3-8B"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "Llama-3-8B"),
    ],
)
def test_hub_ids_are_known_by_family(model_id: str, family: str) -> None:
    assert known_shape(model_id) is KNOWN[family]


@pytest.mark.parametrize("model_id", ["Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B-AWQ", "org/Qwen3-80B", "gpt2"])
def test_others_are_unknown_and_not_guessed(model_id: str) -> None:
    assert known_shape(model_id) is None


def test_shape_of_a_folder(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape_from_folder(tmp_path) == KNOWN["Qwen3-0.6B"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    assert shape_from_folder(tmp_path) is None
    assert shape_from_folder(tmp_path / "nothing") is None


def test_memory_of_training_exceeds_that_of_inference() -> None:
    shape = KNOWN["Qwen3-8B"]
    weights = estimate.weight_bytes(shape, "bfloat16")
    assert gigabytes(weights) == "16.4 GB"
    assert estimate.weight_bytes(shape, "float32") == 2 * weights
    full = estimate.full_training_bytes(shape, "bfloat16", 1000, checkpointing=False)
    lora = estimate.lora_training_bytes(shape, "bfloat16", 1000, 128, ("q_proj",), checkpointing=False)
    assert full > 4 * weights > lora > weights
    assert estimate.inference_bytes(shape, "bfloat16", 1000) == weights + 1000 * 147_456
    spared = estimate.activation_bytes(shape, "bfloat16", 1000, checkpointing=True)
    assert spared < estimate.activation_bytes(shape, "bfloat16", 1000, checkpointing=False)


def test_flops_per_token() -> None:
    shape = KNOWN["Qwen3-8B"]
    assert estimate.forward_flops(shape, 10) == 20 * shape.parameters
    assert estimate.training_flops(shape, 10) == 60 * shape.parameters


def test_sizes_read_well() -> None:
    assert [gigabytes(n) for n in (12, 1500, 2.5e6, 16.38e9, 470e9, 1.3e12)] == [
        "12 B", "1.5 kB", "2.5 MB", "16.4 GB", "470 GB", "1.3 TB",
    ]  # fmt: skip
