"""Solving and generating in float64, whatever the session's precision.

Residuals of elliptic solutions multiply rounding errors by $1/h^2$: for fields solved
in float32 they are mostly rounding. So functions called from Python compute in a local
float64 context and return the session's precision. Inside a compiled or mapped program
the program's precision is used.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import is_traced

_F = TypeVar("_F", bound=Callable[..., Any])


def in_double(fn: _F, *, explain: bool = False) -> _F:
    """`fn`, compiled and computed in float64, with the results in default precision.

    A compiled program knows that a check failed, but not with which numbers. With
    `explain` it is run again without compiling, so that the error can name them.
    """
    compiled = eqx.filter_jit(fn)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_traced(args, kwargs):
            return fn(*args, **kwargs)
        with jax.enable_x64(True):
            args, kwargs = jax.tree.map(_widen, (args, kwargs))
            try:
                found = compiled(*args, **kwargs)
            except RuntimeError:
                if explain:
                    fn(*args, **kwargs)  # raises the same in better words
                raise
        return jax.tree.map(_narrow, found)

    return call  # type: ignore[return-value]


def _widen(leaf: Any) -> Any:
    """A floating-point array in float64; all else as it is."""
    if not eqx.is_array_like(leaf) or isinstance(leaf, bool | int | float):
        return leaf
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.asarray(leaf, jnp.float64)
    return leaf


def _narrow(leaf: Any) -> Any:
    """A floating-point array in the session's default precision; all else as it is."""
    if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.asarray(np.asarray(leaf), float)
    return leaf


# Some accelerators round the factors of a float32 product to ten bits unless told
# otherwise: residuals divide what is left by h^2.
full_product = functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST)
