r"""Orthonormal bases of stacked fields: one found from data, one known beforehand.

    coefficients = B^T z,      z = B coefficients,      B^T B = 1

`Principal` finds the directions along which samples vary, all channels together;
`Spectral` has sines, cosines or Fourier modes for each channel, which cost a product
along each axis instead of one dense matrix.
"""

import abc
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..types import Stacked
from ._grid import Grid
from ._transform import Transform

Coefficients = Float[Array, " mode"]
_ROUNDING = 1e-12  # a variance below this share of the largest is no direction at all


class AbstractBasis(eqx.Module):
    """Stacked fields as coefficients of orthonormal modes, and back."""

    @abc.abstractmethod
    def forward(self, fields: Stacked) -> Coefficients:
        """The coefficients of one sample's fields."""

    @abc.abstractmethod
    def inverse(self, coefficients: Coefficients) -> Stacked:
        """The fields with these coefficients."""


class Principal(AbstractBasis):
    """The principal directions of samples: see `Whitened.fit`, which finds them.

    `vectors` has an orthonormal row for each mode. Dense: a product with
    modes x points x channels numbers. Linear relations between fields, such as boundary
    conditions or a linear equation, hold for every combination of the modes.
    """

    vectors: Float[np.ndarray | Array, "mode *grid channel"]

    @staticmethod
    def find(
        centred: Float[np.ndarray, "sample *grid channel"], rank: int | None = None
    ) -> "Principal":
        """From samples about their mean: directions of variance, the largest first.

        At most `rank` of them; those without variance beyond rounding are left out.
        """
        rows = centred.reshape(len(centred), -1)
        n, size = rows.shape
        if size < n:  # the same singular vectors, and far fewer rows
            rows = np.linalg.qr(rows, mode="r")
        _, singular, vectors = np.linalg.svd(rows, full_matrices=False)
        variances = singular**2 / n
        kept = int((variances > _ROUNDING * variances[0]).sum())
        kept = kept if rank is None else min(kept, rank)
        return Principal(vectors[:kept].reshape(kept, *centred.shape[1:]).copy())

    def forward(self, fields: Stacked) -> Coefficients:
        vectors = jnp.asarray(self.vectors, fields.dtype)
        return vectors.reshape(len(vectors), -1) @ fields.ravel()

    def inverse(self, coefficients: Coefficients) -> Stacked:
        vectors = jnp.asarray(self.vectors, coefficients.dtype)
        flat = coefficients @ vectors.reshape(len(vectors), -1)
        return flat.reshape(vectors.shape[1:])


class Spectral(AbstractBasis):
    """The eigenvectors of the Laplacian on a grid for each channel.

    A grid's sides choose them: sines for Dirichlet, cosines for Neumann, Fourier modes
    for periodic sides. A channel of zero Dirichlet sides is then zero there, whatever
    its coefficients. Time counts as an axis with Neumann sides.

        Spectral([grid.with_boundary(Neumann()), grid])     # a coefficient, a solution
    """

    transforms: tuple[Transform, ...]
    grids: tuple[Grid, ...] = eqx.field(static=True)

    def __init__(self, grids: Sequence[Grid]):
        self.grids = tuple(grid.homogeneous() for grid in grids)
        self.transforms = tuple(map(Transform, self.grids))

    def __check_init__(self):
        shapes = {grid.shape for grid in self.grids}
        if len(shapes) != 1:
            raise ValueError(
                "a spectral basis has one grid for each channel, all of one shape, "
                f"got grids of shapes {[grid.shape for grid in self.grids]}."
            )

    def forward(self, fields: Stacked) -> Coefficients:
        pairs = zip(self.grids, self.transforms, strict=True)
        found = [
            transform.forward(grid.restrict(fields[..., i])).ravel()
            for i, (grid, transform) in enumerate(pairs)
        ]
        return jnp.concatenate(found)

    def inverse(self, coefficients: Coefficients) -> Stacked:
        sizes = [int(np.prod(grid.unknown_shape)) for grid in self.grids]
        parts = jnp.split(coefficients, np.cumsum(sizes)[:-1])
        triples = zip(self.grids, self.transforms, parts, strict=True)
        channels = [
            grid.extend(transform.inverse(part.reshape(grid.unknown_shape)))
            for grid, transform, part in triples
        ]
        return jnp.stack(channels, axis=-1)


def batched(function, many: Array, axes: int) -> Array:
    """`function` of each sample of an array whose last `axes` axes are one sample."""
    lead = many.shape[: many.ndim - axes]
    flat = many.reshape(-1, *many.shape[many.ndim - axes :])
    found = jax.vmap(function)(flat)
    return found.reshape(*lead, *found.shape[1:])
