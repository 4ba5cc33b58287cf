"""The table of `docs/benchmarks/plan-memory.md`: measured peaks of tensor memory beside the estimates of `plan`.

python tests/benchmarks/plan_memory.py [CASE ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from support.memory_peak import CASES, estimate, measure  # noqa: E402


def main(names: list[str]) -> int:
    """Print a table of cases; the exit status says whether all are within 15 %."""
    worst = 0.0
    print("| case | parameters | batch | dtype | measured MB | estimated MB | of it layers | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        if names and case.name not in names:
            continue
        measured, expected = measure(case), estimate(case)
        off = expected.bytes / measured - 1
        worst = max(worst, abs(off))
        b = case.batch
        print(
            f"| {case.name} | {case.shape.parameters / 1e6:.1f} M | {b.sequences} x {b.length} | {case.dtype} | "
            f"{measured / 1e6:.1f} | {expected.bytes / 1e6:.1f} | {expected.parts['activations'] / 1e6:.1f} | "
            f"{off:+.1%} |",
            flush=True,
        )
    print(f"\nworst: {worst:.1%}")
    return 0 if worst <= 0.15 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
