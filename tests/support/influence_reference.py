"""Small random models with a warm-up's state, items, and how closely the engine has to agree with the definition."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from harness.bench.oracle import loss_of
from harness.training.adam_state import AdamState
from harness.training.chat import Encoded

VOCABULARY = 97

_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_LORA: dict[str, dict[str, Any]] = {
    "qwen3": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
    "llama": {"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "gpt2": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
}
FAMILIES = tuple(_LORA)


def base_model(family: str, **changes: Any) -> Any:
    """A random model; the Llama and the GPT-2 carry dropout, which scoring must not apply."""
    torch.manual_seed(3)
    if family == "gpt2":
        tokens = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
        return GPT2LMHeadModel(GPT2Config(**tokens, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    sizes = {**_SIZES, "vocab_size": VOCABULARY, "num_key_value_heads": 2, "max_position_embeddings": 64, **changes}
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, attention_dropout=0.2))
    return Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8, tie_word_embeddings=True))


def lora_model(family: str, model: Any = None, **changes: Any) -> Any:
    """A model under a fresh LoRA adapter; `changes` go into its configuration."""
    settings = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "task_type": "CAUSAL_LM", **_LORA[family], **changes}
    return get_peft_model(model or base_model(family), LoraConfig(**settings))


def items(count: int, seed: int) -> list[Encoded]:
    """Random token sequences of unequal lengths, with completions from one token on."""
    draw = random.Random(seed)
    made = []
    for i in range(count):
        prompt, completion = draw.randint(2, 12), 1 if i == 0 else draw.randint(2, 9)
        made.append(Encoded(tuple(draw.randrange(3, VOCABULARY) for _ in range(prompt + completion)), prompt))
    return made


def warmed(family: str) -> tuple[Any, AdamState]:
    """A LoRA model after five Adam steps on random sequences, and Adam's moments, named here and not by the library."""
    model = lora_model(family)
    model.eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(named.values(), lr=5e-3, weight_decay=0.0)
    data = items(10, seed=1)
    for step in range(5):
        optimizer.zero_grad()
        for item in data[2 * step : 2 * step + 2]:
            (loss_of(model, item) / 2).backward()
        optimizer.step()
    first = {name: optimizer.state[p]["exp_avg"].clone() for name, p in named.items()}
    second = {name: optimizer.state[p]["exp_avg_sq"].clone() for name, p in named.items()}
    return model, AdamState(first, second, 5)


def assert_close(got: Sequence[float], wanted: Sequence[float], share: float) -> None:
    """Every value within `share` of the root mean square of what is wanted."""
    rms = math.sqrt(sum(w * w for w in wanted) / len(wanted))
    worst = max(abs(g - w) for g, w in zip(got, wanted, strict=True))
    assert worst <= share * rms, f"off by {worst:.3g}, {worst / rms:.3g} of the rms {rms:.3g}"
