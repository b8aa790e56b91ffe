"""Scores of forecasts against closed forms."""

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from pidax.metrics import (
    brier,
    coverage,
    crps,
    energy_score,
    rank_histogram,
    wilson,
)

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def closed_crps(z):
    """Of a standard normal forecast."""
    law = NormalDist()
    return z * (2 * law.cdf(z) - 1) + 2 * law.pdf(z) - 1 / np.sqrt(np.pi)


@pytest.mark.parametrize("count", [2, 5, 50])
def test_crps_of_a_normal_forecast_is_fair(count, x64):
    """The mean is the closed form's for any number of samples."""
    for y in (0.0, 1.5):
        samples = RNG.normal(size=(count, 10000))
        found = crps(samples, np.full(10000, y))
        error = 5 * np.asarray(found).std() / 100
        assert abs(found.mean() - closed_crps(y)) < error
        scaled = crps(3 + 2 * samples, np.full(10000, 3 + 2 * y))
        assert_close(scaled, 2 * np.asarray(found), 1e-10)


def test_crps_by_hand_and_by_pairs(x64):
    assert_close(crps(jnp.array([0.0, 2.0]), jnp.array(0.5)), 1.0 - 4 / 4, 1e-12)
    x, y = RNG.normal(size=(7, 3, 4)), RNG.normal(size=(3, 4))
    pairs = np.abs(x[:, None] - x[None]).sum(axis=(0, 1)) / (2 * 7 * 6)
    assert_close(crps(x, y), np.abs(x - y).mean(axis=0) - pairs, 1e-12)


def test_the_energy_score_of_numbers_is_the_crps(x64):
    x, y = RNG.normal(size=(9, 1)), RNG.normal(size=1)
    assert_close(energy_score(x, y), crps(x, y)[0], 1e-12)


def test_the_energy_score_of_a_normal_law(x64):
    """In three dimensions E|x - x'| = 4/sqrt(pi), and E|x| = 2 sqrt(2/pi)."""
    samples = RNG.normal(size=(4000, 6, 3))
    found = jax.vmap(energy_score, (0, None))(samples, jnp.zeros(3))
    expected = 2 * np.sqrt(2 / np.pi) - 2 / np.sqrt(np.pi)
    assert abs(found.mean() - expected) < 5 * np.asarray(found).std() / np.sqrt(4000)
    grad = jax.grad(lambda y: energy_score(samples[0], y))(jnp.asarray(samples[0, 0]))
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("count", [2, 20])
def test_brier_is_fair(count, x64):
    p, q = 0.3, 0.6
    events = RNG.random((count, 10000)) < p
    truth = RNG.random(10000) < q
    found = np.asarray(brier(events, truth))
    expected = q * (1 - q) + (p - q) ** 2
    assert abs(found.mean() - expected) < 5 * found.std() / 100
    one = brier(np.array([True, False, False]), np.array(True))
    assert_close(one, (1 / 3 - 1) ** 2 - (2 / 9) / 2, 1e-12)


@pytest.mark.parametrize("count", [4, 19, 100])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage_of_the_right_law_is_the_level(count, level):
    samples, truth = RNG.normal(size=(count, 20000)), RNG.normal(size=20000)
    found = coverage(samples, truth, level=level)
    assert abs(found.share - level) < 5 * np.sqrt(level * (1 - level) / 10000)
    assert found.low < found.share < found.high
    narrow = coverage(0.5 * samples, truth, level=level)
    assert narrow.high < level
    assert not narrow.agrees
    assert "do not agree" in str(narrow)


def test_coverage_of_too_narrow_a_law_is_known():
    """Half the spread: P(|x| < 1.645 / 2)."""
    samples = 0.5 * RNG.normal(size=(999, 4000))
    truth = RNG.normal(size=4000)
    expected = 2 * NormalDist().cdf(NormalDist().inv_cdf(0.95) / 2) - 1
    assert abs(coverage(samples, truth).share - expected) < 0.04


def test_wilsons_interval():
    """Its ends solve |p - share| = z sqrt(p (1 - p) / n), where z = 1.96."""
    low, high = wilson(65, 100)
    for end in (low, high):
        off = abs(0.65 - end) / np.sqrt(end * (1 - end) / 100)
        assert_close(off, NormalDist().inv_cdf(0.975), 1e-9)
    assert low < 0.65 < high
    assert wilson(0, 10)[0] == 0.0
    assert_close(wilson(10, 10)[1], 1.0, 1e-12)
    assert_close(wilson(0, 10)[1], 1 - wilson(10, 10)[0], 1e-12)
    with pytest.raises(ValueError, match="got 11 of 10"):
        wilson(11, 10)


def test_ranks_are_flat_for_the_right_law_only():
    samples, truth = RNG.normal(size=(19, 8000)), RNG.normal(size=8000)
    flat = rank_histogram(samples, truth, key=KEY)
    assert flat.counts.shape == (20,)
    assert flat.counts.sum() == 8000
    assert flat.degrees == 19
    assert abs(flat.chi_squared - 19) < 5 * np.sqrt(2 * 19)
    certain = rank_histogram(0.5 * samples, truth, key=KEY, bins=5)
    assert certain.chi_squared > 100
    assert min(certain.counts[[0, 4]]) > 1.2 * certain.expected  # a bowl
    equal = rank_histogram(np.zeros((19, 8000)), np.zeros(8000), key=KEY)
    assert abs(equal.chi_squared - 19) < 5 * np.sqrt(2 * 19)  # by chance
    low = rank_histogram(samples, truth - 10, key=KEY)
    assert low.counts[0] == 8000


def test_bad_input_is_named():
    one = np.zeros((1, 5))
    for score in (crps, coverage):
        with pytest.raises(ValueError, match="two samples or more of each case, got 1"):
            score(one, np.zeros(5))
    with pytest.raises(ValueError, match="level and confidence"):
        coverage(np.zeros((3, 5)), np.zeros(5), level=1.5)
    with pytest.raises(ValueError, match="divide the 4 ranks"):
        rank_histogram(np.zeros((3, 5)), np.zeros(5), key=KEY, bins=3)
