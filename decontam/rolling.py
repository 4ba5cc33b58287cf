"""Hashes of windows over a sequence, any window in one subtraction.

With values v_0, v_1, ... (64 bits, mixed) and an odd P, C_i = sum_{j<i} v_j P^j (mod 2^64) gives the hash of the window
from `low` up to `high` as (C_high - C_low) P^{-low} = sum_k v_{low+k} P^k: equal windows have equal hashes wherever
they stand, unequal ones may collide. All of it is arithmetic on whole arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_P = 0x9E3779B97F4A7C15
_INVERSE = pow(_P, -1, 1 << 64)

Hashes = NDArray[np.uint64]


def prefix(values: Hashes) -> tuple[Hashes, Hashes]:
    """Prefix sums C (n + 1,) and inverse powers P^-i (n + 1,) of `values` (n,)."""
    n = len(values)
    powers = np.full(n + 1, _P, np.uint64)
    inverse = np.full(n + 1, _INVERSE, np.uint64)
    powers[0] = inverse[0] = 1
    powers, inverse = np.cumprod(powers, dtype=np.uint64), np.cumprod(inverse, dtype=np.uint64)
    sums = np.zeros(n + 1, np.uint64)
    np.cumsum(values * powers[:n], out=sums[1:], dtype=np.uint64)
    return sums, inverse


def mixed(numbers: NDArray[np.int64]) -> Hashes:
    """A 64-bit value for every number, equal for equal numbers (the finaliser of splitmix64)."""
    x = numbers.astype(np.uint64) + np.uint64(_P)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), np.uint64)
