r"""Faces: where fluxes live, between the points and at the ends of every axis.

Each point owns a control volume, of size $w_i$ along an axis. Face $i$ is the one below
point $i$, and face $i + 1$ the one above it,

    cells             | . | . | . |      every volume h
    nodes, bounded    |.|  .  |  .|      half a volume at the ends
    periodic                             face n is face 0, and is not stored

so that a bounded axis of $n$ points has $n + 1$ faces and a periodic one $n$. The two
halves of the flux form are the slope at a face and the balance of a volume,

$$ s_i = \frac{u_i - u_{i-1}}{d_i}, \qquad b_i = \frac{F_{i+1} - F_i}{w_i}, $$

$d_i$ the distance of the points, or of a point and the side, that the face separates.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..types import Elementwise, Field, Shape
from ._boundary import Dirichlet, Neumann
from ._grid import Grid

Fluxes = tuple[Elementwise, ...]  # an array for each axis: values at its faces


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
            w = distances(grid, i) if i == axis else grid.widths(i)
            total = np.multiply.outer(total, w)
        found.append(jnp.asarray(total, float))
    return tuple(found)


def distances(grid: Grid, axis: int) -> np.ndarray:
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
    d = distances(grid, axis)
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


def _end_slope(grid, side, u, axis, indices):
    """The slope out of the domain at one side; `indices` count from the side."""
    h = grid.spacing[axis]
    at = [_plane(u, i, axis) for i in indices]
    data = jnp.broadcast_to(jnp.asarray(side.data, u.dtype), at[0].squeeze(axis).shape)
    data = jnp.expand_dims(data, axis)
    if not isinstance(side, Dirichlet):
        return data
    if grid.layout == "cells":
        return (data - at[0]) / (h / 2)
    return (3 * at[0] - 4 * at[1] + at[2]) / (2 * h)


def _plane(u, index, axis):
    """The points with this index along one axis, which is kept."""
    index %= u.shape[axis]
    return u[(slice(None),) * axis + (slice(index, index + 1),)]


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


def along(values: np.ndarray, axis: int, ndim: int, dtype) -> Array:
    """Values along one axis, shaped to be broadcast over the others."""
    return jnp.asarray(
        values.reshape([-1 if i == axis else 1 for i in range(ndim)]), dtype
    )
