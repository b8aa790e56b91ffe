"""Flux-form operators: exact where they promise it, of their order elsewhere, and the
matrices that Lineax is told of.
"""

from typing import Any

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

LAYOUTS: tuple[Any, ...] = ("nodes", "cells")
ALL = [("DN", "ND"), ("N", "D", "P")]


def grids_of(these, shape, data=field):
    """A grid of every kind in every layout, with what it was made of."""
    return [
        (kinds, layout, grid_of(kinds, shape(kinds, layout), layout, data))
        for kinds in these
        for layout in LAYOUTS
    ]


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


VELOCITY = (0.5, -1.0, 2.0)


@eqx.filter_jit
def of_linear(grid, u):
    """Of a linear field: slopes, Laplacians, advection."""
    v = Advection(grid, VELOCITY[: grid.ndim])(u)
    # The values that u has on prescribed nodes do not matter: they are replaced.
    laplacians = [Laplacian(grid)(f) for f in (u, grid.pad(grid.restrict(u)))]
    return Gradient(grid)(u), laplacians, (v, grid.pad(grid.restrict(v)))


def check_linear(these, dtype):
    shape = lambda kinds, layout: (5, 4, 6)[: len(kinds)]
    cases = grids_of(these, shape, linear)
    grids = [grid for _, _, grid in cases]
    xs = [[np.asarray(x, float) for x in grid.coordinates] for grid in grids]
    fields = [
        jnp.asarray(linear(kinds, x), dtype)
        for (kinds, _, _), x in zip(cases, xs, strict=True)
    ]
    near, slopes = tolerance(dtype, 10), (2.0, -3.0, 0.5)
    for grid, u in zip(grids, fields, strict=True):
        fluxes, laplacians, (v, padded) = of_linear(grid, u)
        for flux, slope in zip(fluxes, slopes, strict=False):
            assert flux.dtype == dtype
            assert_close(flux, slope, near)
        for laplacian in laplacians:
            assert_close(laplacian, 0, 20 * near)
        exact = sum(a * b for a, b in zip(VELOCITY[: grid.ndim], slopes, strict=False))
        assert_close(np.asarray(v)[grid.unknown], exact, near)
        assert_close(v, padded, 0)


@pytest.mark.slow
def test_linear_fields_are_treated_exactly_by_the_data_of_all_sides(x64):
    check_linear([("DN", "ND"), ("D", "N", "DN")], np.dtype("f8"))


def test_so_they_are_in_float32(x32):
    check_linear([("DN", "ND")], np.dtype("f4"))


# --- observed orders -----------------------------------------------------------------


@eqx.filter_jit
def slopes_and_balances(grid, u, fluxes):
    return Gradient(grid)(u), grid.restrict(Divergence(grid)(fluxes))


@pytest.mark.slow
def test_gradient_at_faces_and_divergence_at_points_are_of_second_order(x64):
    kinds = [("DN",), ("ND", "P"), ("D", "P")]
    sizes = [grids_of(kinds, lambda k, la, n=n: shape_of(k, n, la)) for n in (16, 32)]
    cases = [case for both in zip(*sizes, strict=True) for case in both]
    grids = [grid for _, _, grid in cases]
    faces = [[face_points(g, axis) for axis in range(g.ndim)] for g in grids]
    fields = [jnp.asarray(field(k, g.coordinates)) for k, _, g in cases]
    fluxes = [
        tuple(jnp.asarray(field(k, x)) for x in at)
        for (k, _, _), at in zip(cases, faces, strict=True)
    ]
    found = list(map(slopes_and_balances, grids, fields, fluxes))
    inner, ends, points = [], [], []
    for (k, _, grid), at, (slopes, balance) in zip(cases, faces, found, strict=True):
        ndim = grid.ndim
        errors = [
            np.abs(s - field(k, x, unit(i, ndim)))
            for i, (s, x) in enumerate(zip(slopes, at, strict=True))
        ]
        inner.append(
            max(np.moveaxis(e, i, 0)[1:-1].max() for i, e in enumerate(errors))
        )
        ends.append(errors[0][0].max())
        exact = sum(field(k, grid.coordinates, unit(i, ndim)) for i in range(ndim))
        points.append(np.abs(balance - np.asarray(exact)[grid.unknown]).max())
    for i in range(0, len(cases), 2):
        kind, layout, _ = cases[i]
        assert abs(order(inner[i : i + 2]) - 2) < 0.2
        if "N" not in "".join(kind):  # half a volume has a balance of first order
            assert abs(order(points[i : i + 2]) - 2) < 0.2
        if kind[0].startswith("D"):  # half a cell on one side of the face: first order
            assert abs(order(ends[i : i + 2]) - (1 if layout == "cells" else 2)) < 0.2
        elif kind[0] != "P":
            assert ends[i + 1] < 1e-13


@eqx.filter_jit
def system(grid, columns, a, f, mean):
    """The matrix, by columns, and the right side of div(a grad u) = f."""
    diffusion = Diffusion(grid, a, mean)
    return jax.vmap(diffusion.mv)(columns), diffusion.load(f)


def manufactured(kinds, grid):
    """The exact solution, a coefficient, and the source that the two need."""
    xs, ndim = [np.asarray(x) for x in grid.coordinates], grid.ndim
    a, rates = coefficient(xs)
    if "P" in kinds:
        a, rates = np.ones(grid.shape), (0.0,) * ndim
    f = sum(
        a * field(kinds, xs, unit(i, ndim, 2))
        + rates[i] * a * field(kinds, xs, unit(i, ndim))
        for i in range(ndim)
    )
    return field(kinds, xs), a, f


def check_solutions(cases, mean):
    """The cases come in pairs, coarse and fine."""
    grids = [grid for _, grid in cases]
    exact, coefficients, sources = zip(
        *(manufactured(kinds, grid) for kinds, grid in cases), strict=True
    )
    shapes = [grid.unknown_shape for grid in grids]
    columns = [np.eye(int(np.prod(n))).reshape(-1, *n) for n in shapes]
    errors = []
    for grid, u, eye, a, f in zip(
        grids, exact, columns, coefficients, sources, strict=True
    ):
        matrix, load = system(grid, eye, a, f, mean)
        matrix, load = np.reshape(matrix, (len(matrix), -1)).T, np.ravel(load)
        inner = u[grid.unknown].ravel()
        weights = np.asarray(grid.weights)[grid.unknown].ravel()
        if Laplacian(grid).nullspace is None:
            error = np.linalg.solve(matrix, load) - inner
        else:  # the exact solution's data are compatible to the scheme's order only
            error = np.linalg.lstsq(matrix, load, rcond=1e-10)[0] - inner
            error = error - (weights * error).sum() / weights.sum()
        errors.append(np.abs(error).max())
    for pair in zip(errors[::2], errors[1::2], strict=True):
        assert abs(order(pair) - 2) < 0.2


def both_sizes(kinds, layout, sizes):
    made = lambda n: grid_of(kinds, shape_of(kinds, n, layout), layout)
    return [(kinds, made(n)) for n in sizes]


@pytest.mark.slow
def test_solutions_are_of_second_order_for_every_kind_of_side(x64):
    cases = both_sizes(("P", "P"), "nodes", (8, 16))
    for layout in LAYOUTS:
        cases += both_sizes(("N",), layout, (20, 40))
        cases += both_sizes(("DN", "ND"), layout, (8, 16))
    check_solutions(cases, "arithmetic")


def test_so_they_are_with_the_harmonic_mean_between_held_values(x64):
    check_solutions(both_sizes(("D",), "cells", (20, 40)), "harmonic")


@pytest.mark.slow
def test_solutions_in_three_dimensions(x64):
    check_solutions(both_sizes(("D", "N", "P"), "nodes", (5, 10)), "arithmetic")


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
def conserved(grid, v, fluxes):
    """Both sides of the adjoint identity, and of the divergence theorem."""
    gradient, divergence = Gradient(grid), Divergence(grid)
    closed = tuple(insulated(grid, flux, axis) for axis, flux in enumerate(fluxes))
    w = grid.restrict(grid.weights)
    one = jnp.sum(w * v * divergence.mv(closed))
    pairs = zip(face_weights(grid), closed, gradient.mv(v), strict=True)
    other = -sum(jnp.sum(o * f * g) for o, f, g in pairs)
    outward = sum(leaving(grid, flux, axis) for axis, flux in enumerate(fluxes))
    return (one, other), (grid.integral(divergence(fluxes)), outward)


def random_fluxes(grid, dtype):
    rng = np.random.default_rng(0)
    some = lambda shape: jnp.asarray(rng.normal(size=shape), dtype)
    structure = Divergence(grid).in_structure()
    return some(grid.unknown_shape), tuple(some(part.shape) for part in structure)


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


@pytest.mark.slow
def test_divergence_and_gradient_are_adjoint_and_conserve(x64):
    cases = grids_of(ALL, lambda kinds, layout: (5, 4, 6)[: len(kinds)])
    for _, _, grid in cases:
        adjoint, theorem = conserved(grid, *random_fluxes(grid, np.dtype("f8")))
        for one, other in (adjoint, theorem):
            assert_close(one, other, 1e-12)
        assert adjoint[0] != 0


def test_so_they_are_in_single_precision(x32):
    grid = grid_of(("DN", "P"), (5, 4), "cells")
    for one, other in conserved(grid, *random_fluxes(grid, np.dtype("f4"))):
        assert one.dtype == np.float32
        assert_close(one, other, tolerance(np.dtype("f4"), 10))


# --- the matrices --------------------------------------------------------------------


def operators(grid):
    """The operators whose matrices depend on what kind of grid it is."""
    a = jnp.exp(sum(grid.coordinates) / 2)
    found = [
        Gradient(grid),
        Divergence(grid),
        Laplacian(grid),
        Diffusion(grid, a),
        Derivative(grid, grid.ndim - 1, power=2),
        Advection(grid, (a, -0.5, 1.0)[: grid.ndim], "upwind"),
    ]
    if grid.ndim > 1:
        found += [Gradient(grid, at="points"), Divergence(grid, at="points")]
        found += [Curl(grid)]
    return found


def spectral_operators(ring):
    """Those that only a periodic grid has."""
    found = [Laplacian(ring, 4), Laplacian(ring, "spectral"), Curl(ring, "spectral")]
    return found + [Derivative(ring, 0, p, "spectral") for p in (1, 2)]


@eqx.filter_jit
def made(grids, held=None):
    """Every operator on these grids, and those that are symmetric on `held`."""
    found = []
    for grid in grids:
        make = spectral_operators if all(grid.periodic) else operators
        found += make(grid)
    if held is not None:
        found += [Laplacian(held)]
    return found


@eqx.filter_jit
def matrix_of(operator):
    """The matrix, an adjoint identity, and what else the operator can say."""
    more = {}
    if lx.is_tridiagonal(operator):
        more["tridiagonal"] = lx.tridiagonal(operator)
    if isinstance(operator, Laplacian | Diffusion):
        more["diagonal"] = lx.diagonal(operator)
        more["weighted"] = operator.weighted().as_matrix()
    u, v = wave(operator.in_structure()), wave(operator.out_structure())
    adjoint = inner(operator.mv(u), v), inner(u, operator.T.mv(v))
    return operator.as_matrix(), adjoint, more


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


@pytest.mark.slow
def test_what_lineax_is_told_is_true_of_the_matrix(x64):
    """Thirty operators, a program for each: compiling is what takes the time."""
    line = grid_of(("DN",), (6,), "nodes")
    plane, ring = grid_of(("DN", "P"), (6, 5), "cells"), grid_of("PP", (6, 5), "nodes")
    held = grid_of(("DN", "ND"), (6, 5), "nodes")
    these = made((line, plane, ring), held)
    for operator in these:
        found = jax.tree.map(np.asarray, matrix_of(operator))
        check_told(operator, *found, np.dtype("f8"))  # type: ignore
    assert Laplacian(line).nullspace is None
    assert Laplacian(ring).nullspace is not None


@pytest.mark.slow
def test_so_it_is_in_single_precision(x32):
    these = made([grid_of(("D", "P"), (6, 5), "nodes")])
    for operator in these:
        found = jax.tree.map(np.asarray, matrix_of(operator))
        check_told(operator, *found, np.dtype("f4"))  # type: ignore


@pytest.mark.slow
def test_a_line_is_materialised_as_three_diagonals():
    line = lx.materialise(Laplacian(Grid(5)))
    assert isinstance(line, lx.TridiagonalLinearOperator)


@pytest.mark.slow
def test_operators_are_their_matrix_and_their_data(x64):
    u, v, f = np.random.default_rng(0).normal(size=(3, 6, 5))
    grids = [grid_of(("ND", "P"), (6, 5), layout) for layout in LAYOUTS]

    @eqx.filter_jit
    def pairs(grids):
        found = []
        for grid in grids:
            a = jnp.exp(grid.coordinates[0])
            for operator in (
                Laplacian(grid),
                Diffusion(grid, a),
                Advection(grid, (a, 1.0)),
            ):
                # A(u) - f = A0 u_unknown - load(f): the residual of what is solved.
                unknown, plain = grid.restrict(u), operator.homogeneous()
                residual = operator.mv(unknown) - operator.load(f)
                found.append((residual, grid.restrict(operator(u) - f)))
                # Differences of fields do not see the data.
                change = operator(u) - operator(v)
                found.append((operator.mv(grid.restrict(u - v)), grid.restrict(change)))
                found.append((plain(u - v), change))
        return found

    for found, exact in pairs(grids):
        assert_close(found, exact, 1e-10)


def test_the_laplacian_is_the_divergence_of_the_gradient(x64):
    grids = [grid_of(("DN", "P"), (5, 4), layout) for layout in LAYOUTS]
    fields = [jnp.asarray(field(("DN", "P"), g.coordinates)) + 1.0 for g in grids]

    @eqx.filter_jit
    def pairs(grids, fields):
        found = []
        for grid, u in zip(grids, fields, strict=True):
            full, same = Divergence(grid)(Gradient(grid)(u)), Laplacian(grid)(u)
            both = (Divergence(grid) @ Gradient(grid)).as_matrix()
            found.append((both, Laplacian(grid).as_matrix()))
            found.append((same, grid.pad(grid.restrict(full))))
            found.append((Diffusion(grid, jnp.ones(grid.shape))(u), same))
        return found

    for found, exact in pairs(grids, fields):
        assert_close(found, exact, 1e-11)


# --- Lineax solves with them ---------------------------------------------------------


@pytest.mark.slow
def test_lineax_solves_with_an_operator(x64):
    sides = ((Dirichlet(1.0), Dirichlet()), Periodic())
    grids = [Grid((7, 6), layout=layout, boundary=sides) for layout in LAYOUTS]
    a, f = np.exp(np.random.default_rng(0).normal(size=(2, 7, 6)))

    @jax.jit
    def solve(grids, a, f):
        found = []
        solvers = (lx.CG(1e-12, 1e-12), lx.LU())
        for grid, solver in zip(grids, solvers, strict=True):
            darcy = Diffusion(grid, a)
            inner = lx.linear_solve(darcy, darcy.load(-f), solver).value
            u = grid.extend(inner)
            found.append((u, grid.restrict(darcy(u) + f)))
        return found

    found = solve(grids, a, 20 * f)
    for u, residual in found:
        assert_close(residual, 0, 1e-9)
        assert u.max() > 1.01  # a source heats above the walls
    assert_close(found[0][0][0], 1.0, 0)


def test_a_line_is_solved_by_its_three_diagonals(x64):
    # u'' = 2 with u(0) = 1, u'(1) = 3: u = x^2 + x + 1, exact on nodes.
    sides = ((Dirichlet(1.0), Neumann(3.0)),)
    grids = [Grid(20, layout=layout, boundary=sides) for layout in LAYOUTS]

    @jax.jit
    def solve(grids):
        laplacians = [Laplacian(grid) for grid in grids]
        loads = [laplacian.load(jnp.full(20, 2.0)) for laplacian in laplacians]
        pairs = zip(laplacians, loads, strict=True)
        return [lx.linear_solve(laplacian, b).value for laplacian, b in pairs]

    for grid, inner in zip(grids, map(np.asarray, solve(grids)), strict=True):
        x = np.asarray(grid.points[0])[grid.unknown[0]]
        error = inner - (x**2 + x + 1)
        if grid.layout == "cells":  # exact up to a constant: half a cell at the wall
            assert abs(error[0]) < grid.spacing[0] ** 2
            error = error - error[0]
        assert_close(error, 0, 2e-11)


@pytest.mark.slow
def test_without_a_held_value_the_weighted_matrix_and_a_compatible_source(x64):
    make = lambda la: Grid((9, 8), ((0, 2), (0, 1)), layout=la, boundary=Neumann())
    grids = [make(layout) for layout in LAYOUTS]

    @jax.jit
    def solve(grids):
        found = []
        for grid in grids:
            x, y = grid.coordinates
            source = jnp.cos(np.pi * x) * jnp.cos(2 * np.pi * y)
            source = source - grid.mean(source)
            laplacian = Laplacian(grid)
            rows, solver = grid.weights * laplacian.load(source), lx.CG(1e-12, 1e-12)
            u = lx.linear_solve(laplacian.weighted(), rows, solver).value
            constant = laplacian.nullspace
            found.append((laplacian(u) - source, grid.norm(constant)))
            found[-1] += (laplacian(constant),)  # type: ignore
        return found

    for residual, norm, zero in solve(grids):
        assert_close(residual, 0, 1e-9)
        assert_close(norm, 1.0, 1e-12)
        assert_close(zero, 0.0, 1e-10)


@pytest.mark.slow
def test_solves_differentiate_and_map(x64):
    grid = Grid((5, 5))

    def mean(a):
        darcy = Diffusion(grid, a)
        f = -jnp.ones(grid.shape)
        return jnp.sum(lx.linear_solve(darcy, darcy.load(f), lx.CG(1e-13, 1e-13)).value)

    a = np.exp(np.random.default_rng(0).normal(size=(3, 5, 5)))
    means, slopes = jax.jit(jax.vmap(jax.value_and_grad(mean)))(a)
    # u is homogeneous of degree -1 in a: Euler's theorem.
    assert_close(np.sum(np.asarray(slopes * a), (1, 2)), -means, 1e-9)


# --- bad input -----------------------------------------------------------------------


@pytest.mark.slow
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


def test_a_coefficient_that_is_not_positive_is_shown_with_its_place():
    grid = Grid((4, 5))
    faces = jax.jit(lambda a: Diffusion(grid, a).faces)
    for value in (0.0, -2.5, np.nan, np.inf):
        a = np.ones((4, 5))
        a[1, 2] = value
        place = rf"{value} at \(1, 2\), .*\(0.333333, 0.5\)"
        with pytest.raises(ValueError, match=place):
            Diffusion(grid, a)
        with pytest.raises(
            Exception, match="coefficient of Diffusion must be positive"
        ):
            jax.block_until_ready(faces(a))


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


def test_a_given_slope_meets_the_material_that_is_there(x64):
    """-(a u')' = 0 with a jump one, two, three cells from the slope: flux a(1) g."""
    sides = ((Dirichlet(), Neumann(2.0)),)
    grid = Grid((8,), layout="cells", boundary=sides)
    rows = [
        np.where(np.arange(8) < 8 - cells, high, 3.0)
        for high in (12.0, 0.1)
        for cells in (1, 2, 3)
    ]
    inflow = lambda a: grid.integral(Diffusion(grid, a)(jnp.zeros(8)))
    # All that goes in is what the side lets in: 3 for a, 2 for its slope.
    assert_close(jax.jit(jax.vmap(inflow))(jnp.asarray(rows)), 6.0, 1e-13)
    # A steep coefficient stays positive at the side, a line goes on as a line.
    end = Grid((3,), layout="cells", boundary=Neumann(1.0))
    last = jax.vmap(lambda a: Diffusion(end, a).faces[0][-1])
    # It goes on with the smaller of the last two differences, if these have one sign.
    bent = [[8.0, 4.0, 3.0], [3.0, 4.0, 8.0], [3.0, 5.0, 4.0]]
    steep = jnp.array([[9.0, 5.0, 1.0], [1.0, 2.0, 3.0], *bent])
    assert_close(jax.jit(last)(steep), [0.5, 3.5, 2.5, 8.5, 4.0], 0)
