r"""Channels as a chart sees them: some by their logarithm, some by their Laplacian.

positive: log a,        rough: (Laplacian) u with zero data on the sides
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..types import Stacked
from ._basis import batched
from ._grid import Grid
from ._transform import Transform


def bend(x: Stacked, positive, rough) -> Stacked:
    """The logarithm of positive channels, the Laplacian of rough ones."""
    return _channels(x, positive, rough, jnp.log, 1)


def straighten(z: Stacked, positive, rough) -> Stacked:
    """The inverse of `bend`."""
    return _channels(z, positive, rough, jnp.exp, -1)


def _channels(x: Stacked, positive, rough, function, power: int) -> Stacked:
    channels = list(jnp.moveaxis(x, -1, 0))
    for i, (log, grid) in enumerate(zip(positive, rough, strict=True)):
        if log:
            channels[i] = function(channels[i])
        elif grid is not None:
            channels[i] = _through(grid, channels[i], power)
    return jnp.stack(channels, axis=-1)


def _through(grid: Grid, u: Array, power: int) -> Array:
    r"""$\Delta^{power}$ with zero data; a mode of eigenvalue zero is kept."""
    transform = Transform(grid)
    values = transform.eigenvalues
    symbol = np.where(values == 0, 1.0, values) ** power
    one = lambda u: grid.pad(transform.multiply(symbol, grid.restrict(u)))
    return batched(one, u, grid.ndim)


def check_rough(x: np.ndarray, rough: Mapping[int, Grid], positive) -> None:
    for channel, grid in rough.items():
        fine = 0 <= channel < x.shape[-1] and channel not in positive
        zero = grid.homogeneous()
        if not fine or grid.shape != x.shape[1:-1] or zero != grid:
            raise ValueError(
                f"rough names channels (0 to {x.shape[-1] - 1}, none of them positive) "
                f"and for each a grid of their shape {x.shape[1:-1]} whose sides have "
                f"zero data, got {channel} with {grid}. Pass {{{channel}: "
                "equation.grid}."
            )
