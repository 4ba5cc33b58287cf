"""Sizes of models from their architecture numbers: parameters, bytes of weights and caches, floating-point operations.

Everything is arithmetic on a dozen integers, so `plan` and `doctor` can say what a run needs before any weight is
there and without importing torch. Weights and LoRA sizes are exact counts; what training and generation hold beside
them is in `harness.memory`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.texts import read_text

BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Architecture of a decoder with grouped-query attention and gated MLPs.

    `kind` is the family whose details it has: `qwen3` normalises queries and keys, `qwen2` has biases on them and on
    values, `llama` neither. `experts` is 0 for a dense model; otherwise every layer has that many MLPs of width
    `intermediate`, of which `active_experts` serve a token, and a router.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    kind: Literal["qwen3", "qwen2", "llama"] = "qwen3"
    experts: int = 0
    active_experts: int = 0

    @property
    def q(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Width of all keys, and of all values."""
        return self.kv_heads * self.head_dim

    def _parameters(self, experts: int) -> int:
        attention = self.hidden * (2 * self.q + 2 * self.kv)
        attention += {"qwen3": 2 * self.head_dim, "qwen2": self.q + 2 * self.kv, "llama": 0}[self.kind]
        mlp = 3 * self.hidden * self.intermediate * max(1, experts) + self.hidden * self.experts
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return self.layers * (attention + mlp + 2 * self.hidden) + self.hidden + embeddings

    @property
    def parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        return self._parameters(self.experts)

    @property
    def linear_parameters(self) -> int:
        """Parameters of all linear layers but the output layer (norms and biases, which are few, included)."""
        return self.parameters - self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through."""
        return self._parameters(self.active_experts)

    @property
    def kv_bytes_per_token(self) -> int:
        """Key and value cache of one token in 16 bits."""
        return 2 * self.layers * self.kv * 2

    def lora_parameters(self, rank: int, modules: Sequence[str]) -> int:
        """Parameters of LoRA adapters: rank x (inputs + outputs) of every adapted linear layer."""
        ends = {
            "q_proj": self.hidden + self.q,
            "k_proj": self.hidden + self.kv,
            "v_proj": self.hidden + self.kv,
            "o_proj": self.hidden + self.q,
            "gate_proj": self.hidden + self.intermediate,
            "up_proj": self.hidden + self.intermediate,
            "down_proj": self.hidden + self.intermediate,
            "experts.gate_up_proj": self.experts * (self.hidden + 2 * self.intermediate),
            "experts.down_proj": self.experts * (self.hidden + self.intermediate),
        }
        return self.layers * rank * sum(ends[name] for name in modules if name in ends)


def shape_from_folder(folder: Path) -> ModelShape | None:
    """Shape from a model folder's `config.json`, or None where it is missing or of another architecture."""
    try:
        c = json.loads(read_text(folder / "config.json"))
        kind = c["model_type"]
        if kind not in ("qwen3", "qwen3_moe", "qwen2", "llama") or "quantization_config" in c:
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
            kind=kind.removesuffix("_moe"),
            experts=c["num_experts"] if moe else 0,
            active_experts=c["num_experts_per_tok"] if moe else 0,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def weight_bytes(shape: ModelShape, dtype: str) -> int:
    """Size of the weights in memory."""
    return shape.parameters * BYTES[dtype]


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
