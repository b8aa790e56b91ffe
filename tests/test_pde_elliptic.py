"""Elliptic equations: own residuals, manufactured solutions, oracles, gradients."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import assert_close

import pidax as px
from pidax.pde import (
    Darcy,
    Dirichlet,
    ExponentialCovariance,
    Fixed,
    Grid,
    Helmholtz,
    KarhunenLoeve,
    Lognormal,
    Matern,
    Neumann,
    Periodic,
    Poisson,
    gaussian_law,
    laplacian_eigenvalues,
    solve_diffusion,
)

D, N, P = Dirichlet, Neumann, Periodic
EDGE = np.linspace(0.0, 1.0, 10) ** 2
GRIDS = {
    "nodes": Grid((12, 10)),
    "cells": Grid((9, 8), layout="cells"),
    "values on sides": Grid((12, 10), boundary=((D(1.0), D(EDGE)), (N(0.5), D(-2.0)))),
    "values on faces": Grid(
        (10, 9), ((0, 2), (0, 1)), layout="cells", boundary=((D(1.0), N(2.0)), P())
    ),
    "closed": Grid((9, 8), boundary=N()),
    "a torus": Grid((8, 9), boundary=P()),
    "an interval": Grid((20,), (-1.0, 1.0), boundary=((N(0.3), D(1.0)),)),
    "a box": Grid((6, 5, 7), layout="cells", boundary=(D(), N(), P())),
}


def lognormal(grid):
    """With a source of zero mean where nothing else would be compatible."""
    x = grid.coordinates[0]
    source = jnp.cos(2 * np.pi * x)
    source = source - grid.mean(source)
    return Darcy(grid, Lognormal(Matern(grid, scale=2.0)), source)


def check_own_residual(equation, key):
    """Solved and judged in one compiled program."""

    @eqx.filter_jit
    def judge(equation, key):
        fields = equation.solve(*equation.draw(key=key))
        return (
            fields,
            equation.residual(fields),
            equation.relative_residual(fields),
            equation.relative_residual(equation.without(fields)),
            equation.boundary_error(fields),
        )

    fields, residual, relative, null, error = judge(equation, key)
    assert relative < 1e-10
    assert error == 0.0
    assert jnp.std(fields.solution) > 1e-3
    assert null > 0.5  # zero for a solution does not pass for one
    prescribed = np.ones(equation.grid.shape, bool)
    prescribed[equation.grid.unknown] = False
    assert np.all(np.asarray(residual)[prescribed] == 0)
    return fields


@pytest.mark.parametrize("grid", GRIDS)
def test_the_residual_of_a_direct_solution_is_zero(grid, key, x64):
    for equation in (Poisson(GRIDS[grid]), Helmholtz(GRIDS[grid], 2.3)):
        check_own_residual(equation, key)


@pytest.mark.parametrize("grid", [g for g in GRIDS if g not in ("nodes", "cells")])
def test_the_residual_of_an_iterated_solution_is_zero(grid, key, x64):
    fields = check_own_residual(lognormal(GRIDS[grid]), key)
    if grid in ("closed", "a torus"):
        assert abs(GRIDS[grid].mean(fields.solution)) < 1e-15


@pytest.mark.parametrize(
    "darcy",
    [
        Darcy(Grid((24, 24))),
        Darcy.lognormal(Grid((24, 24)), scale=4.0),
        Darcy.source_sink((16, 16), modes=16),
    ],
    ids=["thresholded", "lognormal", "source and sink"],
)
def test_the_residual_of_darcys_recipes_is_zero(darcy, key, x64):
    fields = check_own_residual(darcy, key)
    assert jnp.all(fields.coefficient > 0)


def test_darcy_is_the_matrix_of_the_recipe(key, x64):
    """-div(a grad u) = 1: the 5-point matrix by hand, arithmetic means, h = 1/(s-1)."""
    s = 12
    fields = Darcy(Grid((s, s))).sample(key=key)
    a, h = np.asarray(fields.coefficient), 1 / (s - 1)
    assert set(np.unique(a)) == {3.0, 12.0}
    number = np.arange(s * s).reshape(s, s)
    matrix = sp.lil_matrix((s * s, s * s))
    for i in range(1, s - 1):
        for j in range(1, s - 1):
            for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                face = (a[i, j] + a[i + di, j + dj]) / 2 / h**2
                matrix[number[i, j], number[i, j]] += face
                matrix[number[i, j], number[i + di, j + dj]] -= face
    inner = number[1:-1, 1:-1].ravel()
    matrix = sp.csc_matrix(matrix)[inner][:, inner]
    expected = sp.linalg.spsolve(matrix, np.ones(len(inner))).reshape(s - 2, s - 2)
    assert_close(fields.solution[1:-1, 1:-1], expected, 1e-9, 0.0)


def test_the_source_and_the_sink_of_pidm(key, x64):
    """Where the source is, its law's share of the variance, a pressure of zero mean."""
    darcy = Darcy.source_sink((32, 32))
    f = np.asarray(darcy.source)
    assert np.all(f[:4, :4] == 10)
    assert np.all(f[-4:, -4:] == -10)
    assert np.abs(f).sum() == 320
    assert getattr(darcy.coefficient, "gaussian").kept == pytest.approx(0.65, abs=0.02)  # noqa: B009
    fields = darcy.sample(key=key)
    assert abs(darcy.grid.mean(fields.solution)) < 1e-14
    assert 0.02 < jnp.std(fields.solution) < 0.2  # 0.077 over samples
    assert fields.solution[0, 0] > 0 > fields.solution[-1, -1]


# --- manufactured solutions -----------------------------------------------------------

EXACT = lambda x, y: np.sin(2 * x + 0.3) * np.exp(y) + x * y
SLOPE = {
    0: lambda x, y: 2 * np.cos(2 * x + 0.3) * np.exp(y) + y,
    1: lambda x, y: np.sin(2 * x + 0.3) * np.exp(y) + x,
}
LAPLACE = lambda x, y: -3 * np.sin(2 * x + 0.3) * np.exp(y)
# Without a slope at the sides: there the operator takes the nearest point's value.
A = lambda x, y: 1.5 + np.cos(np.pi * x) * np.cos(np.pi * y / 1.5)


def flow(x, y):
    """-div(A grad EXACT)."""
    ax = -np.pi * np.sin(np.pi * x) * np.cos(np.pi * y / 1.5)
    ay = -np.pi / 1.5 * np.cos(np.pi * x) * np.sin(np.pi * y / 1.5)
    return -(A(x, y) * LAPLACE(x, y) + ax * SLOPE[0](x, y) + ay * SLOPE[1](x, y))


def manufactured_grid(n, layout, closed):
    """The exact solution's data: its values, and on one side (or all) its slopes."""
    bare = Grid((n, n), ((0.0, 1.0), (0.0, 1.5)), layout=layout)
    x, y = (np.asarray(p) for p in bare.points)
    slopes = (
        (N(-SLOPE[0](0.0, y)), N(SLOPE[0](1.0, y))),
        (N(-SLOPE[1](x, 0.0)), N(SLOPE[1](x, 1.5))),
    )
    if closed:
        return bare.with_boundary(slopes)
    values = (D(EXACT(x, 0.0)), D(EXACT(x, 1.5)))
    return bare.with_boundary(((D(EXACT(0.0, y)), slopes[0][1]), values))


CASES = {
    "Poisson": lambda g, x, y: Poisson(g, LAPLACE(x, y)).solve(LAPLACE(x, y)),
    "Helmholtz": lambda g, x, y: Helmholtz(g, 3.0).solve(
        LAPLACE(x, y) + 9 * EXACT(x, y)
    ),
    "Darcy": lambda g, x, y: Darcy(g, source=flow(x, y)).solve(A(x, y)),
}


@pytest.mark.parametrize("layout", ["nodes", "cells"])
@pytest.mark.parametrize("case", CASES)
def test_order_two(case, layout, x64):
    errors = []
    for n in (17, 33):
        grid = manufactured_grid(n, layout, closed=False)
        x, y = (np.asarray(c) for c in grid.coordinates)
        u = CASES[case](grid, x, y).solution
        errors.append(float(jnp.abs(u - EXACT(x, y)).max()))
        h = grid.spacing[0]
    order = np.log(errors[0] / errors[1]) / np.log(
        1 / 16 / h if layout == "nodes" else 33 / 17
    )
    assert abs(order - 2) < 0.2
    assert errors[1] < 3e-3


def test_order_two_with_slopes_only(x64):
    """The discrete flux is compatible up to h^2: that much the source must give."""
    errors = []
    for n in (16, 32):
        grid = manufactured_grid(n, "cells", closed=True)
        x, y = (np.asarray(c) for c in grid.coordinates)
        with pytest.raises(ValueError, match="their integral is"):
            Poisson(grid).solve(LAPLACE(x, y))
        load = px.pde.Laplacian(grid).load(LAPLACE(x, y))
        u = Poisson(grid).solve(LAPLACE(x, y) - grid.mean(load)).solution
        exact = EXACT(x, y) - grid.mean(EXACT(x, y))
        errors.append(float(jnp.abs(u - exact).max()))
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.2


# --- derivatives ----------------------------------------------------------------------


@pytest.mark.parametrize("grid", ["values on sides", "closed"])
def test_gradients_through_the_iterated_solver(grid, key, x64):
    darcy = lognormal(GRIDS[grid])
    (a,) = darcy.draw(key=key)
    first, second = jax.random.split(key)
    probe = jax.random.normal(first, a.shape)
    step = 1e-5 * a * jax.random.normal(second, a.shape)
    loss = jax.jit(lambda a: jnp.sum(probe * darcy.solve(a).solution ** 2))
    slope = (loss(a + step) - loss(a - step)) / 2
    gradient = jax.jit(jax.grad(lambda a, scale: scale * loss(a)))
    # A loss in any units: its derivative is a solve with a right side of any size.
    for scale in (1.0, 1e-20, 1e20):
        assert_close(jnp.vdot(gradient(a, scale) / scale, step), slope, 1e-6, 0.0)
    # Not compiled, where JAX traces the field but not what is compared with zero.
    assert_close(jax.grad(loss)(a), gradient(a, 1.0), 1e-9)
    eager = jax.grad(lambda a: darcy.solve(a).solution[3, 3])(a)
    assert jnp.isfinite(eager).all()


@pytest.mark.parametrize("equation", [Poisson, Darcy])
def test_residuals_of_zero_have_derivatives(equation, x64):
    """0 of 0 is 0, and so are its derivatives: the square root has none there."""
    grid = Grid((6, 6))
    equation = equation(grid, source=0.0)
    zero = equation.Fields(jnp.zeros((6, 6)), jnp.zeros((6, 6)))
    found = jax.value_and_grad(equation.relative_residual)(zero)
    for leaf in jax.tree.leaves(found):
        assert jnp.all(leaf == 0)


def test_the_residual_is_linear_in_each_field(key, x64):
    """What `kind` says: Poisson's in both together, Darcy's in each alone."""
    darcy = lognormal(GRIDS["nodes"])
    a, b, u, v = jax.random.uniform(key, (4, *darcy.grid.shape)) + 0.5
    r = lambda a, u: darcy.residual(darcy.fields(coefficient=a, solution=u))
    for pair in (
        r(a, u) + r(b, u) - 2 * r((a + b) / 2, u),
        r(a, u) + r(a, v) - 2 * r(a, (u + v) / 2),
    ):
        assert_close(pair, 0.0, 1e-9)
    gap = r(a, u) + r(b, v) - 2 * r((a + b) / 2, (u + v) / 2)
    assert jnp.abs(gap).max() > 1


# --- Gaussian laws --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Poisson", "Helmholtz"])
def test_the_law_is_that_of_samples(kind, key, x64):
    grid = Grid((6, 5), boundary=((D(0.2), N()), D()))
    x = np.asarray(grid.coordinates[0])
    source = KarhunenLoeve(grid, ExponentialCovariance(0.5), modes=7, mean=x)
    equation = getattr(px.pde, kind)(grid, source=source)
    mean, factor = equation.law()
    assert factor.shape == (6, 5, 2, 7)
    # The mean solves the equation, each column the one without data.
    assert equation.relative_residual(equation.unstack(mean)) < 1e-12
    plain = getattr(px.pde, kind)(grid.homogeneous())
    for column in jnp.moveaxis(factor, -1, 0):
        assert plain.relative_residual(plain.unstack(column)) < 1e-12
    count = 4000
    draw = lambda k: equation.stack(equation.solve(*equation.draw(key=k)))
    u = jax.jit(jax.vmap(draw))(jax.random.split(key, count)).reshape(count, -1)
    m, f = np.asarray(mean).ravel(), np.asarray(factor).reshape(-1, 7)
    c, d = f @ f.T, np.asarray(u) - m
    var = np.diag(c)
    assert np.all(np.abs(d.mean(0)) <= 5 * np.sqrt(var / count) + 1e-12)
    spread = np.sqrt((np.outer(var, var) + c**2) / count)
    assert np.all(np.abs(d.T @ d / count - c) <= 5.5 * spread + 1e-12)


def test_the_law_makes_an_exact_denoiser(key, x64):
    equation = Poisson(Grid((6, 6)), Matern(Grid((6, 6)), modes=5))
    law = equation.law()
    # The solution is small beside its source, and the floor must be beside it.
    gaussian = px.Gaussian(law.mean, px.Covariance.low_rank(law.factor, floor=1e-16))
    sample = equation.unstack(gaussian.sample(key=key))
    assert equation.relative_residual(sample) < 1e-5
    # From noise that hardly hides it, the clean sample.
    x0 = equation.stack(equation.sample(key=key))
    noised = x0 + 1e-4 * jax.random.normal(key, x0.shape)
    clean = gaussian(noised, 1e-4)
    assert equation.relative_residual(equation.unstack(clean)) < 1e-8


def test_what_has_no_gaussian_law():
    grid = Grid((6, 6))
    with pytest.raises(ValueError, match="bilinear"):
        gaussian_law(Darcy(grid), Matern(grid))
    with pytest.raises(ValueError, match="got Lognormal"):
        Poisson(grid, Lognormal(Matern(grid))).law()


# --- precision, batches, errors -------------------------------------------------------


@pytest.mark.slow
def test_float32_batches(x32, key):
    """Solved where it is called: to what rounding leaves of 1/h^2."""
    for equation in (Poisson(Grid((12, 12))), Darcy.lognormal(Grid((12, 12)))):
        keys = jax.random.split(key, 3)
        fields = jax.jit(jax.vmap(lambda k, e=equation: e.solve(*e.draw(key=k))))(keys)
        assert fields.solution.dtype == jnp.float32
        assert fields.solution.shape == (3, 12, 12)
        relative = jax.jit(jax.vmap(equation.relative_residual))(fields)
        assert relative.max() < 2e-4
        # The same in float64 and rounded.
        given = equation.without(jax.tree.map(lambda f: f[0], fields))
        again = equation.resolve(given)
        assert again.solution.dtype == jnp.float32
        assert_close(again.solution, fields.solution[0], 1e-4, 1e-6)


def test_a_law_a_field_or_a_number_is_a_source(key, x64):
    grid = Grid((8, 8))
    number = Poisson(grid, -2.0).sample(key=key)
    assert jnp.all(number.source == -2.0)
    field = Poisson(grid, jnp.full((8, 8), -2.0)).sample(key=key)
    law = Poisson(grid, Fixed(grid, -2.0)).sample(key=key)
    assert jnp.array_equal(number.solution, field.solution)
    assert jnp.array_equal(number.solution, law.solution)


def test_laplaces_equation_has_a_size(x64):
    """No source: the residual is relative to what the sides' data do."""
    equation = Poisson(Grid((8, 8), boundary=D(1.0)), 0.0)
    fields = equation.solve(jnp.zeros((8, 8)))
    assert_close(fields.solution, jnp.ones((8, 8)), 1e-13)
    assert equation.relative_residual(fields) < 1e-12
    assert equation.boundary_error(equation.without(fields)) == 1.0


def test_bad_input_is_told(key, x64):
    grid = Grid((8, 8))
    ones = jnp.ones((8, 8))
    with pytest.raises(ValueError, match=r"must be positive.*got -1.0 at \(2, 3\)"):
        Darcy(grid).solve(ones.at[2, 3].set(-1.0))
    with pytest.raises(ValueError, match="positive and finite, got nan"):
        Darcy(grid).solve(ones.at[2, 3].set(jnp.nan))
    with pytest.raises(ValueError, match="coefficient must have a value at each"):
        Darcy(grid).solve(jnp.ones((8, 9)))
    with pytest.raises(ValueError, match="source must be finite"):
        Poisson(grid).solve(ones.at[0, 1].set(jnp.nan))
    with pytest.raises(ValueError, match="source must have a value at each point"):
        Darcy(grid, source=jnp.ones(3))
    with pytest.raises(ValueError, match="Make both on the same points"):
        Poisson(grid, Matern(Grid((9, 9))))
    for other in (Grid((8, 8), layout="cells"), Grid((8, 8), boundary=P())):
        with pytest.raises(ValueError, match="Make both on the same points"):
            Poisson(grid, Matern(other))
    with pytest.raises(ValueError, match="a fixed field must be finite"):
        Poisson(grid, float("nan"))
    with pytest.raises(ValueError, match="wavenumber must be a finite number, got nan"):
        Helmholtz(grid, float("nan"))
    wavenumber = float(jnp.sqrt(-laplacian_eigenvalues(grid)[0, 0]))
    with pytest.raises(ValueError, match=r"at resonance.*\(1.0, 1.0\) half waves"):
        Helmholtz(grid, wavenumber)
    closed = Grid((8, 8), boundary=((N(1.0), N()), N()))
    with pytest.raises(ValueError, match=r"their integral is -(0.99999|1.0)"):
        Poisson(closed).solve(jnp.zeros((8, 8)))
    with pytest.raises(ValueError, match=r"their integral is -(0.99999|1.0)"):
        Poisson(closed, 0.0).sample(key=key)  # compiled, and with its number
    # A generated coefficient that is not positive is judged, not refused.
    fields = Darcy(grid).fields(coefficient=-ones, solution=ones)
    assert jnp.isfinite(Darcy(grid).relative_residual(fields))


def test_a_solve_that_fails_is_not_returned(x64, monkeypatch):
    grid = Grid((8, 8))
    a = jnp.exp(3 * Matern(grid, scale=4.0).sample(key=jax.random.key(1)))
    ones = jnp.ones((8, 8))
    with pytest.raises(ValueError, match="the source must be finite"):
        solve_diffusion(grid, a, ones.at[3, 3].set(jnp.nan))
    monkeypatch.setattr("pidax.pde._elliptic_solvers.MAX_STEPS", 3)
    with pytest.raises(RuntimeError, match=r"did not solve .* in 3 steps.*magnitude"):
        jax.block_until_ready(solve_diffusion(grid, a, ones))
    loss = lambda b: solve_diffusion(grid, a, b)[3, 3]
    # The equation of the derivative is solved as strictly: b = 0 needs no step.
    with pytest.raises(RuntimeError, match="did not solve"):
        jax.block_until_ready(jax.grad(loss)(0 * ones))


def test_a_shape_is_not_a_grid():
    for equation in (Poisson, Helmholtz, Darcy):
        with pytest.raises(ValueError, match=r"lives on a px\.pde\.Grid, got \(8, 8\)"):
            equation((8, 8))  # type: ignore[arg-type]
