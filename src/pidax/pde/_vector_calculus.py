r"""Gradient, divergence and curl: at faces in flux form, and at points.

$$ \nabla: \text{points} \to \text{faces}, \qquad
   \nabla\cdot: \text{faces} \to \text{points}. $$

They are adjoint to each other up to the sign, so that conserved quantities are
conserved to rounding. Fluxes are at faces, between the points and at the ends of every
axis. Each point owns a control volume, of size $w_i$ along an axis. Face $i$ is the one
below point $i$, and face $i + 1$ the one above it,

    cells             | . | . | . |      every volume h
    nodes, bounded    |.|  .  |  .|      half a volume at the ends
    periodic                             face n is face 0, and is not stored

so that a bounded axis of $n$ points has $n + 1$ faces and a periodic one $n$. The two
halves of the flux form are the slope at a face and the balance of a volume,

$$ s_i = \frac{u_i - u_{i-1}}{d_i}, \qquad b_i = \frac{F_{i+1} - F_i}{w_i}, $$

$d_i$ the distance of the points, or of a point and the side, that the face separates.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from ..types import Elementwise, ElementwiseLike, Field, FieldLike, Shape, typed
from ._derivative import Order, calculus, check_order
from ._grid import AXES, AbstractSide, Dirichlet, Grid, Neumann
from ._operator import AbstractOperator

Place = Literal["faces", "points"]
Fluxes = tuple[Elementwise, ...]  # an array for each axis: values at its faces


class Gradient(AbstractOperator):
    r"""$\nabla u$: a tuple with one array for each axis.

    **At faces** (default): the slope across every face, `face_shape` in shape and of
    second order, with the data of the sides at the ends: what a flux is made of. At a
    Dirichlet side of cells, where it is a difference over half a cell, it is of first
    order at that face.

    **At points**: all components where the field is, of `order` 2, 4, 6 or "spectral"
    on periodic axes, 2 on bounded ones. It does not use boundary conditions: at bounded
    ends it is one-sided.

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

    def mv(self, vector: Array) -> Fluxes:
        return self.homogeneous()(self.grid.pad(vector))

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
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
        _check_components(self.in_structure(), fluxes)
        parts = [jnp.asarray(flux) for flux in fluxes]
        if self.at == "faces":
            terms = [balance(self.grid, flux, axis) for axis, flux in enumerate(parts)]
            return sum(terms[1:], terms[0])
        forth, partial, back = calculus(self.grid, self.order)
        terms = [partial(forth(part), axis) for axis, part in enumerate(parts)]
        return back(sum(terms[1:], terms[0]))

    def mv(self, vector: Fluxes) -> Array:
        return self.grid.restrict(self(vector))

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return _components(self)


class Curl(AbstractOperator):
    r"""$\nabla\times F$ at the points, of a tuple with one field for each axis.

    In two dimensions a scalar, the vorticity; in three a tuple. Called with one field
    in two dimensions, a stream function $\psi$, it is the velocity $(\partial_y\psi,
    -\partial_x\psi)$, without divergence. All derivatives are `Derivative`s of
    the same `order`, without boundary conditions; they commute, so that the curl of
    `Gradient(grid, at="points")` and the divergence of a curl vanish to rounding.

    As a linear map it is the curl of vectors, and its transpose on a periodic grid in
    two dimensions is the curl of stream functions. Cost: spectral, one transform for
    each component that goes in and each that comes out.
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
    def __call__(
        self, field: FieldLike | tuple[FieldLike, ...]
    ) -> Field | tuple[Field, ...]:
        forth, partial, back = calculus(self.grid, self.order)
        if not isinstance(field, tuple):
            if self.grid.ndim != 2:
                raise ValueError(
                    "in three dimensions a curl needs a tuple of three fields, "
                    "got one array. Pass (F_x, F_y, F_z)."
                )
            self.grid.check(stream_function=field)
            hat = forth(jnp.asarray(field))
            return back(partial(hat, 1)), -back(partial(hat, 0))
        _check_components(self.in_structure(), field)
        hats = [forth(jnp.asarray(part)) for part in field]

        def component(i: int, j: int) -> Field:
            return back(partial(hats[j], i) - partial(hats[i], j))

        if self.grid.ndim == 2:
            return component(0, 1)
        return component(1, 2), component(2, 0), component(0, 1)

    def mv(self, vector: PyTree[Array]) -> Any:
        return self(vector)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        part = jax.ShapeDtypeStruct(self.grid.shape, self.dtype)
        return (part,) * self.grid.ndim

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        part = jax.ShapeDtypeStruct(self.grid.shape, self.dtype)
        return part if self.grid.ndim == 2 else (part,) * 3


def _check_place(operator: Gradient | Divergence) -> None:
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


def _components(operator: Gradient | Divergence) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shapes and the dtype of the components."""
    grid = operator.grid
    shapes = [grid.shape] * grid.ndim
    if operator.at == "faces":
        shapes = [face_shape(grid, axis) for axis in range(grid.ndim)]
    return tuple(jax.ShapeDtypeStruct(shape, operator.dtype) for shape in shapes)


def _check_components(
    structure: tuple[jax.ShapeDtypeStruct, ...], fields: tuple[ElementwiseLike, ...]
) -> None:
    """One array for each axis, of the shape that is had there."""
    shapes = tuple(part.shape for part in structure)
    got = tuple(np.shape(field) for field in fields)
    if got != shapes:
        raise ValueError(
            f"expected one array for each of {', '.join(AXES[: len(shapes)])}, of the "
            f"shapes {shapes}, got the shapes {got}. Gradient(grid) makes components "
            "at faces, and with at='points' such as are beside the field."
        )


def face_shape(grid: Grid, axis: int) -> Shape:
    """The shape of an array of values at the faces along one axis."""
    n = grid.shape[axis] + (not grid.periodic[axis])
    return (*grid.shape[:axis], n, *grid.shape[axis + 1 :])


def face_points(grid: Grid, axis: int) -> tuple[Field, ...]:
    """The coordinates of the faces along one axis: an array for each dimension.

    `f(*face_points(grid, 0))` is a function at the faces across $x$.
    """
    h, (low, high) = grid.spacing[axis], grid.extent[axis]
    faces = grid._points[axis] - h / 2
    if not grid.periodic[axis]:
        faces = np.clip(np.append(faces, faces[-1] + h), low, high)
    axes = [np.asarray(faces) if i == axis else x for i, x in enumerate(grid._points)]
    return tuple(jnp.asarray(x, float) for x in np.meshgrid(*axes, indexing="ij"))


def face_weights(grid: Grid) -> Fluxes:
    r"""The weights in which minus the divergence is the gradient's adjoint.

    $$ \sum_i w_i v_i (\nabla\cdot F)_i = -\sum_{axes} \sum_f \omega_f F_f
       (\nabla v)_f $$

    for $v$ with zero data, and $F$ zero on Neumann sides: $\omega_f$ is the distance
    $d_f$ across the face times its area. It is zero at the ends of nodes, where the
    face is the point itself.
    """
    found = []
    for axis in range(grid.ndim):
        total = np.ones(())
        for i in range(grid.ndim):
            w = _distances(grid, i) if i == axis else grid.widths(i)
            total = np.multiply.outer(total, w)
        found.append(jnp.asarray(total, float))
    return tuple(found)


def _distances(grid: Grid, axis: int) -> np.ndarray:
    """The distance $d_f$ across each face along one axis."""
    d = np.full(face_shape(grid, axis)[axis], grid.spacing[axis])
    if not grid.periodic[axis]:
        d[[0, -1]] *= 0.5 if grid.layout == "cells" else 0.0
    return d


def conductance(grid: Grid, axis: int) -> np.ndarray:
    """What a unit of the point's own value adds to the slope at each face, in size.

    $1/d_f$; zero at Neumann sides, where the slope is given, and where the face is the
    point itself.
    """
    d = _distances(grid, axis)
    for end, side in zip((0, -1), grid.boundary[axis], strict=True):
        if isinstance(side, Neumann):
            d[end] = 0.0
    return np.divide(1.0, d, out=np.zeros_like(d), where=d > 0)


def slopes(grid: Grid, u: Array, axis: int) -> Array:
    """The derivative of `u` along one axis at the faces, from the sides' data at ends.

    At a Neumann side it is the given slope; at a Dirichlet side of cells the difference
    to the given value, half a cell away. At a Dirichlet side of nodes no scheme needs
    it: it is the derivative of the parabola through the last three points.
    """
    h = grid.spacing[axis]
    if grid.periodic[axis]:
        return (u - jnp.roll(u, 1, axis)) / h
    low, high = grid.boundary[axis]
    first = -_end_slope(grid, low, u, axis, (0, 1, 2))
    last = _end_slope(grid, high, u, axis, (-1, -2, -3))
    return jnp.concatenate([first, jnp.diff(u, axis=axis) / h, last], axis)


def _end_slope(
    grid: Grid, side: AbstractSide, u: Array, axis: int, indices: tuple[int, ...]
) -> Array:
    """The slope out of the domain at one side; `indices` count from the side."""
    h = grid.spacing[axis]
    places = [i % u.shape[axis] for i in indices]
    at = [jax.lax.slice_in_dim(u, i, i + 1, axis=axis) for i in places]
    data = jnp.broadcast_to(jnp.asarray(side.data, u.dtype), at[0].squeeze(axis).shape)
    data = jnp.expand_dims(data, axis)
    if not isinstance(side, Dirichlet):
        return data
    if grid.layout == "cells":
        return (data - at[0]) / (h / 2)
    return (3 * at[0] - 4 * at[1] + at[2]) / (2 * h)


def balance(grid: Grid, flux: Array, axis: int) -> Array:
    """What leaves each control volume along one axis, per volume."""
    if grid.periodic[axis]:
        return (jnp.roll(flux, -1, axis) - flux) / grid.spacing[axis]
    w = along(grid.widths(axis), axis, grid.ndim, flux.dtype)
    return jnp.diff(flux, axis=axis) / w


def neighbours(grid: Grid, values: Array, axis: int) -> tuple[Array, Array]:
    """The values at the faces below and above each point along one axis."""
    if grid.periodic[axis]:
        return values, jnp.roll(values, -1, axis)
    n = grid.shape[axis]
    cut = jax.lax.slice_in_dim
    return cut(values, 0, n, axis=axis), cut(values, 1, n + 1, axis=axis)


def along(values: np.ndarray, axis: int, ndim: int, dtype: DTypeLike) -> Array:
    """Values along one axis, shaped to be broadcast over the others."""
    return jnp.asarray(
        values.reshape([-1 if i == axis else 1 for i in range(ndim)]), dtype
    )
