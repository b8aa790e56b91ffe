"""What a network draws: keys, its first weights, dropout."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..types import Key, Shape


def stream(key: Key | None) -> Iterator[Any]:
    """As many keys as are asked for; of no key, no keys."""
    for i in itertools.count():
        yield None if key is None else jax.random.fold_in(key, i)


def dropout(x: Array, rate: float, key: Key | None) -> Array:
    """Each number zero with this probability, else larger, so that the mean stays."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


def normal(key: Key, shape: Shape, spread: float) -> Array:
    """Independent normal numbers of this standard deviation, in the default dtype."""
    # XLA takes up to seconds to compile a draw for each new size: few sizes are drawn.
    count, size = math.prod(shape), 4096
    while size < count:
        size *= 4
    return _cut(_draw(key, size), spread, shape)


@functools.partial(jax.jit, static_argnums=1)
def _draw(key: Key, size: int) -> Array:
    return jax.random.normal(key, (size,), jnp.zeros(()).dtype)


@functools.partial(jax.jit, static_argnums=2)
def _cut(numbers: Array, spread: float, shape: Shape) -> Array:
    return spread * numbers[: math.prod(shape)].reshape(shape)
