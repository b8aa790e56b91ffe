"""Picard's iteration and parareal: their fixed point is DDIM, step by step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import pidax as px
from pidax.solver import parareal, picard

STEPS = 12


def two_modes(x, sigma, alpha):
    """The denoiser of N(-0.5, 0.01) and N(0.5, 0.01), and of no more."""
    total = 0.01 * alpha**2 + sigma**2
    clear = 0.01 * alpha * x + sigma**2 * 0.5 * jnp.tanh(0.5 * alpha * x / total)
    return clear / total


@pytest.fixture(scope="module")
def modes():
    """The flow, a start, and the states of DDIM by its formula."""
    with jax.enable_x64(True):
        process = px.EDM()
        flow = px.ProbabilityFlow(px.from_function(two_modes, shape=(2,)), process)
        z = jnp.array([5.0, -70.0])
        times = px.karras(STEPS + 1, process)
        x, states = np.asarray(z), [np.asarray(z)]
        for t, after in itertools.pairwise(np.asarray(times)):
            total = 0.01 + t**2
            clean = (0.01 * x + t**2 * 0.5 * np.tanh(0.5 * x / total)) / total
            x = clean + after / t * (x - clean)
            states.append(x)
        return flow, z, times, np.stack(states)


def test_picard_is_ddim_after_as_many_rounds_as_steps(modes, x64):
    flow, z, times, ddim = modes
    run = lambda **options: picard(flow, z, steps=times, **options)
    whole = run(tolerance=0)
    assert_close(whole.xs, ddim, 1e-12)
    assert_close(whole.end, ddim[-1], 1e-13)
    assert int(whole.rounds) <= STEPS
    assert int(whole.evaluations) == STEPS * int(whole.rounds)
    # k rounds make the first k states exact, and the error falls faster and faster.
    errors = []
    for k in (1, 4, 7, 10):
        path = run(tolerance=0, rounds=k)
        assert_close(path.xs[: k + 1], ddim[: k + 1], 1e-12)
        errors.append(float(jnp.abs(path.end - ddim[-1]).max()))
    assert errors[0] > 1e-2
    falls = np.array(errors[1:]) / errors[:-1]
    assert (falls < 0.7).all()
    assert falls[-1] < 0.2
    # With a tolerance it stops early, near DDIM.
    soon = run(tolerance=1e-3)
    assert int(soon.rounds) < STEPS
    assert float(soon.change) <= 1e-3
    assert_close(soon.end, ddim[-1], 0, 5e-3)
    assert str(soon).startswith("ParallelPath of shape (2,): 12 steps in ")


@pytest.mark.slow
def test_a_window_slides(modes, x64):
    flow, z, times, ddim = modes
    path = picard(flow, z, steps=times, window=3, tolerance=0.0)
    assert_close(path.xs, ddim, 1e-12)
    assert int(path.evaluations) == 3 * int(path.rounds)
    assert 4 <= int(path.rounds) <= STEPS
    # One state at a time is DDIM itself.
    one = picard(flow, z, steps=times, window=1, tolerance=1e9)
    assert_close(one.xs, ddim, 1e-12)
    assert int(one.rounds) == int(one.evaluations) == STEPS


@pytest.mark.slow
def test_parareal_is_ddim_after_all_blocks(modes, x64):
    flow, z, times, ddim = modes
    run = lambda **options: parareal(flow, z, steps=times, blocks=4, **options)
    whole = run(tolerance=0)
    assert_close(whole.xs, ddim, 1e-12)
    assert int(whole.rounds) == 4 + 4 * (2 + 4)
    assert int(whole.evaluations) == 4 + 4 * STEPS
    for k in (1, 2):
        path = run(tolerance=0, iterations=k)
        exact = 3 * k + 1
        assert_close(path.xs[:exact], ddim[:exact], 1e-12)
        assert jnp.abs(path.xs[exact:] - ddim[exact:]).max() > 1e-4
        assert int(path.rounds) == 4 + k * (2 + 4)


@pytest.mark.slow
@pytest.mark.parametrize("make", [px.VP, px.RectifiedFlow])
@pytest.mark.parametrize("method", [picard, parareal])
def test_the_gain_on_gaussian_data_is_a_product_of_cosines(make, method, x64, key):
    """In other processes, from pure noise too, for many samples and both precisions."""
    variance, process = 0.09, make()
    teacher = px.Gaussian(jnp.zeros(2), variance)
    flow = px.ProbabilityFlow(teacher, process)
    zs = process.prior(key, (5, 2))
    times = px.uniform_angle(10, process)
    sigma, alpha = process.level(times)
    psi = np.arctan2(sigma, alpha * variance**0.5)
    spread = np.hypot(alpha * variance**0.5, sigma)
    gain = np.prod(np.cos(np.diff(psi))) * spread[-1] / spread[0]
    run = jax.jit(jax.vmap(lambda z: method(flow, z, steps=times, tolerance=0)))
    paths = run(zs)
    assert_close(paths.end, gain * zs, 1e-12)
    even = method(flow, zs[0], steps=9, tolerance=0)  # equal steps in the clock
    assert_close(even.ts, times, 1e-9)
    assert_close(even.end, gain * zs[0], 1e-9)
    with jax.enable_x64(False):
        teacher = px.Gaussian(jnp.zeros(2), variance)
        flow = px.ProbabilityFlow(teacher, process)
        z = jnp.asarray(np.asarray(zs[0], np.float32))
        assert_close(method(flow, z, steps=9, tolerance=0).end, paths.end[0], 1e-4)


@pytest.mark.slow
def test_the_step_to_zero_noise_is_one_more_round_and_guidance_costs_two(modes, x64):
    flow, z, times, _ = modes
    run = lambda flow, **more: parareal(flow, z, steps=times, blocks=2, **more)
    plain, denoised = run(flow), run(flow, denoise=True)
    expected = flow.denoiser(plain.end, times[-1], 1.0)
    assert_close(denoised.end, expected, 1e-12)
    assert int(denoised.rounds) == int(plain.rounds) + 1
    assert int(denoised.evaluations) == int(plain.evaluations) + 1
    classes = px.GaussianMixture(jnp.eye(2), 0.05, labels=np.arange(2))
    guided = px.ProbabilityFlow(px.Guided(classes, 1.5), flow.process)
    condition = jnp.asarray(1)
    path = run(guided, condition=condition, tolerance=0)
    assert int(path.evaluations) == 2 * (2 + 2 * STEPS)


def test_bad_input_is_named(modes, x64):
    flow, z, times, _ = modes
    with pytest.raises(ValueError, match=r"blocks must divide .*12, got blocks=5"):
        parareal(flow, z, steps=times, blocks=5)
    with pytest.raises(ValueError, match=r"tolerance must not be negative, got .*-1"):
        picard(flow, z, steps=times, tolerance=-1)
    with pytest.raises(ValueError, match=r"run strictly from the start"):
        picard(flow, z, steps=times[::-1])
    with pytest.raises(ValueError, match=r"window must be a whole number"):
        picard(flow, z, steps=times, window=0)
