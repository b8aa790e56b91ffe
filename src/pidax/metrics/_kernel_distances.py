r"""Distances of distributions by a function of all pairs: energy distance and MMD.

The discrepancy of a function $k$ of the distance of pairs is

$$ \langle k\rangle_{xx} - 2\langle k\rangle_{xy} + \langle k\rangle_{yy}
   = \operatorname{mean}_i\bigl(\langle k(x_i, x')\rangle - \langle k(x_i, y)\rangle
     \bigr)
   + \operatorname{mean}_j\bigl(\langle k(y_j, y')\rangle - \langle k(y_j, x)\rangle
     \bigr). $$

The right hand side subtracts point by point before it averages. So the terms are small
if the sets agree, rounding errors stay small, and two copies of one set give exactly
zero.

Distances are sums of squared differences. The product form $|x|^2 + |y|^2 - 2x\cdot y$
would be faster in many dimensions, but it cancels for near points: in float32 two
copies of one point would be $10^{-3}|x|$ apart.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import require, show
from ..types import Scalar, ScalarLike, typed
from ._sets import ReferenceLike, SamplesLike, root, two_sets

# k(|x - y|^2, parameters), elementwise in the first.
PairFunction = Callable[[Float[Array, "..."], Float[Array, " k"]], Float[Array, "..."]]

_PAIRS = 1 << 20  # pairs held at once: 4 MiB in float32
_MOST = 512  # points of each set in the median of distances


@typed
def energy_distance(
    samples: SamplesLike, reference: ReferenceLike, *, unbiased: bool = True
) -> Scalar:
    r"""The squared energy distance of two distributions, from samples of each.

    $$ 2\,E|X - Y| - E|X - X'| - E|Y - Y'|, $$

    $|\cdot|$ the 2-norm of the flattened samples; zero if and only if the
    distributions are equal. The square is returned because it has an unbiased
    estimate.

    **Arguments:**

    - `samples`, `reference`: two sets of events of one shape; sizes may differ.
    - `unbiased`: the U-statistic, which leaves out the pair of a sample with itself.
      Its mean is the distance of the distributions: zero if they are equal, so that it
      scatters around zero. `False` is the V-statistic, the energy distance of the two
      empirical distributions: never negative, zero for two copies of one set, and
      on average $E|X - X'|/n + E|Y - Y'|/m$ too large. In one dimension it is
      `scipy.stats.energy_distance(samples, reference) ** 2`.

    **When:** if you do not want to choose a kernel's width or random directions. Large
    scales have the largest weight; `mmd` looks at a scale that you choose. `unbiased`
    needs independent sets.

    **Cost:** $(n + m)^2$ distances in $d$ components, a block at a time, so that
    memory does not grow with $nm$. Differentiable; coinciding points have gradient 0.

    Székely and Rizzo 2013, "Energy statistics: a class of statistics based on
    distances".
    """
    x, y, unit = two_sets(samples, reference, least=2 if unbiased else 1)
    none = jnp.zeros(0, x.dtype)
    return unit * discrepancy(_nearness, 0.0, x, y, none, unbiased=unbiased)


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
    r"""The squared maximum mean discrepancy of two distributions, from samples of each.

    $$ E\,k(X, X') - 2\,E\,k(X, Y) + E\,k(Y, Y'), \qquad
       k(x, y) = e^{-|x - y|^2 / 2h^2}; $$

    the squared distance of mean features; zero if and only if the distributions are
    equal.

    **Arguments:**

    - `samples`, `reference`: two sets of events of one shape; sizes may differ.
    - `bandwidth`: $h$, or several: the kernel is then the mean of theirs. Default:
      `median_bandwidth(samples, reference)`, a constant to autodiff. Two values can
      be compared only at one `bandwidth`: compute it once, from the reference.
    - `unbiased`: the U-statistic, which leaves out the pair of a sample with itself.
      Its mean is the discrepancy of the distributions: zero if they are equal, so that
      it scatters around zero. `False` is the V-statistic: never negative, zero for
      two copies of one set, and on average
      $(1 - E\,k(X, X'))/n + (1 - E\,k(Y, Y'))/m$ too large.

    **When:** if you know the scale, or the scales, that matter. With a bandwidth far
    below it all points are unrelated, far above it only means are compared. For fields
    of many components distances concentrate, and the test has little power: compare
    features.

    **Cost:** $(n + m)^2$ distances in $d$ components, a block at a time, so that
    memory does not grow with $nm$.

    Gretton et al. 2012, "A kernel two-sample test", Lemma 6.
    """
    x, y, unit = two_sets(samples, reference, least=2 if unbiased else 1)
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
        h = h / unit
    return discrepancy(_gaussian, 1.0, x, y, h, unbiased=unbiased)


@typed
def median_bandwidth(
    samples: SamplesLike, reference: ReferenceLike | None = None
) -> Scalar:
    r"""The median heuristic: the median distance between two points of the pool.

    The pool is `samples` and, if given, `reference`; of a set of more than 512 a fixed
    subset of 512 is taken, the same at every call. `mmd` uses it for
    $k = e^{-|x - y|^2/2h^2}$.

    It is the scale of the data as a whole. If a finer scale matters (the width of a
    filament, or of one mode among many), pass it to `mmd`, or several: `bandwidth=h *
    np.array([0.1, 0.3, 1.0])`.

    Gretton et al. 2012, Section 8; its large-sample limit: Garreau, Jitkrittum and
    Kanagawa 2017, "Large sample analysis of the median heuristic".
    """
    if reference is None:
        x, _, unit = two_sets(samples, samples, least=2)
        return unit * _median(x)[0]
    x, y, unit = two_sets(samples, reference)
    return unit * _median(x, y)[0]


def _median(*sets: Float[Array, "_ d"]) -> Float[Array, " 1"]:
    median = _median_distance(*sets)
    return require(
        median,
        (median > 0).all(),
        "the median distance between the samples must be positive to be a bandwidth, "
        "got 0: at least half of all pairs coincide. Pass bandwidth=.",
    )


@jax.jit
def _median_distance(*sets: Float[Array, "_ d"]) -> Float[Array, " 1"]:
    pool = jnp.concatenate([some[_subset(len(some))] for some in sets])
    columns = pool.T
    matrix = jax.lax.map(lambda point: squares(point, columns), pool)
    return jnp.median(root(matrix[np.triu_indices(len(pool), 1)]))[None]


def _subset(count: int) -> np.ndarray:
    """Indices of `count` points, at random, so that no pattern in them is hit."""
    if count <= _MOST:
        return np.arange(count)
    return np.random.default_rng(0).choice(count, _MOST, replace=False)


def _gaussian(
    square: Float[Array, "..."], bandwidths: Float[Array, " k"]
) -> Float[Array, "..."]:
    kernels = [jnp.exp(-0.5 * square / jnp.square(h)) for h in bandwidths]
    return jnp.stack(kernels).mean(axis=0)


def _nearness(
    square: Float[Array, "..."], _: Float[Array, " 0"]
) -> Float[Array, "..."]:
    """Minus the distance: the kernel of the energy distance."""
    return -root(square)


def discrepancy(
    function: PairFunction,
    diagonal: float,
    x: Float[Array, "sample d"],
    y: Float[Array, "reference d"],
    parameters: Float[Array, " k"],
    *,
    unbiased: bool,
    pairs: int = _PAIRS,
) -> Scalar:
    """`<k>_xx - 2 <k>_xy + <k>_yy`; `unbiased` leaves out the pairs of equal index.

    `diagonal` is `k` of two coinciding points.
    """

    def side(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Scalar:
        (n, _), (m, _) = x.shape, y.shape
        own = row_sums(function, x, x, parameters, block=max(1, pairs // n))
        other = row_sums(function, x, y, parameters, block=max(1, pairs // m))
        own = (own - diagonal) / (n - 1) if unbiased else own / n
        # Not compiled: contracted, the difference of equal sets is not zero.
        return jnp.mean(own - other / m)

    return side(x, y) + side(y, x)


@partial(jax.jit, static_argnames=("function", "block"))
def row_sums(
    function: PairFunction,
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    parameters: Float[Array, " k"],
    *,
    block: int,
) -> Float[Array, " n"]:
    """`sum_j k(|x_i - y_j|^2)` for every `i`, `block` of them at a time."""
    columns = y.T  # components first: the sum over them runs along whole vectors

    @jax.checkpoint  # backwards, too, no more than a block is held
    def row(point: Float[Array, " d"]) -> Scalar:
        return function(squares(point, columns), parameters).sum()

    return jax.lax.map(row, x, batch_size=min(block, x.shape[0]))


@jax.custom_jvp
def squares(
    point: Float[Array, " d"], columns: Float[Array, "d m"]
) -> Float[Array, " m"]:
    """Squared distances of one point from many: exactly zero where they coincide."""
    return jnp.square(point[:, None] - columns).sum(axis=0)


@squares.defjvp
def _squares_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # Half the derivative is (x - y_j)·(dx - dy_j). Multiplied out it transposes to
    # products of matrices, many times as fast as differences of all pairs; here
    # cancellation costs no more than rounding of the (centred) samples would.
    (x, y), (dx, dy) = primals, tangents
    dot = partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    half = dot(x, dx) - dot(dx, y) - dot(x, dy) + (y * dy).sum(axis=0)
    return squares(x, y), 2 * half
