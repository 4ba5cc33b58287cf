"""The material of the influence benchmark: a model with random weights, LoRA with Adam moments, and random samples.

Speed and agreement need no meaningful weights. Moments come from a few real steps, so that Γ has realistic scales.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.errors import ConfigError, suggest
from harness.training.adam_state import AdamState
from harness.training.chat import Encoded

SHAPES: dict[str, dict[str, Any]] = {
    # 7.2 million parameters, the size at which two processor cores give a figure in a minute.
    "small": {
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "qwen3-0.6b": {
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "qwen3-8b": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": False,
    },
}
"""Qwen3 shapes; the named ones are those of the published configurations."""

ALL_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class BenchSize:
    """The sizes to build. `length` is the least and greatest number of tokens of a sample, half of them completion."""

    shape: str = "small"
    dtype: str = "float32"
    rank: int = 16
    modules: tuple[str, ...] = ALL_LINEARS
    samples: int = 96
    validation: int = 10
    length: tuple[int, int] = (48, 160)


def make_model(size: BenchSize, device: str) -> Any:
    """A Qwen3 of `size.shape` under a LoRA adapter whose B is not zero. Raises `ConfigError` for an unknown shape."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    if size.shape not in SHAPES:
        raise ConfigError(f"there is no model shape '{size.shape}'{suggest(size.shape, SHAPES)}")
    torch.manual_seed(0)
    config = Qwen3Config(**SHAPES[size.shape], max_position_embeddings=4096)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, size.dtype))
    try:
        with torch.device(device):
            base = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(previous)
    lora = LoraConfig(r=size.rank, lora_alpha=2 * size.rank, target_modules=list(size.modules), task_type="CAUSAL_LM")
    model = get_peft_model(base, lora, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.02)
    return model.eval()


def make_items(count: int, size: BenchSize, seed: int) -> list[Encoded]:
    """Random samples of lengths drawn evenly between the bounds."""
    draw = random.Random(seed)
    vocabulary = SHAPES[size.shape]["vocab_size"]
    items = []
    for _ in range(count):
        length = draw.randint(*size.length)
        items.append(Encoded(tuple(draw.randrange(3, vocabulary) for _ in range(length)), length // 2))
    return items


def make_state(model: Any, items: Sequence[Encoded], steps: int = 6) -> AdamState:
    """Adam's moments after `steps` steps on `items`, one item a step; the adapter itself is left where it was."""
    from harness.bench.oracle import gradient

    first: dict[str, torch.Tensor] = {}
    second: dict[str, torch.Tensor] = {}
    for step in range(steps):
        for name, g in gradient(model, items[step % len(items)]).items():
            first[name] = first.get(name, torch.zeros_like(g)).mul_(0.9).add_(g, alpha=0.1)
            second[name] = second.get(name, torch.zeros_like(g)).mul_(0.999).addcmul_(g, g, value=0.001)
    model.zero_grad()
    return AdamState(first, second, steps)
