"""How long the tests of durability, damage and random input go on, and the seeds that repeat them."""

import os
import random
from collections.abc import Iterator

SOAK = int(os.environ.get("GALLERIA_SOAK", "1"))
"""Factor of their sizes; 1 in `make test` and `make test-slow`, more in `make soak`."""

SEED = int(os.environ.get("GALLERIA_SEED", "0"))
"""Seed of the first round."""


def rounds(count: int) -> Iterator[random.Random]:
    """Yield a seeded generator for each of `count` rounds, times `SOAK`; pytest shows the seed of one that fails."""
    for seed in range(SEED, SEED + count * SOAK):
        print(f"GALLERIA_SEED={seed} repeats this round first")  # noqa: T201
        yield random.Random(seed)
