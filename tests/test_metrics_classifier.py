"""A classifier's accuracy against the best one, known in closed form."""

from statistics import NormalDist

import jax
import numpy as np
import pytest
from helpers import assert_close

from pidax.metrics import c2st
from pidax.metrics._classifier import _by_chance

KEY = jax.random.key(0)
PHI = NormalDist().cdf


def draws(seed, count=2000):
    return np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)


@pytest.mark.parametrize("distance", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_two_normal_laws_are_told_apart_as_well_as_can_be(distance, x32):
    """Best accuracy: that of half the distance. None is better but by chance."""
    moved = draws(1) + np.array([0.6, 0.8], np.float32) * np.float32(distance)
    found = c2st(draws(0), moved, key=KEY)
    best, error = PHI(distance / 2), 0.5 / np.sqrt(2000)
    assert found.cases == 2000
    assert abs(found.accuracy - best) < 3 * error
    assert found.low < best < found.high
    assert found.agrees == (distance == 0)
    assert "not told apart" in str(found) or found.p_value < 1e-6


@pytest.mark.slow
def test_laws_of_one_mean_are_told_apart_by_their_spread(x32):
    """By a circle, which no linear function is: for unit normals and three times these
    in one dimension, right at r^2 = 2 ln 3 / (1 - 1/9).
    """
    wide = 3 * draws(1, 4000)[:, :1]
    found = c2st(draws(0, 4000)[:, :1], wide, key=KEY)
    r = np.sqrt(2 * np.log(3) / (1 - 1 / 9))
    best = 0.5 + PHI(r) - PHI(r / 3)
    assert abs(found.accuracy - best) < 3 * 0.5 / np.sqrt(4000)


@pytest.mark.slow
def test_the_p_value_of_equal_laws_is_uniform(x32):
    values = [
        c2st(draws(2 * i, 400), draws(2 * i + 1, 300), key=KEY, steps=50).p_value
        for i in range(60)
    ]
    assert abs(np.mean(values) - 0.5) < 4 / np.sqrt(12 * 60)
    assert 0 < (np.array(values) < 0.2).mean() < 0.4


def test_by_chance_by_hand():
    """Two of four, of which both are right: one of six choices."""
    assert_close(_by_chance(2, 2, 2), 1 / 6, 1e-12)
    assert_close(_by_chance(1, 2, 2), 5 / 6, 1e-12)
    assert_close(_by_chance(0, 2, 2), 1.0, 1e-12)
    assert_close(_by_chance(1000, 1000, 1000), 0.0, 1e-12)


def test_bad_sets_are_refused():
    with pytest.raises(ValueError, match="at least 4 samples"):
        c2st(draws(0, 3), draws(1), key=KEY)
    with pytest.raises(ValueError, match="steps must be a whole number"):
        c2st(draws(0), draws(1), key=KEY, steps=0)
