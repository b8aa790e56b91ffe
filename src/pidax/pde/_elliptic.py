"""What elliptic equations share: the size of a source, the error on their sides."""

import jax.numpy as jnp

from ..types import Field, FieldLike, Scalar
from ._diffusion import AbstractDiffusion
from ._equation import rms
from ._grid import Grid


def at_unknowns(grid: Grid, field: FieldLike) -> Field:
    """The field where equations hold, zero where values are prescribed."""
    return grid.pad(grid.restrict(field))


def source_size(operator: AbstractDiffusion, source: FieldLike) -> Scalar:
    """The norm of the source; where there is none, of what the sides' data contribute.

    Against it the residual of a zero field is one, and that of a field shrunk to zero
    does not vanish.
    """
    grid, source = operator.grid, jnp.asarray(source)
    norm = rms(at_unknowns(grid, source))
    data = rms(grid.pad(operator.load(jnp.zeros_like(source))))
    return jnp.where(norm > 0, norm, data)


def boundary_error(grid: Grid, u: FieldLike) -> Scalar:
    """The largest distance from the prescribed values, on nodes.

    On cells, and on Neumann sides, the conditions are part of the residual.
    """
    u = jnp.asarray(u)
    return jnp.max(jnp.abs(grid.impose(u) - u))
