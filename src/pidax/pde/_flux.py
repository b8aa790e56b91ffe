r"""Gradient and divergence in flux form, and at points.

$$ \nabla: \text{points} \to \text{faces}, \qquad
   \nabla\cdot: \text{faces} \to \text{points}. $$

The two are each other's adjoint up to the sign, so that what the discrete equations
conserve is conserved to rounding.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..types import ElementwiseLike, Field, FieldLike, typed
from ._derivative import Order, calculus, check_order
from ._faces import Fluxes, balance, face_shape, slopes
from ._grid import AXES, Grid
from ._operator import AbstractOperator

Place = Literal["faces", "points"]


class Gradient(AbstractOperator):
    r"""$\nabla u$: a tuple with one array for each axis.

    **At faces** (default): the slope across every face, `face_shape` in shape and of
    second order, with the data of the sides at the ends: what a flux is made of. At a
    Dirichlet side of cells, where it is a difference over half a cell, it is of first
    order at that face.

    **At points**: all components where the field is, of `order` 2, 4, 6 or "spectral"
    on periodic axes, 2 on bounded ones. It differentiates the values that it is given
    and does not look at the sides: at bounded ends it is one-sided.

    Cost: a few operations a point; spectral, one transform forth and one back an axis.
    """

    grid: Grid
    at: Place = eqx.field(static=True, default="faces")
    order: Order = eqx.field(static=True, default=2)

    def __check_init__(self):
        _check_place(self)

    @typed
    def __call__(self, u: FieldLike) -> Fluxes:
        self.grid.check(u=u)
        u = jnp.asarray(u)
        axes = range(self.grid.ndim)
        if self.at == "faces":
            u = self.grid.impose(u)
            return tuple(slopes(self.grid, u, axis) for axis in axes)
        forth, partial, back = calculus(self.grid, self.order)
        hat = forth(u)
        return tuple(back(partial(hat, axis)) for axis in axes)

    def mv(self, vector):
        return self.homogeneous()(self.grid.pad(vector))

    def out_structure(self):
        return _components(self)


class Divergence(AbstractOperator):
    r"""$\nabla\cdot F$ at the points, from a tuple with one array for each axis.

    **At faces** (default): what leaves each control volume, per volume, so that
    $\sum_i w_i (\nabla\cdot F)_i$ is the flux out of the sides, to rounding. **At
    points**: all components where the result is, with `order` as for
    [`Gradient`][pidax.pde.Gradient].

    As a linear map it goes from such tuples to the unknowns, so that
    `Divergence(grid) @ Gradient(grid)` is the Laplacian.
    """

    grid: Grid
    at: Place = eqx.field(static=True, default="faces")
    order: Order = eqx.field(static=True, default=2)

    def __check_init__(self):
        _check_place(self)

    @typed
    def __call__(self, fluxes: tuple[ElementwiseLike, ...]) -> Field:
        check_components(self.in_structure(), fluxes)
        parts = [jnp.asarray(flux) for flux in fluxes]
        if self.at == "faces":
            terms = [balance(self.grid, flux, axis) for axis, flux in enumerate(parts)]
            return sum(terms[1:], terms[0])
        forth, partial, back = calculus(self.grid, self.order)
        terms = [partial(forth(part), axis) for axis, part in enumerate(parts)]
        return back(sum(terms[1:], terms[0]))

    def mv(self, vector):
        return self.grid.restrict(self(vector))

    def in_structure(self):
        return _components(self)


def _check_place(operator):
    """Where the components are, and an order that exists there."""
    if operator.at not in ("faces", "points"):
        raise ValueError(
            f"at must be 'faces' or 'points', got {operator.at!r}. Fluxes are at "
            "faces; components beside the field itself are at points."
        )
    if operator.at == "faces" and operator.order != 2:
        raise ValueError(
            f"at faces the order is 2, got order={operator.order!r}. For a periodic "
            f"grid at points: {type(operator).__name__}(grid, at='points', "
            f"order={operator.order!r})."
        )
    check_order(operator.grid, operator.order)


def _components(operator) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shapes and the dtype of the components."""
    grid = operator.grid
    shapes = [grid.shape] * grid.ndim
    if operator.at == "faces":
        shapes = [face_shape(grid, axis) for axis in range(grid.ndim)]
    return tuple(jax.ShapeDtypeStruct(shape, operator.dtype) for shape in shapes)


def check_components(structure: tuple[jax.ShapeDtypeStruct, ...], fields) -> None:
    """One array for each axis, of the shape that is had there."""
    shapes = tuple(part.shape for part in structure)
    got = tuple(np.shape(field) for field in fields)
    if got != shapes:
        raise ValueError(
            f"expected one array for each of {', '.join(AXES[: len(shapes)])}, of the "
            f"shapes {shapes}, got the shapes {got}. Gradient(grid) makes components "
            "at faces, and with at='points' such as are beside the field."
        )
