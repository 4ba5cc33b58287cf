"""Peak memory of tensors that a piece of work allocates, above what was there before: exact, from the allocators.

On a GPU the caching allocator counts; on a processor the profiler's record of every allocation and release does, which
sees temporaries inside operators too. The process' own size would say little: allocators keep what was freed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    from torch.profiler import ProfilerActivity, profile

    profiler: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _silent_errors():
        profiler.start()
    try:
        work()
    finally:
        with _silent_errors():
            profiler.stop()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


@contextmanager
def _silent_errors() -> Iterator[None]:
    """The profiler's library writes a line to standard error when it starts and when it stops, at any log level."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
