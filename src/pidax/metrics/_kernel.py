r"""The maximum mean discrepancy of a Gaussian kernel, and a rule for its width."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import require, show
from ..types import Scalar, ScalarLike, typed
from ._pairs import discrepancy, squares
from ._sets import ReferenceLike, SamplesLike, one_set, root, two_sets

_MOST = 512  # points of each set in the median of distances


@typed
def mmd(
    samples: SamplesLike,
    reference: ReferenceLike,
    *,
    bandwidth: ScalarLike
    | Float[Array | np.ndarray, " bandwidth"]
    | Sequence[float]
    | None = None,
    unbiased: bool = True,
) -> Scalar:
    r"""The squared maximum mean discrepancy of two laws, from draws of each.

    $$ E\,k(X, X') - 2\,E\,k(X, Y) + E\,k(Y, Y'), \qquad
       k(x, y) = e^{-|x - y|^2 / 2h^2}; $$

    the squared distance of the laws' mean features; zero if and only if they are equal.

    **Arguments:**

    - `samples`, `reference`: two sets of events of one shape; sizes may differ.
    - `bandwidth`: $h$, or several: the kernel is then the mean of theirs. Default:
      `median_bandwidth(samples, reference)`, a constant to autodiff. Two values can
      be compared only at one `bandwidth`: compute it once, from the reference.
    - `unbiased`: the U-statistic, which leaves out the pair of a sample with itself.
      Its mean is the discrepancy of the laws: zero when they are equal, so that it
      falls on both sides of zero. `False` is the V-statistic: never negative, zero for
      two copies of one set, and on average
      $(1 - E\,k(X, X'))/n + (1 - E\,k(Y, Y'))/m$ too large.

    **When:** the scale that matters is known, or several are. Far below it all points
    are strangers, far above it only means are compared. For fields of many components
    distances concentrate and the power to tell laws apart is small: compare features.

    **Cost:** $(n + m)^2$ distances in $d$ components, a block at a time, so that
    memory does not grow with $nm$.

    Gretton et al. 2012, "A kernel two-sample test", Lemma 6.
    """
    x, y = two_sets(samples, reference, least=2 if unbiased else 1)
    if bandwidth is None:
        h = jax.lax.stop_gradient(_median(x, y))
    else:
        given = bandwidth if isinstance(bandwidth, jax.Array) else np.asarray(bandwidth)
        h = jnp.atleast_1d(jnp.asarray(given).astype(x.dtype))
        h = require(
            h,
            bool(h.size) and ((h > 0) & (h < jnp.inf)).all(),
            "bandwidth must be one or several positive finite numbers, got "
            f"bandwidth={show(bandwidth)}. median_bandwidth(samples, reference) is a "
            "start.",
        )
    return discrepancy(_gaussian, 1.0, x, y, h, unbiased=unbiased)


@typed
def median_bandwidth(
    samples: SamplesLike, reference: ReferenceLike | None = None
) -> Scalar:
    r"""The median heuristic: the median distance between two points of the pool.

    The pool is `samples` and, if given, `reference`; of a set of more than 512 a fixed
    subset of 512 is taken, the same at every call. `mmd` uses it for
    $k = e^{-|x - y|^2/2h^2}$.

    It is the scale of the data as a whole. If what matters is finer (the width of a
    filament, of one mode among many), pass that to `mmd`, or several:
    `bandwidth=h * np.array([0.1, 0.3, 1.0])`.

    Gretton et al. 2012, Section 8; its large-sample limit: Garreau, Jitkrittum and
    Kanagawa 2017, "Large sample analysis of the median heuristic".
    """
    if reference is None:
        return _median(one_set(samples, least=2))[0]
    return _median(*two_sets(samples, reference))[0]


def _median(*sets: Float[Array, "_ d"]) -> Float[Array, " 1"]:
    pool = jnp.concatenate([some[_subset(len(some))] for some in sets])
    median = _median_distance(pool)[None]
    return require(
        median,
        (median > 0).all(),
        "the median distance between the samples must be positive to be a bandwidth, "
        "got 0: at least half of all pairs coincide. Pass bandwidth=.",
    )


@jax.jit
def _median_distance(pool: Float[Array, "n d"]) -> Scalar:
    columns = pool.T
    matrix = jax.lax.map(lambda point: squares(point, columns), pool)
    return jnp.median(root(matrix[np.triu_indices(len(pool), 1)]))


def _subset(count: int) -> np.ndarray:
    """Which of `count` points to take: at random, lest a pattern in them be hit."""
    if count <= _MOST:
        return np.arange(count)
    return np.random.default_rng(0).choice(count, _MOST, replace=False)


def _gaussian(
    square: Float[Array, "..."], bandwidths: Float[Array, " k"]
) -> Float[Array, "..."]:
    kernels = [jnp.exp(-0.5 * square / jnp.square(h)) for h in bandwidths]
    return jnp.stack(kernels).mean(axis=0)
