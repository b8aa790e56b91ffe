r"""Sine and cosine transforms: the eigenvectors of the Laplacian on a grid.

Along an axis of length $L$ the second difference has eigenvectors $\cos\kappa x$ or
$\sin\kappa x$ and eigenvalues

$$ \lambda = -\frac{4}{h^2} \sin^2 \frac{\kappa h}{2} \approx -\kappa^2, $$

with $\kappa = \pi m / L$ and the numbers $m$ that the two sides allow:

    Neumann, Neumann        cos    m = 0, 1, ...           (DCT-I on nodes, II on cells)
    Dirichlet, Dirichlet    sin    m = 1, 2, ...           (DST-I on nodes, II on cells)
    Dirichlet, Neumann      sin    m = 1/2, 3/2, ...
    Neumann, Dirichlet      cos    m = 1/2, 3/2, ...
    periodic                cos and sin    m = 0, 2, 2, 4, 4, ...   (the real DFT)

They are orthonormal in the grid's own inner product $\sum_i w_i u_i v_i$, which
approximates $\int uv$: coefficients do not depend on the resolution.
"""

import functools
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..types import Elementwise, FieldLike, typed
from ._float64 import full_product
from ._grid import AbstractSide, Dirichlet, Grid, Periodic


class Axis(NamedTuple):
    """What the eigenvectors along one axis depend on; `sides` are "D", "N" or "P"."""

    n: int
    length: float
    layout: str
    sides: str


class Modes(NamedTuple):
    """The eigenvectors along one axis: float64 on the host, one column a mode."""

    vectors: np.ndarray  # (unknowns, modes)
    weights: np.ndarray  # (unknowns,)
    numbers: np.ndarray  # m
    frequencies: np.ndarray  # kappa
    eigenvalues: np.ndarray  # lambda


class Transform(eqx.Module):
    r"""To and from coefficients in the eigenvectors of a grid's Laplacian.

    `forward` takes the unknowns of a field (`grid.restrict`) to coefficients, `inverse`
    takes them back, and $\Delta$ multiplies them by `eigenvalues`; the data of the
    sides are taken to be zero. The transform is unitary:
    $\sum_k c_k^2 = \sum_i w_i u_i^2$.

    Each axis is a product with a dense matrix, $O(n)$ a point: up to 256 points an axis
    faster on a CPU than a fast transform, which needs one of twice or four times the
    length, and as good on a GPU.
    """

    axes: tuple[Axis, ...] = eqx.field(static=True)

    def __init__(self, grid: Grid):
        self.axes = tuple(
            Axis(n, length, grid.layout, "".join(_kind(side) for side in pair))
            for n, length, pair in zip(
                grid.shape, grid.lengths, grid.boundary, strict=True
            )
        )

    @property
    def modes(self) -> tuple[Modes, ...]:
        """The eigenvectors along each axis."""
        return tuple(axis_modes(axis) for axis in self.axes)

    @property
    def eigenvalues(self) -> np.ndarray:
        r"""$\lambda$ of every mode, float64, on the host."""
        return _outer_sum([m.eigenvalues for m in self.modes])

    @property
    def squared_frequencies(self) -> np.ndarray:
        r"""$|\kappa|^2$, the eigenvalues of $-\Delta$ itself."""
        return _outer_sum([m.frequencies**2 for m in self.modes])

    def numbers(self, index: tuple[int, ...]) -> tuple[float, ...]:
        r"""The number of half waves $m$ of one mode along each axis."""
        return tuple(
            float(m.numbers[i]) for m, i in zip(self.modes, index, strict=True)
        )

    @typed
    def forward(self, inner: FieldLike) -> Elementwise:
        """The coefficients of a field's unknowns."""
        self._check(inner)
        pairs = [m.vectors.T * m.weights for m in self.modes]
        return _along_axes(pairs, jnp.asarray(inner))

    @typed
    def inverse(self, coefficients: FieldLike) -> Elementwise:
        """The unknowns of the field with these coefficients."""
        self._check(coefficients)
        return _along_axes([m.vectors for m in self.modes], jnp.asarray(coefficients))

    @typed
    def multiply(self, symbol: FieldLike, inner: FieldLike) -> Elementwise:
        r"""$V \operatorname{diag}(s) V^{-1} u$: a function of the Laplacian."""
        coefficients = self.forward(inner)
        return self.inverse(jnp.asarray(symbol, coefficients.dtype) * coefficients)

    def _check(self, inner: FieldLike) -> None:
        shape = tuple(len(m.weights) for m in self.modes)
        if inner.shape != shape:
            raise ValueError(
                f"a transform of this grid takes its unknowns, shape {shape}, got "
                f"shape {inner.shape}. Pass grid.restrict(u); for a batch, jax.vmap."
            )


def laplacian_eigenvalues(grid: Grid) -> Array:
    r"""The eigenvalues $\lambda \le 0$ of the Laplacian, shaped like the unknowns."""
    return jnp.asarray(Transform(grid).eigenvalues, float)


@functools.lru_cache(maxsize=64)
def axis_modes(axis: Axis) -> Modes:
    """The eigenvectors along one axis, made once."""
    if axis.sides == "PP":
        return _periodic_modes(axis)
    n, half = axis.n, axis.layout == "cells"
    h = axis.length / (n if half else n - 1)
    # Positions in half steps, so that they are whole numbers on cells too.
    places, steps = 2 * np.arange(n) + half, 2 * (n if half else n - 1)
    weights = np.full(n, h)
    if not half:
        weights[[0, -1]] /= 2
        kept = slice(axis.sides[0] == "D", n - (axis.sides[1] == "D"))
        places, weights = places[kept], weights[kept]
    # Twice the number of half waves: even for equal sides, odd for mixed ones.
    first = {"NN": 0, "DD": 2, "DN": 1, "ND": 1}[axis.sides]
    twice = first + 2 * np.arange(len(places))
    # pi m x / L in turns, (2m)(2x/h) / (4 * 2L/h): whole ones are taken off exactly.
    phase = 2 * np.pi * (np.outer(places, twice) % (4 * steps)) / (4 * steps)
    vectors = np.sin(phase) if axis.sides[0] == "D" else np.cos(phase)
    return _normalised(vectors, weights, twice / 2, axis.length, h)


def _periodic_modes(axis: Axis) -> Modes:
    """1, then cosine and sine of each wave; for even n only cosine of the shortest."""
    n, h = axis.n, axis.length / axis.n
    waves = (np.arange(n) + 1) // 2
    phase = 2 * np.pi * (np.outer(np.arange(n), waves) % n) / n
    sine = (np.arange(n) % 2 == 0) & (waves > 0)
    vectors = np.where(sine, np.sin(phase), np.cos(phase))
    return _normalised(vectors, np.full(n, h), 2.0 * waves, axis.length, h)


def _normalised(
    vectors: np.ndarray,
    weights: np.ndarray,
    numbers: np.ndarray,
    length: float,
    h: float,
) -> Modes:
    vectors = vectors / np.sqrt(weights @ vectors**2)
    frequencies = np.pi * numbers / length
    eigenvalues = -4 / h**2 * np.sin(frequencies * h / 2) ** 2
    return Modes(vectors, weights, numbers, frequencies, eigenvalues)


def _kind(side: AbstractSide) -> str:
    if isinstance(side, Periodic):
        return "P"
    return "D" if isinstance(side, Dirichlet) else "N"


def _outer_sum(axes: list[np.ndarray]) -> np.ndarray:
    return functools.reduce(np.add.outer, axes, np.zeros(()))


def _along_axes(matrices: list[np.ndarray], u: Array) -> Array:
    """A matrix along each axis: contract the first, put the result last, repeat."""
    for matrix in matrices:
        u = full_product(u, jnp.asarray(matrix, u.dtype), axes=((0,), (1,)))
    return u
