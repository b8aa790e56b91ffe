r"""One derivative along one axis at the points themselves, and one in time.

$$ \partial_x^p u(x_i) \approx \frac{1}{h^p} \sum_j c_j\, u_{i+j} $$

with the central coefficients of order 2, 4, 6 (Fornberg 1988, Table 1), or all points
of a periodic axis: spectral.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import require_positive
from ..types import Field, FieldLike, ScalarLike, SpaceTime, typed
from ._fourier import backward, multiply, odd_wavenumbers, spectral_derivative
from ._grid import AXES, Grid
from ._operator import AbstractOperator

Order = Literal[2, 4, 6, "spectral"]
ORDERS = (2, 4, 6, "spectral")
# c_0, c_1, c_2, ...: the other half has the opposite sign for odd powers.
CENTRAL = {
    (1, 2): (0, 1 / 2),
    (1, 4): (0, 2 / 3, -1 / 12),
    (1, 6): (0, 3 / 4, -3 / 20, 1 / 60),
    (2, 2): (-2, 1),
    (2, 4): (-5 / 2, 4 / 3, -1 / 12),
    (2, 6): (-49 / 18, 3 / 2, -3 / 20, 1 / 90),
}
# At a bounded end, of second order: the points from the end inwards.
ONE_SIDED = {1: (-3 / 2, 2, -1 / 2), 2: (2, -5, 4, -1)}

TimeScheme = Literal["forward", "backward", "midpoint", "central"]
# How many times have no derivative.
MISSING = {"forward": 1, "backward": 1, "midpoint": 1, "central": 2}


class Derivative(AbstractOperator):
    r"""$\partial^p u / \partial x^p$ along one axis, at the points.

    `order` is 2, 4, 6 or "spectral" on a periodic axis and 2 on a bounded one, where it
    is one-sided at the ends; `power` is 1 or 2, or any when spectral. It differentiates
    the values of the field and does not use boundary conditions, so that derivatives
    along different axes commute. For the terms of an equation with boundary conditions
    use [`Laplacian`][pidax.pde.Laplacian], [`Diffusion`][pidax.pde.Diffusion],
    [`Advection`][pidax.pde.Advection].

    As a linear map it acts on whole fields.
    """

    grid: Grid
    axis: int = eqx.field(static=True)
    power: int = eqx.field(static=True, default=1)
    order: Order = eqx.field(static=True, default=2)

    def __check_init__(self):
        if not 0 <= self.axis < self.grid.ndim:
            raise ValueError(
                f"axis must be one of 0..{self.grid.ndim - 1} of the grid, got "
                f"{self.axis}."
            )
        check_order(self.grid, self.order, (self.axis,))
        if self.power < 1 or (self.power > 2 and self.order != "spectral"):
            raise ValueError(
                f"power must be 1 or 2 (any positive one when spectral), got "
                f"power={self.power} with order={self.order!r}. Apply it repeatedly, "
                "or take order='spectral'."
            )
        if not self.grid.periodic[self.axis] and self.grid.shape[self.axis] < 4:
            raise ValueError(
                "one-sided derivatives need four points, got "
                f"{self.grid.shape[self.axis]} along {AXES[self.axis]}. Refine it."
            )

    @typed
    def __call__(self, u: FieldLike) -> Field:
        self.grid.check(u=u)
        return derivative(self.grid, jnp.asarray(u), self.axis, self.power, self.order)

    @property
    def symmetric(self) -> bool:
        return self.grid.periodic[self.axis] and self.power % 2 == 0

    @property
    def sign(self) -> int:
        return (1 if self.power % 4 == 0 else -1) if self.symmetric else 0

    def mv(self, vector: Array) -> Array:
        return self(vector)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.grid.shape, self.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.in_structure()


class TimeDerivative(eqx.Module):
    r"""$\partial_t u$ of a field "time *grid", for residuals in space and time.

    `at(u)` is the field at the times that have a derivative, so that a residual is

        ddt = TimeDerivative(dt, "backward")
        r = ddt(u) - nu * jax.vmap(Laplacian(grid))(ddt.at(u))

    | scheme | derivative | field in the equation | order | solver with this residual |
    |---|---|---|---|---|
    | "forward" | $(u^{n+1} - u^n)/\Delta t$ | $u^n$ | 1 | explicit Euler |
    | "backward" | the same | $u^{n+1}$ | 1 | implicit Euler |
    | "midpoint" | the same | $(u^n + u^{n+1})/2$ | 2 | implicit midpoint |
    | "central" | $(u^{n+1} - u^{n-1})/2\Delta t$ | $u^n$ | 2 | leapfrog |

    For `m` times the first three return `m - 1`, the last `m - 2`. `dt` is the time
    between stored rows, not a step of a solver.
    """

    dt: ScalarLike
    scheme: TimeScheme = eqx.field(static=True, default="central")

    def __check_init__(self):
        if self.scheme not in MISSING:
            raise ValueError(
                f"scheme must be one of {tuple(MISSING)}, got {self.scheme!r}."
            )
        require_positive(dt=self.dt)

    @typed
    def __call__(self, u: SpaceTime) -> Array:
        """The derivative at those times that have one."""
        self._check(u)
        dt = jnp.asarray(self.dt, u.dtype)
        if self.scheme == "central":
            return (u[2:] - u[:-2]) / (2 * dt)
        return jnp.diff(u, axis=0) / dt

    @typed
    def at(self, u: SpaceTime) -> Array:
        """The field at those times."""
        self._check(u)
        if self.scheme == "midpoint":
            return (u[1:] + u[:-1]) / 2
        return {"forward": u[:-1], "backward": u[1:], "central": u[1:-1]}[self.scheme]

    def _check(self, u: SpaceTime) -> None:
        least = MISSING[self.scheme] + 1
        if len(u) < least:
            raise ValueError(
                f"a {self.scheme} derivative needs {least} times, got {len(u)} (shape "
                f"{u.shape}). Time is the first axis."
            )


def derivative(grid: Grid, u: Array, axis: int, power: int, order: Order) -> Array:
    """One derivative along one axis, at the points."""
    if order == "spectral":
        return spectral_derivative(grid, u, axis, power)
    scale = grid.spacing[axis] ** power
    centre, *others = CENTRAL[power, order]
    found = centre * u
    for j, c in enumerate(others, 1):
        above, below = jnp.roll(u, -j, axis), jnp.roll(u, j, axis)
        found = found + c * (above + below if power == 2 else above - below)
    if not grid.periodic[axis]:
        found = _one_sided(found, u, axis, power)
    return found / scale


class Calculus(NamedTuple):
    """First derivatives of several fields: `back(partial(forth(u), axis))`.

    What is between `forth` and `back` may be added: spectrally it is modes, so that a
    curl takes one transform for each component and not two.
    """

    forth: Callable[[Array], Array]
    partial: Callable[[Array, int], Array]
    back: Callable[[Array], Array]


def calculus(grid: Grid, order: Order) -> Calculus:
    """First derivatives on this grid in this order."""
    if order == "spectral":
        ks = [1j * k for k in odd_wavenumbers(grid)]
        return Calculus(
            jnp.fft.rfftn,
            lambda hat, axis: multiply(ks[axis], hat),
            lambda hat: backward(grid, hat),
        )
    return Calculus(
        lambda u: u,
        lambda u, axis: derivative(grid, u, axis, 1, order),
        lambda u: u,
    )


def _one_sided(found: Array, u: Array, axis: int, power: int) -> Array:
    """The two ends of a bounded axis, where a roll has met the other end."""
    for end in (0, -1):
        sign = 1 if end == 0 else (-1) ** power
        step = 1 if end == 0 else -1
        value = sum(
            sign * c * jnp.take(u, end + step * j, axis)
            for j, c in enumerate(ONE_SIDED[power])
        )
        found = found.at[(slice(None),) * axis + (end,)].set(value)
    return found


def check_order(grid: Grid, order: Order, axes: Sequence[int] | None = None) -> None:
    """An order that exists, and on these axes (all unless said)."""
    if order not in ORDERS:
        raise ValueError(f"order must be one of {ORDERS}, got {order!r}.")
    axes = range(grid.ndim) if axes is None else axes
    for axis in axes:
        if order != 2 and not grid.periodic[axis]:
            raise ValueError(
                f"order={order!r} is for periodic axes, and {AXES[axis]} is bounded, "
                "where the order is 2. Take order=2, or make the axis Periodic()."
            )
