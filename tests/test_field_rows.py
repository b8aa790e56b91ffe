"""Rows of instruments: points off the grid, averages, integrals, fluxes, covariances.

The oracles are integrals by hand of fields for which linear interpolation is exact, and
orders of convergence for one that is smooth.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import pidax as px
from pidax.constraint import (
    Affine,
    Observation,
    at_times,
    box_averages,
    disc_averages,
    fluxes,
    integrals,
    interpolated,
    line_averages,
)
from pidax.pde import Grid, Neumann, Periodic

RNG = np.random.default_rng(3)
NODES = Grid((5, 6), extent=((0.0, 2.0), (-1.0, 1.0)))
CELLS = Grid((5, 6), extent=NODES.extent, layout="cells", boundary=Neumann())
BOX = Grid((3, 4, 5), extent=((0.0, 1.0), (0.0, 2.0), (1.0, 2.0)))
BOTH = px.pde.Normaliser((0.0, 0.0), (1.0, 1.0))


def apply(rows, u):
    return rows.reshape(len(rows), -1) @ np.asarray(u, np.float64).ravel()


def inside(grid, count):
    low, high = np.array(grid.extent).T
    return low + (high - low) * RNG.random((count, grid.ndim))


def bilinear(x, y):
    return 2.0 - x + 3 * y + 0.5 * x * y


@pytest.mark.parametrize("grid", [NODES, CELLS])
def test_points_and_boxes_are_exact_for_bilinear_fields(grid, x64):
    u = bilinear(*grid.coordinates)
    points = inside(grid, 20)
    assert_close(apply(interpolated(grid, points), u), bilinear(*points.T), 1e-12)
    low, high = np.sort([inside(grid, 20), points], axis=0)
    middle = (low + high) / 2  # of a box the mean of a bilinear function
    assert_close(apply(box_averages(grid, low, high), u), bilinear(*middle.T), 1e-12)
    # Along a line x y is a parabola, with the mean of Simpson's rule.
    along = [bilinear(*p.T) for p in (low, middle, high)]
    mean = (along[0] + 4 * along[1] + along[2]) / 6
    assert_close(apply(line_averages(grid, low, high), u), mean, 1e-12)


def test_three_dimensions_and_a_trilinear_field(x64):
    f = lambda x, y, z: 1 + x - 2 * y * z + 3 * x * y * z
    points, ends = inside(BOX, 10), inside(BOX, 10)
    u = f(*BOX.coordinates)
    assert_close(apply(interpolated(BOX, points), u), f(*points.T), 1e-12)
    t, w = np.polynomial.legendre.leggauss(4)
    on = points[None] + (t[:, None, None] + 1) / 2 * (ends - points)
    mean = w @ f(*np.moveaxis(on, -1, 0)) / 2
    assert_close(apply(line_averages(BOX, points, ends), u), mean, 1e-12)


def test_interpolation_is_of_second_order(x64):
    f = lambda x, y: np.sin(3 * x) * np.cos(2 * y)
    points, worst = inside(NODES, 200), []
    for n in (16, 32, 64):
        grid = Grid((n, n), extent=NODES.extent)
        found = apply(interpolated(grid, points), f(*map(np.asarray, grid.coordinates)))
        worst.append(np.sqrt(np.mean((found - f(*points.T)) ** 2)))
    orders = np.log2(np.divide(worst[:-1], worst[1:]))
    assert np.abs(orders - 2).max() < 0.2


def test_averages_of_a_constant_are_the_constant_and_a_disc_has_its_centre(x64):
    centres = [[1.0, 0.1], [0.7, -0.3]]
    rows = [
        disc_averages(NODES, centres, [0.4, 0.25]),
        disc_averages(CELLS, centres, 0.3),
        box_averages(NODES, [[0.1, -0.9]], [[1.9, 0.95]]),
        line_averages(CELLS, [[0.0, -1.0]], [[2.0, 1.0]]),
    ]
    for some in rows:
        assert_close(some.reshape(len(some), -1).sum(axis=1), 1.0, 1e-12)
    x, y = NODES.coordinates
    assert_close(apply(rows[0], 3 * x - y), [2.9, 2.4], 1e-12)
    fine = Grid((65, 65), extent=NODES.extent)
    x, y = fine.coordinates  # mean of r^2 over a disc is R^2 / 2
    square = (x - 1) ** 2 + (y - 0.1) ** 2
    found = apply(disc_averages(fine, [[1.0, 0.1]], 0.8), square)
    assert abs(found[0] - 0.32) < np.sum(np.square(fine.spacing)) / 4 * 1.1


def test_a_periodic_axis_joins_its_ends(x64):
    ring = Grid((8,), boundary=Periodic())
    u = np.arange(8.0) ** 2
    found = apply(interpolated(ring, [[15 / 16], [-1 / 16], [1.125]]), u)
    assert_close(found, [24.5, 24.5, 1.0], 1e-12)
    assert_close(apply(box_averages(ring, [[0.875]], [[1.0]]), u), [24.5], 1e-12)
    whole = box_averages(ring, [[0.0]], [[1.0]])
    assert_close(whole, np.full((1, 8), 1 / 8), 1e-12)


def test_integrals_of_polynomials(x64):
    grid = Grid((65, 65), extent=NODES.extent)
    x, y = grid.coordinates
    rows = integrals(grid, jnp.ones(grid.shape), x)
    assert_close(apply(rows, 1 + x + y), [8.0, 28 / 3], 1e-3)  # 4 + 4; 4 + 16/3
    assert_close(apply(integrals(grid), bilinear(x, y)), [4.0], 1e-12)
    assert_close(apply(integrals(CELLS), np.ones(CELLS.shape)), [4.0], 1e-12)


@pytest.mark.parametrize("grid", [NODES, CELLS])
def test_fluxes_of_a_linear_pressure_and_of_a_parabola(grid, x64):
    x, y = grid.coordinates
    u = 3.0 - 2 * x + 5 * y
    out = lambda axis, at, **k: apply(fluxes(grid, axis, at, **k), u)
    assert_close(out("x", "high"), [4.0], 1e-12)  # -du/dx times the length 2
    assert_close(out("x", "low"), [-4.0], 1e-12)
    assert_close(out("y", "high"), [-10.0], 1e-12)
    assert_close(out("x", [0.3, 1.1]), [4.0, 4.0], 1e-12)
    assert_close(out("x", 0.3, between=[(-0.2, 0.5)]), [1.4], 1e-12)
    a = 1 + y  # the integral of 2 (1 + y) over (-1, 1)
    assert_close(out("x", 0.77, coefficient=a), [4.0], 1e-12)
    assert_close(out("x", 0.77, coefficient=a, between=[(0.0, 1.0)]), [3.0], 1e-12)
    sides: list[Any] = [("x", "low"), ("x", "high"), ("y", "low"), ("y", "high")]
    total = sum(apply(fluxes(grid, *side), x**2 - 3 * y**2)[0] for side in sides)
    assert_close(total, 16.0, 1e-11)  # Gauss: -(2 - 6) times the area


def test_a_flux_of_a_line_and_through_a_periodic_strip(x64):
    line = Grid((9,))
    assert_close(apply(fluxes(line, "x", [0.31]), line.points[0] ** 2), [-0.62], 1e-12)
    strip = Grid((9, 8), boundary=(Neumann(), Periodic()))
    x, _ = strip.coordinates
    assert_close(apply(fluxes(strip, "x", "high"), x**2), [-2.0], 1e-12)
    with pytest.raises(ValueError, match="a side of a bounded axis"):
        fluxes(strip, "y", "low")


@pytest.fixture
def poisson():
    return px.pde.Poisson(NODES, px.pde.Matern(NODES, modes=4))


def misfit(*parts):
    """Half the sum of squares in units of the noise."""
    off = [np.asarray(part.relative_of(jnp.asarray(FIELDS))) for part in parts]
    return float(sum(np.sum(part**2) for part in off)) / 2


FIELDS = RNG.normal(size=(5, 6, 2))


def test_rows_of_a_named_field_see_that_field_alone(poisson, x64):
    rows, values = interpolated(NODES, inside(NODES, 3)), RNG.normal(size=3)
    for channel, name in enumerate(poisson.names):
        pair: dict[str, Any] = {name: (rows, values)}
        affine = Affine.of(poisson, BOTH, noise=0.1, **pair)
        expected = apply(rows, FIELDS[..., channel]) - values
        assert_close(affine.residual_of(jnp.asarray(FIELDS)), expected, 1e-12)
    x, y = NODES.coordinates
    nodes = np.array([[x[2, 1], y[2, 1]], [x[3, 4], y[3, 4]]])
    two = values[:2]
    seen = Observation.at_points(poisson, nodes, two, name="solution", noise=0.2)
    rows = Affine.of(poisson, solution=(interpolated(NODES, nodes), two), noise=0.2)
    assert_close(misfit(rows), misfit(seen), 1e-10)


def test_a_covariance_is_the_misfit_of_its_inverse(poisson, x64):
    rows, values = interpolated(NODES, inside(NODES, 4)), RNG.normal(size=4)
    pair: dict[str, Any] = {"solution": (rows, values)}
    plain = Affine.of(poisson, noise=0.3, **pair)
    same = Affine.of(poisson, covariance=0.09 * np.eye(4), **pair)
    assert_close(misfit(same), misfit(plain), 1e-12)
    root = RNG.normal(size=(4, 4))
    c = root @ root.T + 0.1 * np.eye(4)
    correlated = Affine.of(poisson, covariance=c, **pair)
    r = apply(rows, FIELDS[..., 1]) - values
    assert_close(misfit(correlated), r @ np.linalg.solve(c, r) / 2, 1e-10)
    assert_close(correlated.given_rows[..., 1], rows, 1e-12)
    both = np.asarray((plain & correlated).relative_of(jnp.asarray(FIELDS)))
    assert_close(np.sum(both**2) / 2, misfit(plain, correlated), 1e-10)


def test_perturbed_values_have_the_covariance(poisson, x64):
    c = np.array([[1.0, 0.6], [0.6, 0.5]])
    rows = interpolated(NODES, inside(NODES, 2))
    affine = Affine.of(poisson, solution=(rows, np.zeros(2)), covariance=c)
    draw = jax.jit(jax.vmap(lambda key: affine.perturb(key=key).values))
    draws = np.asarray(draw(jax.random.split(jax.random.key(0), 20000)))
    draws = draws @ np.asarray(affine.factor).T
    assert np.abs(draws.T @ draws / 20000 - c).max() < 5 * np.sqrt(2 / 20000)


def test_rows_of_a_solution_in_time(x64):
    line = Grid((8,), boundary=Periodic())
    heat = px.pde.Heat(line, rows=5, end=2.0)
    t, (x,) = np.linspace(0, 2, 5), line.points
    u = (1 + t)[:, None] * np.cos(2 * np.pi * np.asarray(x))
    rows = at_times(heat, interpolated(line, [[0.0], [0.25], [0.5]]), [0.3, 1.0, 1.9])
    affine = Affine.of(heat, noise=0.1, solution=(rows, np.zeros(3)))
    assert_close(affine.residual_of(jnp.asarray(u)[..., None]), [1.3, 0, -2.9], 1e-12)
    start = Affine.of(heat, noise=0.1, initial=(integrals(line, x), np.zeros(1)))
    found = start.residual_of(jnp.asarray(u)[..., None])
    assert_close(found, apply(integrals(line, x), u[0]), 1e-12)
    with pytest.raises(ValueError, match=r"times are expected in \[0, 2\], got 2.5"):
        at_times(heat, interpolated(line, [[0.0]]), 2.5)
    with pytest.raises(ValueError, match=r"rows of shape \(number, 5, 8\), got rows"):
        Affine.of(heat, solution=(interpolated(line, [[0.0]]), np.zeros(1)))


def test_places_outside_the_grid_are_named():
    extent = r"whose extent is \(\(0.0, 2.0\), \(-1.0, 1.0\)\).*got"
    with pytest.raises(ValueError, match=f"points must be inside.*{extent} 2.5"):
        interpolated(NODES, [[1.0, 0.0], [2.5, 0.0]])
    with pytest.raises(ValueError, match=f"discs must be inside.*{extent} 1.2"):
        disc_averages(NODES, [[1.0, 0.7]], 0.5)
    with pytest.raises(ValueError, match=f"at must be inside.*{extent} -3"):
        fluxes(NODES, "x", [1.0, -3.0])
    with pytest.raises(ValueError, match=f"starts must be inside.*{extent} nan"):
        line_averages(NODES, [[np.nan, 0.0]], [[1.0, 0.0]])
    with pytest.raises(ValueError, match=r"shape \(number, 2\), got shape \(2,\)"):
        interpolated(NODES, [1.0, 0.0])
    with pytest.raises(ValueError, match=r"low to its high corner.*box 0 from"):
        box_averages(NODES, [[1.0, 0.5]], [[1.5, 0.1]])
    with pytest.raises(ValueError, match="two different ends, got line 0"):
        line_averages(NODES, [[1.0, 0.5]], [[1.0, 0.5]])
    with pytest.raises(ValueError, match="discs are in two dimensions"):
        disc_averages(BOX, [[0.5, 0.5, 1.5]], 0.1)


def test_a_bad_covariance_is_named(poisson, x64):
    pair = interpolated(NODES, inside(NODES, 2)), np.zeros(2)
    make = lambda **k: Affine.of(poisson, solution=pair, **k)
    with pytest.raises(ValueError, match=r"positive definite, got the least .* -1"):
        make(covariance=np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="positive definite, got the least"):
        make(covariance=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"symmetric, got entries that differ by 0\.5"):
        make(covariance=np.array([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"has shape \(2, 2\), got \(3, 3\)"):
        make(covariance=np.eye(3))
    with pytest.raises(ValueError, match="expected noise or covariance, got both"):
        make(covariance=np.eye(2), noise=0.1)
    other = px.pde.Poisson(CELLS, px.pde.Matern(CELLS, modes=4))
    seen = Observation.of(other, source=np.ones((5, 6)), noise=0.1)
    with pytest.raises(ValueError, match="on the points of one grid"):
        _ = make(noise=0.1) & seen


def test_averages_in_other_units_are_refused(poisson, x64):
    """At once, or when they are joined to what has a normaliser; fluxes are not."""
    units = px.pde.Normaliser((0.0, 5.0), (1.0, 0.1))
    rows, values = interpolated(NODES, inside(NODES, 3)), np.array([5.1, 4.9, 5.2])
    c = 0.01 * (np.eye(3) + 0.5)
    noises: list[dict[str, Any]] = [{"noise": 0.1}, {"covariance": c}]
    for noise in noises:
        Affine.of(poisson, units, solution=(2 * rows, 2 * values), **noise)
        with pytest.raises(
            ValueError, match=r"got 3 of 3 \(the first is 51\) that are"
        ):
            Affine.of(poisson, units, solution=(2 * rows, 20 * values), **noise)
    late = Affine.of(poisson, solution=(rows, values - 5.0), noise=0.1)
    with pytest.raises(ValueError, match=r"got 3 of 3 \(the first is 0.1\)"):
        late.adopt(units)
    one = Affine.of(poisson, solution=(rows, values * [1, 1, 10]), noise=0.1)
    assert one.adopt(units).normaliser == units  # one of three is an outlier
    flux = fluxes(NODES, "x", "high")
    Affine.of(poisson, units, solution=(flux, np.array([100.0])), noise=0.1)
