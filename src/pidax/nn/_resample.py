r"""Images twice as large or half as large, by one filter along each axis.

With taps $r_0, \ldots, r_{L-1}$, $p = \lfloor (L-1)/2 \rfloor$ and $s = \sum_k r_k$,
along every axis of the grid

$$ \text{down:}\quad y_i = \frac1s \sum_k r_k\, x_{2i + k - p}, \qquad
   \text{up:}\quad y_m = \frac2s \sum_{2i + k - p = m} r_k\, x_i, $$

zero beyond the grid. `(1, 1)` is the mean of two neighbours and its repetition,
`(1, 3, 3, 1)` smoother. Up is $2^{dims}$ times the transpose of down, and away from
the boundary either keeps a constant.
"""

from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import typed

Direction = Literal["up", "down"]


class Resample(eqx.Module):
    """One filter, `"up"` or `"down"`, without weights.

    `x` is `*grid channels`; the sides of the grid are doubled or halved.
    """

    taps: tuple[float, ...] = eqx.field(static=True)
    direction: Direction = eqx.field(static=True)

    def __init__(self, taps: tuple[float, ...], direction: Direction):
        self.taps = tuple(float(tap) for tap in taps)
        self.direction = direction

    def __check_init__(self):
        if self.direction not in get_args(Direction):
            raise ValueError(
                f"direction must be one of {get_args(Direction)}, got "
                f"{self.direction!r}."
            )
        if not self.taps or len(self.taps) % 2 or sum(self.taps) == 0:
            raise ValueError(
                "a filter has an even number of taps, whose sum is not zero, got "
                f"{self.taps}. Use (1, 1) or (1, 3, 3, 1)."
            )

    @property
    def margin(self) -> int:
        """How far the filter reaches beyond the grid."""
        return (len(self.taps) - 1) // 2

    @typed
    def __call__(
        self, x: Float[Array, "*grid channels"], *, padded: bool = False
    ) -> Float[Array, "..."]:
        """The resampled image; a `padded` one already has its `margin` on all sides."""
        total = sum(self.taps)
        for axis in range(x.ndim - 1):
            if self.direction == "up":
                x = _up(x, [2 * tap / total for tap in self.taps], axis, self.margin)
            else:
                margin = 0 if padded else self.margin
                x = _down(x, [tap / total for tap in self.taps], axis, margin)
        return x


def pad_grid(x: Array, margin: int) -> Array:
    """`x` with zeros on all sides of its grid."""
    return jnp.pad(x, [(margin, margin)] * (x.ndim - 1) + [(0, 0)]) if margin else x


def _pad(x: Array, axis: int, margin: int) -> Array:
    pads = [(0, 0)] * x.ndim
    pads[axis] = (margin, margin)
    return jnp.pad(x, pads) if margin else x


def _down(x: Array, taps: list[float], axis: int, margin: int) -> Array:
    x = _pad(x, axis, margin)
    count = (x.shape[axis] - len(taps)) // 2 + 1
    total = jnp.zeros((), x.dtype)
    for k, tap in enumerate(taps):
        part = jax.lax.slice_in_dim(x, k, k + 2 * count - 1, stride=2, axis=axis)
        total = total + tap * part
    return total


def _up(x: Array, taps: list[float], axis: int, margin: int) -> Array:
    # Even and odd points apart: of y_m with m = 2j + parity, x_i with i = j + shift.
    count, reach = x.shape[axis], len(taps) // 2
    wide = _pad(x, axis, reach)
    halves = []
    for parity in (0, 1):
        total = jnp.zeros((), x.dtype)
        for k, tap in enumerate(taps):
            shift, odd = divmod(parity + margin - k, 2)
            if not odd:
                start = reach + shift
                part = jax.lax.slice_in_dim(wide, start, start + count, axis=axis)
                total = total + tap * part
        halves.append(total)
    both = jnp.stack(halves, axis + 1)
    return both.reshape(*x.shape[:axis], 2 * count, *x.shape[axis + 1 :])
