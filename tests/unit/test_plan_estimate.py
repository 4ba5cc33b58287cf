"""Sizes of models against published totals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import estimate, memory
from harness.costs.lengths import decoding_batch
from harness.estimate import gigabytes, shape_from_folder
from harness.memory import Batch, Lora
from harness.models.known import by_id, known_models, known_shape, known_shapes
from harness.resolve.layers import resolve_run

# Totals of transformers' own models, built without weights from the published configurations.
TOTALS = {
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "llama3-8b": 8_030_261_248,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
}


@pytest.mark.parametrize("name", sorted(known_shapes()))
def test_parameters_are_exact(name: str) -> None:
    assert known_shapes()[name].parameters == TOTALS[name]


@pytest.mark.parametrize("name", sorted(TOTALS))
def test_totals_are_those_of_transformers(name: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    s = known_shapes()[name]
    common = dict(
        vocab_size=s.vocab, hidden_size=s.hidden, intermediate_size=s.intermediate, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, tie_word_embeddings=s.tied,
    )  # fmt: skip
    if s.experts:
        config = transformers.Qwen3MoeConfig(
            **{**common, "moe_intermediate_size": s.intermediate}, head_dim=s.head_dim, num_experts=s.experts,
            num_experts_per_tok=s.active_experts, decoder_sparse_step=1, mlp_only_layers=[],
        )  # fmt: skip
    else:
        name = {"qwen3": "Qwen3Config", "qwen2": "Qwen2Config", "llama": "LlamaConfig"}[s.kind]
        config = getattr(transformers, name)(**common, **({"head_dim": s.head_dim} if s.kind != "qwen2" else {}))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() == s.parameters


def test_models_are_complete_and_their_ids_lead_back() -> None:
    for model in known_models().values():
        assert by_id(model.id) == model
        assert known_shape(model.id) == model.shape
        assert model.template in ("chatml", "own", "none") and model.track in ("laptop", "small", "paper")
        assert model.licence
    assert [m.name for m in known_models().values() if m.gated] == ["llama3-8b", "llama3-8b-instruct"]


def test_active_parameters_of_a_mixture() -> None:
    shapes = known_shapes()
    assert shapes["qwen3-235b-a22b"].active_parameters == pytest.approx(22.2e9, rel=0.01)
    assert shapes["qwen3-30b-a3b"].active_parameters == pytest.approx(3.3e9, rel=0.02)
    assert shapes["qwen3-8b"].active_parameters == shapes["qwen3-8b"].parameters


def test_lora_parameters() -> None:
    modules = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert known_shapes()["qwen3-8b"].lora_parameters(128, modules) == 122_683_392


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
        ("Qwen/Qwen3-8B-Base", "qwen3-8b"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", "qwen3-235b-a22b"),
        ("meta-llama/Meta-Llama-3-8B", "llama3-8b"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3-8b"),
    ],
)
def test_hub_ids_are_known_by_family(model_id: str, family: str) -> None:
    assert known_shape(model_id) is known_shapes()[family]


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
    assert shape_from_folder(tmp_path) == known_shapes()["qwen3-0.6b"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    assert shape_from_folder(tmp_path) is None
    assert shape_from_folder(tmp_path / "nothing") is None


def test_memory_of_training_exceeds_that_of_inference() -> None:
    shape = known_shapes()["qwen3-8b"]
    weights = estimate.weight_bytes(shape, "bfloat16")
    assert gigabytes(weights) == "16.4 GB"
    assert estimate.weight_bytes(shape, "float32") == 2 * weights
    batch = Batch(1, 1000, masked=False)
    full = memory.full_training(shape, "bfloat16", batch, accumulate=False).bytes
    adapter = Lora(128, ("q_proj",))
    lora = memory.lora_training(shape, "bfloat16", batch, adapter, accumulate=False).bytes
    # 16 bytes a parameter and the casts of the linear layers' weights.
    assert full > 8 * weights > 4 * weights > lora > weights
    wide = memory.generation(shape, "bfloat16", 10, 900, 100, trained=True).parts
    assert wide["weights"] == 2 * weights + 2 * shape.linear_parameters and wide["cache"] == 10 * 1000 * 147_456 * 1.5
    spared = memory.lora_training(shape, "bfloat16", batch, adapter, accumulate=False, checkpointing=True).bytes
    assert weights < spared < lora
    sampled = memory.generation(shape, "bfloat16", 10, 900, 100)
    assert sampled.parts["cache"] == 10 * 1000 * 147_456 and sampled.bytes > weights + sampled.parts["cache"]
    with_reference = memory.grpo_update(shape, "bfloat16", batch, None, accumulate=False, reference=True, entropy=False)
    assert with_reference.bytes == full + 2 * weights


def test_likelihoods_hold_the_logits_of_every_token_twice() -> None:
    shape = known_shapes()["qwen3-8b"]
    peak = memory.likelihood(shape, "bfloat16", 3, 500)
    assert peak.bytes == estimate.weight_bytes(shape, "bfloat16") + 2 * 3 * 500 * 151_936 * 2


def test_a_model_in_the_process_samples_a_shard_at_once() -> None:
    sets = {"models.generator.backend": "vllm", "synthesis.shard_size": 40, "runtime.vllm.max_num_seqs": 8}
    config = resolve_run(method="static", target="small", sets=sets).config
    assert decoding_batch(config, config.models.writer) == 40
    assert decoding_batch(config, config.models.generator) == 8


def test_flops_per_token() -> None:
    shape = known_shapes()["qwen3-8b"]
    assert estimate.forward_flops(shape, 10) == 20 * shape.parameters
    assert estimate.training_flops(shape, 10) == 60 * shape.parameters


def test_sizes_read_well() -> None:
    assert [gigabytes(n) for n in (12, 1500, 2.5e6, 16.38e9, 470e9, 1.3e12)] == [
        "12 B", "1.5 kB", "2.5 MB", "16.4 GB", "470 GB", "1.3 TB",
    ]  # fmt: skip
