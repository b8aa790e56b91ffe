"""A slow copy of the model: its weights of the start, or their moving average."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._checks import require


def copy_of(model: PyTree) -> PyTree:
    """The model in memory of its own, which the step of the optimiser does not take."""
    copy = lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf
    return jax.tree.map(copy, model)


def averaged(decay: float, old: PyTree, new: PyTree) -> PyTree:
    """`decay` times the old weights, and the rest of the new ones."""

    def mean(old: Any, new: Any) -> Any:
        if not eqx.is_inexact_array(old):
            return old
        return (decay * old + (1 - decay) * new).astype(old.dtype)

    return jax.tree.map(mean, old, new)


def check_decay(slow: float | None) -> None:
    """A decay is between zero and one."""
    require(
        None,
        slow is None or 0 < slow < 1,
        f"slow is the decay of an average, between 0 and 1, got slow={slow}. "
        "Use 0.98, or None for the student itself.",
    )
