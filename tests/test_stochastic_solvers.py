"""Samplers with noise on Gaussian data: their moments are exact, not estimated.

A sampler of a Gaussian is an affine map of its start and of the normal numbers of its
steps. With more components than unknowns the map is found by least squares.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from stepping import Levels, solved, walk

import pidax as px
from pidax.solver import Ancestral, HalfCurvature, Multistep, SASolver, SDEDPMSolverPP

MEAN, VARIANCE, KEY = 0.3, 0.16, jax.random.key(5)
MOST = 64
SIZE = MOST + 8


def flow_of(process):
    teacher = px.Gaussian(jnp.full(SIZE, MEAN), VARIANCE)
    return px.ProbabilityFlow(teacher, process)


def normals(count):
    draw = lambda i: jax.random.normal(jax.random.fold_in(KEY, i), (SIZE,))
    return np.stack([draw(i) for i in range(count)])


def moments(end, z, drawn):
    """The constant, the factor of the start and of each number, by least squares."""
    columns = np.stack([np.ones(SIZE), z, *drawn], axis=1)
    found, *_ = np.linalg.lstsq(columns, np.asarray(end), rcond=None)
    assert np.abs(columns @ found - end).max() < 1e-9
    return found[0], found[1], found[2:]


def scalar_recursion(levels, tau):
    """The affine map of order one: constant, factor of the start, of each number."""
    constant, factor, noises = 0.0, 1.0, []
    for i in range(levels.steps):
        s0, s1 = levels.sigma[i : i + 2]
        a0, a1 = levels.alpha[i : i + 2]
        h = levels.log_snr[i + 1] - levels.log_snr[i]
        gain = a0 * VARIANCE / (a0**2 * VARIANCE + s0**2)  # D = offset + gain x
        offset = MEAN * (1 - a0 * gain)
        whole = -a1 * np.expm1(-(1 + tau**2) * h)
        step = s1 / s0 * np.exp(-(tau**2) * h) + whole * gain
        constant, factor = step * constant + whole * offset, step * factor
        spread = s1 * np.sqrt(-np.expm1(-2 * tau**2 * h))
        noises = [step * g for g in noises] + [spread]
    return constant, factor, np.array(noises)


def test_order_one_has_the_moments_of_the_scalar_recursion(x64):
    process = px.VP()
    flow, times = flow_of(process), jnp.array([1.0, 0.7, 0.5, 0.2, 0.05])
    z = np.asarray(jax.random.normal(jax.random.key(1), (SIZE,)))
    solver = Multistep(1, noise=0.6, key=KEY)
    end = jax.jit(lambda z: solved(solver, flow, z, times))(z)
    expected = scalar_recursion(Levels(process, times), 0.6)
    for one, other in zip(moments(end, z, normals(4)), expected, strict=True):
        assert_close(one, other, 1e-10)


def test_ancestral_steps_draw_from_the_posterior(x64):
    """q(x_s | x_t, x_0) of Ho et al. 2020, with the denoised sample as x_0."""
    process = px.VP()
    flow, times = flow_of(process), jnp.array([0.6, 0.35])
    x = np.asarray(jax.random.normal(jax.random.key(2), (SIZE,)))
    found = jax.jit(lambda x: solved(Ancestral(key=KEY), flow, x, times))(x)
    (st, ss), (at, as_) = map(np.asarray, process.level(times))
    step = at / as_
    variance = st**2 - step**2 * ss**2
    clean = np.asarray(flow.denoiser(jnp.asarray(x), st, at))
    mean = step * ss**2 / st**2 * x + as_ * variance / st**2 * clean
    expected = mean + np.sqrt(variance * ss**2 / st**2) * normals(1)[0]
    assert_close(found, expected, 1e-12)


@pytest.mark.slow
def test_the_corrector_repeats_its_step_with_the_same_noise(x64):
    """SA-Solver of Xue et al. 2023 with one node in the predictor, two in the rest."""
    process, tau = px.VP(), 0.8
    flow, times = flow_of(process), jnp.array([0.9, 0.6, 0.35, 0.2])
    solver = SASolver(1, key=KEY, noise=tau, interval=(0.0, 1e9))
    z = np.asarray(jax.random.normal(jax.random.key(2), (SIZE,)))
    found = jax.jit(lambda x: solved(solver, flow, x, times))(z)
    levels, kappa, x = Levels(process, times), 1 + tau**2, z
    draws = normals(3)

    def ask(x, i):
        a, s = levels.alpha[i], levels.sigma[i]
        gain = a * VARIANCE / (a**2 * VARIANCE + s**2)
        return MEAN + gain * (x - a * MEAN)

    newest, guess = ask(x, 0), x
    for i in range(3):
        h = levels.log_snr[i + 1] - levels.log_snr[i]
        s0, s1, a1 = levels.sigma[i], levels.sigma[i + 1], levels.alpha[i + 1]
        whole = -a1 * np.expm1(-kappa * h)
        base = s1 / s0 * np.exp(-(tau**2) * h) * x
        base = base + s1 * np.sqrt(-np.expm1(-2 * tau**2 * h)) * draws[i]
        guess = base + whole * newest
        if i == 2:
            break
        later = ask(guess, i + 1)
        mean = -1 / np.expm1(-kappa * h) - 1 / (kappa * h)  # of x in [0, 1]
        x, newest = base + whole * (newest + mean * (later - newest)), later
    assert_close(found, guess, 1e-12)


@pytest.mark.slow
def test_without_noise_it_is_the_ode(x64):
    flow, times = flow_of(px.VP()), jnp.array([0.9, 0.6, 0.35, 0.2])
    solvers = (
        SASolver(2, key=KEY, noise=jnp.zeros(3)),
        Multistep(2, "data", "log_snr", True),
    )
    z = jax.random.normal(jax.random.key(2), (SIZE,))
    found = jax.jit(lambda x: [solved(s, flow, x, times) for s in solvers])(z)
    assert_close(found[0], found[1], 1e-12)


WEAK = {
    "1": (Multistep(1, noise=1.0, key=KEY), 1),
    "2": (Multistep(2, noise=1.0, key=KEY), 2),
    "SDE-DPM++ 2M": (SDEDPMSolverPP(2, key=KEY), 2),
    "noise": (Multistep(2, "noise", noise=0.7, key=KEY), 2),
    "3M, code": (SDEDPMSolverPP(3, key=KEY, rule=HalfCurvature()), 2),
}


@pytest.mark.parametrize(
    "name",
    [n if n == "2" else pytest.param(n, marks=pytest.mark.slow) for n in WEAK],
)
def test_the_weak_order(name, x64):
    """Of the variance at the end, for a start with the exact moments."""
    solver, order = WEAK[name]
    process = px.EDM(0.4, 2.0, sigma_data=0.5)
    flow = flow_of(process)
    z = np.asarray(jax.random.normal(jax.random.key(1), (SIZE,)))

    @jax.jit
    def end(z, count):
        shares = jnp.minimum(jnp.arange(MOST + 1.0) / count, 1.0)
        ratios = 2.0 * (0.4 / 2.0) ** shares
        taus = flow.clock.reading(process, ratios)
        u = walk(solver, flow, taus, z * flow.magnification(jnp.array(2.0)), count)
        return u / flow.magnification(jnp.array(0.4))

    errors = []
    for count in (16, 32, 64):
        _, factor, noises = moments(end(z, count), z, normals(count))
        variance = factor**2 * (VARIANCE + 4.0) + (noises**2).sum()
        errors.append(abs(variance - (VARIANCE + 0.16)))
    coarse, fine = np.log2(errors[0] / errors[1]), np.log2(errors[1] / errors[2])
    assert_close(2 * fine - coarse, order, 0, 0.2)


@pytest.mark.slow
def test_a_solve_draws_one_path_for_a_key_and_has_a_derivative(x64):
    process = px.VP()
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), process)
    z = process.prior(jax.random.key(0), (3, 2))
    keys = jax.random.split(jax.random.key(1), 3)
    run = lambda z, k: px.solve(flow, z, solver=SDEDPMSolverPP(key=k), steps=8).end
    apart = jax.vmap(run)(z, keys)
    assert_close(run(z[1], keys[1]), apart[1], 1e-12)
    assert jnp.abs(run(z[1], keys[2]) - apart[1]).max() > 1e-3
    step = jnp.array([1e-5, 0.0])
    slope = jax.grad(lambda s: run(s, keys[0]).sum())(z[0])[0]
    moved = (run(z[0] + step, keys[0]) - run(z[0] - step, keys[0])).sum() / 2e-5
    assert_close(slope, moved, 1e-5)
    with pytest.raises(ValueError, match=r"goes from noise to data.*Encode with noise"):
        px.encode(flow, z[0], solver=SDEDPMSolverPP(key=keys[0]), steps=8)
