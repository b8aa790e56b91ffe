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
    spread_skill_ratio,
    tarp,
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


def share_at(found, level):
    return np.interp(level, found.level, found.share)


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_tarp_about_the_centre_of_a_normal_law(spread):
    """The ball of the share f of N(0, s^2) has radius s z, and 2 Phi(s z) - 1 of the
    truths, z the quantile of (1 + f)/2.
    """
    cases, law, rng = 20000, NormalDist(), np.random.default_rng(1)
    samples = spread * rng.normal(size=(99, cases, 1))
    truth, centre = rng.normal(size=(cases, 1)), np.zeros((cases, 1))
    found = tarp(samples, truth, key=KEY, references=centre)
    for level in (0.1, 0.5, 0.9):
        expected = 2 * law.cdf(spread * law.inv_cdf((1 + level) / 2)) - 1
        # Level 0.01 between ranks: the curve is known at multiples of it only.
        assert abs(share_at(found, level) - expected) < 4 * 0.5 / np.sqrt(cases) + 0.005
    assert found.agrees == (spread == 1)
    assert found.cases == cases
    assert ("they agree" in str(found)) == (spread == 1)


def test_tarp_of_numbers_from_far_away_is_the_ranks():
    """From the right, the nearest samples are the largest."""
    samples, truth = RNG.normal(size=(9, 500)), 0.5 + RNG.normal(size=500)
    far = np.full((500, 1), 1e3)
    found = tarp(samples[..., None], truth[:, None], key=KEY, references=far)
    counts = rank_histogram(samples, truth, key=KEY).counts
    np.testing.assert_allclose(np.diff(found.share), counts[::-1] / 500, atol=1e-12)
    np.testing.assert_allclose(found.level, np.arange(11) / 10)
    off = np.abs(np.cumsum(counts[::-1]) / 500 - np.arange(1, 11) / 10).max()
    assert_close(found.distance, off, 1e-9)
    assert_close(found.bound, 1.358 / np.sqrt(500), 1e-9)


def test_tarp_sees_a_correlation_that_single_numbers_do_not():
    """The right marginals everywhere, without the dependence of the entries."""
    cases, size, rng = 2000, 6, np.random.default_rng(2)
    field = lambda *n: rng.normal(size=(*n, 1)) + 0.3 * rng.normal(size=(*n, size))
    truth, right = field(cases), field(40, cases)
    assert tarp(right, truth, key=KEY).agrees
    wrong = np.sqrt(1.09) * rng.normal(size=(40, cases, size))
    assert coverage(wrong[..., 0], truth[:, 0]).agrees
    assert not tarp(wrong, truth, key=KEY).agrees
    shaped = tarp(right.reshape(40, cases, 2, 3), truth.reshape(cases, 2, 3), key=KEY)
    np.testing.assert_array_equal(shaped.share, tarp(right, truth, key=KEY).share)


def test_equal_samples_are_ordered_by_chance_in_tarp():
    found = tarp(np.zeros((9, 20000, 1)), np.zeros((20000, 1)), key=KEY)
    assert found.agrees
    with pytest.raises(ValueError, match="expected at least two, got 1"):
        tarp(np.zeros((9, 1, 1)), np.zeros((1, 1)), key=KEY)


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_the_spread_skill_ratio_of_normal_laws(count, spread, x64):
    """(K + 1)/K s^2 over 1 + s^2/K: one for s = 1 and any number of samples."""
    cases = 20000
    samples = 3 + spread * RNG.normal(size=(count, cases))
    truth = 3 + RNG.normal(size=cases)
    expected = np.sqrt((count + 1) / count * spread**2 / (1 + spread**2 / count))
    assert_close(spread_skill_ratio(samples, truth), expected, 0.05)
    by_hand = spread_skill_ratio(np.array([[0.0], [2.0]]), np.array([4.0]))
    assert_close(by_hand, np.sqrt(1.5 * 2 / 9), 1e-12)
