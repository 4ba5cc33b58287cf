"""Sizes of models from their architecture numbers: parameters, memory, floating-point operations.

Everything is arithmetic on a dozen integers, so `plan` and `doctor` can say what a run needs before any weight is
there and without importing torch. It gives up exactness where libraries differ: activations and caches are
estimates (the formulas name their source), weights and LoRA sizes are exact counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BYTES = {"float32": 4, "bfloat16": 2}
_REPACKED = ("fp8", "awq", "gptq", "gguf", "int4", "int8", "4bit", "8bit", "bnb", "mlx")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Architecture of a decoder with grouped-query attention and gated MLPs (Llama, Qwen3, Qwen3-MoE).

    `experts` is 0 for a dense model; otherwise every layer has that many MLPs of width `intermediate`, of which
    `active_experts` serve a token, and a router.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    qk_norm: bool = True
    experts: int = 0
    active_experts: int = 0

    def _parameters(self, experts: int) -> int:
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * q + 2 * kv) + (2 * self.head_dim if self.qk_norm else 0)
        mlp = 3 * self.hidden * self.intermediate * max(1, experts) + self.hidden * self.experts
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return self.layers * (attention + mlp + 2 * self.hidden) + self.hidden + embeddings

    @property
    def parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        return self._parameters(self.experts)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through."""
        return self._parameters(self.active_experts)

    @property
    def kv_bytes_per_token(self) -> int:
        """Key and value cache of one token in 16 bits."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2

    def lora_parameters(self, rank: int, modules: Sequence[str]) -> int:
        """Parameters of LoRA adapters: rank x (inputs + outputs) of every adapted linear layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        ends = {
            "q_proj": self.hidden + q,
            "k_proj": self.hidden + kv,
            "v_proj": self.hidden + kv,
            "o_proj": self.hidden + q,
            "gate_proj": self.hidden + self.intermediate,
            "up_proj": self.hidden + self.intermediate,
            "down_proj": self.hidden + self.intermediate,
        }
        return self.layers * rank * sum(ends[name] for name in modules if name in ends)


def _qwen3(hidden: int, intermediate: int, layers: int, heads: int, tied: bool) -> ModelShape:
    return ModelShape(hidden, intermediate, layers, heads, 8, 128, 151936, tied)


KNOWN = {
    "Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, True),
    "Qwen3-1.7B": _qwen3(2048, 6144, 28, 16, True),
    "Qwen3-4B": _qwen3(2560, 9728, 36, 32, True),
    "Qwen3-8B": _qwen3(4096, 12288, 36, 32, False),
    "Qwen3-14B": _qwen3(5120, 17408, 40, 40, False),
    "Qwen3-235B-A22B": ModelShape(4096, 1536, 94, 64, 4, 128, 151936, experts=128, active_experts=8),
    "Llama-3-8B": ModelShape(4096, 14336, 32, 32, 8, 128, 128256, qk_norm=False),
}
"""Published architectures by family name; ids such as `Qwen/Qwen3-8B-Base` and `meta-llama/Meta-Llama-3-8B` match."""


def known_shape(model_id: str) -> ModelShape | None:
    """Shape of a hub id by its name, or None for an unknown family or a re-packed (quantised) variant.

    Qwen3's embedding models have their family's shape, less a head.
    """
    name = model_id.rstrip("/").split("/")[-1].removeprefix("Meta-").replace("-Embedding", "")
    if any(mark in name.lower() for mark in _REPACKED):
        return None
    for family in sorted(KNOWN, key=len, reverse=True):
        if name == family or name.startswith(f"{family}-"):
            return KNOWN[family]
    return None


def shape_from_folder(folder: Path) -> ModelShape | None:
    """Shape from a model folder's `config.json`, or None where it is missing or of another architecture."""
    try:
        c = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = c["model_type"]
        if kind not in ("qwen3", "qwen3_moe", "llama") or "quantization_config" in c:
            return None
        moe = kind == "qwen3_moe"
        return ModelShape(
            hidden=c["hidden_size"],
            intermediate=c["moe_intermediate_size"] if moe else c["intermediate_size"],
            layers=c["num_hidden_layers"],
            heads=c["num_attention_heads"],
            kv_heads=c["num_key_value_heads"],
            head_dim=c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"],
            vocab=c["vocab_size"],
            tied=bool(c.get("tie_word_embeddings", False)),
            qk_norm=kind.startswith("qwen3"),
            experts=c["num_experts"] if moe else 0,
            active_experts=c["num_experts_per_tok"] if moe else 0,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def weight_bytes(shape: ModelShape, dtype: str) -> int:
    """Size of the weights in memory."""
    return shape.parameters * BYTES[dtype]


def inference_bytes(shape: ModelShape, dtype: str, tokens: int) -> int:
    """Weights and the key-value cache of `tokens` tokens that are in flight together."""
    return weight_bytes(shape, dtype) + shape.kv_bytes_per_token * BYTES[dtype] // 2 * tokens


def activation_bytes(shape: ModelShape, dtype: str, tokens: int, *, checkpointing: bool) -> int:
    """Activations of one forward and backward pass over `tokens` tokens, with fused attention.

    34 x tokens x hidden bytes a layer in 16 bits, or 2 x tokens x hidden a layer and one layer in full with
    checkpointing (Korthikanti et al. 2022, arXiv 2205.05198, without the attention-score term that fused
    attention avoids), and the logits with their 32-bit softmax and gradient (10 bytes each).
    """
    width = BYTES[dtype] // 2
    layer = 34 * tokens * shape.hidden * width
    layers = 2 * tokens * shape.hidden * width * shape.layers + layer if checkpointing else layer * shape.layers
    return layers + 10 * tokens * shape.vocab


def full_training_bytes(shape: ModelShape, dtype: str, tokens: int, *, checkpointing: bool) -> int:
    """Weights, gradients and both Adam moments in the model's own dtype, and activations of a micro-batch."""
    return 4 * weight_bytes(shape, dtype) + activation_bytes(shape, dtype, tokens, checkpointing=checkpointing)


def lora_training_bytes(
    shape: ModelShape, dtype: str, tokens: int, rank: int, modules: Sequence[str], *, checkpointing: bool
) -> int:
    """Frozen weights, adapters with gradient and moments in 32 bits, and activations of a micro-batch."""
    adapters = 16 * shape.lora_parameters(rank, modules)
    return weight_bytes(shape, dtype) + adapters + activation_bytes(shape, dtype, tokens, checkpointing=checkpointing)


def forward_flops(shape: ModelShape, tokens: float) -> float:
    """2 per active parameter and token (Kaplan et al. 2020, arXiv 2001.08361); attention scores are left out."""
    return 2.0 * shape.active_parameters * tokens


def training_flops(shape: ModelShape, tokens: float) -> float:
    """Forward and backward: three forward passes."""
    return 3.0 * forward_flops(shape, tokens)


def gigabytes(count: float) -> str:
    """A readable size in decimal units, such as `16.4 GB`."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            value = count / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{count:.0f} B"
