"""Denoisers around denoisers: thresholds, and a process with a given mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import pidax as px
from pidax.denoiser import Thresholded, from_mean_reverting


def constant(*values):
    """A denoiser that always predicts these values."""
    x0 = jnp.array(values)
    return px.from_function(lambda x, sigma, alpha: x0, shape=x0.shape)


def test_static_thresholding_clips_to_the_bounds(x64):
    bounded = Thresholded(constant(-3.0, 0.25, 1.5), (0.0, 1.0))
    assert_close(bounded(jnp.ones(3), 2.0), jnp.array([0.0, 0.25, 1.0]), 0)
    assert bounded.shape == (3,)
    assert bounded.evaluations() == 1
    guided = Thresholded(px.Guided(constant(5.0), 2.0))
    assert guided.evaluations(jnp.ones(1)) == 2


def test_dynamic_thresholding_divides_by_the_quantile(x64):
    """In (0, 4), centre 2 and half width 2, |u| is 0, 1, 2, 3 and its median 1.5."""
    bounded = Thresholded(constant(2.0, 4.0, -2.0, 8.0), (0.0, 4.0), 0.5)
    expected = 2 + 2 * np.array([0.0, 1.0, -1.5, 1.5]) / 1.5
    assert_close(bounded(jnp.ones(4), 1.0), expected, 1e-15)
    # Where the quantile is inside, only what is outside changes.
    inside = Thresholded(constant(2.0, 2.2, 2.4, 5.0), (0.0, 4.0), 0.5)
    assert_close(inside(jnp.ones(4), 1.0), np.array([2.0, 2.2, 2.4, 4.0]), 1e-15)


def test_data_without_bounds_are_refused():
    with pytest.raises(ValueError, match=r"bounds must be .* got .*inf.*Leave Thresho"):
        Thresholded(constant(1.0), (-np.inf, np.inf))
    with pytest.raises(ValueError, match=r"quantile must be .* got quantile=99\.5"):
        Thresholded(constant(1.0), quantile=99.5)


def test_a_given_mean_moves_the_state_alone(x64, key):
    """x_t - (1 - alpha) mu of N(m, c) is the ordinary process of the same data."""
    data, process = px.Gaussian(jnp.array([0.4, -0.3]), 0.2), px.VP()
    mu = jnp.array([1.5, 0.7])
    seen = []

    def noise(x, t, condition):
        """The exact prediction of the noise in x, which contains the mean."""
        sigma, alpha = process.level(t)
        seen.append(x)
        return data.noise(x - (1 - alpha) * condition, sigma, alpha)

    wrapped = from_mean_reverting(noise, process, shape=(2,))
    sigma, alpha = process.level(0.3)
    x = jnp.array([0.2, 0.9])
    assert_close(wrapped(x, sigma, alpha, mu), data(x, sigma, alpha), 1e-12)
    assert_close(seen[0], x + (1 - alpha) * mu, 1e-12)
    within = from_mean_reverting(
        lambda x, t, c: noise(x, t, c["mu"]), process, mean=lambda c: c["mu"]
    )
    assert_close(within(x, sigma, alpha, {"mu": mu}), data(x, sigma, alpha), 1e-12)
    with pytest.raises(ValueError, match=r"a mean of the shape \(2,\) .* got None"):
        wrapped(x, sigma, alpha)
    with pytest.raises(ValueError, match=r"got \(3,\)\. Pass condition=mean"):
        wrapped(x, sigma, alpha, jnp.ones(3))


@pytest.mark.slow
def test_a_solve_with_a_given_mean_ends_at_the_clean_sample(x64, key):
    data, process = px.Gaussian(jnp.array([0.4, -0.3]), 0.2), px.VP()

    def clean(x, t, mu):
        sigma, alpha = process.level(t)
        return data(x - (1 - alpha) * mu, sigma, alpha)

    wrapped = from_mean_reverting(clean, process, prediction="data", shape=(2,))
    flow = px.ProbabilityFlow(wrapped, process)
    z = process.prior(key, (3, 2))
    mus = jax.random.normal(key, (3, 2))
    ends = px.solve_batch(flow, z, condition=mus, rtol=1e-8).end
    level = lambda t: process.level(t)
    move = lambda x: data.transport(x, level(process.t_max), level(process.t_min))
    assert_close(ends, jax.vmap(move)(z), 1e-6)
