r"""Linear systems of a symmetric operator that is known by its products only.

Conjugate gradients (Hestenes & Stiefel 1952). They begin at zero and stop where the
square of the residual has fallen to rounding, where a direction has no curvature, or
after a number of steps. So a right side of zero, and a system whose equations repeat
each other, have finite answers.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...types import Count, Flag


def conjugate_gradients(
    product: Callable[[Array], Array], right: Array, most: int
) -> tuple[Array, Count]:
    """The solution of a positive semidefinite system, and the number of products."""
    size = jnp.abs(right).max()
    scaled = right / jnp.where(size > 0, size, 1.0)  # no square overflows
    first = jnp.sum(scaled**2)
    enough = (4 * jnp.finfo(right.dtype).eps) ** 2 * first

    def going(carry: tuple) -> Flag:
        _, _, _, square, count = carry
        return (square > enough) & (count < most)

    def body(carry: tuple) -> tuple:
        x, left, way, square, count = carry
        pushed = product(way)
        curved = jnp.sum(way * pushed)
        flat = ~(curved > 0)
        length = jnp.where(flat, 0.0, square / jnp.where(flat, 1.0, curved))
        left = left - length * pushed
        after = jnp.where(flat, 0.0, jnp.sum(left**2))
        following = left + after / square * way
        return x + length * way, left, following, after, count + 1

    none = jnp.zeros((), int)
    start = (jnp.zeros_like(scaled), scaled, scaled, first, none)
    x, *_, count = jax.lax.while_loop(going, body, start)
    return x * size, count
