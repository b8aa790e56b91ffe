"""Flux-form operators: exact where they promise it, of their order elsewhere, and the
matrices that Lineax is told of.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from helpers import assert_close, tolerance
from jaxtyping import TypeCheckError
from manufactured import field, grid_of, order, shape_of, unit

from pidax.pde import (
    Advection,
    Curl,
    Derivative,
    Diffusion,
    Dirichlet,
    Divergence,
    Gradient,
    Grid,
    Laplacian,
    Neumann,
    Periodic,
    face_points,
    face_weights,
)

layouts = pytest.mark.parametrize("layout", ["nodes", "cells"])
ALL = [("D",), ("DN",), ("P",), ("DN", "ND"), ("N", "D", "P")]
kinds_of = lambda these: pytest.mark.parametrize("kinds", these, ids="-".join)


def linear(kinds, xs, powers=None):
    """1 + 2x - 3y + z/2, differentiated `powers` times along each axis."""
    slopes = (2.0, -3.0, 0.5)[: len(xs)]
    powers = powers or (0,) * len(xs)
    if sum(powers) == 0:
        return 1.0 + sum(s * x for s, x in zip(slopes, xs, strict=True))
    return slopes[powers.index(1)] * np.ones(np.shape(xs[0])) * (sum(powers) == 1)


def coefficient(xs):
    """A smooth positive coefficient, and its slope along each axis over itself."""
    k = (0.7, 0.4, -0.5)[: len(xs)]
    return np.exp(sum(r * x for r, x in zip(k, xs, strict=True))), k


# --- exact on what is linear: every sign and every datum -----------------------------


@layouts
@kinds_of([("D",), ("N",), ("DN", "ND"), ("D", "N", "DN")])
def test_linear_fields_are_treated_exactly_by_the_data_of_all_sides(
    kinds, layout, dtype
):
    ndim, shape = len(kinds), (5, 4, 6)[: len(kinds)]
    grid = grid_of(kinds, shape, layout, linear)
    u = jnp.asarray(linear(kinds, [np.asarray(x) for x in grid.coordinates]))
    near = tolerance(dtype, 10)
    for axis, flux in enumerate(Gradient(grid)(u)):
        assert flux.dtype == dtype
        assert_close(flux, linear(kinds, [u] * ndim, unit(axis, ndim)).flat[0], near)  # type: ignore
    assert_close(Laplacian(grid)(u), 0, 20 * near)
    # The values that u has on prescribed nodes do not matter: they are replaced.
    assert_close(Laplacian(grid)(grid.pad(grid.restrict(u))), 0, 20 * near)
    v = Advection(grid, tuple((0.5, -1.0, 2.0)[:ndim]))(u)
    exact = sum(a * b for a, b in zip((0.5, -1, 2)[:ndim], (2, -3, 0.5), strict=False))
    assert_close(grid.restrict(v), exact, near)
    assert_close(v, grid.pad(grid.restrict(v)), 0)


# --- observed orders -----------------------------------------------------------------


@layouts
@kinds_of([("D",), ("DN",), ("P",), ("ND", "P")])
def test_the_gradient_at_faces_is_of_second_order(kinds, layout, x64):
    ndim = len(kinds)
    inner, ends = [], []
    for n in (16, 32):
        grid = grid_of(kinds, shape_of(kinds, n, layout), layout)
        u = jnp.asarray(field(kinds, grid.coordinates))
        fluxes = Gradient(grid)(u)
        errors = [
            np.abs(f - field(kinds, face_points(grid, axis), unit(axis, ndim)))
            for axis, f in enumerate(fluxes)
        ]
        inner.append(
            max(np.moveaxis(e, i, 0)[1:-1].max() for i, e in enumerate(errors))
        )
        ends.append(errors[0][0].max())
    assert abs(order(inner) - 2) < 0.2
    if kinds[0].startswith("D"):  # half a cell on one side of the face: first order
        assert abs(order(ends) - (1 if layout == "cells" else 2)) < 0.2
    elif kinds[0] != "P":
        assert ends[1] < 1e-13


@layouts
@kinds_of([("D",), ("P",), ("D", "P")])
def test_the_divergence_at_points_is_of_second_order(kinds, layout, x64):
    ndim, errors = len(kinds), []
    for n in (16, 32):
        grid = grid_of(kinds, shape_of(kinds, n, layout), layout)
        fluxes = tuple(
            jnp.asarray(field(kinds, face_points(grid, axis))) for axis in range(ndim)
        )
        exact = sum(field(kinds, grid.coordinates, unit(i, ndim)) for i in range(ndim))
        error = Divergence(grid)(fluxes) - exact
        errors.append(jnp.abs(grid.restrict(error)).max())
    assert abs(order(errors) - 2) < 0.2


@functools.partial(jax.jit, static_argnames=("mean",))
def system(grid, a, f, mean):
    """The matrix, the right side and the weights of div(a grad u) = f."""
    diffusion = Diffusion(grid, a, mean)
    weights = grid.restrict(grid.weights).ravel()
    return diffusion.as_matrix(), diffusion.load(f).ravel(), weights


def solution_error(kinds, n, layout, mean):
    grid = grid_of(kinds, shape_of(kinds, n, layout), layout)
    xs = [np.asarray(x) for x in grid.coordinates]
    u, ndim = field(kinds, xs), len(kinds)
    a, rates = coefficient(xs)
    if "P" in kinds:
        a, rates = np.ones(grid.shape), (0.0,) * ndim
    f = sum(
        a * field(kinds, xs, unit(i, ndim, 2))
        + rates[i] * a * field(kinds, xs, unit(i, ndim))
        for i in range(ndim)
    )
    matrix, load, weights = map(np.asarray, system(grid, a, f, mean))
    if Laplacian(grid).nullspace is None:
        found = np.linalg.solve(matrix, load)
        error = found - grid.restrict(u).ravel()  # type: ignore
    else:  # the data of the exact solution are compatible to the scheme's order only
        found = np.linalg.lstsq(matrix, load, rcond=1e-10)[0]
        error = found - grid.restrict(u).ravel()  # type: ignore
        error = error - (weights * error).sum() / weights.sum()
    return np.abs(error).max()


@layouts
@kinds_of([("N",), ("DN", "ND"), ("P", "P"), ("N", "D")])
def test_solutions_are_of_second_order_for_every_kind_of_side(kinds, layout, x64):
    sizes = (10, 20) if len(kinds) == 2 else (20, 40)
    errors = [solution_error(kinds, n, layout, "arithmetic") for n in sizes]
    assert abs(order(errors) - 2) < 0.2


def test_so_they_are_with_the_harmonic_mean_between_held_values(x64):
    errors = [solution_error(("D",), n, "cells", "harmonic") for n in (20, 40)]
    assert abs(order(errors) - 2) < 0.2


@pytest.mark.slow
def test_solutions_in_three_dimensions(x64):
    kinds = ("D", "N", "P")
    errors = [solution_error(kinds, n, "nodes", "arithmetic") for n in (5, 10)]
    assert abs(order(errors) - 2) < 0.2


@pytest.mark.slow
def test_the_harmonic_mean_keeps_the_flux_through_layers_exactly(x64):
    # Two materials in series: the flux is 1 / (sum of resistances), u piecewise linear.
    grid = Grid(10, layout="cells", boundary=((Dirichlet(0.0), Dirichlet(1.0)),))
    a = jnp.where(grid.points[0] < 0.5, 1.0, 9.0)
    layers = Diffusion(grid, a, "harmonic")
    u = lx.linear_solve(layers, layers.load(jnp.zeros(10))).value
    flux = layers.faces[0] * Gradient(grid)(u)[0]
    assert_close(flux, 1 / (0.5 / 1 + 0.5 / 9), 1e-12)


# --- conservation and adjoints -------------------------------------------------------


@eqx.filter_jit
def conserved(grid, key):
    """Both sides of the adjoint identity, and of the divergence theorem."""
    gradient, divergence = Gradient(grid), Divergence(grid)
    structure = divergence.in_structure()
    keys = jax.random.split(key, 4)
    v = jax.random.normal(keys[3], grid.unknown_shape)
    fluxes = tuple(
        jax.random.normal(k, s.shape) for k, s in zip(keys, structure, strict=False)
    )
    closed = tuple(insulated(grid, flux, axis) for axis, flux in enumerate(fluxes))
    w = grid.restrict(grid.weights)
    one = jnp.sum(w * v * divergence.mv(closed))
    pairs = zip(face_weights(grid), closed, gradient.mv(v), strict=True)
    other = -sum(jnp.sum(o * f * g) for o, f, g in pairs)
    outward = sum(leaving(grid, flux, axis) for axis, flux in enumerate(fluxes))
    return (one, other), (grid.integral(divergence(fluxes)), outward)


def insulated(grid, flux, axis):
    """The flux without its values on Neumann sides."""
    for end, side in zip((0, -1), grid.boundary[axis], strict=True):
        if isinstance(side, Neumann):
            flux = flux.at[(slice(None),) * axis + (end,)].set(0.0)
    return flux


def leaving(grid, flux, axis):
    """The flux through the two sides of one axis, times their area."""
    if grid.periodic[axis]:
        return 0.0
    area = np.ones(())
    for other in range(grid.ndim):
        if other != axis:
            area = np.multiply.outer(area, grid.widths(other))
    through = jnp.take(flux, -1, axis) - jnp.take(flux, 0, axis)
    return jnp.sum(jnp.asarray(area, flux.dtype) * through)


@layouts
@kinds_of(ALL)
def test_divergence_and_gradient_are_adjoint_and_conserve(kinds, layout, x64, key):
    grid = grid_of(kinds, (5, 4, 6)[: len(kinds)], layout)
    adjoint, theorem = conserved(grid, key)
    assert_close(*adjoint, 1e-12)
    assert_close(*theorem, 1e-12)
    assert adjoint[0] != 0


def test_so_they_are_in_single_precision(x32, key):
    grid = grid_of(("DN", "P"), (5, 4), "cells")
    for one, other in conserved(grid, key):
        assert one.dtype == np.float32
        assert_close(one, other, tolerance(np.dtype("f4"), 10))


# --- the matrices --------------------------------------------------------------------


def operators(grid):
    """Every operator that there is on this grid."""
    a = jnp.exp(sum(grid.coordinates) / 2)
    found = [
        Gradient(grid),
        Divergence(grid),
        Gradient(grid, at="points"),
        Divergence(grid, at="points"),
        Laplacian(grid),
        Diffusion(grid, a),
        Derivative(grid, 0),
        Derivative(grid, grid.ndim - 1, power=2),
        Advection(grid, (a,) * grid.ndim),
        Advection(grid, (a, -0.5, 1.0)[: grid.ndim], "upwind"),
    ]
    if grid.ndim > 1:
        found += [Curl(grid)]
    if all(grid.periodic):
        found += [Laplacian(grid, 4), Laplacian(grid, 6), Laplacian(grid, "spectral")]
        found += [Derivative(grid, 0, p, "spectral") for p in (1, 2, 3, 4)]
        found += [Curl(grid, "spectral")] if grid.ndim > 1 else []
    return found


@eqx.filter_jit
def matrices(operators):
    """Of each operator the matrix, an adjoint identity, and what else it can say."""
    found = []
    for operator in operators:
        more = {}
        if lx.is_tridiagonal(operator):
            more["tridiagonal"] = lx.tridiagonal(operator)
        if isinstance(operator, Laplacian | Diffusion):
            more["diagonal"] = lx.diagonal(operator)
            more["weighted"] = operator.weighted().as_matrix()
        u, v = wave(operator.in_structure()), wave(operator.out_structure())
        adjoint = inner(operator.mv(u), v), inner(u, operator.T.mv(v))
        found.append((operator.as_matrix(), adjoint, more))
    return found


def wave(structure):
    """Some vector of this structure."""
    return jax.tree.map(
        lambda s: jnp.cos(jnp.arange(s.size, dtype=s.dtype) ** 2).reshape(s.shape),
        structure,
    )


def inner(u, v):
    """The inner product of two vectors of one structure."""
    return sum(map(jnp.vdot, jax.tree.leaves(u), jax.tree.leaves(v)))


def check_told(operator, matrix, adjoint, more, dtype):
    """What Lineax is told of the operator is true of its matrix, and all of it."""
    name, near = repr(operator), tolerance(dtype) * np.abs(matrix).max()
    assert matrix.dtype == dtype
    assert matrix.shape == (operator.out_size(), operator.in_size()), name
    assert_close(*adjoint, 0, near)  # type: ignore
    square = matrix.shape[0] == matrix.shape[1]
    symmetric = square and bool(np.abs(matrix - matrix.T).max() < near)
    assert lx.is_symmetric(operator) == symmetric, name
    if symmetric:
        values = np.linalg.eigvalsh(matrix.astype(float))
        assert lx.is_negative_semidefinite(operator) == (values.max() < 10 * near)
        assert lx.is_positive_semidefinite(operator) == (values.min() > -10 * near)
    if "tridiagonal" in more:
        assert not np.triu(matrix, 2).any()
        assert not np.tril(matrix, -2).any()
        parts = [np.diagonal(matrix, k) for k in (0, -1, 1)]
        for found, exact in zip(more["tridiagonal"], parts, strict=True):
            assert_close(found, exact, 0, near)
    if "diagonal" in more:
        assert_close(more["diagonal"], np.diagonal(matrix), 0, near)
        assert_close(more["weighted"], more["weighted"].T, 0, near)


@pytest.mark.parametrize(
    ("kinds", "layout"),
    [
        (("DN",), "nodes"),
        (("DN", "ND"), "nodes"),
        (("P", "P"), "nodes"),
        (("D",), "cells"),
        (("DN", "P"), "cells"),
    ],
    ids=str,
)
def test_what_lineax_is_told_is_true_of_the_matrix(kinds, layout, x64):
    grid = grid_of(kinds, (6, 5)[: len(kinds)], layout)
    these = operators(grid)
    for operator, found in zip(these, matrices(these), strict=True):
        check_told(operator, *jax.tree.map(np.asarray, found), np.dtype("f8"))  # type: ignore
    assert (Laplacian(grid).nullspace is None) == ("D" in "".join(kinds))


@pytest.mark.slow
def test_so_it_is_in_single_precision(x32):
    these = operators(grid_of(("D", "P"), (6, 5), "nodes"))
    for operator, found in zip(these, matrices(these), strict=True):
        check_told(operator, *jax.tree.map(np.asarray, found), np.dtype("f4"))  # type: ignore


def test_a_line_is_materialised_as_three_diagonals():
    line = lx.materialise(Laplacian(Grid(5)))
    assert isinstance(line, lx.TridiagonalLinearOperator)


@layouts
@kinds_of([("ND", "P")])
def test_operators_are_their_matrix_and_their_data(kinds, layout, x64, key):
    grid = grid_of(kinds, (6, 5)[: len(kinds)], layout)
    u, v, f = jax.random.normal(key, (3, *grid.shape))

    @eqx.filter_jit
    def pairs(operator):
        # A(u) - f = A0 u_unknown - load(f): the residual of what is solved.
        unknown, plain = grid.restrict(u), operator.homogeneous()
        yields = [(operator.mv(unknown) - operator.load(f), operator(u) - f)]
        # Differences of fields do not see the data.
        change = operator(u) - operator(v)
        yields += [(operator.mv(grid.restrict(u - v)), change)]
        return [(a, grid.restrict(b)) for a, b in yields], (plain(u - v), change)

    a = jnp.exp(grid.coordinates[0])
    for operator in (Laplacian(grid), Diffusion(grid, a), Advection(grid, (a, 1.0))):
        on_unknowns, on_fields = pairs(operator)
        for found, exact in (*on_unknowns, on_fields):
            assert_close(found, exact, 1e-10)


@layouts
def test_the_laplacian_is_the_divergence_of_the_gradient(layout, x64):
    grid = grid_of(("DN", "P"), (5, 4), layout)
    both = (Divergence(grid) @ Gradient(grid)).as_matrix()
    assert_close(both, Laplacian(grid).as_matrix(), 1e-11)
    u = jnp.asarray(field(("DN", "P"), grid.coordinates)) + 1.0
    full = Divergence(grid)(Gradient(grid)(u))
    assert_close(Laplacian(grid)(u), grid.pad(grid.restrict(full)), 1e-11)
    same = Diffusion(grid, jnp.ones(grid.shape))(u)
    assert_close(same, Laplacian(grid)(u), 1e-11)


# --- Lineax solves with them ---------------------------------------------------------


@pytest.mark.parametrize("solver", [lx.CG(1e-12, 1e-12), lx.LU()], ids=["CG", "LU"])
@layouts
def test_lineax_solves_with_an_operator(solver, layout, x64, key):
    grid = Grid(
        (7, 6), layout=layout, boundary=((Dirichlet(1.0), Dirichlet()), Periodic())
    )
    a, f = jnp.exp(jax.random.normal(key, (2, *grid.shape)))

    @jax.jit
    def solve(grid, a, f):
        darcy = Diffusion(grid, a)
        inner = lx.linear_solve(darcy, darcy.load(-f), solver).value
        u = grid.extend(inner)
        return u, grid.restrict(darcy(u) + f)

    u, residual = solve(grid, a, 20 * f)
    assert_close(residual, 0, 1e-9)
    assert u.max() > 1.01  # a source heats above the walls
    if layout == "nodes":
        assert_close(u[0], 1.0, 0)


@layouts
def test_a_line_is_solved_by_its_three_diagonals(layout, dtype):
    # u'' = 2 with u(0) = 1, u'(1) = 3: u = x^2 + x + 1, exact on nodes.
    grid = Grid(20, layout=layout, boundary=((Dirichlet(1.0), Neumann(3.0)),))
    laplacian = Laplacian(grid)
    inner = lx.linear_solve(laplacian, laplacian.load(jnp.full(20, 2.0))).value
    x = grid.points[0]
    exact = x**2 + x + 1
    if layout == "cells":  # exact up to a constant: half a cell beside the wall
        exact = exact + (inner - exact)[0]
        assert abs((inner - (x**2 + x + 1))[0]) < grid.spacing[0] ** 2
    assert_close(grid.extend(inner), exact, tolerance(dtype, 20))


@layouts
def test_without_a_held_value_the_weighted_matrix_and_a_compatible_source(layout, x64):
    grid = Grid((9, 8), layout=layout, boundary=Neumann())
    x, y = grid.coordinates
    source = jnp.cos(np.pi * x) * jnp.cos(2 * np.pi * y)
    source = source - grid.mean(source)
    laplacian = Laplacian(grid)
    rows = grid.weights * laplacian.load(source)
    found = lx.linear_solve(laplacian.weighted(), rows, lx.CG(1e-12, 1e-12)).value
    assert_close(laplacian(found), source, 1e-9)
    constant = laplacian.nullspace
    assert_close(grid.norm(constant), 1.0, 1e-12)  # type: ignore
    assert_close(laplacian(constant), 0.0, 1e-10)  # type: ignore


def test_solves_differentiate_and_map(x64, key):
    grid = Grid((5, 5))

    def mean(a):
        darcy = Diffusion(grid, a)
        f = -jnp.ones(grid.shape)
        return jnp.sum(lx.linear_solve(darcy, darcy.load(f), lx.CG(1e-13, 1e-13)).value)

    a = jnp.exp(jax.random.normal(key, (3, 5, 5)))
    slopes = jax.jit(jax.vmap(jax.grad(mean)))(a)
    # u is homogeneous of degree -1 in a: Euler's theorem.
    assert_close(jnp.sum(slopes * a, (1, 2)), -jax.jit(jax.vmap(mean))(a), 1e-9)


# --- bad input -----------------------------------------------------------------------


def test_fields_of_another_grid_are_refused_by_name():
    grid, u = Grid((4, 5)), jnp.ones((5, 4))
    for operator in (
        Gradient(grid),
        Laplacian(grid),
        Diffusion(grid, jnp.ones((4, 5))),
    ):
        with pytest.raises(ValueError, match=r"u must have a value .* \(4, 5\), got"):
            operator(u)
    with pytest.raises(ValueError, match=r"coefficient must .* \(4, 5\), got"):
        Diffusion(grid, u)
    with pytest.raises(ValueError, match="y component of velocity must have"):
        Advection(grid, (1.0, u))
    with pytest.raises(ValueError, match="one component for each of 2 axes, got 1"):
        Advection(grid, 1.0)
    with pytest.raises(ValueError, match=r"one array for each of x, y, of the shapes"):
        Divergence(grid)((u, u))
    with pytest.raises(TypeCheckError, match="parameter 'u'"):
        Laplacian(grid)(jnp.ones((4, 5), int))


@pytest.mark.parametrize("value", [0.0, -2.5, np.nan, np.inf])
def test_a_coefficient_that_is_not_positive_is_shown_with_its_place(value):
    grid = Grid((4, 5))
    a = np.ones((4, 5))
    a[1, 2] = value
    with pytest.raises(ValueError, match=rf"{value} at \(1, 2\), .*\(0.333333, 0.5\)"):
        Diffusion(grid, a)
    with pytest.raises(Exception, match="coefficient of Diffusion must be positive"):
        jax.block_until_ready(jax.jit(lambda a: Diffusion(grid, a).faces)(a))


def test_what_is_not_offered_is_refused_with_what_is():
    grid, ring = Grid(8), Grid(8, boundary=Periodic())
    half = Grid((8, 8), boundary=(Periodic(), Neumann()))
    refused = {
        "order=4 is for periodic axes, and x is bounded, where the order is 2": (
            lambda: Laplacian(grid, 4)
        ),
        "y is bounded": lambda: Laplacian(half, "spectral"),
        "order must be one of .*'spectral'.*, got 3": lambda: Laplacian(ring, 3),  # type: ignore
        "at faces the order is 2, got order=4.*at='points'": (
            lambda: Gradient(ring, order=4)
        ),
        "at must be 'faces' or 'points', got 'edges'": lambda: Divergence(
            ring,
            "edges",  # type: ignore
        ),
        "mean must be 'arithmetic' or 'harmonic', got 'geometric'": (
            lambda: Diffusion(grid, jnp.ones(8), "geometric")  # type: ignore
        ),
        "scheme must be 'central' or 'upwind', got 'quick'": (
            lambda: Advection(grid, 1.0, "quick")  # type: ignore
        ),
    }
    for message, make in refused.items():
        with pytest.raises(ValueError, match=message):
            make()
    assert Derivative(half, 0, order=4).order == 4


@pytest.mark.parametrize("high", [12.0, 0.1])
def test_a_given_slope_meets_the_material_that_is_there(high, x64):
    """-(a u')' = 0 with a jump one, two, three cells from the slope: flux a(1) g."""
    for cells in (1, 2, 3):
        side = Neumann(2.0)
        grid = Grid((8,), layout="cells", boundary=((Dirichlet(), side),))
        a = np.where(np.arange(8) < 8 - cells, high, 3.0)
        balance = Diffusion(grid, a)(jnp.zeros(8))
        # All that goes in is what the side lets in: 3 for a, 2 for its slope.
        assert grid.integral(balance) == pytest.approx(6.0, rel=1e-13)
    # A steep coefficient stays positive at the side, a line goes on as a line.
    for a, face in (((9.0, 5.0, 1.0), 0.5), ((1.0, 2.0, 3.0), 3.5)):
        grid = Grid((3,), layout="cells", boundary=Neumann(1.0))
        found = Diffusion(grid, np.array(a)).faces[0][-1]
        assert found == face
