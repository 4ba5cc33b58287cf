"""Training of the tiny models: Qwen3 from random weights, plain AdamW, loss on the answer only.

A direct loop instead of a trainer class, because the build must be small, quick and the same every time: logits are
formed at answer positions only, the thread count is fixed for the build and restored, and every draw is seeded. It
gives up checkpoints: a build takes about a minute and starts over when it was interrupted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

Encoded = list[tuple[list[int], list[int]]]
THREADS = 1
"""Torch threads of a build: one, so that weights do not depend on the cores and a busy machine costs no waiting."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a tiny model."""

    hidden: int
    layers: int
    heads: int
    inner: int


@dataclass(frozen=True, slots=True)
class LabRecipe:
    """Training settings: steps, examples a step, peak learning rate (linear warm-up, cosine to a tenth)."""

    steps: int
    batch: int
    lr: float
    weight_decay: float = 0.01


@contextmanager
def fixed_torch(seed: int) -> Iterator[None]:
    """Seeded torch with a fixed thread count; the caller's generator state and threads come back afterwards."""
    import torch

    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


def new_model(tokenizer: PreTrainedTokenizerFast, shape: Shape) -> Qwen3ForCausalLM:
    """A randomly initialised Qwen3 of this shape for the tokenizer, in float32."""
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.hidden // shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config).float()
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=1.0
    )
    return model


def train_in_place(
    model: Qwen3ForCausalLM, data: Encoded, recipe: LabRecipe, seed: int, report: Callable[[float], None]
) -> float:
    """Train in place on random batches; return the mean loss per answer token over the last twentieth of the steps."""
    import torch

    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
    batches = _batches(data, recipe.batch, rng)
    model.train()
    losses: list[float] = []
    for step in range(recipe.steps):
        scale = _schedule(step, recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * scale
        loss = _answer_loss(model, next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        report((step + 1) / recipe.steps)
    model.eval()
    tail = losses[-max(1, len(losses) // 20) :]
    return sum(tail) / len(tail)


def _batches(data: Encoded, size: int, rng: random.Random) -> Iterator[Encoded]:
    """Endless random batches of similar length: eight at a time are drawn together and sorted, to save padding."""
    size = min(size, max(1, len(data) // 8))
    while True:
        drawn = sorted(rng.sample(data, size * 8), key=lambda e: len(e[0]) + len(e[1]))
        starts = list(range(0, len(drawn), size))
        rng.shuffle(starts)
        yield from (drawn[start : start + size] for start in starts)


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _answer_loss(model: Qwen3ForCausalLM, batch: Encoded) -> torch.Tensor:
    """Mean cross-entropy over answer tokens; right padding needs no mask under causal attention."""
    import torch

    width = max(len(p) + len(a) for p, a in batch) - 1
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    labels = torch.full((len(batch), width), -100)
    for row, (prompt, answer) in enumerate(batch):
        both = torch.tensor(prompt + answer)
        ids[row, : len(both) - 1] = both[:-1]
        labels[row, len(prompt) - 1 : len(both) - 1] = both[len(prompt) :]
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    kept = labels != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[kept]), labels[kept])
