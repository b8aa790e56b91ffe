r"""Channels and late mixtures on 64 x 64 points, for a GPU.

Nothing here is run unless a seed is asked for, by the methods of the small problems:

    python -m benchmarks run --suite generators --problem "channels, 64 x 64" \
        --method student --seed 0
    python -m benchmarks run --suite generators \
        --problem "late Cahn-Hilliard, 64 x 64" --method "one row, *" --seed 0

The wells are in the same places, and mixtures separate for twice as long.
"""

import dataclasses

from .. import bench
from . import problems_evolution, problems_steady

CHANNELS = problems_steady.Channels(64, wells=(10, 34, 54), training=20_000)
LATE = problems_evolution.Late(64, skip=199, count=2000)


@bench.problem("generators", "channels, 64 x 64", kind="steady", seeds=(), quick=False)
def channels(quick):
    few = problems_steady.QUICK
    return dataclasses.replace(CHANNELS, **few) if quick else CHANNELS


@bench.problem(
    "generators", "late Cahn-Hilliard, 64 x 64", kind="evolution", seeds=(), quick=False
)
def late(quick):
    few = problems_evolution.QUICK
    return dataclasses.replace(LATE, **few) if quick else LATE
