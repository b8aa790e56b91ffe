r"""The curl: of a vector field, in two and in three dimensions; of a stream function.

$$ \nabla\times(u, v) = \partial_x v - \partial_y u, \qquad
   \nabla\times\psi = (\partial_y\psi, -\partial_x\psi). $$
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..types import Field, FieldLike, typed
from ._derivative import Order, calculus, check_order
from ._flux import check_components
from ._grid import Grid
from ._operator import AbstractOperator

Vector = tuple[Field, ...]


class Curl(AbstractOperator):
    r"""$\nabla\times F$ at the points, of a tuple with one field for each axis.

    In two dimensions a scalar, the vorticity; in three a tuple. Called with one field
    in two dimensions, a stream function $\psi$, it is the velocity
    $(\partial_y\psi, -\partial_x\psi)$, without divergence. All derivatives are those
    of `Derivative` of the same `order`, at the points and blind to the sides; they
    commute, so that the curl of `Gradient(grid, at="points")` and the divergence of a
    curl vanish to rounding.

    As a linear map it is the curl of vectors, and its transpose on a periodic grid in
    two dimensions is that of stream functions. Cost: spectral, one transform for each
    component that goes in and each that comes out.
    """

    grid: Grid
    order: Order = eqx.field(static=True, default=2)

    def __check_init__(self):
        if self.grid.ndim == 1:
            raise ValueError(
                f"a curl needs two or three dimensions, got {self.grid}. In one, "
                "Derivative(grid, 0)."
            )
        check_order(self.grid, self.order)

    @typed
    def __call__(self, field: FieldLike | tuple[FieldLike, ...]) -> Field | Vector:
        forth, partial, back = calculus(self.grid, self.order)
        if not isinstance(field, tuple):
            return self._of_stream_function(field)
        check_components(self.in_structure(), field)
        hats = [forth(jnp.asarray(part)) for part in field]

        def component(i, j):
            return back(partial(hats[j], i) - partial(hats[i], j))

        if self.grid.ndim == 2:
            return component(0, 1)
        return component(1, 2), component(2, 0), component(0, 1)

    def _of_stream_function(self, psi) -> Vector:
        if self.grid.ndim != 2:
            raise ValueError(
                "in three dimensions a curl is that of a tuple of three fields, got "
                "one array. Pass (F_x, F_y, F_z)."
            )
        self.grid.check(stream_function=psi)
        forth, partial, back = calculus(self.grid, self.order)
        hat = forth(jnp.asarray(psi))
        return back(partial(hat, 1)), -back(partial(hat, 0))

    def mv(self, vector) -> Any:
        return self(vector)

    def in_structure(self):
        part = jax.ShapeDtypeStruct(self.grid.shape, self.dtype)
        return (part,) * self.grid.ndim

    def out_structure(self):
        part = jax.ShapeDtypeStruct(self.grid.shape, self.dtype)
        return part if self.grid.ndim == 2 else (part,) * 3
