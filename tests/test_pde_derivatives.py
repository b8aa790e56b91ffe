"""Derivatives at points: orders, spectra, curls; advection and time."""

from typing import Any

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

LAYOUTS: tuple[Any, ...] = ("nodes", "cells")
RING = ("P", "P")


def largest(error) -> float:
    """The largest entry in size."""
    return float(jnp.abs(jnp.asarray(error)).max())


# --- finite differences --------------------------------------------------------------


def collocated(cases):
    """The errors of every operator at points in the order of each case."""
    fields = []
    for grid, kinds, _ in cases:
        xs, ndim = [np.asarray(x) for x in grid.coordinates], grid.ndim
        d = [field(kinds, xs, unit(i, ndim)) for i in range(ndim)]
        dd = [field(kinds, xs, unit(i, ndim, 2)) for i in range(ndim)]
        fields.append((jnp.asarray(field(kinds, xs)), d, dd))
    found = [
        _collocated(grid, q, *some)
        for (grid, _, q), some in zip(cases, fields, strict=True)
    ]
    return [{name: largest(e) for name, e in errors.items()} for errors in found]


@eqx.filter_jit
def _collocated(grid, q, u, d, dd):
    ndim = grid.ndim
    found = {
        "first": Derivative(grid, 0, order=q)(u) - d[0],
        "second": Derivative(grid, ndim - 1, 2, q)(u) - dd[-1],
    }
    if q in (4, 6):  # all others are made of these
        return found
    gradient: Any = Gradient(grid, "points", q)
    divergence: Any = Divergence(grid, "points", q)
    found["gradient"] = jnp.stack(gradient(u)) - jnp.stack(d)
    found["divergence"] = divergence((u,) * ndim) - sum(d)
    if ndim == 2:
        found["curl"] = Curl(grid, q)((u, 2 * u)) - (2 * d[0] - d[1])
        found["stream"] = jnp.stack(Curl(grid, q)(u)) - jnp.stack([d[1], -d[0]])
    if all(grid.periodic):
        found["laplacian"] = Laplacian(grid, q)(u) - sum(dd)
    return found


@pytest.mark.slow
def test_differences_are_of_their_order_and_spectra_of_any(x64):
    """Central on rings, one-sided at the ends of other axes; spectra on rings."""
    cases: list[Any] = [
        (grid_of(RING, (n, n), "nodes"), RING, q)
        for q, sizes in {2: (32, 64), 4: (32, 64), 6: (48, 96)}.items()
        for n in sizes
    ]
    for kinds, layout in zip((("D",), ("N", "P")), LAYOUTS, strict=True):
        shapes = [shape_of(kinds, n, layout) for n in (32, 64)]
        cases += [(grid_of(kinds, s, layout), kinds, 2) for s in shapes]
    rings = [grid_of(RING, (n, n), "nodes") for n in (8, 16, 32)]
    found = collocated(cases + [(ring, RING, "spectral") for ring in rings])
    for (_, kinds, q), coarse, fine in zip(
        cases[::2], found[: len(cases) : 2], found[1 : len(cases) : 2], strict=True
    ):
        for name in coarse:
            pair = coarse[name], fine[name]
            assert abs(order(pair) - q) < 0.2, (kinds, q, name)
    first, second, third = found[len(cases) :]
    for name in first:
        assert second[name] < 1e-3 * first[name]
        assert third[name] < 1e-10


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


POWERS = {(1, 0): (0, 1), (0, 1): (1, 1), (2, 0): (0, 2), (0, 2): (1, 2)}
POWERS |= {(0, 3): (1, 3), (4, 0): (0, 4)}


@eqx.filter_jit
def spectral(grid, u):
    """Every spectral operator."""
    s = "spectral"
    gradient = Gradient(grid, "points", s)(u)
    partials = {
        powers: Derivative(grid, axis, power, s)(u)
        for powers, (axis, power) in POWERS.items()
    }
    laplacians = Divergence(grid, "points", s)(gradient), Laplacian(grid, s)(u)
    return partials, gradient, *laplacians, Curl(grid, s)((u, 2 * u)), Curl(grid, s)(u)


def check_trigonometric(cases, dtype):
    extent, ring = ((0, 2), (-1, 2)), Periodic()
    grids = [Grid(n, extent, layout=layout, boundary=ring) for n, layout in cases]
    exacts = [trigonometric(grid) for grid in grids]
    fields = [jnp.asarray(exact[0, 0], dtype) for exact in exacts]
    for exact, found in zip(exacts, map(spectral, grids, fields), strict=True):
        partials, gradient, divergence, laplacian, curl, velocity = found
        for powers, partial in partials.items():
            assert partial.dtype == dtype
            scale = np.abs(exact[powers]).max()
            assert_close(partial / scale, exact[powers] / scale, tolerance(dtype, 10))
        d, scale = (exact[1, 0], exact[0, 1]), np.abs(exact[2, 0]).max()
        near = scale * tolerance(dtype, 10)
        assert_close(gradient, d, 0, near)
        assert_close(laplacian, exact[2, 0] + exact[0, 2], 0, near)
        assert_close(divergence, laplacian, 0, near)
        assert_close(curl, 2 * d[0] - d[1], 0, near)
        assert_close(velocity, (d[1], -d[0]), 0, near)


def test_trigonometric_polynomials_are_differentiated_exactly(x64):
    check_trigonometric([((8, 6), "nodes"), ((7, 5), "cells")], np.dtype("f8"))


def test_so_they_are_in_float32(x32):
    check_trigonometric([((8, 6), "nodes")], np.dtype("f4"))


def test_the_mode_that_stands_for_both_signs(x64):
    # cos(n x / 2) is 1, -1, 1, ...: odd derivatives vanish on the points, even do not.
    ring = Grid(8, (0.0, 2 * np.pi), boundary=Periodic())
    u = jnp.asarray((-1.0) ** np.arange(8))

    @jax.jit
    def all_of(u):
        partials = [Derivative(ring, 0, p, "spectral")(u) for p in (1, 2, 3, 4)]
        slope = Gradient(ring, "points", "spectral")(u)[0]
        return [*partials, slope, Laplacian(ring, "spectral")(u)]

    for found, factor in zip(all_of(u), (0, -16, 0, 256, 0, -16), strict=True):
        assert_close(found, factor * np.asarray(u), 1e-11)


def test_wavenumbers_are_those_of_rfftn():
    ring = Grid((4, 6), ((0, 2), (0, 2 * np.pi)), boundary=Periodic())
    kx, ky = wavenumbers(ring)
    assert_close(kx.ravel() / np.pi, [0, 1, -2, -1], 1e-14)
    assert_close(ky.ravel(), [0, 1, 2, 3], 1e-14)


# --- aliases -------------------------------------------------------------------------


def check_products(sizes, dtype):
    rng = np.random.default_rng(0)
    fields = [jnp.asarray(rng.normal(size=(2, n, n)), dtype) for n in sizes]

    @eqx.filter_jit
    def products(ring, u):
        """The two fields, the product and the first once more: all dealiased."""
        smooth = jax.vmap(lambda u: dealias(ring, u))
        u, v = smooth(u)
        return u, v, smooth(jnp.stack([u * v, u]))

    for n, both in zip(sizes, fields, strict=True):
        u, v, (kept, again) = map(np.asarray, products(RINGS(n), both))
        assert kept.dtype == dtype
        exact = truncated(2 * n, n, refined(n, 2 * n, u) * refined(n, 2 * n, v))
        assert_close(kept, exact, tolerance(dtype, 10))
        assert_close(again, u, tolerance(dtype, 10))
        assert np.abs(u * v - exact).max() > 0.01


RINGS = lambda n: Grid((n, n), boundary=Periodic())


def test_products_of_dealiased_fields_have_no_aliases(x64):
    check_products((12, 13, 16), np.dtype("f8"))


def test_nor_have_they_in_float32(x32):
    check_products((12,), np.dtype("f4"))


def refined(n, m, u):
    """The trigonometric polynomial of `u`, which has no middle mode, on more points."""
    hat, low = np.fft.fftshift(np.fft.fft2(u)), m // 2 - n // 2
    wide = np.zeros((m, m), complex)
    wide[low : low + n, low : low + n] = hat
    return np.fft.ifft2(np.fft.ifftshift(wide)).real * (m / n) ** 2


def truncated(m, n, u):
    """The modes that are kept on n points, of a product without aliases on m."""
    modes = np.abs(np.fft.fftfreq(m, 1 / m))
    keep = 3 * np.maximum(modes[:, None], modes) < n
    hat, low = np.fft.fftshift(np.where(keep, np.fft.fft2(u), 0)), m // 2 - n // 2
    cut = hat[low : low + n, low : low + n]
    return np.fft.ifft2(np.fft.ifftshift(cut)).real * (n / m) ** 2


# --- vector identities ---------------------------------------------------------------


def check_identities(cases, dtype):
    rng = np.random.default_rng(0)
    grids = [grid_of(kinds, (8, 9, 10)[: len(kinds)], "nodes") for kinds, _ in cases]
    fields = [jnp.asarray(rng.normal(size=(4, *g.shape)), dtype) for g in grids]
    for (_, q), grid, (u, *vector) in zip(cases, grids, fields, strict=True):
        # Each compiled by itself: one within another takes ten times as long.
        compiled = lambda operator: eqx.filter_jit(lambda v: operator(v))
        curl = compiled(Curl(grid, q))
        gradient = compiled(Gradient(grid, "points", q))
        divergence = compiled(Divergence(grid, "points", q))
        swirl = curl(gradient(u))
        turned = curl(tuple(vector[: grid.ndim]))
        leak = divergence(curl(u) if grid.ndim == 2 else turned)
        size = max(map(largest, jax.tree.leaves(turned))) / min(grid.spacing)
        for zero in (*jax.tree.leaves(swirl), leak):
            assert zero.dtype == dtype
            assert largest(zero) < size * tolerance(dtype)
        assert max(map(largest, jax.tree.leaves(turned))) > 1


@pytest.mark.slow
def test_curl_grad_and_div_curl_vanish(x64):
    cases = [(("N", "D", "P"), 2), (("P", "P"), 6), (("P",) * 3, "spectral")]
    check_identities(cases, np.dtype("f8"))


def test_so_they_do_in_float32(x32):
    check_identities([(("D", "N"), 2)], np.dtype("f4"))


def test_a_rotation_has_the_curl_of_twice_its_axis(x64):
    grid = Grid((4, 5, 6), boundary=Neumann())
    x, y, z = (np.asarray(c) for c in grid.coordinates)
    wx, wy, wz = 1.0, -2.0, 0.5
    vector = (wy * z - wz * y, wz * x - wx * z, wx * y - wy * x)
    curl = jax.jit(Curl(grid))(vector)
    for found, exact in zip(curl, (wx, wy, wz), strict=True):
        assert_close(found, 2 * exact, 1e-12)


def test_curls_need_a_plane_or_space():
    with pytest.raises(ValueError, match="two or three dimensions"):
        Curl(Grid(5))
    space = Grid((4, 4, 4))
    with pytest.raises(ValueError, match="a curl needs a tuple of three fields"):
        Curl(space)(jnp.ones((4, 4, 4)))
    with pytest.raises(ValueError, match="one array for each of x, y"):
        Curl(Grid((4, 4)))((jnp.ones((4, 4)),))


# --- advection -----------------------------------------------------------------------


@eqx.filter_jit
def carried(advection, u):
    return advection.grid.restrict(advection(u))


@pytest.mark.slow
def test_advection_is_of_its_order_with_the_data_of_the_sides(x64):
    cases, advections, fields, exacts = [], [], [], []
    schemes: dict[Any, int] = {"central": 2, "upwind": 1}
    for kinds in (("DN",), ("ND", "P")):
        ndim = len(kinds)
        for layout in LAYOUTS:
            for scheme, q in schemes.items():
                cases.append((kinds, layout, scheme, q))
                for n in (32, 64):
                    grid = grid_of(kinds, shape_of(kinds, n, layout), layout)
                    xs = [np.asarray(x) for x in grid.coordinates]
                    velocity = (np.cos(3 * xs[0]), -1.0)[:ndim]
                    slopes = [field(kinds, xs, unit(i, ndim)) for i in range(ndim)]
                    exact = sum(v * s for v, s in zip(velocity, slopes, strict=True))
                    advections.append(Advection(grid, velocity, scheme))
                    fields.append(jnp.asarray(field(kinds, xs)))
                    exacts.append(np.asarray(exact)[grid.unknown])
    found = map(carried, advections, fields)
    errors = [np.abs(f - e).max() for f, e in zip(found, exacts, strict=True)]
    for i, case in enumerate(cases):
        assert abs(order(errors[2 * i : 2 * i + 2]) - case[-1]) < 0.2, case


def test_upwind_looks_to_where_the_velocity_comes_from(x64):
    ring = Grid(6, boundary=Periodic())
    step = jnp.asarray([1.0, 1, 1, 0, 0, 0])

    @jax.jit
    def all_of(step):
        right = Advection(ring, 2.0, "upwind")(step)
        left = Advection(ring, (-2.0,), "upwind")(step)
        # Upwind is central and a diffusion of |v| h / 2.
        more = 2.0 * ring.spacing[0] / 2 * Laplacian(ring)(step)
        return right, left, Advection(ring, 2.0)(step) - more

    right, left, both = all_of(step)
    assert_close(right, [12, 0, 0, -12, 0, 0], 1e-11)
    assert_close(left, [0, 0, 12, 0, 0, -12], 1e-11)
    assert_close(both, right, 1e-11)


def test_central_advection_conserves_energy_in_a_uniform_stream(x64):
    ring = Grid((5, 6), boundary=Periodic())
    matrix = jax.jit(lambda op: op.as_matrix())(Advection(ring, (1.5, -0.5)))
    assert_close(matrix, -matrix.T, 1e-12)


# --- time ----------------------------------------------------------------------------


@pytest.mark.slow
def test_time_derivatives_are_of_their_order_beside_their_field(x64):
    cases: dict[Any, tuple[int, int]] = {
        "forward": (1, 1),
        "backward": (1, 1),
        "midpoint": (2, 1),
        "central": (2, 2),
    }

    @jax.jit
    def errors(u, n):
        found = {}
        for scheme in cases:
            ddt = TimeDerivative(1 / n, scheme)
            found[scheme] = ddt(u) + 2 * ddt.at(u)  # of u_t = -2 u
        return found

    both = []
    for n in (40, 80):
        t = np.linspace(0.0, 1.0, n + 1)
        u = np.exp(-2 * t)[:, None] * np.array([1.0, -3.0])
        both.append(errors(jnp.asarray(u), float(n)))
    for scheme, (q, left) in cases.items():
        assert both[0][scheme].shape == (41 - left, 2)
        pair = [largest(np.asarray(found[scheme])) for found in both]
        assert abs(order(pair) - q) < 0.2


def test_a_residual_vanishes_on_the_steps_of_its_scheme(x32):
    # Implicit Euler for u' = -u: u^{n+1} = u^n / (1 + dt).
    u, dtype = jnp.asarray(1.25 ** -np.arange(5.0), np.float32), np.dtype("f4")
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
