"""How often Student's paired interval misses the truth, and how often `skewed` warns, by noise and number of pairs.

    .venv/bin/python tests/benchmarks/interval_skew.py [DRAWS]

Two arms with equal means in every world. `misses`: share of draws whose 95 % interval leaves out zero (nominally 5 %);
`warned`: share whose differences are called skewed.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable

from results.statistics import paired_difference

Arm = Callable[[random.Random], float]


def normal(rng: random.Random) -> float:
    """Noise of mean 0 and deviation 1."""
    return rng.gauss(0.0, 1.0)


def student(rng: random.Random) -> float:
    """Student's t with 3 degrees of freedom: heavy tails on both sides."""
    return rng.gauss(0.0, 1.0) / math.sqrt(rng.gammavariate(1.5, 2.0) / 3.0)


def log_normal(rng: random.Random) -> float:
    """exp(Z) with its mean taken off: a long tail on one side."""
    return math.exp(rng.gauss(0.0, 1.0)) - math.exp(0.5)


def quiet(rng: random.Random) -> float:
    """Normal noise of a fifth of the deviation."""
    return 0.2 * rng.gauss(0.0, 1.0)


def collapse(rng: random.Random) -> float:
    """One run in ten collapses."""
    return 1.0 + 0.5 * rng.gauss(0.0, 1.0) - (10.0 if rng.random() < 0.1 else 0.0)


NOISE: dict[str, tuple[Arm, Arm]] = {
    "normal": (normal, normal),
    "normal, unequal": (normal, quiet),
    "heavy tails": (student, student),
    "log-normal, both arms": (log_normal, log_normal),
    "log-normal, one arm": (log_normal, quiet),
    "one arm collapses": (collapse, quiet),
}


def rates(noise: str, pairs: int, draws: int, seed: int = 0) -> tuple[float, float]:
    """Shares of draws whose interval misses zero, and whose differences are called skewed."""
    rng = random.Random(f"{noise} {pairs} {seed}")
    first, second = NOISE[noise]
    misses = warned = 0
    for _ in range(draws):
        found = paired_difference({i: first(rng) for i in range(pairs)}, {i: second(rng) for i in range(pairs)})
        misses += found.excludes_zero
        warned += found.skewed
    return misses / draws, warned / draws


def main() -> None:
    """Print the table."""
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print(f"{'noise':<24}" + "".join(f"{f'{n} pairs':>18}" for n in (5, 10, 20, 40)))
    print(f"{'':<24}" + f"{'misses  warned':>18}" * 4)
    for noise in NOISE:
        cells = [rates(noise, pairs, draws) for pairs in (5, 10, 20, 40)]
        print(f"{noise:<24}" + "".join(f"{f'{100 * m:.1f} %  {100 * w:5.1f} %':>18}" for m, w in cells), flush=True)


if __name__ == "__main__":
    main()
