"""R-hat and effective sample sizes against closed forms."""

import numpy as np
import pytest
from helpers import assert_close

from pidax.inference import (
    bulk_ess,
    effective_samples,
    genealogical_ess,
    r_hat,
    tail_ess,
)


def autoregressive(rho, chains=4, draws=5000, seed=0):
    """Started from its own law, which is standard normal."""
    noise = np.random.default_rng(seed).normal(size=(chains, draws))
    x = np.empty_like(noise)
    x[:, 0] = noise[:, 0]
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return x


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.5])
def test_the_size_of_an_autoregressive_chain(rho):
    """Of n draws, n (1 - rho) / (1 + rho), and for negative rho more than n."""
    x = autoregressive(rho)
    expected = x.size * (1 - rho) / (1 + rho)
    for size in (effective_samples(x), bulk_ess(x)):
        assert abs(size / expected - 1) < 0.12
    assert r_hat(x) < 1.01


def test_the_size_is_the_variance_of_means_over_many_repetitions():
    x = np.stack([autoregressive(0.8, 4, 400, seed) for seed in range(200)], axis=-1)
    found = np.median(effective_samples(x))
    assert abs(found * x.mean(axis=(0, 1)).var() - 1) < 0.25


def test_quantiles_are_worth_less_than_the_mean_of_independent_draws():
    """Indicators of independent draws are independent: worth all of them."""
    x = autoregressive(0.0)
    assert abs(tail_ess(x) / x.size - 1) < 0.1
    # A quantile of a slow chain is worth its own autocorrelation's share.
    slow = autoregressive(0.9)
    assert tail_ess(slow) < 0.25 * slow.size


def test_r_hat_by_hand():
    """Halves (0, 1), (0, 1), (2, 3), (2, 3): W = 1/2, variance of means 4/3."""
    chains = np.array([[0.0, 1, 0, 1], [2, 3, 2, 3]])
    expected = np.sqrt((0.5 * 0.5 + 4 / 3) / 0.5)
    assert_close(r_hat(chains, ranked=False), expected, 1e-12)


def test_r_hat_sees_what_chains_do_not_share():
    x = autoregressive(0.0, 4, 500)
    shifted, wider, drift = x.copy(), x.copy(), x.copy()
    shifted[0] += 2
    wider[0] *= 5
    drift += np.linspace(0, 3, 500)
    assert r_hat(x) < 1.01
    for other in (shifted, wider, drift):
        assert r_hat(other) > 1.05
    assert r_hat(wider, ranked=False) < 1.05  # which only the folded ranks see
    heavy = np.random.default_rng(1).standard_cauchy((4, 500))
    assert r_hat(heavy) < 1.02


def test_each_quantity_has_its_own_and_a_constant_has_none():
    x = np.stack([autoregressive(0.0), autoregressive(0.9), np.ones((4, 5000))], -1)
    sizes = bulk_ess(x)
    assert sizes.shape == (3,)
    assert_close(sizes[0], bulk_ess(x[..., 0]), 1e-12)
    assert sizes[1] < 0.1 * sizes[0]
    assert np.isnan(sizes[2])
    assert np.isnan(r_hat(x)[2])


def test_equal_draws_share_a_rank():
    """A chain of two values: the scores are two values, symmetric about zero."""
    x = np.random.default_rng(0).integers(0, 2, (4, 500)).astype(float)
    assert abs(bulk_ess(x) / x.size - 1) < 0.2
    assert_close(bulk_ess(x), bulk_ess(1 - x), 1e-9)


def test_copies_of_a_particle_count_as_one():
    values = np.random.default_rng(0).normal(size=(100, 3))
    copies = np.repeat(values, 5, axis=0)
    sizes = genealogical_ess(copies, np.repeat(np.arange(100), 5))
    assert_close(sizes, np.full(3, 100.0), 1e-9)
    alone = genealogical_ess(values, np.arange(100))
    assert_close(alone, np.full(3, 100.0), 1e-9)


def test_one_chain_is_refused():
    for bad in (np.zeros((1, 100)), np.zeros((4, 3))):
        with pytest.raises(ValueError, match="at least two of at least four draws"):
            r_hat(bad)
