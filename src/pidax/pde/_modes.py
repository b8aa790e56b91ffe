r"""What the semilinear equations need of Fourier series beside their derivatives."""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ..types import FieldLike
from ._grid import Grid
from ._spectral import wavenumbers


def odd_wavenumbers(grid: Grid) -> tuple[np.ndarray, ...]:
    r"""$k$ along each axis for odd derivatives: zero for the wave of $m = n/2$."""
    pairs = zip(wavenumbers(grid), grid.shape, grid.lengths, strict=True)
    return tuple(
        np.where(np.abs(k) * length > np.pi * (n - 0.5), 0.0, k)
        for k, n, length in pairs
    )


def squared_wavenumbers(grid: Grid) -> np.ndarray:
    r"""$|k|^2$: minus the eigenvalues of the Laplacian."""
    return functools.reduce(np.add, (k**2 for k in wavenumbers(grid)))


def two_thirds(grid: Grid) -> np.ndarray:
    r"""1 for waves with $3|m| < n$ along every axis, 0 for others (see `dealias`)."""
    pairs = zip(wavenumbers(grid), grid.shape, grid.lengths, strict=True)
    masks = (3 * np.abs(k) * length < 2 * np.pi * (n - 0.5) for k, n, length in pairs)
    return functools.reduce(np.multiply, (mask.astype(float) for mask in masks))


def to_modes(u: FieldLike) -> Array:
    """The Fourier coefficients of a real field."""
    return jnp.fft.rfftn(u)


def times(factor: Array, c: Array) -> Array:
    """`factor * c`, where a real factor costs two products and not four."""
    if jnp.iscomplexobj(c) and not jnp.iscomplexobj(factor):
        return lax.complex(factor * c.real, factor * c.imag)
    return factor * c
