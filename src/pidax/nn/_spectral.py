r"""The spectral convolution: one matrix of channels for each low frequency.

$$ y = \sum_{|k| < modes} W_k\, \hat u_k\, \phi_k, \qquad
   \hat u_k = \int \overline{\phi_k}\, u\, ds, $$

with $\phi_k = e^{2\pi i k \cdot s}$ on periodic axes, where it is the convolution
with a smooth kernel (Li et al. 2021, "Fourier neural operator"). A real field has
$\hat u_{-k} = \overline{\hat u_k}$ and needs $W_{-k} = \overline{W_k}$: half of the
waves have a weight of their own. Integrals and sums are products with a dense matrix
along one axis after the other, with the low frequencies alone, in real arithmetic.
"""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..types import Key, typed
from ._base import require_counts
from ._layers import Linear, require_channels, require_grid
from ._modes import Axis, Basis, Layout, make_axes, matrices
from ._random import normal


class SpectralConv(eqx.Module):
    r"""A linear layer between the low frequencies of a field's channels.

    `basis`, one for all axes or one for each, says what the frequencies are of:

    | basis | for an axis | and the layer then |
    |---|---|---|
    | `"fourier"` | that is periodic | commutes with translations |
    | `"padded"` | with any boundary | is a convolution of the field with zeros beyond it |
    | `"cosine"` | where fields have no slope at the ends (Neumann) | mirrors the field there |
    | `"sine"` | where fields are zero at the ends (Dirichlet) | mirrors it with the other sign, and is zero there |

    On a periodic or padded axis its kernel may be any; on a cosine or sine axis it is
    even, so that a derivative is not among what the layer can be. Periodic fields want
    `"fourier"`; several fields with sides of several kinds want `"padded"`.

    `modes` is the number of frequencies along each axis; `layout` says where the points
    of axes that are not periodic are: `"nodes"` with both ends, `"cells"` half a step
    inside; `padding` is the fraction of a padded axis that is appended as zeros. A
    kernel that reaches further than that comes in again at the other end.

    `x` is `*grid inputs` on any grid of `dims` axes that resolves the modes, the result
    `*grid outputs`. Weights do not depend on the grid, and a field that is a sum of the
    modes gives the same function on each; with a padded axis only in the limit, since
    the field jumps to zero. With $M$ functions an axis the transforms cost $O(M)$ a
    point and channel, on a CPU less than fast transforms of as many points.

    Weights are real arrays. With a periodic or padded axis their first axis is (real,
    imaginary); then comes (+, -), the sign of the frequency, for each further such
    axis, then the modes, then `inputs outputs`. `waves` says which frequencies those
    are. Where two entries belong to the same wave, or to a wave and its conjugate, their
    mean counts.
    """  # noqa: E501

    weight: Float[Array, "*parts inputs outputs"]
    basis: tuple[Basis, ...] = eqx.field(static=True)
    modes: tuple[int, ...] = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)
    padding: float = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        modes: int | tuple[int, ...],
        basis: Basis | tuple[Basis, ...] = "fourier",
        dims: int = 2,
        layout: Layout = "nodes",
        padding: float = 0.25,
        scale: float = 1.0,
        key: Key,
    ):
        require_counts(inputs=inputs, outputs=outputs)
        require_grid(dims, "zeros")
        axes = make_axes(basis, modes, dims=dims, layout=layout, padding=padding)
        self.basis = tuple(axis.basis for axis in axes)
        self.modes = tuple(axis.modes for axis in axes)
        self.layout, self.padding = layout, float(padding)
        circles = sum(axis.waves for axis in axes)
        shape = (2,) * circles + self.modes
        # A complex number of variance 1 has two parts of variance 1/2.
        spread = scale / math.sqrt(inputs * (2 if circles else 1))
        self.weight = normal(key, (*shape, inputs, outputs), spread)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The functions of each axis."""
        pairs = zip(self.basis, self.modes, strict=True)
        return tuple(Axis(basis, n, self.layout, self.padding) for basis, n in pairs)

    @property
    def waves(self) -> np.ndarray:
        r"""The frequencies, in periods per axis, of each matrix of channels: float64.

        Shaped as the `weight` without its channels and its real and imaginary parts,
        then `dims`. What the layer multiplies a wave with is the Fourier transform of
        its kernel there: $2\pi i k$ for a derivative.
        """
        dims = len(self.axes)
        grids = np.meshgrid(*(axis.frequencies for axis in self.axes), indexing="ij")
        vectors = np.stack(grids, -1)
        for a in [a for a, axis in enumerate(self.axes) if axis.waves][:0:-1]:
            mirror = np.where(np.arange(dims) == a, -1.0, 1.0)
            vectors = np.stack([vectors, mirror * vectors])
        return vectors

    @typed
    def __call__(self, x: Float[Array, "*grid inputs"]) -> Float[Array, "*grid outs"]:
        dims, outputs = len(self.axes), self.weight.shape[-1]
        require_channels(x, self.weight.shape[-2], dims)
        along = [matrices(axis, n) for axis, n in zip(self.axes, x.shape, strict=False)]
        c = x
        for a in range(dims):
            c = _contract(c, along[a].analysis, a, 0)
        y = self._mix(c.reshape(*self._functions(), c.shape[-1]))
        y = y.reshape(*(m.synthesis.shape[1] for m in along), outputs)
        for a in reversed(range(dims)):
            y = _contract(y, along[a].synthesis, a, 1)
        return y

    def _functions(self) -> list[int]:
        """How the functions of all axes are numbered: (cos, sin) first, then modes."""
        shape = []
        for axis in self.axes:
            shape += [2, axis.modes] if axis.waves else [axis.modes]
        return shape

    def _mix(self, c: Array) -> Array:
        """The coefficients of the answer, in the order of those of the field."""
        weight = self.weight.astype(c.dtype)
        parts, place = [], 0
        for axis in self.axes:
            parts += [place] if axis.waves else []
            place += 2 if axis.waves else 1
        if not parts:
            return jnp.einsum("...i,...io->...o", c, weight)
        # A complex product as a real one, of pairs: fewer and larger matrices.
        real, imaginary = weight
        rows = [(real, imaginary), (-imaginary, real)]
        block = jnp.concatenate([jnp.concatenate(row, -1) for row in rows], -2)
        front = range(len(parts))
        z = _to_waves(jnp.moveaxis(c, parts, front), len(parts))
        y = jnp.einsum("...i,...io->...o", jnp.concatenate(z, -1), block)
        real, imaginary = jnp.split(y, 2, -1)
        y = _from_waves(real, imaginary, len(parts))
        return jnp.moveaxis(y, front, parts)


class SpectralLayer(eqx.Module):
    """A spectral convolution and, beside it, a linear layer at each point.

    The second passes on what the `modes` do not resolve. `x` is `*grid inputs`.
    """

    spectral: SpectralConv
    pointwise: Linear

    @typed
    def __call__(self, x: Float[Array, "*grid inputs"]) -> Float[Array, "*grid outs"]:
        return self.spectral(x) + self.pointwise(x)


def _contract(x: Array, matrix: np.ndarray, axis: int, side: int) -> Array:
    """A matrix along one axis: the sum runs over its rows (0) or columns (1)."""
    y = jnp.tensordot(x, jnp.asarray(matrix, x.dtype), axes=((axis,), (side,)))
    return jnp.moveaxis(y, -1, axis)


def _to_waves(c: Array, circles: int) -> tuple[Array, Array]:
    r"""From (cos, sin) along each of the first axes to complex waves.

    $c_{cos} - i c_{sin}$ is the coefficient of $e^{2\pi i k s}$, and the other sign of
    $k$ needs to be asked for along all axes but one.
    """
    real, imaginary = c[0], -c[1]
    for j in range(circles - 1):
        (r, r1), (i, i1) = (jnp.moveaxis(h, j, 0) for h in (real, imaginary))
        real = jnp.stack([r + i1, r - i1], j)
        imaginary = jnp.stack([i - r1, i + r1], j)
    return real, imaginary


def _from_waves(real: Array, imaginary: Array, circles: int) -> Array:
    """The inverse of `_to_waves`."""
    for j in range(circles - 1):
        (r, r1), (i, i1) = (jnp.moveaxis(h, j, 0) / 2 for h in (real, imaginary))
        real = jnp.stack([r + r1, i1 - i], j)
        imaginary = jnp.stack([i + i1, r - r1], j)
    return jnp.stack([real, -imaginary])
