"""Two sets of samples, flattened and checked, and functions that distances share."""

import math
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import is_traced, require, require_finite
from ..types import Flag, Scalar

# Two sets of events of one shape; the sets may differ in size.
SamplesLike: TypeAlias = Float[Array | np.ndarray, "sample *event"]
ReferenceLike: TypeAlias = Float[Array | np.ndarray, "reference *event"]


def two_sets(
    samples: SamplesLike, reference: ReferenceLike, least: int = 1
) -> tuple[Float[Array, "sample d"], Float[Array, "reference d"], Scalar]:
    """Both sets as rows in the wider of their dtypes, and their unit.

    The mean of the reference is subtracted: distances do not depend on the origin, and
    rounding is least near the data. The unit is a power of two, so that no square
    overflows and no entry is rounded.
    """
    same_shape(samples, reference, first=1)
    x = _checked(samples, "samples", least)
    return _centred(x, _checked(reference, "reference", least))


def same_shape(samples: Any, reference: Any, *, first: int = 0) -> None:
    """Check that both have one shape from axis `first` on, so that none
    is broadcast.
    """
    if jnp.shape(samples)[first:] != jnp.shape(reference)[first:]:
        what = "samples of one shape" if first else "the same samples"
        raise ValueError(
            f"samples and reference must hold {what}, got the shapes "
            f"{jnp.shape(samples)} and {jnp.shape(reference)}. Reshape one of them."
        )


def _checked(samples: SamplesLike, name: str, least: int) -> Array:
    require(
        None,
        samples.shape[0] >= least and math.prod(samples.shape[1:]) > 0,
        f"{name} must hold at least {least} samples of at least one component, got "
        f"shape {samples.shape}. Pass more samples, the sample axis first.",
    )
    array = jnp.asarray(samples)
    finite = _finite(array)
    if is_traced(finite) or not finite:  # else there is nothing to count
        cure = "Find the solve or the step that made them."
        array = require_finite(name, array, cure)
    return array


@jax.jit
def _finite(samples: Array) -> Flag:
    return jnp.isfinite(samples).all()


@jax.jit
def _rows(samples: Array) -> Float[Array, "sample d"]:
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(samples, jnp.float32)
    return samples.reshape(samples.shape[0], -1).astype(dtype)


@jax.jit
def _centred(
    samples: Array, reference: Array
) -> tuple[Float[Array, "sample d"], Float[Array, "reference d"], Scalar]:
    x, y = _rows(samples), _rows(reference)
    dtype = np.promote_types(x.dtype, y.dtype)
    x, y = x.astype(dtype), y.astype(dtype)
    first = unit(y)
    centre = first * jax.lax.stop_gradient((y / first).mean(axis=0))
    x, y = x - centre, y - centre
    size = jnp.maximum(unit(x), unit(y))
    return x / size, y / size, size


@partial(jax.jit, static_argnames="axis")
def unit(x: Array, axis: int | None = None) -> Array:
    """The power of two next below the largest entry: a constant to autodiff."""
    most = jax.lax.stop_gradient(jnp.abs(x).max(axis=axis, keepdims=axis is not None))
    _, exponent = jnp.frexp(most)
    size = jnp.ldexp(jnp.ones_like(most), exponent - 1)
    return jnp.where((most > 0) & jnp.isfinite(most), size, 1)


@partial(jax.jit, static_argnames="axis")
def norm(x: Array, axis: int = 0) -> Array:
    """The 2-norm along an axis: no square overflows, and its derivative at 0 is 0."""
    size = unit(x, axis)
    length = root(jnp.square(x / size).sum(axis=axis))
    return length * jnp.squeeze(size, axis)


@jax.jit
def root(square: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, whose derivative at zero is taken to be zero."""
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
