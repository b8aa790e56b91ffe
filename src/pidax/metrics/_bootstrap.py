r"""Confidence intervals of numbers computed from samples: the bootstrap.

The samples are resampled with replacement, the number is computed for every resample,
and its quantiles are the interval.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import as_float, require, whole_number
from ..types import Key, ScalarLike, WholeLike, typed

_HELD = 1 << 24  # numbers of resampled sets held at once: 64 MiB in float32


class Interval(NamedTuple):
    """An estimate, and the two ends of its confidence interval."""

    estimate: Float[Array, "*value"]
    low: Float[Array, "*value"]
    high: Float[Array, "*value"]

    @classmethod
    def of(
        cls,
        estimate: Float[Array, "*value"],
        values: Float[Array, "resample *value"],
        level: float,
    ) -> "Interval":
        """From the estimate and its values for each resample, with the bias removed."""
        bias = values.mean(axis=0) - estimate
        tail = jnp.asarray([(1 - level) / 2, (1 + level) / 2], values.dtype)
        low, high = jnp.quantile(values, tail, axis=0)
        return cls(estimate, low - bias, high - bias)


@typed
def bootstrap(
    statistic: Callable[..., Any],
    *sets: PyTree,
    key: Key,
    resamples: WholeLike = 1000,
    level: ScalarLike = 0.95,
) -> Interval:
    r"""`statistic(*sets)` with its bootstrap confidence interval.

    **Arguments:**

    - `statistic`: a function of the sets that returns an array; JAX compiles it.
    - `sets`: arrays, or pytrees of them, with the samples as their first axis. Each
      set is resampled on its own; put arrays that belong together into one pytree.
    - `resamples`: the ends of a 95% interval are known to about a tenth of its width
      with 200 and a twentieth with 1000.
    - `level`: the share of intervals that contain the true value, over repetitions of
      the experiment, for many samples. At 0.95 and 60 normal draws it is 0.95 for their
      mean and 0.91 for their standard deviation (0.92 if the quantiles were corrected
      for bias and acceleration); with heavy tails it is less.

    The interval has the quantiles of the resampled values *minus their bias*, which is
    their mean minus the estimate. For a mean or a median the bias is small. But a
    squared distance between sets is positive even if the distributions agree, and a
    resample, which repeats samples, adds a second such floor: without the correction
    the interval would lie above the estimate. At such a floor the interval is too wide
    (for the squared distance of means by up to $\sqrt 3$), never too narrow.

    **Cost:** `resamples + 1` evaluations, in blocks of bounded memory. Compiled anew
    for every function object: pass the same one again, and not a new `lambda`.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 10 and 13.
    """
    resamples = whole_number("resamples", resamples, cure="1000 is usual.")
    level = as_float(level)
    require(
        None,
        0 < level < 1,
        f"level must lie between 0 and 1, got level={level}. 0.95 is usual.",
    )
    counts = [leaf.shape[0] for some in sets for leaf in jax.tree.leaves(some)]
    require(
        None,
        bool(counts) and min(counts) >= 2,
        "bootstrap expects sets of at least two samples, the sample axis first, got "
        f"{counts}. One sample says nothing of how the next would differ.",
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(sets))
    block = max(1, min(resamples, _HELD // size))
    estimate, values = _resampled(statistic, sets, key, resamples, block)
    return Interval.of(estimate, values, level)


@partial(jax.jit, static_argnames=("statistic", "resamples", "block"))
def _resampled(
    statistic: Callable[..., Any],
    sets: tuple[PyTree, ...],
    key: Key,
    resamples: int,
    block: int,
) -> tuple[Array, Array]:
    """The statistic of the sets, and of every resample of them."""

    def redraw(some: PyTree, key: Key) -> PyTree:
        count = jax.tree.leaves(some)[0].shape[0]
        rows = jax.random.randint(key, (count,), 0, count)
        return jax.tree.map(lambda leaf: leaf[rows], some)

    def one(key: Key) -> Array:
        keys = jax.random.split(key, len(sets))
        again = [redraw(some, k) for some, k in zip(sets, keys, strict=True)]
        return jnp.asarray(statistic(*again))

    sets = jax.tree.map(jnp.asarray, sets)
    keys = jax.random.split(key, resamples)
    return jnp.asarray(statistic(*sets)), jax.lax.map(one, keys, batch_size=block)
