r"""Bases of stacked fields: two found from data, one known beforehand.

    coefficients = forward(z),      z = inverse(coefficients)

`Principal` finds the directions along which samples vary, all channels together;
`Conditional` those of what is given, and of what it does not explain in the rest;
`Spectral` has sines, cosines or Fourier modes for each channel, which cost a product
along each axis instead of one dense matrix.
"""

import abc
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..types import Shape, Stacked
from ._grid import Grid
from ._precision import full_product
from ._transform import Transform

Coefficients = Float[Array, " mode"]
_SAMPLES_A_MODE = 2
_ROUNDING = 1e-12  # a variance below this share of the largest is no direction at all


class AbstractBasis(eqx.Module):
    """Stacked fields as coefficients of modes, and back."""

    @property
    @abc.abstractmethod
    def orthonormal(self) -> bool:
        """Whether `inverse` is the adjoint of `forward`, in some weights of points."""

    @abc.abstractmethod
    def blocks(self, size: int) -> tuple[slice, ...]:
        """The groups of the `size` coefficients whose sizes are damped together."""

    @property
    @abc.abstractmethod
    def held(self) -> int:
        """How many of the first coefficients are of what is given, and of it alone."""

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

    vectors: Float[np.ndarray | Array, "mode *event"]

    @property
    def orthonormal(self) -> bool:
        return True

    @property
    def held(self) -> int:
        return 0

    def blocks(self, size: int) -> tuple[slice, ...]:
        return (slice(size),)

    @staticmethod
    def find(
        centred: Float[np.ndarray, "sample *event"],
        rank: int | None = None,
        floor: float = 0.0,
    ) -> "Principal":
        """From samples about their mean: directions of variance, the largest first.

        At most `rank` of them; those without variance beyond rounding, or beyond
        `floor`, are left out.
        """
        rows = centred.reshape(len(centred), -1)
        n, size = rows.shape
        if size < n:  # the same singular vectors, and far fewer rows
            rows = np.linalg.qr(rows, mode="r")
        _, singular, vectors = np.linalg.svd(rows, full_matrices=False)
        variances = singular**2 / n
        least = max(_ROUNDING * variances[0], floor)
        kept = int((variances > least).sum())
        kept = kept if rank is None else min(kept, rank)
        found = _oriented(vectors[:kept])
        return Principal(found.reshape(kept, *centred.shape[1:]))

    def forward(self, fields: Stacked) -> Coefficients:
        vectors = jnp.asarray(self.vectors, fields.dtype)
        rows = vectors.reshape(len(vectors), fields.size)
        return full_product(rows, fields.ravel(), axes=1)

    def inverse(self, coefficients: Coefficients) -> Stacked:
        vectors = jnp.asarray(self.vectors, coefficients.dtype)
        size = math.prod(vectors.shape[1:])
        rows = vectors.reshape(len(vectors), size)
        return full_product(coefficients, rows, axes=1).reshape(vectors.shape[1:])


def _oriented(vectors: np.ndarray) -> np.ndarray:
    """With the sign of each row that makes its first large entry positive.

    A decomposition leaves the signs to the machine and its number of threads.
    """
    size = np.abs(vectors)
    large = np.argmax(size > 0.5 * size.max(axis=1, keepdims=True), axis=1)
    return vectors * np.sign(vectors[np.arange(len(vectors)), large])[:, None]


class Conditional(AbstractBasis):
    r"""What is given, and what it leaves unexplained in the rest.

    $$ \xi = P^T z_{given}, \qquad
       \eta = Q^T \bigl(z_{rest} - B\,\xi\bigr), $$

    $P$ and $Q$ principal directions and $B$ the linear regression of the rest on what
    is given: see `Whitened.fit(given=)`, which finds them. All coefficients are
    uncorrelated, and the second ones move the rest alone: a model corrects the solution
    for a coefficient without touching the coefficient. Where the rest depends linearly
    on what is given, as in a linear equation, there are no second ones.

    A regression on $k$ modes explains too much of the $n$ samples that it is found
    from: on others the second coordinates are larger, in mean square by
    $(1 - k/n)^{-2}$ where the rest is linear in what is given, and by more where
    it is not. Take eight samples a mode; two are the least.
    """

    first: Principal
    regression: Float[np.ndarray | Array, "mode rest"]
    second: Principal
    given: tuple[int, ...] = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)

    @staticmethod
    def find(
        centred: Float[np.ndarray, "sample *grid channel"],
        given: np.ndarray,
        rank: int | None = None,
    ) -> "Conditional":
        """From samples about their mean; `given` is a mask of the entries of one."""
        rows = centred.reshape(len(centred), -1)
        mask = given.ravel()
        known, rest = rows[:, mask], rows[:, ~mask]
        first = Principal.find(known, rank)
        count = len(first.vectors)
        if len(rows) < _SAMPLES_A_MODE * count:
            raise ValueError(
                "what is given is regressed upon: expected at least "
                f"{_SAMPLES_A_MODE} samples for each of its modes, got {len(rows)} "
                f"samples of {count} modes. Pass more samples, or a rank of at most "
                f"{len(rows) // _SAMPLES_A_MODE}."
            )
        xi = known @ np.asarray(first.vectors).T
        # In-sample they are uncorrelated: the regression is one mode at a time.
        regression = (xi.T @ rest) / (xi**2).sum(axis=0)[:, None]
        left = rest - xi @ regression
        second = Principal.find(left, rank, floor=_ROUNDING * (rest**2).mean(0).max())
        places = tuple(np.flatnonzero(mask).tolist())
        return Conditional(first, regression, second, places, centred.shape[1:])

    @property
    def orthonormal(self) -> bool:
        return False

    @property
    def held(self) -> int:
        return len(self.first.vectors)

    def blocks(self, size: int) -> tuple[slice, ...]:
        return slice(self.held), slice(self.held, size)

    def forward(self, fields: Stacked) -> Coefficients:
        known, rest = self._split(fields.ravel())
        xi = self.first.forward(known)
        return jnp.concatenate([xi, self.second.forward(rest - self._explained(xi))])

    def inverse(self, coefficients: Coefficients) -> Stacked:
        here, there = self.blocks(coefficients.size)
        xi, eta = coefficients[here], coefficients[there]
        rest = self._explained(xi) + self.second.inverse(eta)
        flat = jnp.zeros(math.prod(self.shape), xi.dtype)
        known, others = self._places()
        flat = flat.at[known].set(self.first.inverse(xi)).at[others].set(rest)
        return flat.reshape(self.shape)

    def _explained(self, xi: Array) -> Array:
        return full_product(xi, jnp.asarray(self.regression, xi.dtype), axes=1)

    def _split(self, flat: Array) -> tuple[Array, Array]:
        known, others = self._places()
        return flat[known], flat[others]

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        known = np.asarray(self.given, int)
        return known, np.delete(np.arange(math.prod(self.shape)), known)


class Spectral(AbstractBasis):
    """The eigenvectors of the Laplacian on a grid for each channel.

    A grid's sides choose them: sines for Dirichlet, cosines for Neumann, Fourier modes
    for periodic sides. A channel of zero Dirichlet sides is then zero there, whatever
    its coefficients. Time counts as an axis with Neumann sides.

        Spectral([grid.with_boundary(Neumann()), grid])     # a coefficient, a solution
    """

    grids: tuple[Grid, ...] = eqx.field(static=True)

    def __init__(self, grids: Sequence[Grid]):
        self.grids = tuple(grid.homogeneous() for grid in grids)

    def __check_init__(self):
        shapes = {grid.shape for grid in self.grids}
        if len(shapes) != 1:
            raise ValueError(
                "a spectral basis has one grid for each channel, all of one shape, "
                f"got grids of shapes {[grid.shape for grid in self.grids]}."
            )

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """One a channel; made of the grids, and not kept beside them."""
        return tuple(map(Transform, self.grids))

    @property
    def orthonormal(self) -> bool:
        return True

    @property
    def held(self) -> int:
        return 0

    def blocks(self, size: int) -> tuple[slice, ...]:
        return (slice(size),)

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
