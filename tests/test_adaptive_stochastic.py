"""The stochastic sampler with adaptive steps: the ODE without noise, a law with it.

All but one test are slow: the Brownian tree inside an adaptive loop compiles slowly.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import pidax as px
from pidax.solver import solve_stochastic

MEAN, VARIANCE = 0.3, 0.09


def gaussian_flow(process, clock=None):
    data = px.Gaussian(jnp.full(2, MEAN), VARIANCE)
    return px.ProbabilityFlow(data, process, clock=clock)


@pytest.mark.slow
@pytest.mark.parametrize("make", [px.EDM, px.VP])
def test_without_noise_it_is_the_ode_and_with_noise_the_data(make, x64):
    process = make()
    flow = gaussian_flow(process)
    z = process.prior(jax.random.key(1), (3000, 2))
    keys = jax.random.split(jax.random.key(2), len(z))

    @jax.jit
    def draw(noise, rtol):
        one = lambda z, key: solve_stochastic(
            flow, z, key=key, noise=noise, rtol=rtol, atol=rtol / 2
        )
        return jax.vmap(one)(z, keys)

    law: Any = flow.denoiser
    ends = [process.level(t) for t in (process.t_max, process.t_min)]
    exact = jax.vmap(lambda z: law.transport(z, *ends))(z)
    error = lambda rtol: float(jnp.abs(draw(0.0, rtol).end - exact).max())
    assert error(0.05) < 0.15  # the largest of 6,000
    assert error(0.005) < 0.2 * error(0.05)
    # Four standard deviations of the estimates from 6,000 numbers, and a bias.
    x = np.asarray(draw(1.0, 0.05).end)
    assert_close(x.mean(), MEAN, 0, 4 * (VARIANCE / 6000) ** 0.5 + 0.005)
    assert_close(x.var() / VARIANCE, 1, 0, 4 * (2 / 6000) ** 0.5 + 0.01)
    # It is another sample than that of the ODE, of the same data.
    assert np.corrcoef(x.ravel(), np.asarray(exact).ravel())[0, 1] < 0.5


@pytest.mark.slow
def test_each_sample_has_its_own_steps_and_every_call_is_counted(x64):
    ring, calls = px.GaussianMixture.ring(), []

    def counted(x, sigma, alpha):
        jax.debug.callback(lambda: calls.append(1))
        return ring(x, sigma, alpha)

    process = px.EDM()
    flow = px.ProbabilityFlow(px.from_function(counted, shape=(2,)), process)
    z = process.prior(jax.random.key(1), (4, 2))
    keys = jax.random.split(jax.random.key(2), 4)
    run = lambda z, key: solve_stochastic(flow, z, key=key, denoise=True)
    one = run(z[0], keys[0])
    jax.effects_barrier()
    assert len(calls) == int(one.stats["evaluations"])
    assert int(one.stats["evaluations"]) == 1 + 2 * int(one.stats["num_steps"])
    quiet = px.ProbabilityFlow(ring, process)
    together = jax.vmap(
        lambda z, key: solve_stochastic(quiet, z, key=key, denoise=True)
    )(z, keys)
    assert_close(together.end[0], one.end, 1e-5)
    assert int(together.stats["evaluations"][0]) == int(one.stats["evaluations"])
    assert len(set(np.asarray(together.stats["evaluations"]).tolist())) > 1


@pytest.mark.slow
def test_the_same_key_is_the_same_path_for_every_tolerance(x64):
    flow = gaussian_flow(px.VP())
    z = flow.process.prior(jax.random.key(1), (64, 2))
    keys = jax.random.split(jax.random.key(2), 64)

    @jax.jit
    def ends(rtol):
        one = lambda z, key: solve_stochastic(flow, z, key=key, rtol=rtol, atol=rtol)
        return jax.vmap(one)(z, keys).end

    fine = ends(0.001)
    rms = lambda rtol: float(jnp.sqrt(jnp.mean((ends(rtol) - fine) ** 2)))
    assert rms(0.1) < 0.3 * VARIANCE**0.5
    assert rms(0.01) < 0.4 * rms(0.1)


def test_bad_input_is_named(x32):
    flow = gaussian_flow(px.RectifiedFlow())
    z, key = jnp.ones(2), jax.random.key(0)
    with pytest.raises(ValueError, match=r"a signal .*alpha=0.*smaller t_max, or use"):
        solve_stochastic(flow, z, key=key)
    flow = gaussian_flow(px.EDM())
    with pytest.raises(ValueError, match=r"needs noise >= 0 .* got noise=-1"):
        solve_stochastic(flow, z, key=key, noise=-1)
    with pytest.raises(ValueError, match=r"rtol must be positive"):
        solve_stochastic(flow, z, key=key, rtol=0.0)
