"""Scores of the structure of fields, on fields whose values are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, tolerance

from pidax import metrics

X = np.arange(48) / 48


def test_increments_of_a_plane_wave(dtype):
    """S_2 of A cos kx is A^2 (1 - cos kr); one wave has no skewness, kurtosis 3/2."""
    y = 2 * np.pi * np.arange(16) / 16
    wave = np.asarray(0.7 * np.cos(2 * np.pi * 3 * X)[:, None] + 0 * y, dtype)
    lags = [1, 2, 5, 24]
    found = metrics.structure_functions(wave, lags=lags, axis=0)
    wanted = 0.49 * (1 - np.cos(2 * np.pi * 3 * np.array(lags) / 48))
    assert_close(found, wanted, 0.0, tolerance(dtype))
    assert_close(metrics.structure_functions(wave, order=3, lags=[3], axis=0), 0.0,
                 0.0, tolerance(dtype))  # fmt: skip
    assert_close(metrics.increment_skewness(wave, axis=0), 0.0, 0.0, tolerance(dtype))
    assert_close(metrics.increment_kurtosis(wave, axis=0), 1.5, tolerance(dtype, 10))
    assert np.isnan(metrics.increment_kurtosis(wave, axis=1))


def test_increments_of_a_sawtooth_are_skewed(x64):
    """A climb of 1 at n - 1 points, a fall of n - 1 at one, in any units."""
    n = 48
    saw = 1e200 * np.stack([np.arange(n), (np.arange(n) + 5) % n]).astype(float)
    second, third = n - 1 + (n - 1) ** 2, n - 1 - (n - 1) ** 3
    fourth = n - 1 + (n - 1) ** 4
    skewness = third / n / (second / n) ** 1.5
    assert_close(metrics.increment_skewness(saw), skewness, 1e-12)
    assert_close(metrics.increment_skewness(-saw), -skewness, 1e-12)
    assert_close(metrics.increment_kurtosis(saw), fourth * n / second**2, 1e-12)
    # Without the jump at the ends the climb is all there is.
    assert_close(metrics.increment_skewness(saw[0], periodic=False), 1.0, 1e-12)
    moments = metrics.structure_functions(
        saw[0] / 1e200, order=3, lags=[1, 4], periodic=False, absolute=True
    )
    assert_close(moments, [1.0, 64.0], 1e-12)


def test_a_gaussian_field_has_neither_skewness_nor_more_kurtosis_than_3(x32):
    rng = np.random.default_rng(0)
    waves = np.fft.rfft(rng.normal(size=(4000, 48)))
    smooth = np.fft.irfft(waves / (1 + np.arange(25) ** 2), 48).astype("f4")
    # Sixteen independent points a sample, about: errors of 0.01 and 0.02.
    assert abs(metrics.increment_skewness(smooth)) < 0.03
    assert abs(metrics.increment_kurtosis(smooth) - 3) < 0.06


def shapes():
    x, y = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    r = lambda a, b: np.hypot((x - a + 16) % 32 - 16, (y - b + 16) % 32 - 16)
    disc = r(10, 12) < 6.3
    return {
        "nothing": (disc & False, 0),
        "disc": (disc, 1),
        "disc over the sides": (r(1, 30) < 6.3, 1),
        "two discs": (disc | (r(26, 25) < 4), 2),
        "annulus": ((r(16, 16) < 10) & (r(16, 16) > 5), 0),
        "band": (np.abs(x - 9) < 3, 0),
        "everything": (disc | True, 0),
        "torus with a hole": (~disc, -1),
        "two points that touch": ((x == y) & (x < 2), 1),
    }


def test_euler_numbers_of_shapes(x32):
    masks, wanted = zip(*shapes().values(), strict=True)
    fields = jnp.asarray(np.stack(masks) * 1.5 - 0.5, "f4")
    assert_close(jax.jit(jax.vmap(metrics.euler_number))(fields), wanted, 0)
    high = jax.jit(jax.vmap(lambda f: metrics.euler_number(f, threshold=2.0)))
    assert_close(high(fields), 0.0, 0)


@pytest.mark.slow
def test_euler_numbers_with_sides_and_in_other_dimensions(x32):
    found = {name: metrics.euler_number(mask, periodic=False)
             for name, (mask, _) in shapes().items()}  # fmt: skip
    assert found["disc"] == found["band"] == found["everything"] == 1
    assert found["disc over the sides"] == 4
    assert found["torus with a hole"] == found["annulus"] == 0
    x = np.stack(np.meshgrid(*[np.arange(16) - 8] * 3, indexing="ij"))
    r = np.sqrt((x**2).sum(0))
    assert metrics.euler_number(r < 5.5) == 1
    assert metrics.euler_number((r < 6.5) & (r > 2.5)) == 2  # a cavity
    ring = (np.hypot(np.hypot(x[0], x[1]) - 4.5, x[2])) < 2
    assert metrics.euler_number(ring) == 0  # a tunnel
    line = np.array([1, 0, 1, 1, 0, 0, 1], bool)
    assert metrics.euler_number(line) == 2
    assert metrics.euler_number(line, periodic=False) == 3


def test_the_share_of_an_interface_and_of_other_values(x32):
    dtype = np.dtype("f4")
    x = (np.arange(4096) + 0.5) / 4096 * 40 - 20
    phi = np.tanh((np.abs(x) - 10) / (np.sqrt(2) * 1.3)).astype(dtype)
    thickness = 2 * np.sqrt(2) * 1.3 * math.atanh(0.5)
    assert_close(metrics.interface_share(phi), 2 * thickness / 40, 0.0, 1e-3)
    # Two Gaussians a deviation apart: erf(1 / sqrt 8).
    z = (np.arange(40_000) + 0.5) / 40_000
    normal = np.asarray(jax.scipy.special.ndtri(z), dtype)
    apart = metrics.density_distance(normal + 1, normal, bins=200)
    assert_close(apart, math.erf(1 / np.sqrt(8)), 0.0, 2e-3)
    assert metrics.density_distance(normal, normal[::-1]) == 0
    assert_close(metrics.density_distance(normal + 100, normal), 1.0, 0.0, 1e-6)
    halves = metrics.density_distance(z + 0.5, z, bins=40, limits=(0.0, 2.0))
    assert_close(halves, 0.5, 0.0, 1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.increments(X, lag=48), "lag=48 on axis -1 of fields of shape"),
        (lambda: metrics.increments(X, axis=1), "Give the axis of space"),
        (lambda: metrics.structure_functions(X, order=0), "order must be a whole"),
        (lambda: metrics.interface_share(X, level=0.0), "level must be positive"),
        (lambda: metrics.density_distance(X, X, bins=1), "bins must be a whole number"),
        (lambda: metrics.density_distance(X, X, limits=(1.0, 0.0)), "low < high"),
        (lambda: metrics.euler_number(np.zeros((2, 2, 2, 2))), "one to three dim"),
    ],
)
def test_bad_input_says_what_was_expected(call, message, x64):
    with pytest.raises(ValueError, match=message):
        call()
