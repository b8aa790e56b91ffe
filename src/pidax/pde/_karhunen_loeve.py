r"""The Karhunen-Loeve expansion of a Gaussian field, from its covariance function.

$$ \int c(x, y)\, \varphi_k(y)\, dy = q_k\, \varphi_k(x), \qquad
   \int \varphi_k \varphi_l = \delta_{kl}, $$

so that $u = m + \sum_k \xi_k \sqrt{q_k}\, \varphi_k$. With the grid's weights $w$ for
the integral (Nystrom's method) and $\psi = w^{1/2} \varphi$ this is the eigenproblem of
the symmetric matrix $w_i^{1/2} c(x_i, x_j)\, w_j^{1/2}$.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import require_positive
from ..types import Field, Key
from ._grid import Grid
from ._random_field import AbstractGaussianField

CovarianceFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


class ExponentialCovariance(eqx.Module):
    r"""$\sigma^2 e^{-|x - y| / \ell}$: continuous fields, nowhere smooth."""

    length: float
    scale: float = 1.0

    def __check_init__(self):
        require_positive(length=self.length, scale=self.scale)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(x - y, axis=-1)
        return self.scale**2 * np.exp(-distance / self.length)


class GaussianCovariance(eqx.Module):
    r"""$\sigma^2 e^{-|x - y|^2 / 2\ell^2}$: fields that are smooth to any order."""

    length: float
    scale: float = 1.0

    def __check_init__(self):
        require_positive(length=self.length, scale=self.scale)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squared = np.sum(np.square(x - y), axis=-1)
        return self.scale**2 * np.exp(-squared / (2 * self.length**2))


class KarhunenLoeve(AbstractGaussianField):
    r"""The Gaussian field with the leading modes of any covariance, on any grid.

    `covariance(x, y)` gets two NumPy arrays of points, coordinates last, that broadcast
    against each other, and returns $c$ for each pair. Pass the number of `modes`, or
    the least `share` of the variance, to keep; `kept` is the share that is kept.

    The eigenproblem is solved once, in float64 on the host: with $n$ points of the grid
    memory for $n^2$ numbers, and time $O(n^3)$ for a `share`, $O(n^2)$ a mode for
    `modes` (64 of 64 x 64 points: a few seconds).
    """

    grid: Grid
    center: np.ndarray
    columns: np.ndarray
    kept: float = eqx.field(static=True)

    def __init__(
        self,
        grid: Grid,
        covariance: CovarianceFunction,
        *,
        modes: int | None = None,
        share: float | None = None,
        mean: np.ndarray | float = 0.0,
    ):
        size = int(np.prod(grid.shape))
        if (modes is None) == (share is None):
            raise ValueError(
                "say either how many modes to keep (modes=64) or which share of the "
                f"variance (share=0.95), got modes={modes}, share={share}."
            )
        if modes is not None and not 1 <= modes <= size:
            raise ValueError(
                f"modes must be between 1 and the {size} points, got {modes}."
            )
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}.")
        with jax.enable_x64(True):
            weights = np.asarray(grid.weights).ravel()
        root = np.sqrt(weights)
        matrix = _matrix(grid, covariance) * np.outer(root, root)
        total = np.trace(matrix)
        values, vectors = leading_modes(matrix, size if modes is None else modes)
        if share is not None:
            parts = np.cumsum(values) / total
            count = min(int(np.searchsorted(parts, share - 1e-12)) + 1, size)
            values, vectors = values[:count], vectors[:, :count]
        columns = vectors / root[:, None] * np.sqrt(values)
        self.grid = grid
        self.center = np.broadcast_to(np.asarray(mean, np.float64), grid.shape).copy()
        self.columns = columns.reshape(*grid.shape, -1)
        self.kept = float(values.sum() / total)

    def mean(self) -> Field:
        return jnp.asarray(self.center, float)

    def factor(self) -> Float[Array, "*grid rank"]:
        return jnp.asarray(self.columns, float)

    def sample(self, *, key: Key) -> Field:
        factor = self.factor()
        xi = jax.random.normal(key, factor.shape[-1:])
        return self.mean() + jnp.tensordot(factor, xi, axes=1)

    def __repr__(self):
        return (
            f"KarhunenLoeve({self.grid}, {self.columns.shape[-1]} modes with "
            f"{100 * self.kept:.1f}% of the variance)"
        )


def _matrix(grid: Grid, covariance: CovarianceFunction) -> np.ndarray:
    """$c(x_i, x_j)$, row by row of the first axis so that memory is one matrix."""
    x = np.stack(np.meshgrid(*grid._points, indexing="ij"), axis=-1)
    x = x.reshape(-1, grid.ndim)
    rows = [covariance(part[:, None], x[None]) for part in np.array_split(x, 64)]
    matrix = np.concatenate(rows).astype(np.float64)
    if matrix.shape != (len(x), len(x)) or not np.isfinite(matrix).all():
        raise ValueError(
            "covariance(x, y) must return a finite number for each pair of points: for "
            f"x of shape (m, 1, {grid.ndim}) and y of (1, n, {grid.ndim}) an array "
            f"(m, n); together they made shape {matrix.shape}. Sum over the last axis "
            "only."
        )
    asymmetry, size = np.abs(matrix - matrix.T).max(), np.abs(matrix).max()
    if asymmetry > 1e-12 * size:
        raise ValueError(
            "a covariance is symmetric, c(x, y) = c(y, x); the largest difference is "
            f"{asymmetry:.2g} of {size:.2g}. Build it of |x - y|, or of products."
        )
    return matrix


def leading_modes(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` largest eigenvalues, falling, and their eigenvectors, in float64.

    All of them by LAPACK; few of a large matrix by a block Krylov space, which is grown
    until each pair solves the eigenproblem to rounding.
    """
    size = len(matrix)
    if size > 512 and 6 * count <= size:
        values, vectors = _krylov(matrix, count)
    else:
        values, vectors = _last(*np.linalg.eigh(matrix), size)
    _require_psd(values[-1], values[0])
    values, vectors = np.maximum(values[:count], 0.0), vectors[:, :count]
    rows = np.abs(vectors).argmax(axis=0)  # the sign that makes the largest positive
    return values, vectors * np.sign(vectors[rows, np.arange(count)])


def _krylov(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    # A block as wide as any likely multiplicity: one vector finds one of equal modes.
    width = max(8, count // 4)
    start = np.random.default_rng(0).normal(size=(len(matrix), width))
    basis = np.linalg.qr(start)[0]
    image = matrix @ basis
    while 2 * basis.shape[1] <= len(matrix):
        new = image[:, -width:]
        for _ in range(2):  # once leaves rounding that grows
            new = np.linalg.qr(new - basis @ (basis.T @ new))[0]
        basis = np.concatenate([basis, new], axis=1)
        image = np.concatenate([image, matrix @ new], axis=1)
        if basis.shape[1] < 4 * count:
            continue
        values, rotation = _last(*np.linalg.eigh(basis.T @ image), count)
        vectors = basis @ rotation
        error = np.linalg.norm(image @ rotation - vectors * values, axis=0).max()
        if error <= 1e-12 * values[0]:
            return values, vectors
    return _last(*np.linalg.eigh(matrix), count)


def _last(
    values: np.ndarray, vectors: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The last `count` of what LAPACK returns rising, falling."""
    return values[::-1][:count], vectors[:, ::-1][:, :count]


def _require_psd(least: float, largest: float) -> None:
    if least < -1e-10 * largest:
        raise ValueError(
            "the function is no covariance: on this grid it has the eigenvalue "
            f"{least:.3g} beside the largest, {largest:.3g}. Use a positive definite "
            "one, such as ExponentialCovariance(length)."
        )
