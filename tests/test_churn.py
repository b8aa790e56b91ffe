"""The stochastic sampler: Heun's steps without churn, a law in closed form with it."""

import functools
import itertools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, full_mixture

import pidax as px


@pytest.mark.slow
@pytest.mark.parametrize("process", [px.EDM(), px.VP()], ids=["EDM", "VP"])
def test_without_churn_it_is_heuns_method_in_the_noise_to_signal_ratio(
    process, key, x64
):
    teacher = full_mixture()
    flow = px.ProbabilityFlow(teacher, process)
    z = process.prior(key, (2,))
    times = px.karras(9, process, final_zero=True)
    end = px.sample_with_churn(flow, z, key=key, times=times)
    # The same noise levels as EDM's own times.
    edm = px.EDM(
        sigma_min=float(process.ratio_interval[0]),
        sigma_max=float(process.ratio_interval[1]),
    )
    flow = px.ProbabilityFlow(teacher, edm, clock=px.flow.TimeClock())
    grid = px.karras(9, edm, final_zero=True)
    start = z / process.alpha(process.t_max)
    path = px.solve(flow, start, times=grid, steps=grid[:-1], solver=diffrax.Heun())
    assert_close(end, path.end, 1e-9)


@pytest.mark.slow
def test_noise_is_added_inside_the_interval_alone(key, x64):
    flow = px.ProbabilityFlow(full_mixture(), px.EDM())
    z = flow.process.prior(key, (2,))
    grid = px.karras(9, flow.process, final_zero=True)
    still = px.sample_with_churn(flow, z, key=key, times=grid)
    run = lambda interval: px.sample_with_churn(
        flow, z, key=key, times=grid, churn=5, interval=interval
    )
    assert_close(run((81, 1000)), still, 0)
    assert_close(run((0.0, 0.0019)), still, 0)
    assert jnp.abs(run((0.05, 1.0)) - still).max() > 1e-3


@pytest.mark.parametrize("make", [px.EDM, px.VE, px.VP, px.SubVP])
def test_churn_of_every_process_is_finite_by_default(make, x32, key):
    """No noise is the difference of equal squares: nothing, and not NaN."""
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(2), 0.25), make())
    z = flow.process.prior(key, (8, 2))

    @jax.jit
    @jax.vmap
    def draws(z):
        run = functools.partial(px.sample_with_churn, flow, z, key=key)
        off = run(churn=30, interval=(1e9, 2e9))
        return run(), off, run(churn=np.float32(30), interval=(0.05, 1.0))

    still, off, churned = draws(z)
    assert_close(off, still, 1e-6)
    assert jnp.isfinite(churned).all()
    assert jnp.abs(churned - still).max() > 1e-2


@pytest.mark.slow
def test_the_law_of_its_samples_for_gaussian_data(x64):
    """Each step is affine in the sample: mean and variance go by a recursion."""
    mean, variance = 0.3, 0.25
    teacher = px.Gaussian(jnp.array([mean]), jnp.array([variance]))
    flow = px.ProbabilityFlow(teacher, px.EDM())
    grid = np.asarray(px.karras(7, flow.process, final_zero=True))
    churn, interval, noise = 1.5, (0.1, 10.0), 1.1
    slope = lambda level: level / (variance + level**2)  # of (x - D)/level
    m, v = 0.0, 80.0**2  # of the prior
    for level, after in itertools.pairwise(grid):
        inside = interval[0] <= level <= interval[1]
        raised = level * (1 + min(churn / 7, 2**0.5 - 1) * inside)
        v += noise**2 * (raised**2 - level**2)
        h = after - raised
        factor = 1 + h * slope(raised)
        if after > 0:
            factor = 1 + h / 2 * (slope(raised) + slope(after) * factor)
        m, v = mean + factor * (m - mean), factor**2 * v
    keys = jax.random.split(jax.random.key(1), 2 * 100_000).reshape(2, -1)

    @jax.jit
    def draw(prior, key):
        z = flow.process.prior(prior, (1,))
        return px.sample_with_churn(
            flow,
            z,
            key=key,
            times=jnp.asarray(grid),
            churn=churn,
            interval=interval,
            noise=noise,
        )

    x = np.asarray(jax.vmap(draw)(*keys))
    assert_close(x.var(), v, 0.02)  # four standard deviations of its estimate
    assert_close(x.mean(), m, 0, 4 * np.sqrt(v / 1e5))
    assert abs(v / 0.25 - 1) > 0.04  # churn with too much noise shows in the law


@pytest.mark.slow
def test_it_costs_two_evaluations_a_step_and_one_at_the_end(key):
    calls = []
    ring = px.GaussianMixture.ring()

    def counted(x, sigma, alpha=1.0, condition=None):
        jax.debug.callback(lambda: calls.append(1))
        return ring(x, sigma, alpha)

    teacher = px.from_function(counted, shape=(2,))
    flow = px.ProbabilityFlow(teacher, px.EDM())
    px.sample_with_churn(flow, flow.process.prior(key, (2,)), key=key)
    jax.effects_barrier()
    assert len(calls) == 35


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"churn": -1}, "churn must not be negative, got churn=-1"),
        ({"noise": 0.0}, "noise must be positive"),
        ({"times": jnp.array([1.0, 2.0])}, r"decrease in noise.*got \[1. 2.\]"),
    ],
)
def test_bad_input_is_named(options, message, key):
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), px.EDM())
    with pytest.raises(ValueError, match=message):
        px.sample_with_churn(flow, jnp.zeros(2), key=key, **options)


@pytest.mark.slow
def test_pure_noise_without_signal_is_refused(key):
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), px.RectifiedFlow())
    with pytest.raises(ValueError, match="start below the time of pure noise"):
        px.sample_with_churn(flow, jnp.zeros(2), key=key)


@pytest.mark.slow
def test_a_table_of_levels_is_sampled_at_its_levels(key, x64):
    """As the network were asked for at times that are rounded first, churned too."""
    levels = (50.0, 10.0, 2.0, 0.4, 0.08, 0.0)
    process = px.EDM(levels[-2], levels[0])
    seen = []

    def network(x, c_noise, condition=None, *, augment=None, key=None):
        jax.debug.callback(lambda c: seen.append(float(c)), c_noise)
        return jnp.concatenate([x, x])

    table = px.denoiser.IDDPMCoefficients(levels)
    denoiser = px.Preconditioned(network, process, table)
    flow = px.ProbabilityFlow(denoiser, process, shape=(2,))
    z = process.prior(key, (2,))
    near = jnp.array([50.0, 7.0, 1.7, 0.08, 0.0])  # 7 is nearest to 10, 1.7 to 2
    found = px.sample_with_churn(flow, z, key=key, times=near)
    there = jnp.array([50.0, 10.0, 2.0, 0.08, 0.0])
    assert_close(found, px.sample_with_churn(flow, z, key=key, times=there), 0)
    off = jnp.array([50.0, 7.0, 1.7, 0.1, 0.0])
    assert_close(found, px.sample_with_churn(flow, z, key=key, times=off), 0)
    ratios = jnp.array([6.1, 5.9, 1e3, 0.0])
    assert_close(denoiser.nearest_level(ratios), jnp.array([10.0, 2.0, 50.0, 0.0]), 0)
    jax.effects_barrier()
    assert set(seen) <= {4.0, 3.0, 2.0, 1.0, 0.0}
