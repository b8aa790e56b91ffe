r"""Diffusion and the Laplacian: the divergence of a flux along the gradient.

$$ \nabla\cdot(a \nabla u) $$
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from .._checks import is_traced, require
from ..types import Field, FieldLike, typed
from ._derivative import Order, check_order, derivative
from ._fourier import spectral_laplacian
from ._grid import AbstractSide, Dirichlet, Grid, Neumann
from ._operator import AbstractOperator
from ._vector_calculus import Fluxes, along, balance, conductance, neighbours, slopes

Mean = Literal["arithmetic", "harmonic"]


def check_mean(mean: str) -> None:
    """A mean of two points that exists."""
    if mean not in ("arithmetic", "harmonic"):
        raise ValueError(
            f"mean must be 'arithmetic' or 'harmonic', got {mean!r}. Harmonic means "
            "are for coefficients that jump between cells."
        )


class AbstractDiffusion(AbstractOperator):
    r"""$\nabla\cdot(a \nabla u)$ with $a$ positive: what all such operators share.

    The matrix is symmetric and negative semidefinite, except on nodes with a Neumann
    side, whose points have half a control volume. `weighted` is always symmetric.
    Without a Dirichlet side constants are its null space: a right side must have
    weighted mean zero, and solutions are unique up to a constant. Conjugate gradients
    find one of them.
    """

    @property
    def symmetric(self) -> bool:
        whole = self.grid.layout == "cells"  # control volumes of one size
        return all(
            whole or periodic or all(isinstance(side, Dirichlet) for side in pair)
            for periodic, pair in zip(
                self.grid.periodic, self.grid.boundary, strict=True
            )
        )

    @property
    def sign(self) -> int:
        return -1 if self.symmetric else 0

    @property
    def tridiagonal(self) -> bool:
        return self.grid.ndim == 1 and not self.grid.periodic[0]

    @property
    def nullspace(self) -> Field | None:
        """The constant field of norm one that is mapped to zero, or None."""
        sides = [side for pair in self.grid.boundary for side in pair]
        if any(isinstance(side, Dirichlet) for side in sides):
            return None
        return jnp.full(self.grid.shape, math.prod(self.grid.lengths) ** -0.5, float)

    def weighted(self) -> lx.AbstractLinearOperator:
        """The matrix with its rows times the points' weights: always symmetric.

        Solve it against `grid.restrict(grid.weights) * operator.load(f)`.
        """
        w = self.grid.restrict(self.grid.weights).astype(self.dtype)
        tags = (lx.symmetric_tag, lx.negative_semidefinite_tag)
        return lx.TaggedLinearOperator(lx.DiagonalLinearOperator(w) @ self, tags)


class Laplacian(AbstractDiffusion):
    r"""$\nabla^2 u$ at the points, zero where values are prescribed.

    `order=2` is the flux form $\nabla\cdot\nabla u$ on every grid: three points an
    axis. `order` 4, 6 or "spectral" is for grids with all axes periodic.

    Solutions of $\nabla^2 u = f$ are of the stated order. The operator itself is of
    first order in the points of a Neumann side of nodes, and not consistent in the
    points next to a Dirichlet side of cells: without harm to the solution, since such
    an error acts on a layer of thickness $h$ from within distance $h$ of the side.
    """

    grid: Grid
    order: Order = eqx.field(static=True, default=2)

    def __check_init__(self):
        check_order(self.grid, self.order)

    @typed
    def __call__(self, u: FieldLike) -> Field:
        self.grid.check(u=u)
        u = jnp.asarray(u)
        if self.order == "spectral":
            return spectral_laplacian(self.grid, u)
        axes = range(self.grid.ndim)
        if self.order == 2:
            u = self.grid.impose(u)
            ones = (1.0,) * self.grid.ndim
            return _diffuse(self.grid, ones, u)
        terms = [derivative(self.grid, u, axis, 2, self.order) for axis in axes]
        return sum(terms[1:], terms[0])


class Diffusion(AbstractDiffusion):
    r"""$\nabla\cdot(a \nabla u)$ at the points, zero where values are prescribed.

        darcy = Diffusion(grid, a)          # residual: darcy(u) + source
        lineax.linear_solve(darcy, darcy.load(-source), lineax.CG(1e-10, 1e-10))

    `coefficient` is $a > 0$, a field. Between two points it is their `mean`,
    "arithmetic" for smooth ones or "harmonic" for those that are constant in each cell
    (the flux through layers is then exact, across them and along them). Where a slope
    is prescribed on the side of cells, smooth ones are extrapolated to it, jumps are
    not; at other sides it is the value of the nearest point. On nodes this is the
    5-point scheme with $h = L/(n-1)$, on cells finite volumes; order as for
    [`Laplacian`][pidax.pde.Laplacian].

    `check=False` accepts any coefficient, for residuals of fields that a model made.
    The properties that Lineax sees are then true only if $a$ is positive anyway.
    """

    grid: Grid
    faces: Fluxes

    def __init__(
        self,
        grid: Grid,
        coefficient: FieldLike,
        mean: Mean = "arithmetic",
        *,
        check: bool = True,
    ):
        check_mean(mean)
        grid.check(coefficient=coefficient)
        a = jnp.asarray(coefficient)
        a = _positive(grid, a) if check else a
        self.grid = grid
        self.faces = tuple(_at_faces(grid, a, axis, mean) for axis in range(grid.ndim))

    @typed
    def __call__(self, u: FieldLike) -> Field:
        self.grid.check(u=u)
        return _diffuse(self.grid, self.faces, self.grid.impose(u))

    @property
    def dtype(self) -> jnp.dtype:
        return self.faces[0].dtype


def _diffuse(grid: Grid, faces: Sequence[Array | float], u: Array) -> Array:
    """The divergence of the coefficient at faces times the slope there."""
    terms = [
        balance(grid, a * slopes(grid, u, axis), axis) for axis, a in enumerate(faces)
    ]
    return grid.pad(grid.restrict(sum(terms[1:], terms[0])))


@lx.diagonal.register(Diffusion)
def _(operator: Diffusion) -> Array:
    return _diagonal(operator.grid, operator.faces)


@lx.diagonal.register(Laplacian)
def _(operator: Laplacian) -> Array:
    grid, one = operator.grid, jnp.ones((), operator.dtype)
    if operator.order == 2:
        return _diagonal(grid, (one,) * grid.ndim)
    origin = (0,) * grid.ndim  # on a periodic grid every row is the first one, moved
    row = operator.mv(jnp.zeros(grid.shape, one.dtype).at[origin].set(1.0))
    return jnp.full(row.size, row[origin])


def _diagonal(grid: Grid, faces: Sequence[Array]) -> Array:
    """Minus what the two faces of each point conduct along every axis, per volume."""
    found = jnp.zeros(grid.shape, faces[0].dtype)
    for axis, a in enumerate(faces):
        per_slope = along(conductance(grid, axis), axis, grid.ndim, a.dtype)
        below, above = neighbours(grid, a * per_slope, axis)
        w = along(grid.widths(axis), axis, grid.ndim, a.dtype)
        found = found - (below + above) / w
    return grid.restrict(found).ravel()


def _at_faces(grid: Grid, a: Array, axis: int, mean: Mean) -> Array:
    """The coefficient at the faces along one axis."""
    if grid.periodic[axis]:
        low, high = jnp.roll(a, 1, axis), a
    else:
        at = partial(jax.lax.slice_in_dim, a, axis=axis)
        n, (below, above) = a.shape[axis], grid.boundary[axis]
        first = _beyond(grid, below, mean, *(at(i, i + 1) for i in (0, 1, 2)))
        last = _beyond(grid, above, mean, *(at(n - i, n - i + 1) for i in (1, 2, 3)))
        low = jnp.concatenate([first, a], axis)
        high = jnp.concatenate([a, last], axis)
    return _harmonic(low, high) if mean == "harmonic" else (low + high) / 2


def _harmonic(a: Array, b: Array) -> Array:
    """2ab/(a + b) of positive numbers; of others, which a model may have made, twice
    the smaller: without a jump at zero, and finite.
    """
    least = jnp.minimum(a, b)
    both = least > 0
    a, b = jnp.where(both, a, 1), jnp.where(both, b, 1)
    return jnp.where(both, 2 * a / (1 + a / b), 2 * least)


def _beyond(
    grid: Grid, side: AbstractSide, mean: Mean, a: Array, b: Array, c: Array
) -> Array:
    """The coefficient beyond a side, whose mean with the nearest is that at the side.

    Of the three points from the side inwards. Only a given slope needs it to second
    order, and on cells: there it goes on with the smaller of the last two differences,
    with none if their signs differ. So a jump is not extrapolated, and two materials
    have their own value at the side; nor does it go below zero.
    """
    if grid.layout == "cells" and isinstance(side, Neumann) and mean == "arithmetic":
        first, second = a - b, b - c
        smaller = jnp.where(jnp.abs(first) < jnp.abs(second), first, second)
        step = jnp.where(first * second > 0, smaller, 0)
        return jnp.maximum(a + step, jnp.minimum(a, 0))
    return a


def _positive(grid: Grid, a: Array) -> Array:
    """The coefficient, having checked that it is positive and finite."""
    ok = (a > 0) & jnp.isfinite(a)
    if is_traced(ok, a):  # `jax.grad` traces the one and not the other
        found = "a value that is not"
    else:
        # The first that is not a number, or else the smallest.
        values = np.asarray(a)
        worst = np.where(np.isfinite(values), values, -np.inf)
        index = np.unravel_index(int(worst.argmin()), grid.shape)
        place = ", ".join(
            f"{x[i]:.6g}" for x, i in zip(grid._points, index, strict=True)
        )
        found = f"{values[index]} at {tuple(map(int, index))}, the point ({place})"
    return require(
        a,
        ok.all(),
        f"the coefficient of Diffusion must be positive and finite, got {found}. Clip "
        "it from below, or model its logarithm.",
    )
