"""Elliptic equations: own residuals, manufactured solutions, oracles, gradients."""

from typing import Any

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


def some(shape, seed=0):
    """Random numbers of NumPy's, as JAX takes a second to compile its own."""
    return np.random.default_rng(seed).normal(size=shape)


@eqx.filter_jit
def judged(equation, given):
    """Solved and judged in one compiled program."""
    fields = equation.solve(given)
    numbers = (
        equation.relative_residual(fields),
        equation.relative_residual(equation.without(fields)),
        equation.boundary_error(fields),
    )
    return jax.tree.map(jnp.asarray, (fields, equation.residual(fields), numbers))


def check_own_residual(equation, given):
    found = judged(equation, jnp.asarray(given))
    fields, residual, (relative, null, error) = found
    assert relative < 1e-10, equation.grid
    assert error == 0.0
    assert np.std(fields.solution) > 1e-3
    assert null > 0.5  # zero for a solution does not pass for one
    prescribed = np.ones(equation.grid.shape, bool)
    prescribed[equation.grid.unknown] = False
    assert np.all(np.asarray(residual)[prescribed] == 0)
    return fields


def test_the_residuals_by_hand(x64):
    """Of any fields that are zero on the sides, h = (1/4, 1/5): left less right."""
    grid, k = Grid((5, 6)), 2.3
    f, a = some(grid.shape), np.exp(some(grid.shape, 1))
    u = np.pad(some((3, 4), 2), 1)
    laplace, flux = np.zeros_like(u), np.zeros_like(u)
    for i in range(1, 4):
        for j in range(1, 5):
            for di, dj, h in ((1, 0, 4), (-1, 0, 4), (0, 1, 5), (0, -1, 5)):
                step = h**2 * (u[i + di, j + dj] - u[i, j])
                laplace[i, j] += step
                flux[i, j] += (a[i, j] + a[i + di, j + dj]) / 2 * step
    inside = np.pad(np.ones((3, 4)), 1)
    for equation, given, expected in (
        (Poisson(grid, f), f, laplace - f),
        (Helmholtz(grid, k, f), f, laplace + k**2 * u - f),
        (Darcy(grid, a, f), a, -flux - f),
    ):
        found = eqx.filter_jit(lambda e, *fields: e.residual(e.Fields(*fields)))(
            equation, jnp.asarray(given), jnp.asarray(u)
        )
        assert_close(found, inside * expected, 1e-10)


@pytest.mark.slow
def test_the_residual_of_a_direct_solution_is_zero(x64):
    for name, grid in GRIDS.items():
        f = 100 * some(grid.shape)
        if name in ("closed", "a torus"):
            f = f - np.sum(f * np.asarray(grid.weights)) / np.prod(grid.lengths)
        check_own_residual(Poisson(grid), f)
    for name in ("values on sides", "a box"):
        grid = GRIDS[name]
        check_own_residual(Helmholtz(grid, 2.3), 100 * some(grid.shape))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["values on sides", "values on faces"])
def test_the_residual_of_an_iterated_solution_is_zero(name, x64):
    grid = GRIDS[name]
    check_own_residual(lognormal(grid), np.exp(some(grid.shape)))


def test_without_a_value_on_a_side_the_solution_has_zero_mean(x64):
    grid = GRIDS["closed"]
    fields = check_own_residual(lognormal(grid), np.exp(some(grid.shape)))
    assert abs(grid.mean(fields.solution)) < 1e-15


def test_a_rough_coefficient_is_smoothed_in_the_preconditioner(x64, monkeypatch):
    """Between 100 and 150 steps were seen, and without smoothing more than 400."""
    monkeypatch.setattr("pidax.pde._elliptic_solvers.MAX_STEPS", 200)
    a, ones = np.exp(2 * some((24, 24))), jnp.ones((24, 24))
    u = jax.jit(lambda a: solve_diffusion(Grid((24, 24)), a, ones))(a)
    assert jnp.isfinite(u).all()  # or it raises


def test_resonance_is_noticed_in_a_compiled_program(x64):
    grid = Grid((8, 8))
    solve = eqx.filter_jit(
        lambda k: Helmholtz(grid, k, 0.0).solve(jnp.ones((8, 8))).solution
    )
    wavenumber = jnp.sqrt(-laplacian_eigenvalues(grid)[0, 0])
    assert jnp.isfinite(solve(1.01 * wavenumber)).all()
    with pytest.raises(RuntimeError, match="at resonance"):
        solve(wavenumber)


@pytest.mark.slow
def test_so_it_is_on_every_kind_of_grid(x64):
    for name, grid in GRIDS.items():
        fields = check_own_residual(lognormal(grid), np.exp(some(grid.shape)))
        if name in ("closed", "a torus"):
            assert abs(grid.mean(fields.solution)) < 1e-15


@pytest.mark.slow
def test_darcys_recipes_and_the_matrix_of_one(key, x64):
    """-div(a grad u) = 1: the 5-point matrix by hand, harmonic means, h = 1/(s-1).

    The coefficients are drawn first, so that one program solves for both recipes: of
    conjugate gradients, which take three seconds to compile.
    """
    s = 16
    grid = Grid((s, s))
    draw = eqx.filter_jit(lambda law, key: law.sample(key=key))
    recipes = Darcy(grid), Darcy.lognormal(grid, scale=4.0)
    rough, smooth = (np.asarray(draw(d.coefficient, key)) for d in recipes)
    assert np.all(smooth > 0)
    assert smooth.max() > 100 * smooth.min()
    assert recipes[1].coefficient == Lognormal(Matern(grid, 2.0, 3.0, scale=4.0))
    darcy = Darcy(grid)
    check_own_residual(darcy, smooth)
    fields = check_own_residual(darcy, rough)
    a, h = np.asarray(fields.coefficient), 1 / (s - 1)
    assert set(np.unique(a)) == {3.0, 12.0}
    number = np.arange(s * s).reshape(s, s)
    matrix = sp.lil_matrix((s * s, s * s))
    for i in range(1, s - 1):
        for j in range(1, s - 1):
            for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                face = 2 / (1 / a[i, j] + 1 / a[i + di, j + dj]) / h**2
                matrix[number[i, j], number[i, j]] += face
                matrix[number[i, j], number[i + di, j + dj]] -= face
    inner = number[1:-1, 1:-1].ravel()
    matrix = sp.csc_matrix(matrix)[inner][:, inner]
    expected = sp.linalg.spsolve(matrix, np.ones(len(inner))).reshape(s - 2, s - 2)
    assert_close(fields.solution[1:-1, 1:-1], expected, 1e-9, 0.0)


def test_the_source_and_the_sink_of_pidm(x64):
    f = np.asarray(Darcy.source_sink((32, 32), modes=1).source)
    assert np.all(f[:4, :4] == 10)
    assert np.all(f[-4:, -4:] == -10)
    assert np.abs(f).sum() == 320


@pytest.mark.slow
def test_the_law_and_the_pressure_of_pidm(x64):
    """The law's share of the variance, a pressure of zero mean."""
    darcy = Darcy.source_sink((32, 32))
    law = getattr(darcy.coefficient, "gaussian")  # noqa: B009
    assert law.kept == pytest.approx(0.65, abs=0.02)
    fields = check_own_residual(darcy, np.exp(law.columns @ some(64)))
    assert abs(np.mean(fields.solution)) < 1e-14
    assert 0.02 < np.std(fields.solution) < 0.2  # 0.077 over samples
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


def manufactured_equations(n, layout):
    """On one grid, each with its given field and the points."""
    grid = manufactured_grid(n, layout, closed=False)
    x, y = (np.asarray(c) for c in grid.coordinates)
    f = LAPLACE(x, y)
    return [
        (Poisson(grid, f), f),
        (Helmholtz(grid, 3.0), f + 9 * EXACT(x, y)),
        (Darcy(grid, source=flow(x, y)), A(x, y)),
    ]


@eqx.filter_jit
def solution(equation, given):
    return equation.solve(jnp.asarray(given)).solution


def test_order_two(x64):
    """Darcy on cells alone: on nodes its matrix is known, and takes as long."""
    for layout in ("nodes", "cells"):
        errors = []
        for n in (17, 33):
            pairs = manufactured_equations(n, layout)[: 3 if layout == "cells" else 2]
            x, y = (np.asarray(c) for c in pairs[0][0].grid.coordinates)
            found = [solution(equation, given) for equation, given in pairs]
            errors.append([np.abs(u - EXACT(x, y)).max() for u in found])
        ratio = 2 if layout == "nodes" else 33 / 17
        assert_close(np.log(np.divide(*errors)) / np.log(ratio), 2, 0, 0.2)
        assert np.max(errors[1]) < 3e-3


def test_order_two_with_slopes_only(x64):
    """The discrete flux is compatible up to h^2: that much the source must give."""
    grids = [manufactured_grid(n, "cells", closed=True) for n in (16, 32)]
    points = [[np.asarray(c) for c in grid.coordinates] for grid in grids]
    with pytest.raises(ValueError, match="their integral is"):
        Poisson(grids[0]).solve(LAPLACE(*points[0]))

    @eqx.filter_jit
    def solve(grid, f):
        f = f - grid.mean(px.pde.Laplacian(grid).load(f))
        return Poisson(grid, 0.0).solve(f).solution

    sources = [jnp.asarray(LAPLACE(*xs)) for xs in points]
    found = list(map(solve, grids, sources))
    errors = []
    for xs, u in zip(points, found, strict=True):
        exact = EXACT(*xs) - np.mean(EXACT(*xs))  # cells of one size
        errors.append(np.abs(u - exact).max())
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.2


# --- derivatives ----------------------------------------------------------------------


def check_gradient(darcy, rtol=1e-6):
    """Against a central difference of the loss along one direction."""
    a, probe = np.exp(some(darcy.grid.shape)), some(darcy.grid.shape, 1)
    step = 1e-5 * a * some(a.shape, 2)
    loss = lambda a, scale: scale * jnp.sum(probe * darcy.solve(a).solution ** 2)
    both = jax.jit(jax.value_and_grad(loss))
    slope = (both(a + step, 1.0)[0] - both(a - step, 1.0)[0]) / 2
    # A loss in any units: its derivative is a solve with a right side of any size.
    for scale in (1.0, 1e-20, 1e20):
        gradient = np.asarray(both(a, scale)[1]) / scale
        assert_close(np.vdot(gradient, step), slope, rtol, 0.0)


@pytest.mark.slow
def test_gradients_through_the_iterated_solver(x64):
    check_gradient(lognormal(GRIDS["values on sides"]))


@pytest.mark.slow
def test_gradients_through_the_iterated_solver_on_a_closed_grid(x64):
    """The slope along this step is small beside the gradient: 7e-6 of it was seen."""
    check_gradient(lognormal(GRIDS["closed"]), 1e-5)


@pytest.mark.slow
def test_gradients_without_a_compiled_program(x64):
    """JAX then traces the field but not what is compared with zero."""
    darcy = lognormal(GRIDS["values on sides"])
    a, probe = np.exp(some(darcy.grid.shape)), some(darcy.grid.shape, 1)
    gradient = jax.grad(lambda a: jnp.sum(probe * darcy.solve(a).solution ** 2))
    compiled = jax.jit(gradient)(a)
    assert_close(gradient(a), compiled, 0.0, 1e-9 * np.abs(compiled).max())


def test_residuals_of_zero_have_derivatives(x64):
    """0 of 0 is 0, and so are its derivatives: the square root has none there."""
    grid = Grid((6, 6))
    equations = Poisson(grid, source=0.0), Darcy(grid, source=0.0)

    @eqx.filter_jit
    def slopes(equations, zero):
        found = []
        for equation in equations:
            fields = equation.Fields(zero, zero)
            found.append(jax.value_and_grad(equation.relative_residual)(fields))
        return found

    for leaf in jax.tree.leaves(slopes(equations, jnp.zeros((6, 6)))):
        assert np.all(leaf == 0)


def test_the_residual_is_linear_in_each_field(x64):
    """What `kind` says: Poisson's in both together, Darcy's in each alone."""
    darcy = lognormal(GRIDS["closed"])
    a, b, u, v = jnp.exp(some((4, *darcy.grid.shape)) / 3)

    @jax.jit
    def second_differences(darcy):
        r = lambda a, u: darcy.residual(darcy.fields(coefficient=a, solution=u))
        return (
            r(a, u) + r(b, u) - 2 * r((a + b) / 2, u),
            r(a, u) + r(a, v) - 2 * r(a, (u + v) / 2),
            r(a, u) + r(b, v) - 2 * r((a + b) / 2, (u + v) / 2),
        )

    first, second, together = second_differences(darcy)
    assert_close((first, second), 0.0, 1e-9)
    assert np.abs(together).max() > 1


# --- Gaussian laws --------------------------------------------------------------------


@pytest.mark.slow
def test_the_law_is_that_of_samples(key, x64):
    grid = Grid((6, 5), boundary=((D(0.2), N()), D()))
    x = np.asarray(grid.coordinates[0])
    source = KarhunenLoeve(grid, ExponentialCovariance(0.5), modes=7, mean=x)
    equation, plain = Helmholtz(grid, 2.0, source), Helmholtz(grid.homogeneous(), 2.0)
    mean, factor = equation.law()
    assert factor.shape == (6, 5, 2, 7)
    count = 4000

    @eqx.filter_jit
    def judge(equation, plain, mean, columns, keys):
        relative = lambda e, u: e.relative_residual(e.unstack(u))
        draw = lambda k: equation.stack(equation.solve(*equation.draw(key=k)))
        linear = jax.vmap(lambda column: relative(plain, column))(columns)
        return relative(equation, mean), linear, jax.vmap(draw)(keys)

    keys = jax.random.split(key, count)
    solved, linear, u = judge(equation, plain, mean, jnp.moveaxis(factor, -1, 0), keys)
    # The mean solves the equation, each column the one without data.
    assert solved < 1e-12
    assert linear.max() < 1e-12
    m, f = np.asarray(mean).ravel(), np.asarray(factor).reshape(-1, 7)
    c, d = f @ f.T, np.asarray(u).reshape(count, -1) - m
    var = np.diag(c)
    assert np.all(np.abs(d.mean(0)) <= 5 * np.sqrt(var / count) + 1e-12)
    spread = np.sqrt((np.outer(var, var) + c**2) / count)
    assert np.all(np.abs(d.T @ d / count - c) <= 5.5 * spread + 1e-12)


@pytest.mark.slow
def test_the_law_makes_an_exact_denoiser(key, x64):
    equation = Poisson(Grid((6, 6)), Matern(Grid((6, 6)), modes=5))
    law, noise = equation.law(), some((6, 6, 2))
    f = law.factor[..., 0, 0] + law.factor[..., 0, 3]  # a source of the law's
    # The solution is small beside its source, and the floor must be beside it.
    gaussian = px.Gaussian(
        law.mean, px.denoiser.Covariance.low_rank(law.factor, floor=1e-16)
    )

    @eqx.filter_jit
    def judge(equation, gaussian):
        # From noise that hardly hides it, the clean sample.
        x0 = equation.stack(equation.solve(f))
        clean = gaussian(x0 + 1e-4 * noise, 1e-4)
        both = gaussian.sample(key=key), clean
        return [equation.relative_residual(equation.unstack(u)) for u in both]

    sampled, cleaned = judge(equation, gaussian)
    assert sampled < 1e-5
    assert cleaned < 1e-8


def test_what_has_no_gaussian_law():
    grid = Grid((6, 6))
    with pytest.raises(ValueError, match="bilinear"):
        gaussian_law(Darcy.lognormal(grid), Matern(grid))
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
        again: Any = equation.resolve(given)  # type: ignore[arg-type]
        assert again.solution.dtype == jnp.float32
        assert_close(again.solution, fields.solution[0], 1e-4, 1e-6)


def test_a_law_a_field_or_a_number_is_a_source(key, x64):
    grid = Grid((8, 8))
    sources = (-2.0, np.full((8, 8), -2.0), Fixed(grid, -2.0))
    for source in sources:
        (found,) = Poisson(grid, source).draw(key=key)
        assert found.shape == (8, 8)
        assert np.all(np.asarray(found) == -2.0)


def test_laplaces_equation_has_a_size(x64):
    """No source: the residual is relative to what the sides' data do."""
    equation = Poisson(Grid((8, 8), boundary=D(1.0)), 0.0)
    fields, _, (relative, _, error) = judged(equation, jnp.zeros((8, 8)))
    assert_close(fields.solution, np.ones((8, 8)), 1e-13)
    assert relative < 1e-12
    assert error == 0.0
    assert equation.boundary_error(equation.without(fields)) == 1.0


def test_bad_input_is_told(key, x64):
    grid = Grid((8, 8))
    ones = np.ones((8, 8))
    negative, nan = ones.copy(), ones.copy()
    negative[2, 3], nan[2, 3] = -1.0, np.nan
    with pytest.raises(ValueError, match=r"must be positive.*got -1.0 at \(2, 3\)"):
        Darcy(grid).solve(negative)
    with pytest.raises(ValueError, match="positive and finite, got nan"):
        Darcy(grid).solve(nan)
    with pytest.raises(ValueError, match="coefficient must have a value at each"):
        Darcy(grid).solve(jnp.ones((8, 9)))
    with pytest.raises(ValueError, match="source must be finite"):
        Poisson(grid).solve(nan)
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
    fields = Darcy(grid).fields(
        coefficient=jnp.asarray(-ones), solution=jnp.asarray(ones)
    )
    assert np.isfinite(jax.jit(Darcy(grid).relative_residual)(fields))


def test_a_solve_that_fails_is_not_returned(x64, monkeypatch):
    grid = Grid((8, 8))
    a = np.exp(3 * some((8, 8)))
    ones, bad = jnp.ones((8, 8)), np.ones((8, 8))
    bad[3, 3] = np.nan
    with pytest.raises(ValueError, match="the source must be finite"):
        solve_diffusion(grid, a, bad)
    monkeypatch.setattr("pidax.pde._elliptic_solvers.MAX_STEPS", 3)
    with pytest.raises(RuntimeError, match=r"did not solve .* in 3 steps.*magnitude"):
        jax.block_until_ready(jax.jit(lambda: solve_diffusion(grid, a, ones))())
    loss = jax.jit(jax.grad(lambda b: solve_diffusion(grid, a, b)[3, 3]))
    # The equation of the derivative is solved as strictly: b = 0 needs no step.
    with pytest.raises(RuntimeError, match="did not solve"):
        jax.block_until_ready(loss(0 * ones))


def test_a_shape_is_not_a_grid():
    for equation in (Poisson, Helmholtz, Darcy):
        with pytest.raises(ValueError, match=r"lives on a px\.pde\.Grid, got \(8, 8\)"):
            equation((8, 8))  # type: ignore[arg-type]


def test_a_tuple_in_place_of_fields_is_named():
    grid = Grid((5, 5))
    equation = Poisson(grid)
    pair = jnp.zeros(grid.shape), jnp.zeros(grid.shape)
    message = r"expects its PoissonFields\(source, solution\), got a tuple of 2"
    for ask in (
        equation.residual,
        equation.relative_residual,
        equation.resolve,
        equation.without,
        lambda pair: px.pde.report(equation, pair, pair, key=jax.random.key(0)),
    ):
        wrong: Any = pair
        with pytest.raises(ValueError, match=message):
            ask(wrong)
    assert float(equation.relative_residual(equation.Fields(*pair))) == 0
