"""Transforms against dense second differences, and the direct solver on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from helpers import assert_close, tolerance

from pidax.pde import (
    Dirichlet,
    Grid,
    Neumann,
    Periodic,
    Transform,
    laplacian_eigenvalues,
    solve_constant,
)

D, N, P = Dirichlet(), Neumann(), Periodic()
PAIRS = {"DD": (D, D), "NN": (N, N), "DN": (D, N), "ND": (N, D), "PP": (P, P)}
LAYOUTS = ("nodes", "cells")


def second_difference(grid: Grid) -> np.ndarray:
    """The 3-point Laplacian of a one-dimensional grid over its unknowns, by hand."""
    n, (h,), (pair,) = grid.shape[0], grid.spacing, grid.boundary
    matrix = np.diag(np.full(n, -2.0)) + np.diag(np.ones(n - 1), 1)
    matrix += np.diag(np.ones(n - 1), -1)
    for end, inner, side in ((0, 1, pair[0]), (n - 1, n - 2, pair[1])):
        if isinstance(side, Periodic):
            matrix[end, n - 1 - end] += 1
        elif grid.layout == "nodes":
            matrix[end, inner] = 2.0  # half a volume; dropped below for Dirichlet
        else:
            matrix[end, end] = -1.0 if isinstance(side, Neumann) else -3.0
    kept = grid.unknown[0]
    return matrix[kept, kept] / h**2


def lines(n, extent=(0.0, 1.0)):
    """A line with every pair of sides in both layouts, by name."""
    return {
        (pair, layout): Grid((n,), extent, layout=layout, boundary=(sides,))
        for pair, sides in PAIRS.items()
        for layout in LAYOUTS
    }


@jax.jit
def there_and_back(grids):
    """The eigenvectors as rows, and what `forward` makes of them."""
    found = []
    for grid in grids:
        transform = Transform(grid)
        rows = jax.vmap(transform.inverse)(jnp.eye(grid.unknown_shape[0]))
        found.append((rows, jax.vmap(transform.forward)(rows)))
    return found


def test_the_modes_diagonalise_the_laplacian(x64):
    grids = [g for n in (8, 9) for g in lines(n, (-0.5, 1.3)).values()]
    for grid, (rows, back) in zip(grids, there_and_back(grids), strict=True):
        matrix, vectors = second_difference(grid), np.asarray(rows).T
        weights = grid.widths(0)[grid.unknown[0]]
        eigenvalues = np.asarray(laplacian_eigenvalues(grid))
        assert_close(vectors.T * weights @ vectors, np.eye(len(matrix)), 1e-13)
        size = np.abs(matrix).max()
        assert_close(matrix @ vectors, vectors * eigenvalues, 0.0, 1e-13 * size)
        assert_close(back, np.eye(len(matrix)), 1e-13)


def test_they_are_the_transforms_of_the_textbooks(x64):
    cases = [
        ("nodes", D, scipy.fft.dst, 1),
        ("nodes", N, scipy.fft.dct, 1),
        ("cells", D, scipy.fft.dst, 2),
        ("cells", N, scipy.fft.dct, 2),
    ]
    grids = [Grid((7,), layout=layout, boundary=side) for layout, side, *_ in cases]
    values = [np.random.default_rng(0).normal(size=g.unknown_shape) for g in grids]

    @jax.jit
    def forward(grids, values):
        return [Transform(g).forward(u) for g, u in zip(grids, values, strict=True)]

    found = forward(grids, list(map(jnp.asarray, values)))
    for (*_, fn, kind), grid, u, ours in zip(cases, grids, values, found, strict=True):
        # SciPy's, unnormalised, has a factor of its own for each mode.
        factor = np.asarray(ours) / fn(u, type=kind)
        assert_close(factor[1:-1], np.full(len(u) - 2, factor[1]), 1e-12)
        assert_close(factor[1], np.sqrt(2) * grid.spacing[0] / 2, 1e-12)


@pytest.mark.slow
def test_several_axes_are_a_product(dtype):
    grid = Grid((5, 4, 6), boundary=(D, (N, D), P), extent=((0, 1), (0, 2), (0, 3)))
    transform = Transform(grid)
    u = jax.random.normal(jax.random.key(0), grid.unknown_shape)

    @jax.jit
    def all_of(u):
        c = transform.forward(u)
        energies = jnp.sum(grid.restrict(grid.weights) * u**2), jnp.sum(c**2)
        laplacian = transform.multiply(laplacian_eigenvalues(grid), u)
        return c, transform.inverse(c), energies, laplacian

    coefficients, back, energies, found = all_of(u)
    assert coefficients.dtype == u.dtype == dtype
    assert_close(back, u, tolerance(dtype))
    assert_close(energies[0], energies[1], tolerance(dtype))
    axes = [second_difference(g) for g in _axes(grid)]
    expected = sum(
        np.moveaxis(np.tensordot(m, u, axes=(1, i)), 0, i) for i, m in enumerate(axes)
    )
    assert_close(found, expected, 0.0, 200 * tolerance(dtype))


def _axes(grid):
    return [
        Grid((n,), extent=(e,), layout=grid.layout, boundary=(b,))
        for n, e, b in zip(grid.shape, grid.extent, grid.boundary, strict=True)
    ]


def test_a_wrong_shape_is_told(x64):
    grid = Grid((5, 5))
    with pytest.raises(ValueError, match=r"takes its unknowns, shape \(3, 3\)"):
        Transform(grid).forward(np.zeros((5, 5)))


def test_the_direct_solver_inverts(x64):
    cases = [(k[0], g, s) for k, g in lines(9).items() for s in (0.0, 7.3, -2.0)]
    sources = []
    for pair, grid, shift in cases:
        rhs = np.random.default_rng(1).normal(size=grid.unknown_shape)
        if pair in ("NN", "PP") and shift == 0:
            weights = grid.widths(0)
            rhs = rhs - weights @ rhs / weights.sum()
        sources.append(jnp.asarray(rhs))

    @jax.jit
    def solve(sources):
        triples = zip(cases, sources, strict=True)
        return [solve_constant(grid, f, shift) for (_, grid, shift), f in triples]

    for (pair, grid, shift), rhs, u in zip(cases, sources, solve(sources), strict=True):
        matrix = second_difference(grid) + shift * np.eye(grid.unknown_shape[0])
        assert_close(matrix @ u, rhs, 1e-11)
        if pair in ("NN", "PP") and shift == 0:
            assert abs(grid.widths(0) @ u) < 1e-14


def test_it_is_differentiated_and_batched(x64):
    grid = Grid((6, 6))
    rhs = jax.random.normal(jax.random.key(0), (3, 4, 4))
    fn = lambda f: jnp.sum(solve_constant(grid, f, 3.0) ** 3)
    batched = jax.jit(jax.vmap(jax.value_and_grad(fn)))
    step = 1e-6
    (above, _), (below, _) = batched(rhs + step), batched(rhs - step)
    slopes = np.sum(batched(rhs)[1] * step, axis=(1, 2))
    assert_close(slopes, (above - below) / 2, 1e-6, 0.0)
    # The derivative by the shift, which is then traced.
    total = lambda s: jnp.sum(solve_constant(grid, rhs[0], s))
    by_shift = jax.jit(jax.value_and_grad(total))
    around = [by_shift(s)[0] for s in (3 - 1e-5, 3 + 1e-5)]
    assert_close(by_shift(3.0)[1], (around[1] - around[0]) / 2e-5, 1e-6)


def test_incompatible_data_are_refused_by_how_much(x64):
    grid = Grid((4, 4), extent=(0.0, 2.0), layout="cells", boundary=Neumann())
    with pytest.raises(ValueError, match=r"their integral is 2.0 \(their mean 0.5"):
        solve_constant(grid, jnp.full((4, 4), 0.5))
    compiled = jax.jit(lambda f: solve_constant(grid, f))
    with pytest.raises(RuntimeError, match="must integrate to zero"):
        jax.block_until_ready(compiled(jnp.full((4, 4), 0.5)))


def test_resonance_is_refused_by_its_mode(x64):
    grid = Grid((9, 9))
    shift = -float(laplacian_eigenvalues(grid)[2, 0])
    with pytest.raises(ValueError, match=r"resonance.*\(1.0, 3.0\) half waves"):
        solve_constant(grid, jnp.ones((7, 7)), shift * (1 + 1e-10))
    compiled = jax.jit(lambda f, s: solve_constant(grid, f, s))
    jax.block_until_ready(compiled(jnp.ones((7, 7)), shift * (1 + 1e-3)))
    with pytest.raises(Exception, match="at resonance"):
        jax.block_until_ready(compiled(jnp.ones((7, 7)), shift))
