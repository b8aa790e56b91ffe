"""Derivatives at points: orders, spectra, curls; advection and time."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, tolerance
from manufactured import field, grid_of, order, shape_of, unit

from pidax.pde import (
    Advection,
    Curl,
    Derivative,
    Divergence,
    Gradient,
    Grid,
    Laplacian,
    Neumann,
    Periodic,
    TimeDerivative,
    dealias,
    wavenumbers,
)

layouts = pytest.mark.parametrize("layout", ["nodes", "cells"])
RING = ("P", "P")


def largest(error) -> float:
    """The largest entry in size."""
    return float(jnp.abs(jnp.asarray(error)).max())


# --- finite differences --------------------------------------------------------------


def collocated(grid, kinds, q):
    """The errors of every operator at points in order `q`, on a smooth field."""
    xs, ndim = [np.asarray(x) for x in grid.coordinates], grid.ndim
    d = [field(kinds, xs, unit(i, ndim)) for i in range(ndim)]
    dd = [field(kinds, xs, unit(i, ndim, 2)) for i in range(ndim)]
    errors = _collocated(grid, jnp.asarray(field(kinds, xs)), d, dd, q)
    return {name: largest(error) for name, error in errors.items()}


@eqx.filter_jit
def _collocated(grid, u, d, dd, q):
    ndim = grid.ndim
    found = {
        "first": Derivative(grid, 0, order=q)(u) - d[0],
        "second": Derivative(grid, ndim - 1, 2, q)(u) - dd[-1],
        "gradient": jnp.stack(Gradient(grid, "points", q)(u)) - jnp.stack(d),
        "divergence": Divergence(grid, "points", q)((u,) * ndim) - sum(d),
    }
    if ndim == 2:
        found["curl"] = Curl(grid, q)((u, 2 * u)) - (2 * d[0] - d[1])
        found["stream"] = jnp.stack(Curl(grid, q)(u)) - jnp.stack([d[1], -d[0]])
    if all(grid.periodic):
        found["laplacian"] = Laplacian(grid, q)(u) - sum(dd)
    return found


@pytest.mark.parametrize("q", [2, 4, 6])
def test_central_differences_are_of_their_order_on_rings(q, x64):
    sizes = {2: (32, 64), 4: (32, 64), 6: (48, 96)}[q]
    grids = [grid_of(RING, (n, n), "nodes") for n in sizes]
    coarse, fine = (collocated(grid, RING, q) for grid in grids)
    for name in coarse:
        assert abs(order((coarse[name], fine[name])) - q) < 0.2, name


@layouts
@pytest.mark.parametrize("kinds", [("D",), ("N", "P")])
def test_one_sided_ends_keep_the_second_order(kinds, layout, x64):
    grids = [grid_of(kinds, shape_of(kinds, n, layout), layout) for n in (32, 64)]
    coarse, fine = (collocated(grid, kinds, 2) for grid in grids)
    for name in coarse:
        assert abs(order((coarse[name], fine[name])) - 2) < 0.2, name


# --- spectra -------------------------------------------------------------------------


def trigonometric(grid):
    """A trigonometric polynomial of the grid's resolution, with its derivatives."""
    x, y = (np.asarray(c) for c in grid.coordinates)
    kx, ky = 2 * np.pi * 3 / grid.lengths[0], 2 * np.pi * 2 / grid.lengths[1]
    a, b = kx * x + ky * y + 0.3, ky * y - 1.0
    return {
        (0, 0): np.sin(a) + np.cos(b) + 0.5,
        (1, 0): kx * np.cos(a),
        (0, 1): ky * (np.cos(a) - np.sin(b)),
        (2, 0): -(kx**2) * np.sin(a),
        (0, 2): -(ky**2) * (np.sin(a) + np.cos(b)),
        (0, 3): -(ky**3) * (np.cos(a) - np.sin(b)),
        (4, 0): kx**4 * np.sin(a),
    }


@layouts
@pytest.mark.parametrize("shape", [(8, 6), (7, 5)], ids=["even", "odd"])
def test_trigonometric_polynomials_are_differentiated_exactly(shape, layout, dtype):
    grid = Grid(shape, ((0, 2), (-1, 2)), layout=layout, boundary=Periodic())
    exact = trigonometric(grid)
    u = jnp.asarray(exact[0, 0], dtype)

    @jax.jit
    def all_of(u):
        s = "spectral"
        partials = {
            powers: Derivative(grid, axis, power, s)(u)
            for powers, axis, power in [
                ((1, 0), 0, 1),
                ((0, 1), 1, 1),
                ((2, 0), 0, 2),
                ((0, 2), 1, 2),
                ((0, 3), 1, 3),
                ((4, 0), 0, 4),
            ]
        }
        gradient = Gradient(grid, "points", s)(u)
        return (
            partials,
            gradient,
            Divergence(grid, "points", s)(gradient),
            Laplacian(grid, s)(u),
            Curl(grid, s)((u, 2 * u)),
            Curl(grid, s)(u),
        )

    partials, gradient, divergence, laplacian, curl, velocity = all_of(u)
    for powers, found in partials.items():
        assert found.dtype == dtype
        scale = np.abs(exact[powers]).max()
        assert_close(found / scale, exact[powers] / scale, tolerance(dtype, 10))
    d, scale = (exact[1, 0], exact[0, 1]), np.abs(exact[2, 0]).max()
    near = scale * tolerance(dtype, 10)
    assert_close(gradient, d, 0, near)
    assert_close(laplacian, exact[2, 0] + exact[0, 2], 0, near)
    assert_close(divergence, laplacian, 0, near)
    assert_close(curl, 2 * d[0] - d[1], 0, near)
    assert_close(velocity, (d[1], -d[0]), 0, near)


def test_the_mode_that_stands_for_both_signs(x64):
    # cos(n x / 2) is 1, -1, 1, ...: odd derivatives vanish on the points, even do not.
    ring = Grid(8, (0.0, 2 * np.pi), boundary=Periodic())
    u = jnp.asarray((-1.0) ** np.arange(8))
    spectral = [Derivative(ring, 0, power, "spectral")(u) for power in (1, 2, 3, 4)]
    for found, factor in zip(spectral, (0, -16, 0, 256), strict=True):
        assert_close(found, factor * u, 1e-11)
    assert_close(Gradient(ring, "points", "spectral")(u)[0], 0, 1e-11)
    assert_close(Laplacian(ring, "spectral")(u), -16 * u, 1e-11)


def test_spectral_errors_fall_faster_than_any_order(x64):
    errors = [
        collocated(grid_of(RING, (n, n), "nodes"), RING, "spectral")
        for n in (8, 16, 32)
    ]
    for name in errors[0]:
        assert errors[1][name] < 1e-3 * errors[0][name]
        assert errors[2][name] < 1e-10


def test_wavenumbers_are_those_of_rfftn():
    ring = Grid((4, 6), ((0, 2), (0, 2 * np.pi)), boundary=Periodic())
    kx, ky = wavenumbers(ring)
    assert_close(kx.ravel() / np.pi, [0, 1, -2, -1], 1e-14)
    assert_close(ky.ravel(), [0, 1, 2, 3], 1e-14)


# --- aliases -------------------------------------------------------------------------


@pytest.mark.parametrize("n", [12, 13, 16])
def test_products_of_dealiased_fields_have_no_aliases(n, dtype, key):
    ring = Grid((n, n), boundary=Periodic())
    fine = Grid((2 * n, 2 * n), boundary=Periodic())

    @jax.jit
    def products(u, v):
        u, v = dealias(ring, u), dealias(ring, v)
        wide = dealias_to(fine, ring, refine(ring, fine, u) * refine(ring, fine, v))
        return dealias(ring, u * v), wide, u * v, dealias(ring, u) - u

    u, v = jax.random.normal(key, (2, n, n))
    kept, exact, raw, again = products(u, v)
    assert kept.dtype == dtype
    assert_close(kept, exact, tolerance(dtype, 10))
    assert_close(again, 0, tolerance(dtype, 10))
    assert jnp.abs(raw - exact).max() > 0.01


def refine(coarse, fine, u):
    """The trigonometric polynomial of `u`, which has no middle mode, on more points."""
    n, m = coarse.shape[0], fine.shape[0]
    hat = jnp.fft.fftshift(jnp.fft.fft2(u))
    low = m // 2 - n // 2
    wide = jnp.zeros((m, m), hat.dtype).at[low : low + n, low : low + n].set(hat)
    return jnp.fft.ifft2(jnp.fft.ifftshift(wide)).real * (m / n) ** 2


def dealias_to(fine, coarse, u):
    """The modes that are kept on the coarse grid, of a product without aliases."""
    n, m = coarse.shape[0], fine.shape[0]
    modes = np.abs(np.fft.fftfreq(m, 1 / m))
    keep = jnp.asarray(3 * np.maximum(modes[:, None], modes) < n)
    hat = jnp.fft.fftshift(jnp.where(keep, jnp.fft.fft2(u), 0))
    low = m // 2 - n // 2
    cut = hat[low : low + n, low : low + n]
    return jnp.fft.ifft2(jnp.fft.ifftshift(cut)).real * (n / m) ** 2


# --- vector identities ---------------------------------------------------------------


@eqx.filter_jit
def identities(grid, q, u, vector):
    """What must vanish: the curl of a gradient and the divergence of a curl."""
    curl, divergence = Curl(grid, q), Divergence(grid, "points", q)
    swirl = curl(Gradient(grid, "points", q)(u))
    leak = divergence(curl(u) if grid.ndim == 2 else curl(vector))  # type: ignore[arg-type]
    return swirl, leak, curl(vector)


@pytest.mark.parametrize(
    ("kinds", "q"),
    [(("D", "N"), 2), (("N", "D", "P"), 2), (("P",) * 3, 6), (("P",) * 3, "spectral")],
    ids=str,
)
def test_curl_grad_and_div_curl_vanish(kinds, q, dtype, key):
    grid = grid_of(kinds, (8, 9, 10)[: len(kinds)], "nodes")
    u, *vector = jax.random.normal(key, (4, *grid.shape))
    swirl, leak, curl = identities(grid, q, u, tuple(vector[: grid.ndim]))
    size = max(map(largest, jax.tree.leaves(curl))) / min(grid.spacing)
    for zero in (*jax.tree.leaves(swirl), leak):
        assert largest(zero) < size * tolerance(dtype)
    assert max(map(largest, jax.tree.leaves(curl))) > 1


def test_a_rotation_has_the_curl_of_twice_its_axis(x64):
    grid = Grid((4, 5, 6), boundary=Neumann())
    x, y, z = grid.coordinates
    wx, wy, wz = 1.0, -2.0, 0.5
    vector = (wy * z - wz * y, wz * x - wx * z, wx * y - wy * x)
    curl = jax.jit(Curl(grid))(vector)
    for found, exact in zip(curl, (wx, wy, wz), strict=True):
        assert_close(found, 2 * exact, 1e-12)


def test_curls_need_a_plane_or_space():
    with pytest.raises(ValueError, match="two or three dimensions"):
        Curl(Grid(5))
    space = Grid((4, 4, 4))
    with pytest.raises(ValueError, match="that of a tuple of three fields"):
        Curl(space)(jnp.ones((4, 4, 4)))
    with pytest.raises(ValueError, match="one array for each of x, y"):
        Curl(Grid((4, 4)))((jnp.ones((4, 4)),))


# --- advection -----------------------------------------------------------------------


@layouts
@pytest.mark.parametrize(("scheme", "q"), [("central", 2), ("upwind", 1)])
@pytest.mark.parametrize("kinds", [("DN",), ("ND", "P")])
def test_advection_is_of_its_order_with_the_data_of_the_sides(
    kinds, scheme, q, layout, x64
):
    errors, ndim = [], len(kinds)
    for n in (32, 64):
        grid = grid_of(kinds, shape_of(kinds, n, layout), layout)
        xs = [np.asarray(x) for x in grid.coordinates]
        velocity = (np.cos(3 * xs[0]), -1.0)[:ndim]
        exact = sum(v * field(kinds, xs, unit(i, ndim)) for i, v in enumerate(velocity))
        found = Advection(grid, velocity, scheme)(jnp.asarray(field(kinds, xs)))
        errors.append(largest(grid.restrict(found - exact)))
    assert abs(order(errors) - q) < 0.2


def test_upwind_looks_to_where_the_velocity_comes_from(dtype):
    ring = Grid(6, boundary=Periodic())
    step = jnp.where(ring.points[0] < 0.4, 1.0, 0.0)  # 1 1 1 0 0 0
    right = Advection(ring, 2.0, "upwind")(step)
    left = Advection(ring, (-2.0,), "upwind")(step)
    assert_close(right, [12, 0, 0, -12, 0, 0], tolerance(dtype, 10))
    assert_close(left, [0, 0, 12, 0, 0, -12], tolerance(dtype, 10))
    # Upwind is central and a diffusion of |v| h / 2.
    more = 2.0 * ring.spacing[0] / 2 * Laplacian(ring)(step)
    central = Advection(ring, 2.0)(step)
    assert_close(right, central - more, tolerance(dtype, 50))


def test_central_advection_conserves_energy_in_a_uniform_stream(x64):
    ring = Grid((5, 6), boundary=Periodic())
    matrix = Advection(ring, (1.5, -0.5)).as_matrix()
    assert_close(matrix, -matrix.T, 1e-12)


# --- time ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "q", "left"),
    [("forward", 1, 1), ("backward", 1, 1), ("midpoint", 2, 1), ("central", 2, 2)],
)
def test_time_derivatives_are_of_their_order_beside_their_field(scheme, q, left, x64):
    errors = []
    for n in (40, 80):
        t = jnp.linspace(0.0, 1.0, n + 1)
        u = jnp.exp(-2 * t)[:, None] * jnp.array([1.0, -3.0])  # u_t = -2 u
        ddt = TimeDerivative(1 / n, scheme)
        assert ddt(u).shape == (n + 1 - left, 2)
        errors.append(largest(ddt(u) + 2 * ddt.at(u)))
    assert abs(order(errors) - q) < 0.2


def test_a_residual_vanishes_on_the_steps_of_its_scheme(dtype):
    # Implicit Euler for u' = -u: u^{n+1} = u^n / (1 + dt).
    u = jnp.asarray(1.25 ** -np.arange(5.0), dtype)
    backward, forward = (TimeDerivative(0.25, s) for s in ("backward", "forward"))
    assert_close(backward(u) + backward.at(u), 0, tolerance(dtype))
    assert_close(forward(u) + 0.8 * forward.at(u), 0, tolerance(dtype))
    assert backward(u).dtype == dtype


def test_times_and_steps_that_cannot_be():
    with pytest.raises(ValueError, match=r"one of .*'central'.*got 'upwind'"):
        TimeDerivative(0.1, "upwind")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dt must be positive"):
        TimeDerivative(0.0)
    with pytest.raises(ValueError, match="needs 3 times, got 2"):
        TimeDerivative(0.1)(jnp.ones((2, 4)))


# --- bad input -----------------------------------------------------------------------


def test_derivatives_that_are_not_offered():
    grid, ring = Grid((3, 8)), Grid(8, boundary=Periodic())
    refused = {
        r"axis must be one of 0..1 of the grid, got 2": lambda: Derivative(grid, 2),
        "power must be 1 or 2 .* got power=3": lambda: Derivative(ring, 0, 3),
        "power=0": lambda: Derivative(ring, 0, 0, "spectral"),
        "need four points, got 3 along x": lambda: Derivative(grid, 0),
        "order=6 is for periodic axes, and y": lambda: Derivative(grid, 1, order=6),
        "dealias needs every axis periodic, and x": (
            lambda: dealias(grid, jnp.ones((3, 8)))
        ),
    }
    for message, make in refused.items():
        with pytest.raises(ValueError, match=message):
            make()
