r"""The power spectrum of a field.

    E_j = sum of |û(k)|² over the modes with |k| nearest to j Δk,   sum_j E_j = mean u²

with û the coefficients of an orthonormal transform over the square root of the number
of points: Parseval's identity is exact. Along a periodic axis of length L the modes are
Fourier modes, k = 2π m / L. Along a bounded one they are cosines, k = π m / L, the
transform DCT-II of the field mirrored half a spacing beyond its ends: The mirrored
field has no jump at the ends. The periodic continuation of a bounded field has one, and
its spectrum would fall as k⁻² for any field.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import require
from ..types import FieldLike, typed


class Spectrum(NamedTuple):
    r"""A radial spectrum, shell by shell.

    - `wavenumber`: $j\,\Delta k$, in radians per unit of length, from zero.
    - `energy`: the sum of $|\hat u|^2$ over the shell; all together are the mean
      square of the field.
    - `modes`: how many modes the shell has; `energy / modes` is the average over it.
    """

    wavenumber: Float[Array, " shell"]
    energy: Float[Array, " shell"]
    modes: Float[Array, " shell"]


@typed
def radial_spectrum(
    field: FieldLike,
    *,
    lengths: Sequence[float] | None = None,
    periodic: bool | Sequence[bool] = True,
) -> Spectrum:
    r"""The power spectrum of one field, summed over shells of equal $|k|$.

    **Arguments:**

    - `field`: on a uniform grid of any dimension; for a batch, `jax.vmap`.
    - `lengths`: of the axes, the number of points times the spacing. Default 1.
    - `periodic`: of all axes, or for each of them.

    **Returns:** a `Spectrum`. A shell is as thick as the largest of the axes' lowest
    wavenumbers, so that none is empty; the corners of the square of wavenumbers are
    in it, beyond the last full shell. Cost: one fast transform.
    """
    u = jnp.asarray(field)
    lengths = (1.0,) * u.ndim if lengths is None else tuple(lengths)
    periodic = (periodic,) * u.ndim if isinstance(periodic, bool) else tuple(periodic)
    require(
        None,
        len(lengths) == len(periodic) == u.ndim > 0,
        f"lengths and periodic must have an entry for each axis of the field, "
        f"{u.ndim} in all, got lengths={lengths}, periodic={periodic}. For a batch of "
        "fields, jax.vmap.",
    )
    shell, width = _shells(u.shape, lengths, periodic)
    count = int(shell.max()) + 1
    energy = jnp.zeros(count, u.dtype).at[shell.ravel()].add(_power(u, periodic))
    modes = np.bincount(shell.ravel(), minlength=count)
    return Spectrum(
        jnp.asarray(width * np.arange(count), u.dtype),
        energy,
        jnp.asarray(modes, u.dtype),
    )


def _power(u: Array, periodic: Sequence[bool]) -> Float[Array, " mode"]:
    r"""$|\hat u|^2$ of every mode."""
    waves = u
    for axis, wraps in enumerate(periodic):  # cosines first: they take real numbers
        if not wraps:
            waves = jax.scipy.fft.dct(waves, axis=axis, norm="ortho")
    for axis, wraps in enumerate(periodic):
        if wraps:
            waves = jnp.fft.fft(waves, axis=axis, norm="ortho")
    return (jnp.square(waves.real) + jnp.square(waves.imag)).ravel() / u.size


def _shells(
    shape: Sequence[int], lengths: Sequence[float], periodic: Sequence[bool]
) -> tuple[np.ndarray, float]:
    """The shell of every mode, and how thick one is."""
    axes, first = [], []
    for n, length, wraps in zip(shape, lengths, periodic, strict=True):
        first.append((2 if wraps else 1) * np.pi / length)
        m = np.fft.fftfreq(n, 1 / n) if wraps else np.arange(n)
        axes.append(first[-1] * m)
    square = sum(np.square(k) for k in np.meshgrid(*axes, indexing="ij"))
    width = max(first)
    return np.rint(np.sqrt(square) / width).astype(np.int32), width
