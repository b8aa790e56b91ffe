r"""What all pairs of two sets say: the discrepancy of a function of their distance.

$$ \langle k\rangle_{xx} - 2\langle k\rangle_{xy} + \langle k\rangle_{yy}
   = \operatorname{mean}_i\bigl(\langle k(x_i, x')\rangle - \langle k(x_i, y)\rangle
     \bigr)
   + \operatorname{mean}_j\bigl(\langle k(y_j, y')\rangle - \langle k(y_j, x)\rangle
     \bigr). $$

The right hand side subtracts point by point before it averages: what is left is small
where the sets agree, nothing is lost to rounding in large sums, and two copies of one
set give exactly zero.

Distances are sums of squared differences. The product form $|x|^2 + |y|^2 - 2x\cdot y$
would be faster in many dimensions, but it cancels for near points: in float32 two
copies of one point would be $10^{-3}|x|$ apart.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Scalar

# k(|x - y|^2, parameters), elementwise in the first.
PairFunction = Callable[[Float[Array, "..."], Float[Array, " k"]], Float[Array, "..."]]

_PAIRS = 1 << 20  # pairs held at once: 4 MiB in float32


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
