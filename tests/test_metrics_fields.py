"""Metrics of fields against closed forms; the bootstrap against known errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import assert_close

from pidax.metrics import (
    amplitude_ratio,
    bootstrap,
    mean_error,
    radial_spectrum,
    spread_error,
)


def sets(n, m, *shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *shape)), rng.normal(size=(m, *shape))


# --- means, spreads, amplitudes ------------------------------------------------------


def test_mean_and_spread_errors_by_hand(x64):
    x, y = sets(6, 9, 4, 5)
    assert_close(mean_error(x, y), np.mean((x.mean(0) - y.mean(0)) ** 2), 1e-12)
    assert_close(spread_error(x, y), np.mean((x.std(0) - y.std(0)) ** 2), 1e-12)
    assert_close(mean_error(y + 3.0, y), 9.0, 1e-12)  # a shift moves the mean alone
    assert_close(spread_error(y + 3.0, y), 0.0, 0, 1e-20)
    assert_close(spread_error(2.5 * y, y), np.mean(1.5**2 * y.var(0)), 1e-12)


def test_the_errors_of_gaussian_sets_have_their_closed_forms(x64):
    r"""N(1, 2²) against N(0, 1) of 40 and 25 draws: the law's gap and the floor."""
    x, y = sets(40, 25, 20_000)
    expected = 1 + 4 / 40 + 1 / 25
    assert_close(mean_error(1 + 2 * x, y), expected, 0.02)
    assert_close(mean_error(x, y), 1 / 40 + 1 / 25, 0.03)
    assert_close(spread_error(x, y), 1 / 80 + 1 / 50, 0.06)
    collapsed = np.broadcast_to(y.mean(0), y.shape)  # the mean alone, always
    assert_close(spread_error(collapsed, y), 1 - 1 / 25, 0.02)


@pytest.mark.slow
def test_the_amplitude_ratio_is_that_of_shrunken_fields(dtype):
    y = sets(5, 5, 3, 4)[1].astype(dtype)
    assert_close(amplitude_ratio(y / 2, y), 0.5, 1e-6)
    assert_close(amplitude_ratio(-3 * y[:2], y[:2]), 3.0, 1e-6)
    assert amplitude_ratio(0 * y, y) == 0
    assert amplitude_ratio(y, y).dtype == dtype


# --- spectra -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("periodic", [True, False, (True, False)])
def test_the_energies_are_the_mean_square(periodic, dtype):
    field = (0.3 + sets(9, 1, 12)[0]).astype(dtype)
    found = radial_spectrum(field, lengths=(1.0, 2.0), periodic=periodic)
    assert found.energy.dtype == dtype
    assert_close(found.energy.sum(), np.mean(field.astype(float) ** 2), 1e-5)
    assert found.modes.sum() == field.size
    assert (found.modes > 0).all()


@pytest.mark.slow
def test_a_single_wave_lies_in_its_shell(x64):
    n, length = 32, 3.0
    x, y = np.meshgrid(*[length * np.arange(n) / n] * 2, indexing="ij")
    k = 2 * np.pi / length
    wave = 1.7 * np.cos(3 * k * x + 0.4) * np.sin(4 * k * y)  # |k| = 5 fundamental
    found = radial_spectrum(wave, lengths=(length, length))
    expected = np.zeros(len(found.energy))
    expected[5] = 1.7**2 / 4
    assert_close(found.energy, expected, 1e-12)
    assert_close(found.wavenumber[5], 5 * k, 1e-12)
    # On two axes of lengths 1 and 2 the shell is the shorter one's fundamental.
    x = 2.0 * np.arange(n) / n
    slow = np.broadcast_to(np.cos(2 * np.pi * 4 * x / 2), (16, n))
    found = radial_spectrum(slow, lengths=(1.0, 2.0))
    assert_close(found.energy[2], 0.5, 1e-12)
    assert_close(found.wavenumber[2], 4 * np.pi, 1e-12)


@pytest.mark.slow
def test_a_bounded_field_is_taken_by_cosines_and_a_ramp_does_not_leak(x64):
    n, length = 64, 2.0
    x = length * (np.arange(n) + 0.5) / n
    wave = np.cos(7 * np.pi * x / length)
    found = radial_spectrum(wave, lengths=(length,), periodic=False)
    assert_close(found.energy[7], 0.5, 1e-12)
    assert_close(found.wavenumber[7], 7 * np.pi / length, 1e-12)
    # The cosine series of a ramp falls as k⁻⁴ in energy, its Fourier series as k⁻².
    slopes = []
    for periodic in (False, True):
        energy = np.asarray(radial_spectrum(x, periodic=periodic).energy)
        slopes.append(np.log(energy[15] / energy[5]) / np.log(3))
    assert_close(slopes, [-4, -2], 0, 0.2)


def test_white_noise_is_flat_and_what_does_not_fit_is_refused(x64):
    noise = sets(200, 1, 16, 16)[0]
    found = jax.vmap(radial_spectrum)(noise)
    average = found.energy.mean(0) / found.modes[0]
    assert_close(average, np.full(len(average), 1 / 256), 0.15)
    with pytest.raises(ValueError, match="an entry for each axis of the field, 2 in"):
        radial_spectrum(noise[0], lengths=(1.0,))


# --- the bootstrap -------------------------------------------------------------------


def mean(x):
    return x.mean(axis=0)


@pytest.mark.slow
def test_the_interval_of_a_mean_has_the_known_standard_error(x64):
    x = sets(100, 1, 3)[0] * np.array([1.0, 2.0, 10.0])
    found = bootstrap(mean, x, key=jax.random.key(0), resamples=4000)
    assert_close(found.estimate, x.mean(0), 1e-12)
    half = scipy.stats.norm.ppf(0.975) * x.std(0) / np.sqrt(100)
    assert_close(found.high - found.low, 2 * half, 0.05)
    assert_close((found.high + found.low) / 2, x.mean(0), 0, 0.05 * half.max())
    narrow = bootstrap(mean, x, key=jax.random.key(0), resamples=4000, level=0.5)
    ratio = scipy.stats.norm.ppf(0.75) / scipy.stats.norm.ppf(0.975)
    assert_close((narrow.high - narrow.low) / (2 * half), ratio, 0.06)


@pytest.mark.slow
def test_the_interval_covers_as_often_as_it_says(x64):
    x = jnp.asarray(sets(500, 1, 60)[0])
    keys = jax.random.split(jax.random.key(1), len(x))
    one = lambda x, key: bootstrap(mean, x, key=key, resamples=300)
    found = jax.jit(jax.vmap(one))(x, keys)
    covered = np.mean((found.low < 0) & (found.high > 0))
    assert abs(covered - 0.95) < 0.03
    # Of a spread less often, as the docstring says.
    one = lambda x, key: bootstrap(jnp.std, x, key=key, resamples=300)
    found = jax.jit(jax.vmap(one))(x, keys)
    covered = np.mean((found.low < 1) & (found.high > 1))
    assert abs(covered - 0.91) < 0.03


@pytest.mark.slow
def test_sets_are_resampled_each_on_its_own_and_trees_together(x64):
    """The interval of a difference of means; pairs of a tree stay pairs."""
    x, y = sets(80, 50, 1)
    key = jax.random.key(2)
    apart = bootstrap(lambda a, b: mean(a) - mean(b), x, y, key=key, resamples=2000)
    error = np.sqrt(x.var() / 80 + y.var() / 50)
    assert_close(apart.high - apart.low, [2 * 1.96 * error], 0.06)
    both = {"a": x, "b": x + 1.0}
    paired = bootstrap(lambda t: mean(t["b"]) - mean(t["a"]), both, key=key)
    assert_close(paired.low, [1.0], 1e-12)
    assert_close(paired.high, [1.0], 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "low", "high"), [(0.0, 1.3, 2.6), (0.5, 0.7, 1.3)])
def test_the_interval_of_a_biased_distance_is_about_its_estimate(gap, low, high, x64):
    """Where laws agree it is √3 times what repeated experiments scatter by."""
    x, y = sets(50, 50, 200)
    found = bootstrap(mean_error, x + gap, y, key=jax.random.key(3), resamples=300)
    assert found.low < found.estimate < found.high
    pairs = [sets(50, 50, 200, seed=s) for s in range(60)]
    again = [np.mean((x.mean(0) + gap - y.mean(0)) ** 2) for x, y in pairs]
    assert low < (found.high - found.low) / (2 * 1.96 * np.std(again)) < high


def test_what_cannot_be_resampled_is_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"at least two samples.*got \[1\]"):
        bootstrap(mean, np.ones((1, 3)), key=key)
    with pytest.raises(ValueError, match="between 0 and 1, got level=95"):
        bootstrap(mean, np.ones((4, 3)), key=key, level=95)
