"""Equations of evolution against closed forms, and their residuals against theirs."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, tolerance

from pidax import pde
from pidax.pde import Dirichlet, Grid, Neumann, Periodic

CIRCLE = Grid((64,), boundary=Periodic())
TORUS = Grid((24, 24), boundary=Periodic())
EQUATIONS = {
    "heat": pde.Heat(
        Grid((12, 9), boundary=(Periodic(), (Dirichlet(), Neumann()))), rows=4
    ),
    "random heat": pde.RandomHeat(rows=6),
    "viscous": pde.Burgers(CIRCLE, rows=6, end=0.2),
    "inviscid": pde.InviscidBurgers(rows=6, end=0.05),
    "vorticity": pde.NavierStokes(TORUS, rows=4, end=0.3),
}
solve = eqx.filter_jit(lambda equation, *given: equation.solve(*given))
drawn = eqx.filter_jit(lambda equation, key: equation.solve(*equation.draw(key=key)))


@eqx.filter_jit
def solve_and_rate(equation, u0):
    return equation.solve(u0), equation.rate(u0)


# The contract, of every equation.


def given(name):
    """An initial field, and parameters, by hand: JAX compiles its draws for seconds."""
    grid = EQUATIONS[name].grid
    xs = [np.asarray(x) for x in grid.coordinates]
    if name == "heat":
        x, y = xs  # zero at the low side of y, without a slope at the high one
        waves = np.sin(2 * np.pi * x + 0.3) * np.sin(np.pi * y / 2)
        return (
            grid.impose(waves + np.cos(4 * np.pi * x) * np.sin(1.5 * np.pi * y) / 4),
        )
    if name == "random heat":
        return jnp.asarray(np.sin(xs[0] + 0.3)), jnp.asarray(2.0)
    if name == "viscous":
        return (jnp.asarray(np.sin(2 * np.pi * xs[0]) / 2),)
    if name == "inviscid":
        return jnp.asarray(1 / (1 + np.exp((xs[0] - 0.4) / 0.02))), jnp.asarray(0.7)
    x, y = (2 * np.pi * x for x in xs)
    return (jnp.asarray(np.sin(x) * np.cos(2 * y) + np.cos(x + y + 0.3)),)


@eqx.filter_jit
def contract(equation, given, step, weights):
    """Solved, judged, disturbed and differentiated, in one program."""
    fields = equation.solve(*given)
    null, u, grid = equation.without(fields), fields.solution, equation.grid
    residual = lambda u: equation.residual(fields._replace(solution=u))
    error = grid.pad(grid.restrict(1e-3 * step[0]))
    wide = 1e-6  # limiters have kinks: where one lies within it, the slopes differ
    states = jnp.stack([u.at[2].add(error), u + wide * step, u - wide * step])
    moved, plus, minus = jax.vmap(residual)(states)
    _, forward = jax.jvp(residual, (u,), (step,))
    (backward,) = jax.vjp(residual, u)[1](weights)
    other = fields._replace(initial=fields.initial + 0.25)
    image = equation.stack(fields)
    return {
        "fields": fields,
        "null": null,
        "relative": [equation.relative_residual(f) for f in (fields, null)],
        "boundary": [equation.boundary_error(f) for f in (fields, null, other)],
        "moved": (moved * equation.interval, error),
        "slopes": (forward, (plus - minus) / (2 * wide)),
        "adjoint": (jnp.vdot(weights, forward), jnp.vdot(backward, step)),
        "image": (image, equation.unstack(image)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", EQUATIONS)
def test_the_contract_of_an_equation_in_time(name, x64):
    equation = EQUATIONS[name]
    rng = np.random.default_rng(1)
    both = rng.normal(size=(2, equation.rows, *equation.grid.shape))
    found = contract(equation, given(name), *both)
    found = jax.tree.map(np.asarray, found)
    fields, null = found["fields"], found["null"]
    # The solver's own output has no residual; what was made without solving has one,
    # of the order of its terms.
    assert found["relative"][0] < 1e-12
    assert 0.5 < found["relative"][1] < 2
    assert_close(found["boundary"], [0, 0, 0.25], 0, 1e-12)
    for field in equation.given:
        assert_close(getattr(null, field), getattr(fields, field), 1e-12)
    # An error in one row is seen there over the interval, and in the next row.
    moved, error = found["moved"]
    assert_close(moved[2], error, 1e-8)
    assert np.abs(moved[:2]).max() < 1e-10 * equation.interval
    assert np.abs(moved[3]).max() > 1e-6 * equation.interval
    # Gauss-Newton takes products with the residual's Jacobian, and with the adjoint.
    forward, difference = found["slopes"]
    assert np.linalg.norm(forward - difference) < 1e-5 * np.linalg.norm(forward)
    assert_close(found["adjoint"][0], found["adjoint"][1], 1e-9)
    # The stacked image is the solution, and comes back.
    image, back = found["image"]
    assert image.shape == equation.stacked_shape
    for field in equation.names:
        assert_close(getattr(back, field), getattr(fields, field), 1e-14)
    first = image[..., 0] if equation.grid.ndim == 1 else image[..., 1]
    assert_close(
        first, fields.solution if equation.grid.ndim == 1 else fields[-1][1], 0
    )
    with pytest.raises(ValueError, match=r"is stacked as .*jax.vmap"):
        equation.unstack(image[..., None])


@pytest.mark.slow
def test_so_it_is_in_float32_and_solving_again_changes_nothing(x32, key):
    """What is called from Python is solved in float64, and handed back in float32."""
    equation = pde.Burgers(CIRCLE, rows=3, end=0.1)
    fields = equation.sample(key=key)
    assert fields.solution.dtype == np.float32
    again = equation.resolve(fields)
    assert_close(again.solution, fields.solution, 0.0, 2e-6)
    relative = eqx.filter_jit(equation.relative_residual)(fields)
    assert relative < tolerance(np.dtype("f4"), 1.0)


# Heat.


@pytest.mark.slow
def test_heat_of_single_modes_decays_as_it_should(x64):
    ring = Grid((16,), extent=(0.0, 2 * np.pi), boundary=Periodic())
    sides = Grid((17,), boundary=((Dirichlet(), Dirichlet()),))
    cases = (
        (ring, lambda x: np.sin(3 * x + 0.4), 9.0),
        (sides, lambda x: np.sin(2 * np.pi * x), 4 * np.pi**2),
        (sides.with_boundary(Neumann()), lambda x: np.cos(np.pi * x), np.pi**2),
    )
    for grid, mode, power in cases:
        heat = pde.Heat(grid, 0.2, end=0.5, rows=4)
        u0 = mode(np.asarray(grid.points[0]))
        decay = np.exp(-0.2 * power * np.linspace(0, 0.5, 4))
        fields, rate = solve_and_rate(heat, jnp.asarray(u0))
        assert_close(fields.solution, decay[:, None] * u0, 0.0, 1e-12)
        assert_close(rate, -0.2 * power * u0, 0.0, 5e-11)


@pytest.mark.slow
def test_random_heat_is_the_published_formula(x64, key):
    heat = pde.RandomHeat()
    fields = heat.sample(key=key)
    x, t = heat.grid.points[0], heat.times[:, None]
    phase = jnp.arctan2(fields.initial[0], fields.initial[25])  # sin, cos of phi
    wanted = jnp.sin(x + phase) * jnp.exp(-fields.diffusivity * t)
    assert_close(fields.solution, wanted, 1e-12)
    assert 0 < phase < np.pi
    assert 1 < fields.diffusivity < 5
    assert heat.stack(fields).shape == (100, 100, 2)
    wrong = fields._replace(diffusivity=1.1 * fields.diffusivity)
    assert heat.relative_residual(wrong) > 0.01


def test_the_law_of_heat_has_the_variance_of_its_modes(x64):
    grid = Grid((12,), boundary=Periodic())
    heat = pde.Heat(grid, 0.05, rows=3)
    mean, factor = heat.law()
    assert factor.shape == (3, 12, 1, 11)
    assert_close(mean, 0.0, 1e-14)
    k2 = (2 * np.pi * np.fft.fftfreq(12, 1 / 12)) ** 2
    spectrum = 3.0**3 / (k2[1:] + 9) ** 2
    lags = np.exp(2j * np.pi * np.outer(np.arange(12), np.fft.fftfreq(12)[1:]))
    covariance = np.einsum("ixcr,jycr->ixjy", factor, factor)
    for i, j in ((0, 0), (0, 2), (1, 2)):
        decay = np.exp(-0.05 * k2[1:] * (heat.times[i] + heat.times[j]))
        wanted = (lags @ (spectrum * decay)).real
        assert_close(covariance[i, :, j, 0], wanted, 1e-10)


# Burgers.


def cole_hopf(x, t, nu=0.05, a=0.3):
    """The solution u = -2 nu (log phi)_x, phi = 1 + a exp(-nu k^2 t) cos kx."""
    k = 2 * np.pi
    decay = a * np.exp(-nu * k**2 * t)
    return 2 * nu * k * decay * np.sin(k * x) / (1 + decay * np.cos(k * x))


def hopf_rows(rows, end=0.5, n=64):
    x, t = np.arange(n) / n, np.linspace(0, end, rows)[:, None]
    return jnp.asarray(cole_hopf(x, t))


@pytest.mark.slow
def test_burgers_is_the_solution_of_cole_and_hopf_with_order_four(x64):
    wanted = hopf_rows(3)
    errors = []
    for substeps in (4, 8):
        burgers = pde.Burgers(CIRCLE, 0.05, end=0.5, rows=3, substeps=substeps)
        found = solve(burgers, wanted[0]).solution
        errors.append(float(jnp.abs(found - wanted).max()))
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert_close(orders[-1], 4.0, 0.0, 0.2)
    assert errors[-1] < 1e-6


@eqx.filter_jit
def both(equation, fields):
    inner = jnp.sqrt(jnp.mean(equation.collocation(fields)[1:-1] ** 2))
    return equation.relative_residual(fields), inner / equation.scale(fields)


@pytest.mark.slow
def test_residuals_of_an_exact_solution_of_burgers(x64):
    """The step's is its truncation error, of order four; collocation's of order two."""
    defects, collocated = [], []
    for rows in (65, 129):
        burgers = pde.Burgers(CIRCLE, 0.05, end=0.25, rows=rows, substeps=1)
        exact = hopf_rows(rows, 0.25)
        step, inner = both(burgers, pde.Evolution(exact[0], exact))
        defects.append(float(step))
        collocated.append(float(inner))
    slopes = lambda e: np.log2(np.array(e[:-1]) / np.array(e[1:]))
    assert_close(slopes(defects)[-1], 4.0, 0.0, 0.2)
    assert_close(slopes(collocated)[-1], 2.0, 0.0, 0.2)


def test_burgers_keeps_its_mean_and_loses_energy(x64, key):
    burgers = pde.Burgers(CIRCLE, end=0.2, rows=17)
    u = np.asarray(drawn(burgers, key).solution)
    assert_close(u.mean(axis=1), 0.0, 1e-12)
    assert (np.diff(np.sum(u**2, axis=1)) < 0).all()


# Inviscid Burgers.


def riemann(left, right, end, rows, n=101):
    line = Grid((n,), boundary=((Dirichlet(), Neumann()),))
    equation = pde.InviscidBurgers(line, end=end, rows=rows)
    x = np.asarray(line.points[0])
    u0 = jnp.asarray(np.where(x < 0.3, left, right))
    return x, np.asarray(solve(equation, u0, jnp.asarray(left)).solution[-1])


def test_a_shock_moves_with_the_mean_of_its_two_sides(x64):
    for left, right in ((1.0, 0.0), (0.9, 0.4), (1.0, -0.5)):
        x, last = riemann(left, right, 0.5, 101)
        end = 0.3 + 0.5 * (left + right) / 2
        front = x[np.argmax(last < (left + right) / 2)]
        assert abs(front - end) < 0.015
        assert_close(last[x > end + 0.1], right, 0.0, 1e-5)


@pytest.mark.slow
def test_a_rarefaction_is_a_fan_through_the_sonic_point_too(x64):
    for left, right in ((0.0, 1.0), (-0.5, 1.0)):
        errors = []
        for n, rows in ((101, 41), (201, 81)):
            x, last = riemann(left, right, 0.4, rows, n)
            fan = np.clip((x - 0.3) / 0.4, left, right)
            errors.append(np.mean(np.abs(last - fan)))
        assert errors[0] < 0.03
        assert errors[1] < 0.7 * errors[0]


@pytest.mark.slow
def test_godunov_conserves_what_does_not_flow_in_or_out(x64, key):
    equation = pde.InviscidBurgers()
    fields = drawn(equation, key)
    u, h = np.array(fields.solution, float), equation.grid.spacing[0]
    u[:, 0] = fields.left
    first = np.maximum(np.maximum(u[:, 0], 0), -np.minimum(u[:, 1], 0)) ** 2 / 2
    change = np.diff(h * u[:, 1:].sum(axis=1))
    flow = equation.interval * (first - u[:, -1] ** 2 / 2)[:-1]
    assert_close(change, flow, 0.0, 1e-12)
    assert fields.solution.max() <= max(fields.initial.max(), fields.left) + 1e-6
    assert fields.solution.min() >= -1e-6


@pytest.mark.slow
def test_a_step_too_long_is_an_error_that_says_what_holds(key):
    equation = pde.InviscidBurgers(rows=51)
    with pytest.raises(
        ValueError, match=r"at most .*= 0\.01\d* .*got 0\.02 .*more rows"
    ):
        equation.solve(jnp.ones(101), jnp.asarray(0.5))
    with pytest.raises(Exception, match="at most h / max"):
        jax.block_until_ready(solve(equation, jnp.ones(101), jnp.asarray(0.5)))


# Navier-Stokes.


def test_the_recipe_of_li_is_the_default(x64):
    """Their forcing and initial fields, on a torus of any extent."""
    torus = Grid((6, 4), ((0.0, 2.0), (1.0, 2.0)), boundary=Periodic())
    flow = pde.NavierStokes(torus)
    x, y = np.meshgrid(np.arange(6) / 6, np.arange(4) / 4, indexing="ij")
    turns = 2 * np.pi * (x + y)
    assert_close(flow.forcing, 0.1 * (np.sin(turns) + np.cos(turns)), 1e-14)
    for equation in (flow, pde.Burgers(CIRCLE)):
        assert equation.initial == pde.Matern(equation.grid, alpha=2.5, tau=7.0)


def test_the_vortices_of_taylor_and_green_decay(x64):
    flow = pde.NavierStokes(TORUS, 0.01, jnp.zeros((24, 24)), rows=3)
    x, y = (np.asarray(a, float) * 2 * np.pi for a in TORUS.coordinates)
    w0 = np.cos(x) * np.cos(y)
    fields = solve(flow, jnp.asarray(w0))
    decay = np.exp(-0.01 * 2 * (2 * np.pi) ** 2 * np.linspace(0, 1, 3))
    assert_close(fields.solution, decay[:, None, None] * w0, 0.0, 1e-12)
    u, v = eqx.filter_jit(flow.velocity)(jnp.asarray(w0))
    size = 1 / (4 * np.pi)
    assert_close(u, -size * np.cos(x) * np.sin(y), 0.0, 1e-12)
    assert_close(v, size * np.sin(x) * np.cos(y), 0.0, 1e-12)


def steady():
    """A flow that its forcing holds: psi, its vorticity, and u.grad w - nu lap w."""
    x, y = (np.asarray(a) * 2 * np.pi for a in TORUS.coordinates)
    k = 2 * np.pi
    # psi = a sin x + b sin(x + 2y): unequal |k|, so that they interact.
    a, b = 0.02, 0.01
    psi_x = k * (a * np.cos(x) + b * np.cos(x + 2 * y))
    psi_y = k * 2 * b * np.cos(x + 2 * y)
    w = k**2 * (a * np.sin(x) + 5 * b * np.sin(x + 2 * y))
    w_x = k**3 * (a * np.cos(x) + 5 * b * np.cos(x + 2 * y))
    w_y = k**3 * 10 * b * np.cos(x + 2 * y)
    lap = -(k**4) * (a * np.sin(x) + 25 * b * np.sin(x + 2 * y))
    return w, psi_y * w_x - psi_x * w_y, lap


@pytest.mark.slow
def test_a_forced_flow_stays_where_its_forcing_holds_it(x64):
    w, transport, lap = steady()
    assert np.abs(transport).max() > 0.1
    flow = pde.NavierStokes(TORUS, 0.02, transport - 0.02 * lap, rows=3)
    fields, rate = solve_and_rate(flow, jnp.asarray(w))
    assert_close(rate, 0.0, 1e-11)
    assert_close(fields.solution, np.broadcast_to(w, (3, 24, 24)), 0.0, 1e-11)
    free = pde.NavierStokes(TORUS, 0.02, np.zeros((24, 24)))
    rate = eqx.filter_jit(free.rate)(jnp.asarray(w))
    assert_close(rate, 0.02 * lap - transport, 1e-11)


def test_transport_changes_neither_energy_nor_enstrophy(x64, key):
    flow = pde.NavierStokes(TORUS, forcing=np.zeros((24, 24)))

    @jax.jit
    def all_of(key):
        w = pde.dealias(TORUS, 10 * flow.draw(key=key)[0])
        _, transport = flow.terms(w)
        (u, v), (du, dv) = flow.velocity(w), flow.velocity(transport)
        changes = [TORUS.integral(w * transport), TORUS.integral(u * du + v * dv)]
        size = TORUS.norm(w) * TORUS.norm(transport)
        return jnp.stack(changes) / size, flow.divergence(u, v), flow.curl(u, v), w

    changes, divergence, curl, w = all_of(key)
    assert np.abs(changes).max() < 1e-13
    assert np.abs(divergence).max() < 1e-12
    assert_close(curl, w, 1e-11)


@pytest.mark.slow
def test_order_four_of_a_developing_flow(x64, key):
    ends = []
    for substeps in (4, 8, 16):
        flow = pde.NavierStokes(TORUS, rows=2, end=0.4, substeps=substeps)
        ends.append(solve(flow, 5 * flow.draw(key=key)[0]).solution[-1])
    steps = [float(jnp.abs(a - b).max()) for a, b in itertools.pairwise(ends)]
    assert abs(np.log2(steps[0] / steps[1]) - 4) < 0.2


# Bad input.


BAD = {
    "viscosity must be positive": lambda: pde.Burgers(viscosity=-1.0),
    "end must be positive": lambda: pde.NavierStokes(end=0.0),
    "substeps must be a whole number of at least 1": lambda: pde.Burgers(substeps=0),
    "rows must be a whole number of at least 2": lambda: pde.Heat(rows=1),
    "Burgers needs every axis periodic": lambda: pde.Burgers(Grid((64,))),
    "NavierStokes needs every axis periodic": lambda: pde.NavierStokes(Grid((8, 8))),
    "in one dimension": lambda: pde.Burgers(TORUS),
    "in vorticity, in two": lambda: pde.NavierStokes(CIRCLE),
    "forcing must have a value": lambda: pde.NavierStokes(forcing=np.zeros((4, 4))),
    "held at the left end and": lambda: pde.InviscidBurgers(Grid((64,))),
    "diffusivity must be an interval": lambda: pde.RandomHeat(diffusivity=(5.0, 1.0)),
    "zero for the data of its sides": lambda: pde.Heat(
        Grid((9,), boundary=Dirichlet(1.0))
    ),
    "initial must have a value at each point": lambda: pde.Burgers().solve(
        jnp.zeros(32)
    ),
    "is solved from initial, left, got 1": lambda: pde.InviscidBurgers().solve(
        jnp.zeros(101)
    ),
    "left must be one number": lambda: pde.InviscidBurgers().solve(
        jnp.zeros(101), jnp.zeros(101)
    ),
    "solution must be 64 rows of time": lambda: pde.Heat().fields(
        initial=jnp.zeros(64), solution=jnp.zeros((3, 64))
    ),
    "has the fields initial, solution": lambda: pde.Heat().fields(u=jnp.zeros(64)),
}


def test_bad_input_says_what_was_expected():
    for message, make in BAD.items():
        with pytest.raises(ValueError, match=message):
            make()


def test_a_solution_that_breaks_down_is_not_returned(x64):
    burgers = pde.Burgers(CIRCLE, 1e-3, rows=4, substeps=1)
    u0 = 1e4 * jnp.sin(2 * jnp.pi * CIRCLE.points[0])
    with pytest.raises(Exception, match=r"Burgers must be finite.*too long"):
        jax.block_until_ready(solve(burgers, u0))
