"""How far the law of a set of fields is from the reference's, and how surely.

Channels are divided by the reference's standard deviation, so that fields of several
units count alike; the resamples of the bootstrap are weights of the samples.
"""

from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..metrics import Interval, bootstrap, directions, wasserstein_1d
from ..types import Key

Stacks: TypeAlias = Float[np.ndarray, "sample *grid channel"]


def amplitude(
    squares: Float[np.ndarray, "sample unknown"],
    reference: Float[np.ndarray, "reference unknown"],
    **options,
) -> Interval:
    """The root mean square of the unknowns in units of the reference's."""
    size = reference.mean(axis=0)
    unit = np.where(size > 0, size, 1.0)
    return bootstrap(_amplitude, squares / unit, reference / unit, **options)


def medians(values: Float[np.ndarray, " sample"], **options) -> Interval:
    """The median of what is finite."""
    return bootstrap(jnp.median, values[np.isfinite(values)], **options)


def mean_and_spread(
    samples: Stacks, reference: Stacks, *, key: Key, resamples: int, level: float
) -> tuple[Interval, Interval, Float[np.ndarray, "2 channel"]]:
    """MMSE and SMSE over all channels, and both of each channel."""
    channels = samples.shape[-1]
    centre = reference.mean(axis=0)
    x, y = (jnp.asarray((s - centre).reshape(len(s), -1)) for s in (samples, reference))
    found, values = _moments(x, y, key, resamples, channels)
    total, spread = found.mean(axis=1), values.mean(axis=2)
    both = [Interval.of(total[i], spread[:, i], level) for i in range(2)]
    return both[0], both[1], np.asarray(found)


def transport(
    samples: Stacks, reference: Stacks, *, projections: int, key: Key, **options
) -> Interval:
    """The sliced Wasserstein distance of order 2; each direction is drawn once."""
    x, y = (jnp.asarray(s.reshape(len(s), -1)) for s in (samples, reference))
    first, second = jax.random.split(key)
    thetas = directions(first, projections, x.shape[1], x.dtype)
    project = partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    u, v = project(x, thetas.T), project(y, thetas.T)
    return bootstrap(_transport, u, v, key=second, **options)


def _amplitude(squares: Array, reference: Array) -> Array:
    return jnp.sqrt(jnp.mean(squares.mean(axis=0)) / jnp.mean(reference.mean(axis=0)))


def _transport(u: Array, v: Array) -> Array:
    lines = jax.vmap(wasserstein_1d, in_axes=(1, 1))(u, v)
    return jnp.sqrt(jnp.mean(jnp.square(lines)))


@partial(jax.jit, static_argnames=("resamples", "channels"))
def _moments(
    x: Float[Array, "sample d"],
    y: Float[Array, "reference d"],
    key: Key,
    resamples: int,
    channels: int,
) -> tuple[Float[Array, "2 channel"], Float[Array, "resample 2 channel"]]:
    """The mean squares by channel, of the sets and of their resamples."""

    def errors(a: Array, b: Array) -> Array:
        """Weighted sums of the rows: means and mean squares, by two products."""
        product = partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
        mean, other = product(a, x), product(b, y)
        spread = product(a, jnp.square(x)) - jnp.square(mean)
        theirs = product(b, jnp.square(y)) - jnp.square(other)
        root = lambda square: jnp.sqrt(jnp.maximum(square, 0))
        both = jnp.stack([mean - other, root(spread) - root(theirs)])
        return jnp.square(both).reshape(2, -1, channels).mean(axis=1)

    def weights(key: Key, n: int) -> Array:
        rows = jax.random.randint(key, (n,), 0, n)
        return jnp.zeros(n, x.dtype).at[rows].add(1 / n)

    def one(keys: Array) -> Array:
        return errors(weights(keys[0], len(x)), weights(keys[1], len(y)))

    keys = jax.random.split(key, (resamples, 2))
    flat = jnp.full(len(x), 1 / len(x), x.dtype), jnp.full(len(y), 1 / len(y), x.dtype)
    return errors(*flat), jax.lax.map(one, keys, batch_size=16)
