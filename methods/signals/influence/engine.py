"""Per-sample LoRA gradients of a causal LM, streamed module by module, and what is computed from them.

The score of a candidate z against validation items V is mean over V of cos(∇ℓ(z'), Γ(z)) (OptimSyn Eq. 1 at one
checkpoint). Since mean cos(g', Γ) = ⟨mean g'/|g'|, Γ/|Γ|⟩, the validation set collapses into one direction, exactly,
and no random projection is needed. A LoRA matrix is a linear map, so its per-sample gradient is the outer product of
what a hook sees: input x and output gradient δ give G_b = Σ_t δ_bt ⊗ x_bt. Γ is nonlinear in G, so G is formed for one
module at a time, used, and dropped. All weights are frozen: the graph starts at the embedding's output, and autograd
builds no weight gradients at all. The model is in evaluation mode, because some architectures keep dropout as a number
that only train mode reads, and one dropped unit makes a gradient another sample's.

What it gives up: adapters that do not go through the forward of the A and B linears exactly once (DoRA, fused kernels,
shared modules, experts) are refused rather than scored in part, and activation checkpointing, which only works in train
mode, is off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from harness.config import InfluenceConfig
from harness.errors import StageError
from harness.training.adam_state import AdamState
from harness.training.chat import Encoded
from methods.signals.influence.gamma import update_direction

Direction = Mapping[str, torch.Tensor]
"""A vector in LoRA parameter space, by parameter name, float32."""

BATCH_TOKENS = 8192
"""Most tokens of a batch, padding included.

One long item makes all of its batch as long: on abstracts with a tiny model, this takes a sixth of the memory and an
eighth of the time of batches by count alone.
"""


class LoraGradients:
    """Per-sample gradients of the mean completion loss with respect to every LoRA matrix of `model`."""

    def __init__(self, model: Any, pad_id: int, batch_size: int = 64) -> None:
        self.model, self.pad_id, self.batch_size = model, pad_id, batch_size
        self.modules = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and (".lora_A." in name or ".lora_B." in name)
        }
        check_coverage(set(self.modules), {name for name, p in model.named_parameters() if p.requires_grad})
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.eval()

    def stream(
        self,
        items: Sequence[Encoded],
        weights: Sequence[float] | None,
        visit: Callable[[Sequence[int], str, torch.Tensor], None],
    ) -> None:
        """Call `visit(indices, name, G)` for every batch and LoRA matrix; G is [len(indices), *shape], float32.

        Each item's loss is the mean over its completion tokens, times its weight. Items are batched by length, fewer
        where they are long. Raises `StageError` when a LoRA matrix took part in the forward pass other than once.
        """
        for indices in batches([len(item.ids) for item in items], self.batch_size):
            seen: list[str] = []

            def receive(name: str, g: torch.Tensor, indices: Sequence[int] = indices, seen: list[str] = seen) -> None:
                seen.append(name)
                visit(indices, name, g)

            with self._hooks(receive):
                self._backward([items[i] for i in indices], [1.0 if weights is None else weights[i] for i in indices])
            odd = [name for name in self.modules if seen.count(name) != 1]
            if odd:
                raise StageError(
                    f"influence needs every LoRA matrix to be used once in a forward pass, and {len(odd)} are not (for "
                    f"example {odd[0]}: {seen.count(odd[0])} times); leave shared modules and experts out of the "
                    "adapter"
                )

    @contextmanager
    def _hooks(self, receive: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
        handles = [self.model.get_input_embeddings().register_forward_hook(lambda m, i, out: out.requires_grad_(True))]

        def hook(name: str) -> Callable[..., None]:
            def forward(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                x = inputs[0].detach()
                if x.dim() != 3:
                    raise StageError(
                        f"influence needs LoRA inputs of shape [batch, tokens, features], and {name} takes "
                        f"{tuple(x.shape)}; leave modules that flatten tokens, such as experts, out of the adapter"
                    )

                def backward(delta: torch.Tensor) -> None:
                    receive(name, torch.einsum("bto,bti->boi", delta.float(), x.float()))

                if output.requires_grad:
                    output.register_hook(backward)

            return forward

        handles += [module.register_forward_hook(hook(name)) for name, module in self.modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _backward(self, batch: Sequence[Encoded], weights: Sequence[float]) -> None:
        device = next(self.model.parameters()).device
        width = max(len(item.ids) for item in batch)
        ids = torch.full((len(batch), width), self.pad_id)
        attention = torch.zeros((len(batch), width), dtype=torch.long)
        share = torch.zeros((len(batch), width))
        for row, (item, weight) in enumerate(zip(batch, weights, strict=True)):
            ids[row, : len(item.ids)] = torch.tensor(item.ids)
            attention[row, : len(item.ids)] = 1
            share[row, item.prompt_length : len(item.ids)] = weight / item.completion_length
        ids, attention, share = ids.to(device), attention.to(device), share.to(device)
        logits = self.model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        (losses * share[:, 1:].flatten()).sum().backward()


def batches(lengths: Sequence[int], size: int, tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Indices of items by rising length, at most `size` in a batch and `tokens` in it with padding (or one item)."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) == size or (len(batch) + 1) * lengths[index] > tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def check_coverage(captured: set[str], trainable: set[str]) -> None:
    """The captured matrices must be exactly the adapter's trainable parameters, or scores would silently be partial."""
    if captured != trainable or not captured:
        odd = sorted(captured ^ trainable)[:3]
        raise StageError(
            f"influence needs a plain LoRA adapter: {len(captured)} LoRA matrices are seen by hooks, {len(trainable)} "
            f"parameters are trainable (for example {', '.join(odd) or 'none'}); use LoRA without DoRA, trained "
            "biases, embeddings or modules_to_save"
        )


def gradient_norms(gradients: LoraGradients, items: Sequence[Encoded]) -> torch.Tensor:
    """|∇ℓ| of every item, shape [N]."""
    squares = torch.zeros(len(items))

    def visit(indices: Sequence[int], name: str, g: torch.Tensor) -> None:
        squares[list(indices)] += g.square().sum(dim=(1, 2)).cpu()

    gradients.stream(items, None, visit)
    return squares.sqrt()


def validation_direction(
    gradients: LoraGradients, items: Sequence[Encoded], settings: InfluenceConfig
) -> tuple[Direction, dict[str, float]]:
    """The one direction that stands for a validation set, and its diagnostics.

    `mean_cosine`: mean of unit gradients; `cosine_of_mean`: the unit mean gradient; `mean_dot`: the mean gradient.
    Two passes: norms first, then a weighted sum, so that no per-item gradient is kept. Items with a zero or non-finite
    gradient are dropped and counted; none left is a `StageError`.
    """
    norms = gradient_norms(gradients, items)
    usable = [i for i, n in enumerate(norms.tolist()) if 0.0 < n < float("inf")]
    if not usable:
        raise StageError(
            "no validation item has a usable gradient; are all of them truncated? raise the target's max_length"
        )
    chosen = [items[i] for i in usable]
    unit = settings.aggregate == "mean_cosine"
    weights = [1.0 / (len(usable) * (float(norms[i]) if unit else 1.0)) for i in usable]
    total: dict[str, torch.Tensor] = {}

    def visit(indices: Sequence[int], name: str, g: torch.Tensor) -> None:
        summed = g.sum(dim=0)
        total[name] = total[name] + summed if name in total else summed

    gradients.stream(chosen, weights, visit)
    length = float(sum(d.square().sum() for d in total.values())) ** 0.5
    if length == 0.0:
        raise StageError("the validation items' gradients cancel to nothing; use other validation items")
    if settings.aggregate == "cosine_of_mean":
        total = {name: d / length for name, d in total.items()}
    facts = {
        "validation_items": float(len(usable)),
        "validation_dropped": float(len(items) - len(usable)),
        "validation_coherence": length if unit else float("nan"),
        "validation_gradient_norm": float(norms[usable].mean()),
    }
    return total, {k: v for k, v in facts.items() if v == v}


def influence(
    gradients: LoraGradients,
    items: Sequence[Encoded],
    directions: Sequence[Direction],
    state: AdamState | None,
    settings: InfluenceConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [N, len(directions)] and gradient norms [N] of candidates; non-finite where an item cannot be scored."""
    dots = torch.zeros(len(items), len(directions))
    squares = torch.zeros(len(items))
    norms = torch.zeros(len(items))

    def visit(indices: Sequence[int], name: str, g: torch.Tensor) -> None:
        rows = list(indices)
        gamma = update_direction(g, name, state, settings).flatten(1)
        target = torch.stack([d[name].flatten() for d in directions], dim=1)
        dots[rows] += (gamma @ target).cpu()
        squares[rows] += gamma.square().sum(dim=1).cpu()
        norms[rows] += g.flatten(1).square().sum(dim=1).cpu()

    gradients.stream(items, None, visit)
    if settings.aggregate != "mean_dot":
        dots = dots / squares.sqrt().unsqueeze(1)
    return dots, norms.sqrt()
