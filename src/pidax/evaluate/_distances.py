"""The laws of the samples: distances to one set of clean ones, and their floor."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..denoiser import AbstractDenoiser, AbstractExactDenoiser
from ..metrics import median_bandwidth, mmd, sliced_wasserstein
from ..types import BatchLike, Condition, Key
from ._report import Floor, Solution

_MOST = 8192  # of each set: what pairs cost grows with the square


class Sets(NamedTuple):
    """Two sets of clean samples of one size, and what they are."""

    first: Float[Array, "sample *event"]
    second: Float[Array, "sample *event"]
    source: str


def two_sets(
    teacher: AbstractDenoiser,
    samples: BatchLike | None,
    condition: Condition,
    count: int,
    *,
    key: Key,
) -> Sets | None:
    """Halves of the held-out data, or exact draws; None where there are neither."""
    most = min(count, _MOST)
    if most < 2:
        return None
    if samples is not None:
        size = min(most, len(samples) // 2)
        order = np.asarray(jax.random.permutation(key, len(samples)))
        first, second = (jnp.asarray(samples)[order[i::2][:size]] for i in (0, 1))
        return Sets(first, second, "held-out samples")
    if not isinstance(teacher, AbstractExactDenoiser):
        return None
    condition = jax.tree.map(lambda leaf: leaf[:most], condition)
    draw = jax.jit(jax.vmap(lambda k, c: teacher.sample(key=k, condition=c)))
    keys = jax.random.split(key, (2, most))
    return Sets(draw(keys[0], condition), draw(keys[1], condition), "exact samples")


def with_distances(
    solved: Mapping[str, Solution], sets: Sets, *, key: Key
) -> tuple[dict[str, Solution], Floor]:
    """Each solution with its distances to the first set; those of the second."""
    bandwidth = median_bandwidth(sets.first)

    def distances(samples: BatchLike) -> tuple[float, float]:
        sliced = sliced_wasserstein(samples, sets.first, key=key)
        return float(sliced), float(mmd(samples, sets.first, bandwidth=bandwidth))

    size = len(sets.first)
    found = {}
    for name, solution in solved.items():
        sliced, squared = distances(solution.end[:size])
        found[name] = dataclasses.replace(
            solution, sliced_wasserstein=sliced, mmd=squared
        )
    floor = Floor(
        sets.source, np.asarray(sets.first), float(bandwidth), *distances(sets.second)
    )
    return found, floor
