"""The memory that `plan` derives is within 15 % of the allocator's peak, on small models through the real functions."""

from __future__ import annotations

import pytest

from support.memory_peak import CASES, estimate, measure

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full-small", "warmup-small-bf16", "influence-small", "grpo-small"])
def test_the_estimate_is_near_the_measured_peak(name: str) -> None:
    case = BY_NAME[name]
    measured, expected = measure(case), estimate(case).bytes
    assert abs(expected / measured - 1) < 0.15, f"measured {measured:,}, estimated {expected:,}"
