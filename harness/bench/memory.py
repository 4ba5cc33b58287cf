"""Peak memory of tensors that a piece of work allocates, above what was there before: exact, from the allocators.

On a GPU the caching allocator counts; on a processor the profiler's record of every allocation and release does, which
sees temporaries inside operators too. The process' own size would say little: allocators keep what was freed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def peak_tensor_bytes(work: Callable[[], Any], device: str) -> int:
    """Bytes allocated at the highest point of `work()`, less those at its start."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before
    # The profiler's library writes two lines to the terminal at its lower levels.
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak
