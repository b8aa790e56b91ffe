"""The loss on held-out data, of the weights as they are and with one noise for all.

The key of held-out sample $i$ is `fold_in(key, i)` at every step: what changes from one
evaluation to the next is the model alone.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._batches import batch_length, batch_rows
from ..distill import AbstractObjective
from ..types import Key, Scalar
from ._programs import kept
from ._sources import as_source, is_rows, take

PREFIX = "validation_"


class Validation:
    """Means of the loss and the terms of an objective over held-out samples."""

    def __init__(
        self,
        data: PyTree,
        model: PyTree,
        objective: AbstractObjective,
        loss: Callable[..., Any],
        key: Key,
        batch_size: int,
    ):
        if not is_rows(data):
            raise ValueError(
                "validation must be arrays of held-out samples, in the form of data, "
                f"got {type(data).__name__}. np.asarray makes an array."
            )
        self.source = as_source(data, batch_size, 0)
        objective.check(model, self.source.example())
        self.objective, self.key, self.batch_size = objective, key, batch_size
        self.sums = kept(lambda: jax.jit(_sums(loss)), "validation", loss)

    def __call__(self, model: PyTree, own: PyTree, progress: float) -> dict[str, float]:
        """By name, each beginning with `validation_`."""
        arrays = eqx.filter((model, self.objective, own), eqx.is_array)
        rows = self.source.arrays  # type: ignore[attr-defined]
        count = self.source.count  # type: ignore[attr-defined]
        now = jnp.asarray(progress, float)
        total: dict[str, float] = {}
        for some in batch_rows(count, batch_length(count, self.batch_size)):
            real = (np.arange(len(some)) + some[0] < count).astype(np.float32)
            samples = jax.tree.map(lambda a: jnp.asarray(take(a, some)), rows)  # noqa: B023
            sums = self.sums(arrays, samples, real, jnp.asarray(some), now, self.key)
            for name, value in sums.items():
                total[name] = total.get(name, 0.0) + float(value)
        return {PREFIX + name: value / count for name, value in total.items()}


def _sums(loss: Callable[..., Any]) -> Callable[..., Any]:
    def sums(
        arrays: PyTree,
        samples: PyTree,
        real: Float[Array, " sample"],
        rows: Array,
        progress: Scalar,
        key: Key,
    ) -> dict[str, Array]:
        def one(sample: PyTree, i: Array) -> dict[str, Array]:
            own = jax.random.fold_in(key, i)
            value, (_, terms) = loss(arrays, sample, progress, own)
            return {**terms, "loss": value.sum()}

        found = jax.vmap(one)(samples, rows)
        add = lambda x: jnp.where(real > 0, x, 0).sum()  # one filled in is not counted
        return jax.tree.map(add, found)

    return sums
