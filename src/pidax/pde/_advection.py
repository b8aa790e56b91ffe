r"""Advection by a velocity.

$$ v\cdot\nabla u $$
"""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..types import Field, FieldLike, typed
from ._grid import AXES, Dirichlet, Grid
from ._operator import AbstractOperator
from ._vector_calculus import along, neighbours, slopes

Scheme = Literal["central", "upwind"]


class Advection(AbstractOperator):
    r"""$v\cdot\nabla u$ at the points, zero where values are prescribed.

    `velocity` has one component for each axis, fields at the points or numbers; in one
    dimension it may be that component. Each point has two slopes along an axis, at the
    faces below and above it, with the data of the sides at the ends.

    - "central": the two, interpolated to the point. Second order, not dissipative; it
      oscillates where $|v| h > 2\nu$ with a diffusion $\nu$.
    - "upwind": the slope on the side from which the velocity comes. First order,
      without oscillations; it acts like a diffusion of $|v| h / 2$.

    For the conservative form $\nabla\cdot(vu)$ use
    [`Divergence`][pidax.pde.Divergence] of a flux.
    """

    grid: Grid
    velocity: tuple[Array, ...]
    scheme: Scheme = eqx.field(static=True)

    def __init__(
        self,
        grid: Grid,
        velocity: Sequence[FieldLike | float] | FieldLike | float,
        scheme: Scheme = "central",
    ):
        self.grid = grid
        parts = velocity if isinstance(velocity, tuple | list) else (velocity,)
        self.velocity = tuple(_component(v) for v in parts)  # type: ignore[arg-type]
        self.scheme = scheme

    def __check_init__(self):
        if self.scheme not in ("central", "upwind"):
            raise ValueError(
                f"scheme must be 'central' or 'upwind', got {self.scheme!r}."
            )
        if len(self.velocity) != self.grid.ndim:
            raise ValueError(
                f"velocity must have one component for each of {self.grid.ndim} axes, "
                f"got {len(self.velocity)}. In one dimension, (v,)."
            )
        for name, v in zip(AXES, self.velocity, strict=False):
            if v.ndim:
                self.grid.check(**{f"the {name} component of velocity": v})

    @typed
    def __call__(self, u: FieldLike) -> Field:
        self.grid.check(u=u)
        u = self.grid.impose(u)
        found = jnp.zeros_like(u)
        for axis, v in enumerate(self.velocity):
            below, above = neighbours(self.grid, slopes(self.grid, u, axis), axis)
            v = jnp.asarray(v, u.dtype)
            if self.scheme == "upwind":
                found += jnp.maximum(v, 0) * below + jnp.minimum(v, 0) * above
            else:
                share = along(_share(self.grid, axis), axis, self.grid.ndim, u.dtype)
                found += v * ((1 - share) * below + share * above)
        return self.grid.pad(self.grid.restrict(found))

    @property
    def dtype(self) -> jnp.dtype:
        fields = [v.dtype for v in self.velocity if v.ndim]
        return fields[0] if fields else jnp.result_type(float)


def _component(v: FieldLike | float) -> Array:
    """A field as it is; a number in the session's precision."""
    return jnp.asarray(v) if np.ndim(v) else jnp.asarray(v, float)


def _share(grid: Grid, axis: int) -> np.ndarray:
    """The share of the slope above in that at the point, by linear interpolation.

    A half but at the ends of a bounded axis. On nodes the outer slope is at the point.
    On cells with a Dirichlet side it is the difference over half a cell, and so has
    second order in the middle of that half: 2/3 of it, 1/3 of the inner one.
    """
    share = np.full(grid.shape[axis], 0.5)
    if grid.periodic[axis]:
        return share
    for end, side, outer in zip((0, -1), grid.boundary[axis], (0.0, 1.0), strict=True):
        if grid.layout == "nodes":
            share[end] = outer
        elif isinstance(side, Dirichlet):
            share[end] = 1 / 3 + outer / 3
    return share
