"""The speed of the machine that one sits at, measured in seconds: for a run without a GPU, `plan` computes with this.

Two figures hold for any model: products of square matrices in the run's type, and memory bandwidth. Where a small
model's weights are here, one batch of it is timed as well, forward, backward and in decoding, since the share of the
peak that a model reaches on a processor varies too much to be assumed. A machine shared with other work is measured as
slow as it is at that moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.devices import DeviceClass
from harness.estimate import BYTES, ModelShape, forward_flops, weight_bytes
from harness.resolve import machine

NAME = "this machine"
SIZE = 1024
"""Rows and columns of the matrices that are multiplied."""
COPIED = 1 << 27
"""Bytes of the tensor that is copied."""
TOKENS = 128
"""Tokens of the sequence that is timed."""
PATIENCE = 2.0
"""Seconds that one training pass over them may be expected to take; beyond that no model is timed."""
COMPUTE_SHARE, BANDWIDTH_SHARE = 0.4, 0.3
"""Assumed where no model was timed: seen with 135M parameters on two processor cores."""


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """This machine as a class of devices, the seconds that a stage pays to load the model, and what was measured."""

    device: DeviceClass
    start: float
    basis: str


def measure(dtype: str, folder: Path | None, shape: ModelShape | None, together: int, read: int) -> MachineSpeed:
    """Measure this machine in `dtype`; where the model in `folder` is small, with it.

    It then decodes `together` sequences that have `read` tokens each behind them: on a processor a step handles its
    whole cache several times, which is most of its time.
    """
    import torch

    kind = getattr(torch, dtype)
    with torch.inference_mode():
        a = torch.ones(SIZE, SIZE, dtype=kind)
        peak = 2 * SIZE**3 / _fastest(lambda: a @ a, 0.5)
        source = torch.ones(COPIED, dtype=torch.uint8)
        target = torch.empty_like(source)
        bandwidth = 2 * COPIED / _fastest(lambda: target.copy_(source), 0.3)
    compute_share, bandwidth_share, start = COMPUTE_SHARE, BANDWIDTH_SHARE, 0.0
    basis = f"{peak / 1e9:,.0f} GFLOP/s in {dtype} products, {bandwidth / 1e9:,.0f} GB/s"
    if folder is not None and shape is not None and _pass(shape) / (COMPUTE_SHARE * peak) <= PATIENCE:
        compute, moved, start = _model(folder, dtype, shape, together, read)
        compute_share, bandwidth_share = compute / peak, moved / bandwidth
        basis += f"; a batch of {folder.name}: {compute / 1e9:,.0f} GFLOP/s, decoding at {moved / 1e9:,.1f} GB/s"
    else:
        basis += f"; assumed {COMPUTE_SHARE:.0%} and {BANDWIDTH_SHARE:.0%} of them"
    device = DeviceClass(
        name=NAME,
        memory=machine.memory()[0],
        peak=peak,
        bandwidth=bandwidth,
        compute_share=compute_share,
        bandwidth_share=bandwidth_share,
    )
    return MachineSpeed(device, start, f"measured now on {torch.get_num_threads()} threads: {basis}")


def _pass(shape: ModelShape) -> float:
    """Operations of one training pass over the sequence that is timed."""
    return 3 * forward_flops(shape, TOKENS)


def _fastest(work: Callable[[], Any], seconds: float) -> float:
    """Seconds of one call at its fastest, of as many as fit into `seconds` after one to warm up."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def _model(folder: Path, dtype: str, shape: ModelShape, together: int, read: int) -> tuple[float, float, float]:
    """Operations a second of a training pass, bytes a second in decoding, and seconds to load the model."""
    import torch
    from transformers import AutoModelForCausalLM

    from harness.models.attention import share_keys
    from harness.training.trainer import quiet_libraries

    quiet_libraries()
    share_keys()
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    loaded = time.perf_counter() - started
    ids = torch.randint(0, shape.vocab, (1, TOKENS), generator=torch.Generator().manual_seed(0))

    def train() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    compute = _pass(shape) / _fastest(train, 1.0)
    with torch.inference_mode():
        prompt = ids[:, :32].expand(together, -1)
        cache = model(input_ids=prompt, use_cache=True).past_key_values
        # As if the prompts had been longer, without the time to read them.
        for layer in cache.layers:
            layer.keys, layer.values = (x.repeat(1, 1, -(-read // 32), 1) for x in (layer.keys, layer.values))
        step = _fastest(lambda: model(input_ids=prompt[:, :1], past_key_values=cache, use_cache=True), 1.0)
    held = max(32, read) * shape.kv_bytes_per_token * BYTES[dtype] / 2
    return compute, (weight_bytes(shape, dtype) + together * held) / step, loaded
