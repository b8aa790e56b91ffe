r"""What the values at single points say: their distribution, and how many are between.

Correlations between points do not enter. A field whose spectrum is right and whose
values are wrong, such as a Gaussian one in place of two phases, is seen at once.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import check_interval, require_positive, whole_number
from ..types import Scalar, ScalarLike, typed
from ._increments import FieldsLike


@typed
def interface_share(fields: FieldsLike, *, level: ScalarLike = 0.5) -> Scalar:
    r"""The share of points with $|\phi| <$ `level`: those between two phases.

    For phases at $\pm 1$. A flat interface $\tanh(x/\sqrt2 w)$ has $2\sqrt2\, w
    \operatorname{artanh}(l)$ of its normal below the level $l$: 1.55 $w$ for 0.5.
    """
    require_positive(level=level)
    return jnp.mean(jnp.abs(jnp.asarray(fields)) < level, dtype=fields.dtype)


@typed
def density_distance(
    samples: FieldsLike,
    reference: FieldsLike,
    *,
    bins: int = 64,
    limits: Sequence[float] | None = None,
) -> Scalar:
    r"""$\tfrac12\int|p - q|$: how far the densities of the values are apart.

    Between histograms of all values of both sets, whatever their number and shape: 0
    for equal sets, 1 for sets without a common value. It is the share of the values
    that would have to change.

    **Arguments:**

    - `bins`: of equal width. Few hide differences, many count noise.
    - `limits`: the interval of the bins; by default the range of the reference, widened
      by a quarter of its length at both ends. Values beyond it count in the bins at its
      ends.

    **Floor:** positive for two sets of one distribution; report it with data against
    held-out data.
    """
    whole_number("bins", bins, least=2)
    x, y = jnp.ravel(jnp.asarray(samples)), jnp.ravel(jnp.asarray(reference))
    ends = None if limits is None else check_interval("limits", limits)
    return _distance(x, y, ends, bins)


@partial(jax.jit, static_argnames="bins")
def _distance(
    x: Array, y: Array, ends: tuple[ScalarLike, ScalarLike] | None, bins: int
) -> Scalar:
    if ends is None:
        low, high = jnp.min(y), jnp.max(y)
        ends = low - (high - low) / 4, high + (high - low) / 4
    p, q = (_shares(v, *ends, bins) for v in (x, y))
    return jnp.sum(jnp.abs(p.astype(y.dtype) - q)) / 2


def _shares(values: Array, low: ScalarLike, high: ScalarLike, bins: int) -> Array:
    dtype = values.dtype
    low, high = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
    width = jnp.where(high > low, high - low, 1)
    place = jnp.floor((values - low) / width * bins).astype(np.int32)
    place = jnp.clip(place, 0, bins - 1)
    return jnp.zeros(bins, dtype).at[place].add(1.0) / values.size
