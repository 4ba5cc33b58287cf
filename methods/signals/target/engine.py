"""Per-sample LoRA gradients of a causal LM, streamed module by module.

A LoRA matrix is a linear map, so its per-sample gradient is the outer product of what a hook sees: input x and output
gradient δ give G_b = Σ_t δ_bt ⊗ x_bt. What signals make of G is nonlinear in it, so G is formed for one module at a
time, used, and dropped.

What keeps it at the price of a training step: all weights are frozen, so autograd builds no weight gradient; the graph
starts at the lowest A matrices' outputs, so that nothing below them is differentiated; and only the hidden states that
predict a completion token reach the head.

The model is in evaluation mode, because some architectures keep dropout as a number that only train mode reads, and one
dropped unit makes a gradient another sample's. For activation checkpointing, which libraries offer in train mode only,
just the checkpointing layers themselves are flagged as training, not what they contain.

What it gives up: adapters that do not go through the forward of the A and B linears exactly once (DoRA, fused kernels,
shared modules, the experts' one parameter) are refused rather than scored in part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from harness.config_runtime import ScoringConfig
from harness.errors import StageError
from harness.models.rope import rope_switch
from harness.training.batches import Collated, Layout, batches, collate
from harness.training.chat import Encoded

Visit = Callable[[Sequence[int], str, torch.Tensor], None]
"""Called with items' indices, a LoRA matrix' name, and G [len(indices), *shape], float32, which it may overwrite."""


class LoraGradients:
    """Per-sample gradients of the mean completion loss with respect to every trained LoRA matrix of `model`.

    `modules` maps parameter names to the A and B linears of the adapters that are trained; other adapters, loaded but
    not trained, are left alone. `restrict_logits=False` computes logits everywhere, for comparison.
    Raises `StageError` for an adapter whose trained parameters are not exactly those linears.
    """

    def __init__(
        self,
        model: Any,
        pad_id: int,
        batch_size: int = 64,
        scoring: ScoringConfig | None = None,
        *,
        restrict_logits: bool = True,
    ) -> None:
        self.model, self.pad_id, self.batch_size = model, pad_id, batch_size
        self.scoring = scoring or ScoringConfig()
        head = model.get_output_embeddings()
        # An adapter on the head has a gradient at every token that passes through it.
        self.restrict_logits = restrict_logits and not any(p.requires_grad for p in head.parameters())
        self.device = next(model.parameters()).device
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        self.modules = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
            and (".lora_A." in name or ".lora_B." in name)
            and module.weight.requires_grad
        }
        check_coverage(set(self.modules), trained)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.eval()
        if self.scoring.activation_checkpointing:
            _checkpoint_activations(model)
        self._outer = _outer_product(self.device)
        self._switch = rope_switch(getattr(model, "config", None))
        self._recomputing = False

    def stream(
        self,
        items: Sequence[Encoded],
        weights: Sequence[float] | None,
        visit: Visit,
        layout: Layout | None = None,
    ) -> None:
        """Call `visit(indices, name, G)` for every batch and LoRA matrix.

        Each item's loss is the mean over its completion tokens, times its weight. Items need a completion token.
        `layout` takes the place of the settings'.
        Raises `StageError` when a LoRA matrix took part in the forward pass other than once.
        """
        lengths = [len(item.ids) for item in items]
        layout = layout or self.scoring.layout
        for indices in batches(lengths, self.batch_size, self.scoring.batch_tokens, layout, self._switch):
            share = [1.0 if weights is None else weights[i] for i in indices]
            batch = collate([items[i] for i in indices], share, self.pad_id, layout, self.device)
            self._visit_batch(batch, indices, visit)

    def _visit_batch(self, batch: Collated, indices: Sequence[int], visit: Visit) -> None:
        forward: Counter[str] = Counter()
        backward: Counter[str] = Counter()

        def receive(name: str, delta: torch.Tensor, x: torch.Tensor) -> None:
            backward[name] += 1
            visit(indices, name, self._gradient(name, delta, x, batch))

        with self._hooks(batch, forward, receive):
            loss = self.loss(batch)
            if loss.requires_grad:
                self._recomputing = self.scoring.activation_checkpointing
                try:
                    loss.backward()
                finally:
                    self._recomputing = False
        odd = [name for name in self.modules if forward[name] != 1 or backward[name] != 1]
        if odd:
            raise StageError(
                f"gradients by hooks need every LoRA matrix to be used once in a forward pass, and {len(odd)} are not "
                f"(for example {odd[0]}: {forward[odd[0]]} times forward, {backward[odd[0]]} times backward); leave "
                "layers that several parts share, and experts, out of warmup.lora_modules"
            )

    def loss(self, batch: Collated) -> torch.Tensor:
        """Σ over items of weight times mean completion loss; logits are made float32 before the loss."""
        handles = []
        if self.restrict_logits:

            def restrict(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
                return (args[0].flatten(0, 1)[batch.predicting].unsqueeze(0), *args[1:])

            handles.append(self.model.get_output_embeddings().register_forward_pre_hook(restrict))
        try:
            logits = self.model(
                input_ids=batch.ids, attention_mask=batch.attention, position_ids=batch.positions, use_cache=False
            ).logits
        finally:
            for handle in handles:
                handle.remove()
        rows = logits.flatten(0, 1)
        if not self.restrict_logits:
            rows = rows[batch.predicting]
        losses = torch.nn.functional.cross_entropy(rows.float(), batch.labels, reduction="none")
        return (losses * batch.shares).sum()

    @contextmanager
    def _hooks(
        self,
        batch: Collated,
        forward: Counter[str],
        receive: Callable[[str, torch.Tensor, torch.Tensor], None],
    ) -> Iterator[None]:
        """Hooks that keep each matrix' input until its output gradient arrives, and hand both over.

        Under activation checkpointing the input is kept from the recomputation instead, or keeping it would undo the
        saving. The recomputed forward may stop early, so it is taken before the module runs; and the last matrices of a
        layer get their output gradient before anything needs the recomputation, so that gradient waits.
        """
        kept: dict[str, torch.Tensor] = {}
        waiting: dict[str, torch.Tensor] = {}
        expected = tuple(batch.ids.shape)

        def before(name: str) -> Callable[..., None]:
            def keep(module: Any, args: tuple[torch.Tensor, ...]) -> None:
                if tuple(args[0].shape[:-1]) not in (expected, (expected[0] * expected[1],)):
                    raise StageError(
                        f"gradients by hooks need LoRA inputs of shape [batch, tokens, features], and {name} takes "
                        f"{tuple(args[0].shape)}; leave modules that see some of the tokens, such as an expert, out of "
                        "warmup.lora_modules"
                    )
                # Routers and shared experts see the same tokens in one row.
                x = args[0].detach().reshape(*expected, -1)
                if name in waiting:
                    receive(name, waiting.pop(name), x)
                elif self._recomputing or not self.scoring.activation_checkpointing:
                    kept[name] = x

            return keep

        def after(name: str) -> Callable[..., None]:
            def watch(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                if self._recomputing:
                    return
                forward[name] += 1
                if not output.requires_grad:
                    # The lowest adapters: the graph starts here, and nothing below is differentiated.
                    output.requires_grad_(True)
                output.register_hook(arrive)

            def arrive(delta: torch.Tensor) -> None:
                delta = delta.reshape(*expected, -1)
                if name in kept:
                    receive(name, delta, kept.pop(name))
                else:
                    waiting[name] = delta

            return watch

        handles = [module.register_forward_pre_hook(before(name)) for name, module in self.modules.items()]
        handles += [module.register_forward_hook(after(name)) for name, module in self.modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _gradient(self, name: str, delta: torch.Tensor, x: torch.Tensor, batch: Collated) -> torch.Tensor:
        """G of every item, [B, out, in], float32."""
        if not batch.packed:
            return self._outer(delta.transpose(1, 2), x)
        whole = torch.empty(len(batch.spans), delta.shape[-1], x.shape[-1], device=x.device)
        for number, (row, start, end) in enumerate(batch.spans):
            whole[number] = self._outer(delta[row : row + 1, start:end].transpose(1, 2), x[row : row + 1, start:end])[0]
        return whole


def _checkpoint_activations(model: Any) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    flagged = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]
    if not flagged:
        raise StageError(
            f"{type(model).__name__} offers no activation checkpointing; set "
            "runtime.scoring.activation_checkpointing=false"
        )
    for module in flagged:
        # Not .train(): that would reach the dropout inside.
        module.training = True


def _outer_product(device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Batched [B, o, T] x [B, T, i] with float32 sums and a float32 result.

    Where the device multiplies half-precision matrices into float32, nothing is converted first.
    """

    def converted(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.bmm(left.float(), right.float())

    def mixed(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.dtype == right.dtype and left.dtype in (torch.bfloat16, torch.float16):
            return torch.bmm(left, right, out_dtype=torch.float32)
        return converted(left, right)

    if device.type != "cuda":
        return converted
    probe = torch.ones(1, 16, 16, device=device, dtype=torch.bfloat16)
    try:
        return mixed if bool((mixed(probe, probe) == 16.0).all()) else converted
    except (RuntimeError, TypeError):
        return converted


def check_coverage(captured: set[str], trained: set[str]) -> None:
    """The captured matrices must be exactly the adapter's trained parameters, or scores would silently be partial."""
    if captured != trained or not captured:
        odd = sorted(captured ^ trained)[:3]
        raise StageError(
            f"gradients by hooks need a plain LoRA adapter: {len(captured)} LoRA matrices are seen by hooks, "
            f"{len(trained)} parameters are trainable (for example {', '.join(odd) or 'none'}); use LoRA without DoRA, "
            "trained biases, embeddings or modules_to_save"
        )


class Streams(Protocol):
    """Whoever hands out per-sample gradients: `LoraGradients`, or `OneByOne`."""

    def stream(self, items: Sequence[Encoded], weights: Sequence[float] | None, visit: Visit) -> None:
        """As `LoraGradients.stream`."""


def gradient_norms(gradients: Streams, items: Sequence[Encoded]) -> torch.Tensor:
    """|∇ℓ| of every item, shape [N], float64."""
    squares = torch.zeros(len(items), dtype=torch.float64)

    def visit(indices: Sequence[int], name: str, g: torch.Tensor) -> None:
        squares[list(indices)] += g.flatten(1).square().sum(dim=1).double().cpu()

    gradients.stream(items, None, visit)
    return squares.sqrt()
