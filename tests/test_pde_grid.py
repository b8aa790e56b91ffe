"""Grids: where the points are, what their weights integrate, what the sides hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, tolerance

import pidax as px
from pidax.pde import Dirichlet, Grid, Neumann, Periodic

LAYOUTS = ("nodes", "cells")
layouts = pytest.mark.parametrize("layout", LAYOUTS)


# --- the points -----------------------------------------------------------------------


def test_the_points_are_where_the_formulas_say(dtype):
    nodes = Grid(5, (1.0, 3.0))
    cells = Grid(5, (1.0, 3.0), layout="cells")
    ring = Grid(5, (1.0, 3.0), boundary=Periodic())
    assert_close(nodes.points[0], [1, 1.5, 2, 2.5, 3], tolerance(dtype))
    assert_close(cells.points[0], [1.2, 1.6, 2, 2.4, 2.8], tolerance(dtype))
    assert_close(ring.points[0], [1, 1.4, 1.8, 2.2, 2.6], tolerance(dtype))
    assert [g.spacing for g in (nodes, cells, ring)] == [(0.5,), (0.4,), (0.4,)]
    assert nodes.points[0].dtype == dtype


def test_axes_have_their_own_size_extent_and_sides():
    grid = Grid(
        (5, 8),
        extent=((0.0, 1.0), (-1.0, 3.0)),
        boundary=((Dirichlet(1.0), Neumann()), Periodic()),
    )
    assert grid.ndim == 2
    assert grid.periodic == (False, True)
    assert grid.lengths == (1.0, 4.0)
    assert grid.spacing == (0.25, 0.5)
    x, y = grid.coordinates
    assert x.shape == y.shape == grid.shape
    assert_close(x[:, 3], grid.points[0], 0)
    assert_close(y[2], grid.points[1], 0)
    assert grid.unknown_shape == (4, 8)


@pytest.mark.parametrize("shape", [4, np.int64(4), [4], (np.int32(4),)])
def test_a_shape_is_a_number_or_numbers_of_any_integer_kind(shape):
    assert Grid(shape).shape == (4,)


# --- the weights ----------------------------------------------------------------------


@layouts
def test_weights_integrate_what_is_linear_exactly(layout, dtype):
    grid = Grid((5, 7, 4), ((0, 1), (-1, 2), (2, 4)), layout=layout)
    x, y, z = grid.coordinates
    one = jnp.ones_like(x)
    near = tolerance(dtype)
    assert_close(grid.integral(one), 6.0, near)
    # Each mean of a coordinate is its middle: 1/2, 1/2, 3; products are independent.
    assert_close(grid.mean(1 + x - 2 * y + x * y * z), 1 + 0.5 - 1 + 0.75, near)
    assert_close(grid.norm(2 * one), np.sqrt(24), near)
    assert grid.integral(one).dtype == dtype


@layouts
def test_weights_integrate_at_second_order_and_rings_spectrally(layout, x64):
    def error(n, **options):
        grid = Grid(n, layout=layout, **options)
        return abs(grid.integral(jnp.exp(grid.points[0])) - (np.e - 1))

    assert abs(np.log2(error(16) / error(32)) - 2) < 0.2
    ring = Grid(16, layout=layout, boundary=Periodic())
    u = jnp.exp(jnp.cos(2 * jnp.pi * ring.points[0]))
    assert_close(ring.integral(u), np.i0(1.0), 1e-13)


# --- unknowns and prescribed values ---------------------------------------------------


def test_extend_puts_back_what_restrict_takes(dtype):
    sides = ((Dirichlet(2.0), Neumann()), (Neumann(1.0), Dirichlet(np.arange(4.0))))
    grid = Grid((4, 5), boundary=sides)
    assert grid.unknown_shape == (3, 4)
    inner = jnp.arange(12.0).reshape(3, 4) + 10
    u = grid.extend(inner)
    assert u.dtype == dtype
    assert_close(grid.restrict(u), inner, 0)
    assert_close(u[0, :-1], 2.0, 0)
    assert_close(u[:, -1], np.arange(4), 0)  # the later axis has the corner
    assert_close(grid.impose(u), u, 0)
    # With no data the same is linear: what `pad` is.
    assert_close(grid.homogeneous().extend(inner), grid.pad(inner), 0)
    assert_close(grid.pad(inner)[0], 0, 0)


@pytest.mark.parametrize(
    "grid",
    [
        Grid((4, 5), layout="cells"),
        Grid((4, 5), boundary=Periodic()),
        Grid((4, 5), boundary=Neumann(3.0)),
    ],
    ids=str,
)
def test_all_points_are_unknowns_unless_a_node_is_held(grid):
    assert grid.unknown_shape == grid.shape
    inner = jnp.arange(20.0).reshape(4, 5)
    assert_close(grid.extend(inner), inner, 0)


def test_sides_may_be_arrays_under_jit_vmap_and_grad(x64):
    def energy(wall):
        grid = Grid((4, 3), boundary=((Dirichlet(wall), Neumann()), Neumann()))
        return jnp.sum(grid.impose(jnp.ones(grid.shape)) ** 2)

    walls = jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    assert_close(jax.jit(jax.vmap(energy))(walls), [9 + 14, 9 + 1], 1e-14)
    assert_close(jax.grad(energy)(walls[0]), 2 * walls[0], 1e-14)


def test_other_conditions_on_the_same_points():
    grid = Grid((4, 6), boundary=((Dirichlet(1.0), Neumann(2.0)), Periodic()))
    plain = grid.homogeneous()
    assert [float(s.data) for pair in plain.boundary for s in pair] == [0.0] * 4
    assert plain.unknown_shape == grid.unknown_shape
    insulated = grid.with_boundary((Neumann(), Periodic()))
    assert insulated.unknown_shape == (4, 6)
    with pytest.raises(ValueError, match=r"keeps the points.*Make a new Grid"):
        grid.with_boundary(Neumann())


# --- errors ---------------------------------------------------------------------------

BAD = {
    "one to three axes": lambda: Grid((4, 4, 4, 4)),
    "whole numbers of points": lambda: Grid((4.5, 4)),  # type: ignore[arg-type]
    "at least three points, got 2 along y": lambda: Grid((4, 2)),
    "layout must be 'nodes' or 'cells', got 'node'": lambda: Grid(4, layout="node"),  # type: ignore[arg-type]
    r"extent of x must be an interval .* got \(1.0, 0.0\)": lambda: Grid(4, (1, 0)),
    "extent of x must be an interval": lambda: Grid(4, (0, float("nan"))),
    "one interval or one for each of 2 axes, got 3": lambda: Grid(
        (4, 4), ((0, 1), (0, 1), (0, 1))
    ),
    "Periodic must hold on both sides of y": lambda: Grid(
        (4, 4), boundary=(Neumann(), (Periodic(), Dirichlet()))
    ),
    "for each of 2 axes a condition": lambda: Grid((4, 4), boundary=(Neumann(),)),
    r"a side is Dirichlet\(...\), Neumann\(...\) or Periodic\(\), got 0.0": lambda: (
        Grid(
            4,
            boundary=((0.0, Dirichlet()),),  # type: ignore[arg-type]
        )
    ),
    r"data of the high side of x .* shape \(5,\), got shape \(4,\)": lambda: Grid(
        (4, 5), boundary=((Dirichlet(), Dirichlet(np.zeros(4))), Neumann())
    ),
    "data of the low side of x must be finite": lambda: Grid(
        4, boundary=Dirichlet(np.nan)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_grid_is_refused_in_words(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_a_field_of_another_grid_is_named_with_both_shapes():
    with pytest.raises(ValueError, match=r"pressure .* shape \(4, 4\), got .*\(4, 5\)"):
        Grid((4, 4)).check(velocity=jnp.ones((4, 4)), pressure=jnp.ones((4, 5)))


def test_a_grid_says_what_it_is():
    grid = px.pde.Grid((4, 8), boundary=(Dirichlet(), Periodic()))
    assert repr(grid) == (
        "Grid((4, 8), extent=((0.0, 1.0), (0.0, 1.0)), nodes, "
        "Dirichlet/Dirichlet, Periodic/Periodic)"
    )


def test_natural_mistakes_are_told():
    """Points as two arguments, a number for an interval, a class for a condition."""
    for arguments in ((64, 64), ((64,), 2.0)):
        with pytest.raises(ValueError, match=r"extent must be an interval.*Grid\(\(64"):
            Grid(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Mind the parentheses: Periodic\(\)"):
        Grid((8, 8), boundary=Periodic)  # type: ignore[arg-type]
    single = np.float32(0), np.float32(2)
    assert Grid((8,), single).lengths == (2.0,)  # type: ignore[arg-type]
