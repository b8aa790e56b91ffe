"""Single-step samplers and unequal steps: published formulas and the ledger."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from stepping import Levels, points_flow, solved, two_points, walk

import pidax as px
from pidax.solver import PNDM, DPMSolverFast, DPMSolverPP, ExponentialRK, Taylor2

PROCESS = px.VP()
TIMES = np.array([1.0, 0.8, 0.65, 0.4, 0.2])


def ratio_and_alpha(log_snr):
    """Sigma and alpha of a variance-preserving process."""
    alpha = 1 / np.sqrt(1 + np.exp(-2 * log_snr))
    return np.exp(-log_snr) * alpha, alpha


def eps(x, sigma, alpha):
    return (x - alpha * two_points(x, sigma, alpha)) / sigma


def ddim(x, e, start, end):
    (s0, a0), (s1, a1) = ratio_and_alpha(start), ratio_and_alpha(end)
    return a1 / a0 * x + (s1 - a1 * s0 / a0) * e


def dpm_solver(x, start, end, order):
    """A single step of Lu et al. 2022, algorithms 1 and 2."""
    h = end - start
    at = lambda r: ratio_and_alpha(start + r * h)
    first = eps(x, *at(0))
    if order == 1:
        return ddim(x, first, start, end)
    s1, _ = at(1)
    if order == 2:
        u = ddim(x, first, start, start + h / 2)
        return ddim(x, eps(u, *at(1 / 2)), start, end)
    r1, r2 = 1 / 3, 2 / 3
    inner, later = at(r1), at(r2)
    second = eps(ddim(x, first, start, start + r1 * h), *inner)
    phi = lambda k: np.expm1(k) / k - 1
    u = ddim(x, first, start, start + r2 * h)
    u = u - later[0] * r2 / r1 * phi(r2 * h) * (second - first)
    third = eps(u, *later)
    return ddim(x, first, start, end) - s1 / r2 * phi(h) * (third - first)


def single_2s(x, start, end):
    """DPM-Solver++ 2S with the denoised sample in the middle."""
    (s0, a0), (s1, a1) = ratio_and_alpha(start), ratio_and_alpha(end)
    middle = ratio_and_alpha((start + end) / 2)
    h = end - start
    held = two_points(x, s0, a0)
    u = middle[0] / s0 * x - middle[1] * np.expm1(-h / 2) * held
    return s1 / s0 * x - a1 * np.expm1(-h) * two_points(u, *middle)


def pndm(x, times):
    kept = []
    level = lambda t: float(jnp.log(PROCESS.alpha(t) / PROCESS.sigma(t)))
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        start, middle, end = level(t), level((t + s) / 2), level(s)
        first = eps(x, *ratio_and_alpha(start))
        kept.insert(0, first)
        if i < 3:
            second = eps(ddim(x, first, start, middle), *ratio_and_alpha(middle))
            third = eps(ddim(x, second, start, middle), *ratio_and_alpha(middle))
            last = eps(ddim(x, third, start, end), *ratio_and_alpha(end))
            mean = (first + 2 * second + 2 * third + last) / 6
        else:
            weights = np.array([55, -59, 37, -9]) / 24
            mean = sum(w * e for w, e in zip(weights, kept, strict=False))
        x = ddim(x, mean, start, end)
    return x


@pytest.mark.parametrize(
    "names",
    [("fast", "pndm"), pytest.param(("2", "2S"), marks=pytest.mark.slow)],
    ids=["unequal", "two stages"],
)
def test_the_published_single_steps(names, x64):
    flow, z, times = points_flow(PROCESS), np.array([0.83]), jnp.asarray(TIMES)
    fast = DPMSolverFast(10)
    assert fast.orders == (3, 3, 3, 1)
    solvers = {
        "2": ExponentialRK(2),
        "2S": ExponentialRK(2, "data"),
        "fast": fast,
        "pndm": PNDM(),
    }
    run = lambda z: {name: solved(solvers[name], flow, z, times) for name in names}
    found = jax.jit(run)(z)
    log_snr = Levels(PROCESS, times).log_snr
    expected: dict[str, Any] = dict.fromkeys(("2", "2S", "fast"), z)
    assert fast.orders is not None
    for i, order in enumerate(fast.orders):
        ends = log_snr[i], log_snr[i + 1]
        expected["2"] = dpm_solver(expected["2"], *ends, 2)
        expected["2S"] = single_2s(expected["2S"], *ends)
        expected["fast"] = dpm_solver(expected["fast"], *ends, order)
    expected["pndm"] = pndm(z, TIMES)
    for name in names:
        assert_close(found[name], expected[name], 1e-11)


def test_taylors_step(x64):
    """On a Gaussian, u = m + k sqrt(c + r^2) in (x / alpha, r)."""
    process = px.EDM(0.1, 5.0)
    flow = px.ProbabilityFlow(
        px.Gaussian(jnp.array([0.3]), 0.09), process, clock=px.flow.UnitSignalClock()
    )
    r, h, k, c = 2.0, -0.7, 1.3, 0.09
    root = np.sqrt(c + r**2)
    start = jnp.array([0.3 + k * root])
    found = jax.jit(lambda u: walk(Taylor2(), flow, jnp.array([r, r + h]), u))(start)
    expected = start + h * k * r / root + h**2 / 2 * k * c / root**3
    assert_close(found, expected, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "steps", "calls"),
    [
        (DPMSolverFast(11), 4, 11),
        (PNDM(), 5, 14),
        (ExponentialRK(3, "data"), 3, 9),
    ],
    ids=["fast", "PNDM", "3S"],
)
def test_unequal_steps_are_counted_as_they_run(solver, steps, calls, x64):
    asked = []

    def denoise(x, sigma, alpha):
        jax.debug.callback(lambda: asked.append(None))
        return two_points(x, sigma, alpha)

    flow = px.ProbabilityFlow(px.from_function(denoise, shape=(1,)), PROCESS)
    path = px.solve(flow, jnp.array([0.83]), solver=solver, steps=steps)
    jax.effects_barrier()
    assert len(asked) == path.stats["evaluations"] == calls


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [ExponentialRK(2), ExponentialRK(3), ExponentialRK(3, "data"), Taylor2()],
    ids=["12", "23", "3S", "Taylor"],
)
def test_the_order(solver, x64):
    """On a Gaussian, whose trajectories are known."""
    process, mean, variance = px.EDM(0.3, 3.0), 0.3, 0.6
    flow = px.ProbabilityFlow(px.Gaussian(jnp.array([mean]), variance), process)
    exact = lambda sigma: mean + 1.4 * np.sqrt(variance + sigma**2)

    @jax.jit
    def end(count):
        shares = jnp.minimum(jnp.arange(129.0) / count, 1.0)
        taus = flow.clock.reading(process, 3.0 * 0.1**shares)
        start = jnp.array([exact(3.0)]) * flow.magnification(jnp.array(3.0))
        return walk(solver, flow, taus, start, count) / flow.magnification(
            jnp.array(0.3)
        )

    errors = [abs(end(n).item() - exact(0.3)) for n in (32, 64, 128)]
    coarse, fine = np.log2(errors[0] / errors[1]), np.log2(errors[1] / errors[2])
    order = 2 if isinstance(solver, Taylor2) else solver.order_
    assert_close(2 * fine - coarse, order, 0, 0.15)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [ExponentialRK(3), Taylor2()], ids=["23", "Taylor"])
def test_error_control(solver, x64):
    process = px.VP(t_min=0.05)
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), process)
    z = process.prior(jax.random.key(3), (2,))
    exact = px.solve(flow, z, rtol=1e-9, times=[0.9, 0.2]).end
    path = px.solve(flow, z, solver=solver, rtol=1e-5, times=[0.9, 0.2])
    assert jnp.linalg.norm(path.end - exact) < 1e-3


def test_bad_input_is_named():
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(2), 1.0), px.EDM())
    noisy = px.ProbabilityFlow(px.Gaussian(jnp.zeros(2), 1.0), px.RectifiedFlow())
    z = jnp.ones(2)
    for make, message in (
        (lambda: ExponentialRK(4), "orders are 1, 2 and 3, got order=4. .*Multistep"),
        (
            lambda: px.solve(flow, z, solver=DPMSolverFast(10), steps=10),
            "orders for 4 steps, got 10. Pass steps=4",
        ),
        (
            lambda: px.solve(flow, z, solver=DPMSolverFast(10)),
            "error control needs one order",
        ),
        (lambda: px.solve(flow, z, solver=PNDM()), r"an error estimate .*got PNDM\(\)"),
        (
            lambda: px.solve(noisy, z, solver=ExponentialRK(2), steps=3),
            "ExponentialRK needs a signal",
        ),
        (lambda: DPMSolverPP(4), "has the orders 1, 2 and 3, got order=4"),
        (
            lambda: px.student.SolverStep(ExponentialRK(2)),
            "explicit one-step solver of Diffrax.*got ExponentialRK",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
