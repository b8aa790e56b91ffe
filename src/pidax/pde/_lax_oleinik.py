r"""The exact solution of the inviscid Burgers equation on a circle.

$$ u_t + (u^2/2)_x = 0, \qquad u_0 \text{ piecewise constant.} $$

With the potential $U_0' = u_0$, the entropy solution is (Hopf 1950, Lax 1957, Oleinik
1957)

$$ u(x, t) = \frac{x - y^*}{t}, \qquad
   y^* = \operatorname{argmin}_y\; U_0(y) + \frac{(x - y)^2}{2t}, $$

and the least value itself is the potential of $u(\cdot, t)$. On a piece of constant
$u_0 = c$ the least value is at $y = x - ct$, or at the end of the piece that is nearer.
In a frame that moves with the mean of $u_0$ the potential is periodic, so that $y^*$ is
within half a circle of $x$: two circles of pieces suffice for all times.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import require_positive
from ..types import Field1, ScalarLike, typed


@typed
def lax_oleinik(
    initial: Field1 | Float[np.ndarray, " x"],
    time: ScalarLike,
    *,
    points: Float[Array | np.ndarray, " point"] | None = None,
    extent: tuple[float, float] = (0.0, 1.0),
) -> Float[Array, " point"]:
    r"""The entropy solution of $u_t + (u^2/2)_x = 0$ at one time, exact to rounding.

    `initial` has the constant values of $u_0$ on cells of equal size of the periodic
    interval `extent`. Without `points`, the means of the solution over the same cells,
    to which a finite-volume scheme converges; the values at `points` otherwise (at a
    shock, of one of its sides). Cost: the number of points times the number of cells.

    See `PeriodicInviscidBurgers` for the discrete solution.
    """
    require_positive(time=time)
    u = jnp.asarray(initial)
    n, (low, high) = u.shape[0], extent
    h, time = (high - low) / n, jnp.asarray(time, u.dtype)
    mean = jnp.mean(u)
    v = u - mean
    edges = jnp.asarray(low + h * np.arange(n + 1), u.dtype)
    potential = jnp.concatenate([jnp.zeros(1, u.dtype), h * jnp.cumsum(v)])
    # The circle, and a half of it on either side.
    shift = jnp.asarray((high - low) * np.arange(-1, 2)[:, None], u.dtype)
    left, right = ((part + shift).ravel() for part in (edges[:-1], edges[1:]))
    base, value = jnp.tile(potential[:-1], 3), jnp.tile(v, 3)

    def least(x: Array) -> tuple[Array, Array]:
        """The minimiser and the least value, from points in the moving frame."""
        x = x[:, None]
        y = jnp.clip(x - value * time, left, right)
        size = base + value * (y - left) + jnp.square(x - y) / (2 * time)
        best = jnp.argmin(size, axis=1, keepdims=True)
        pick = lambda a: jnp.take_along_axis(a, best, axis=1)[:, 0]
        return pick(y), pick(size)

    def back(x: Array) -> Array:
        """Where a point is in the moving frame, on the circle."""
        return low + jnp.mod(x - mean * time - low, high - low)

    if points is None:
        _, potential = least(back(edges[:-1]))
        return mean + (jnp.roll(potential, -1) - potential) / h
    x = back(jnp.asarray(points, u.dtype))
    return mean + (x - least(x)[0]) / time
