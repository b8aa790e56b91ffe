r"""Distributions of fields compared point by point: mean, spread and size.

The mean and the standard deviation over the samples are fields themselves, and

    MMSE = mean over the grid of (mean_ref - mean_gen)²
    SMSE = mean over the grid of (std_ref - std_gen)²

compare them for two sets. Neither depends on correlations between points.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Scalar, typed
from ._sets import ReferenceLike, SamplesLike, norm, root, two_sets


@typed
def mean_error(samples: SamplesLike, reference: ReferenceLike) -> Scalar:
    r"""MMSE, the mean square over the grid of the difference of the sets' means.

    $$ \frac1d \sum_{i=1}^d \bigl(\bar x_i - \bar y_i\bigr)^2 $$

    over the $d$ components of a sample; in the fields' units, squared. Divide fields
    with different units by a size of each first.

    **Floor:** for two sets of $n$ and $m$ samples of the same distribution it is on
    average $(1/n + 1/m)$ times the mean variance, not zero.
    """
    x, y, unit = two_sets(samples, reference)
    return unit * (unit * jnp.mean(jnp.square(x.mean(axis=0) - y.mean(axis=0))))


@typed
def spread_error(samples: SamplesLike, reference: ReferenceLike) -> Scalar:
    r"""SMSE, the mean square over the grid of the difference of standard deviations.

    $$ \frac1d \sum_{i=1}^d \bigl(s_i(x) - s_i(y)\bigr)^2, \qquad
       s_i^2 = \frac1n \sum_j \bigl(x_{ji} - \bar x_i\bigr)^2 $$

    A model that always returns the mean scores the mean variance.

    **Floor:** for Gaussian draws about $(1/2n + 1/2m)$ times the mean variance.
    """
    x, y, unit = two_sets(samples, reference)
    return unit * (unit * jnp.mean(jnp.square(_spread(x) - _spread(y))))


@typed
def amplitude_ratio(samples: SamplesLike, reference: ReferenceLike) -> Scalar:
    r"""The size of the samples in units of the reference's, $\mathrm{RMS}(x) / \mathrm{RMS}(y)$.

    The root mean square over samples and points together. The residual of a linear
    equation is small for small fields; this ratio shows it.
    """  # noqa: E501
    two_sets(samples, reference)  # finite, and of one shape
    size = lambda a: norm(jnp.ravel(a)) / math.sqrt(a.size)
    return size(samples) / size(reference)


def _spread(x: Float[Array, "sample d"]) -> Float[Array, " d"]:
    return root(jnp.mean(jnp.square(x - x.mean(axis=0)), axis=0))
