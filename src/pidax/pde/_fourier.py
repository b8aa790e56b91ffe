r"""Fourier series on periodic grids: derivatives exact to rounding.

$$ \widehat{\partial_x^p u}(k) = (i k)^p\, \hat u(k), \qquad k = 2\pi m / L. $$

On an even number of points the mode $m = n/2$ is a cosine that stands for both signs of
$k$: an odd derivative of it is a sine that vanishes on every point, so its factor is 0.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ..types import Field, FieldLike, typed
from ._grid import AXES, Grid


@typed
def dealias(grid: Grid, u: FieldLike) -> Field:
    r"""`u` without its modes $3|m| \ge n$: the 2/3 rule.

    Aliases of the product of two such fields fall outside the modes that are kept:
    `dealias(grid, u * v)` of dealiased `u` and `v` is the truncated product, exactly.
    For periodic grids; Orszag 1971.
    """
    check_periodic(grid, "dealias")
    grid.check(u=u)
    hat = jnp.fft.rfftn(jnp.asarray(u))
    return backward(grid, multiply(two_thirds(grid), hat))


def two_thirds(grid: Grid) -> np.ndarray:
    r"""1 for waves with $3|m| < n$ along every axis, 0 for others."""
    keep = np.ones(())
    for m, n in zip(_numbers(grid), grid.shape, strict=True):
        keep = keep * (3 * np.abs(m) < n)
    return keep


def wavenumbers(grid: Grid) -> tuple[np.ndarray, ...]:
    r"""$k = 2\pi m/L$ for each axis, shaped to multiply `jnp.fft.rfftn` of a field.

    NumPy float64: cast results to the dtype of the fields.
    """
    modes = zip(_numbers(grid), grid.lengths, strict=True)
    return tuple(2 * np.pi / length * m for m, length in modes)


def _numbers(grid: Grid) -> tuple[np.ndarray, ...]:
    """The integers $m$ of each axis in the layout of `rfftn`."""
    found = []
    for axis, n in enumerate(grid.shape):
        last = axis == grid.ndim - 1
        m = np.arange(n // 2 + 1) if last else np.fft.fftfreq(n, 1 / n).round()
        found.append(
            m.astype(float).reshape([-1 if i == axis else 1 for i in range(grid.ndim)])
        )
    return tuple(found)


def backward(grid: Grid, hat: Array) -> Array:
    """The field of these modes: the inverse of `jnp.fft.rfftn`."""
    return jnp.fft.irfftn(hat, s=grid.shape)


def multiply(factor: Array | np.ndarray, hat: Array) -> Array:
    """The coefficients times a factor for each, in their own precision.

    A real factor costs two products and not four.
    """
    if jnp.iscomplexobj(factor):
        return jnp.asarray(factor, hat.dtype) * hat
    factor = jnp.asarray(factor, hat.real.dtype)
    if jnp.iscomplexobj(hat):
        return lax.complex(factor * hat.real, factor * hat.imag)
    return factor * hat


def spectral_derivative(grid: Grid, u: Array, axis: int, power: int) -> Array:
    """One derivative along one axis: one transform forth and one back along it."""
    n, length = grid.shape[axis], grid.lengths[axis]
    m = np.arange(n // 2 + 1)
    factor = (2j * np.pi / length * m) ** power
    if power % 2:
        factor = np.where(2 * m == n, 0.0, factor)
    shape = [-1 if i == axis else 1 for i in range(grid.ndim)]
    hat = multiply(factor.reshape(shape), jnp.fft.rfft(u, axis=axis))
    return jnp.fft.irfft(hat, n, axis=axis)


def spectral_laplacian(grid: Grid, u: Array) -> Array:
    """The Laplacian: one transform forth and one back."""
    return backward(grid, multiply(-squared_wavenumbers(grid), jnp.fft.rfftn(u)))


def squared_wavenumbers(grid: Grid) -> np.ndarray:
    r"""$|k|^2$: minus the eigenvalues of the Laplacian."""
    return functools.reduce(np.add, (k**2 for k in wavenumbers(grid)))


def odd_wavenumbers(grid: Grid) -> list[np.ndarray]:
    """The factor $k$ of an odd derivative along each axis: 0 where $m = n/2$."""
    modes = zip(_numbers(grid), grid.shape, wavenumbers(grid), strict=True)
    return [np.where(2 * np.abs(m) == n, 0.0, k) for m, n, k in modes]


def check_periodic(grid: Grid, what: str) -> None:
    """All axes of the grid are periodic."""
    for name, periodic in zip(AXES, grid.periodic, strict=False):
        if not periodic:
            raise ValueError(
                f"{what} needs every axis periodic, and {name} is bounded "
                f"({grid}). Make the grid with boundary=Periodic()."
            )
