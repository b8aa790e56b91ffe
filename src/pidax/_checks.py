"""Errors as user interface: what was expected, what came, what to do.

A value known at once raises `ValueError` at once; a traced value raises the same
words when the compiled program meets it (`equinox.error_if`).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, PyTree


def is_traced(*values: object) -> bool:
    """Whether any leaf of `values` is known only when the compiled program runs."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def require(value: PyTree, ok: Array | bool, message: str) -> PyTree:
    """Return `value`, having checked `ok`. The returned value must be used.

    A traced `ok` needs an array in `value` to ride on; without one nothing is checked.
    """
    if is_traced(ok):
        if not any(eqx.is_array(leaf) for leaf in jax.tree.leaves(value)):
            return value
        return eqx.error_if(value, ~jnp.asarray(ok), message)
    if not bool(ok):
        raise ValueError(message)
    return value


def show(value: object) -> str:
    """`value` in a message: its number when known, or that it is not known yet."""
    return "not known while tracing" if is_traced(value) else str(value)


def require_positive(**numbers: float) -> None:
    """Each named number is positive and finite."""
    for name, number in numbers.items():
        require(
            number,
            (number > 0) & (number < float("inf")),
            f"{name} must be positive and finite, got {name}={number}.",
        )


def require_finite(name: str, value: Array, cure: str) -> Array:
    """Every entry of `value` is finite; a NaN must not travel on as a sample."""
    finite = jnp.isfinite(value)
    bad = "" if is_traced(finite) else f" in {int((~finite).sum())} of {finite.size}"
    return require(
        value,
        finite.all(),
        f"{name} must be finite, got NaN or infinite entries{bad}. {cure}",
    )


def check_condition(condition: PyTree, count: int) -> PyTree:
    """With the sample as the first axis of every array; scalars are repeated."""

    def spread(leaf: ArrayLike) -> Array:
        leaf = jnp.asarray(leaf)
        if leaf.ndim == 0:
            return jnp.broadcast_to(leaf, (count,))
        if leaf.shape[0] != count:
            raise ValueError(
                "arrays in condition carry the sample as their first axis: expected "
                f"length {count}, got shape {leaf.shape}. To share one condition, "
                "repeat it with jnp.broadcast_to."
            )
        return leaf

    return jax.tree.map(spread, condition)
