"""Determinants of operators against NumPy, by factorisation and by Lanczos."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from helpers import assert_close

from pidax import pde

KEY = jax.random.key(4)
DARCY = pde.Darcy.lognormal(pde.Grid((6, 6)))
CLOSED = pde.Grid((4, 5), boundary=pde.Neumann())  # points of different weights
ALL: dict[str, Any] = dict(dense=0, probes=36, steps=36)  # Lanczos, exact


def coefficient(grid, seed=0):
    draw = np.random.default_rng(seed).normal(size=grid.shape)
    return jnp.asarray(np.exp(draw))


@eqx.filter_jit
def found_and_matrix(grid, a):
    """By factorisation, by Lanczos, by the equation, with one probe; the matrix."""
    operator = pde.Diffusion(grid, a)
    fields = pde.DarcyFields(a, jnp.zeros_like(a))
    numbers = [
        pde.log_determinant(operator),
        pde.log_determinant(operator, **ALL),
        pde.Darcy(grid, mean="arithmetic").log_determinant(fields),
        pde.log_determinant(operator, dense=0, probes=1, steps=3),
    ]
    return jnp.stack(numbers), operator.as_matrix()


GRIDS = [DARCY.grid, pytest.param(CLOSED, marks=pytest.mark.slow)]


@pytest.mark.parametrize("grid", GRIDS, ids=["Dirichlet", "Neumann"])
def test_the_determinant_is_numpys(grid, x64):
    """Without the eigenvalue zero of a closed domain. Of a constant coefficient one
    probe tells all: it differs from a known one by a factor.
    """
    found, matrix = found_and_matrix(grid, coefficient(grid))
    values = np.sort(np.abs(np.linalg.eigvals(matrix)))[grid is CLOSED :]
    exact = np.log(values).sum()
    if grid is DARCY.grid:
        assert_close(exact, np.linalg.slogdet(matrix)[1], 1e-12)
    assert_close(found[:3], [exact] * 3, 1e-10)
    assert abs(found[3] - exact) > 1e-3
    found, _ = found_and_matrix(grid, jnp.full(grid.shape, 7.0))
    modes = np.asarray(-pde.laplacian_eigenvalues(grid)).ravel()
    exact = np.log(7.0 * np.sort(modes)[grid is CLOSED :]).sum()
    assert_close(found, [exact] * 4, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, ALL, {**ALL, "probes": 4}])
def test_its_derivative_is_that_of_jacobi(how, x64):
    """tr(A^-1 dA): exact with all probes, near with few, for a change of a."""
    grid = DARCY.grid
    a, da = coefficient(grid), coefficient(grid, 1)
    value = lambda a: pde.log_determinant(pde.Diffusion(grid, a, check=False), **how)
    matrix = np.asarray(pde.Diffusion(grid, a).as_matrix())
    exact = np.trace(np.linalg.solve(matrix, pde.Diffusion(grid, da).as_matrix()))
    forward = jax.jit(lambda a: jax.jvp(value, (a,), (da,))[1])(a)
    backward = jnp.sum(jax.jit(jax.grad(value))(a) * da)
    assert_close(forward, backward, 1e-9)
    assert_close(forward, exact, 0.2 if how and how["probes"] < 36 else 1e-9)


@pytest.mark.slow
def test_an_estimate_is_near_on_average_and_one_function(x64):
    """For operators of Lineax that are of no grid; the same probes in every call."""
    root = jax.random.normal(KEY, (60, 60))
    matrix = jnp.eye(60) + root @ root.T / 60
    exact = np.linalg.slogdet(matrix)[1]
    large = lx.MatrixLinearOperator(matrix, lx.positive_semidefinite_tag)
    few: dict[str, Any] = dict(dense=0, probes=8, steps=16)
    keys = jax.random.split(KEY, 400)
    draw = lambda key: pde.log_determinant(large, key=key, **few)
    found = jax.jit(jax.vmap(draw))(keys)
    spread = found.std()
    assert abs(found.mean() - exact) < 4 * spread / 20
    assert 0.1 < spread < 2
    assert pde.log_determinant(large, **few) == pde.log_determinant(large, **few)
    assert_close(pde.log_determinant(-large), exact, 1e-12)


def test_other_operators(x64):
    diagonal = lx.DiagonalLinearOperator(jnp.array([2.0, -3.0]))
    assert_close(pde.log_determinant(diagonal), np.log(6), 1e-12)
    general = lx.MatrixLinearOperator(jnp.array([[0.0, 2.0], [5.0, 1.0]]))
    assert_close(pde.log_determinant(general), np.log(10), 1e-12)
    with pytest.raises(ValueError, match="symmetric and definite: expected one"):
        pde.log_determinant(general, dense=1)
    with pytest.raises(ValueError, match="is of a square operator, got 1 rows and 2"):
        pde.log_determinant(lx.MatrixLinearOperator(jnp.ones((1, 2))))


def test_equations_say_whether_it_depends_on_their_fields(x64):
    poisson = pde.Poisson(pde.Grid((5, 5)))
    zero = poisson.unstack(jnp.zeros((5, 5, 2)))
    assert poisson.constant_determinant
    assert poisson.log_determinant(zero) == 0
    assert pde.Burgers(pde.Grid((8,), boundary=pde.Periodic())).constant_determinant
    assert not DARCY.constant_determinant
