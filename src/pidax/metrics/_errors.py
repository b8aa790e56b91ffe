"""Errors of pairs of samples."""

import math
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float

from .._checks import require
from ..types import Scalar, typed
from ._sets import SamplesLike, norm, same_shape


@typed
def rms_error(
    samples: SamplesLike, reference: SamplesLike, *, per_component: bool = False
) -> Scalar:
    r"""$\sqrt{\operatorname{mean} |\Delta x|^2}$ over samples, $|\cdot|$ the 2-norm.

    The root mean square distance between corresponding samples; `per_component=True`
    divides by the root of the number of components, as one tolerance per component is
    stated.
    """
    errors = sample_errors(samples, reference, per_component=per_component)
    return norm(errors) / math.sqrt(errors.size)


@typed
def sample_errors(
    samples: SamplesLike, reference: SamplesLike, *, per_component: bool = False
) -> Float[Array, " sample"]:
    r"""$|\Delta x|$ of each sample, $|\cdot|$ the 2-norm over all its components.

    `rms_error` is the root mean square of these numbers. `per_component=True` divides
    by the root of the number of components. A sample that is not finite (a failed solve
    with `throw=False`) has an error that is not finite; the others are not affected.
    """
    same_shape(samples, reference)
    return _errors(samples, reference, per_component)


@typed
def error_summary(
    samples: SamplesLike, reference: SamplesLike, *, per_component: bool = False
) -> dict[str, float]:
    """`sample_errors` in four numbers: `rms`, `median`, `p99` and `max`.

    For tables and logs: Python floats, so not under `jax.jit`. `p99` is the 99th
    percentile, interpolated linearly. A student that is right for most noise and
    wrong for some has a small `median` and a large `max`.
    """
    errors = np.asarray(
        sample_errors(samples, reference, per_component=per_component), np.float64
    )
    bad = int((~np.isfinite(errors)).sum())
    require(
        None,
        errors.size > 0 and not bad,
        f"error_summary expects at least one sample and every sample finite, got "
        f"{errors.size} samples, {bad} of them with NaN or infinite error. Leave out "
        "and count the failed ones: sample_errors says which they are.",
    )
    return {
        "rms": float(np.sqrt(np.square(errors).mean())),
        "median": float(np.median(errors)),
        "p99": float(np.quantile(errors, 0.99)),
        "max": float(errors.max()),
    }


@partial(jax.jit, static_argnames="per_component")
def _errors(samples: Array, reference: Array, per_component: bool) -> Array:
    apart = (samples - reference).reshape(samples.shape[0], -1)
    return norm(apart, axis=1) / (math.sqrt(apart.shape[1]) if per_component else 1.0)
