"""Influence by its definition, one sample and one gradient at a time, and small random models to compute it on.

Written apart from the engine: the loss is the model's own, the gradient autograd's, the cosines are taken pair by pair,
and Adam's direction is spelled out in float64.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from harness.config import InfluenceConfig
from harness.training.adam_state import AdamState
from harness.training.chat import Encoded

VOCABULARY = 97
Gradient = Mapping[str, torch.Tensor]

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


def loss_of(model: Any, item: Encoded) -> torch.Tensor:
    """The model's own loss on one unpadded sequence: the mean over its completion tokens."""
    ids = torch.tensor([item.ids])
    labels = ids.clone()
    labels[:, : item.prompt_length] = -100
    loss: torch.Tensor = model(input_ids=ids, labels=labels).loss
    return loss


def gradient(model: Any, item: Encoded) -> Gradient:
    """Autograd's gradient of one sample with respect to every trainable parameter."""
    model.eval()
    model.zero_grad()
    loss_of(model, item).backward()
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def adam_direction(g: Gradient, state: AdamState, options: InfluenceConfig) -> dict[str, torch.Tensor]:
    """m̂' / (√v̂' + ε) and its variants, in float64."""
    direction = {}
    for name, value in g.items():
        own, m, v = value.double(), state.first[name].double(), state.second[name].double()
        top = 0.9 * m + 0.1 * own if options.momentum else 0.1 * own
        bottom = 0.999 * v + 0.001 * own**2 if options.own_second_moment else v.clone()
        if options.bias_correction:
            seen = state.step + 1 if options.own_second_moment else state.step
            top, bottom = top / (1 - 0.9 ** (state.step + 1)), bottom / (1 - 0.999**seen)
        root = torch.sqrt(bottom + options.eps) if options.eps_mode == "inside" else torch.sqrt(bottom) + options.eps
        direction[name] = top / root
    return direction


def flat(vector: Gradient) -> torch.Tensor:
    """One vector, float64, parameters in order of name."""
    return torch.cat([vector[name].double().flatten() for name in sorted(vector)])


def scores(
    candidates: Sequence[Gradient], validation: Sequence[Gradient], state: AdamState, options: InfluenceConfig
) -> list[float]:
    """The influence of every candidate, pair by pair."""
    targets = [flat(g) for g in validation]
    if options.aggregate == "cosine_of_mean":
        targets = [torch.stack(targets).mean(dim=0)]
    values = []
    for g in candidates:
        update = flat(g if options.update == "sgd" else adam_direction(g, state, options))
        pairs = []
        for target in targets:
            dot = float(target @ update)
            if options.aggregate != "mean_dot":
                dot /= math.sqrt(float(target @ target)) * math.sqrt(float(update @ update))
            pairs.append(dot)
        values.append(sum(pairs) / len(pairs))
    return values


def assert_close(got: Sequence[float], wanted: Sequence[float], share: float) -> None:
    """Every value within `share` of the root mean square of what is wanted."""
    rms = math.sqrt(sum(w * w for w in wanted) / len(wanted))
    worst = max(abs(g - w) for g, w in zip(got, wanted, strict=True))
    assert worst <= share * rms, f"off by {worst:.3g}, {worst / rms:.3g} of the rms {rms:.3g}"
