"""Classes of devices: memory, dense bf16 peak and memory bandwidth, from the makers' data sheets.

`plan` divides operations by a share of the peak and the bytes that decoding moves by a share of the bandwidth. Both
shares are assumptions, stated beside every figure and not measured here; good engines reach them on large batches, and
small ones fall short of them. There is no price list: what an hour costs depends on who rents it out.
"""

from __future__ import annotations

from dataclasses import dataclass

COMPUTE_SHARE = 0.35
"""Assumed share of the peak in training, scoring and reading prompts."""

BANDWIDTH_SHARE = 0.5
"""Assumed share of the bandwidth in decoding, where every step reads the weights and the cache once."""

USABLE = 0.92
"""Share of a device's memory that is counted on; the rest goes to its context and to fragmentation."""


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """One class of device; memory in bytes, `peak` in operations and `bandwidth` in bytes a second.

    The shares are what models reach of the two: assumed for data-sheet values, measured for the machine at hand.
    """

    name: str
    memory: int
    peak: float
    bandwidth: float
    compute_share: float = COMPUTE_SHARE
    bandwidth_share: float = BANDWIDTH_SHARE

    def seconds(self, compute: float, moved: float) -> float:
        """Time of `compute` operations and of decoding that moves `moved` bytes, at the class's shares."""
        return compute / (self.peak * self.compute_share) + moved / (self.bandwidth * self.bandwidth_share)

    def needed(self, size: int) -> int:
        """Devices over which `size` bytes have to be divided."""
        return max(1, -(-size // int(self.memory * USABLE)))


DEVICES = (
    DeviceClass("RTX 4090", 24_000_000_000, 165e12, 1.01e12),
    DeviceClass("L40S", 48_000_000_000, 362e12, 0.864e12),
    DeviceClass("A100 80GB", 80_000_000_000, 312e12, 2.04e12),
    DeviceClass("H100 80GB", 80_000_000_000, 989e12, 3.35e12),
    DeviceClass("H200", 141_000_000_000, 989e12, 4.8e12),
    DeviceClass("B200", 180_000_000_000, 2250e12, 8.0e12),
)
"""Data-sheet values of the SXM versions where there are several: dense bf16 without sparsity."""

REFERENCE = DEVICES[3]
"""The class whose time stands in the table of stages."""


def device(name: str) -> DeviceClass:
    """The class called `name`."""
    return next(d for d in DEVICES if d.name == name)
