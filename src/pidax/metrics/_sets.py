"""Two sets of samples, flattened and checked, and what their distances share."""

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import is_traced, require, require_finite
from ..types import Flag

# Two sets of events of one shape; the sets may differ in size.
SamplesLike: TypeAlias = Float[Array | np.ndarray, "sample *event"]
ReferenceLike: TypeAlias = Float[Array | np.ndarray, "reference *event"]


def one_set(
    samples: SamplesLike, name: str = "samples", least: int = 1
) -> Float[Array, "sample d"]:
    """At least `least` finite samples as rows, in float32 or better."""
    return _rows(_checked(samples, name, least))


def two_sets(
    samples: SamplesLike, reference: ReferenceLike, least: int = 1
) -> tuple[Float[Array, "sample d"], Float[Array, "reference d"]]:
    """Both sets as rows, in the wider of their dtypes, from the reference's mean.

    No distance depends on the origin, and rounding is least when it is among the data.
    """
    x = _checked(samples, "samples", least)
    return _centred(x, _checked(reference, "reference", least))


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
) -> tuple[Float[Array, "sample d"], Float[Array, "reference d"]]:
    x, y = _rows(samples), _rows(reference)
    dtype = np.promote_types(x.dtype, y.dtype)
    x, y = x.astype(dtype), y.astype(dtype)
    centre = jax.lax.stop_gradient(y.mean(axis=0))
    return x - centre, y - centre


def root(square: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, whose derivative at zero is taken to be zero."""
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
