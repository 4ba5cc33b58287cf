"""The C allocator, tuned for training tiny models on a processor.

glibc returns large blocks to the system after every step and maps them again in the next, zeroed page by page; keeping
them is worth a quarter of a tiny model's step. Elsewhere (macOS, musl) nothing is changed. It gives up memory: what was
once used stays with the process.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 1 << 28


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory; returns whether there is a glibc that took it."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    return all(
        mallopt(option, value)
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _TOP_PAD_BYTES))
    )
