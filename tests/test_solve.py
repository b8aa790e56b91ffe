"""Batches, conditions, options and the evaluation ledger."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_close,
    full_mixture,
    gaussian,
)

import pidax as px
from pidax.flow._integrate import make_plan, rms


@pytest.mark.slow
def test_batch_equals_samples_one_by_one(key, x64):
    flow = px.ProbabilityFlow(full_mixture(), px.VP())
    z = flow.process.prior(key, (5, 2))
    times = px.uniform_angle(4, flow.process)
    together = px.solve_batch(flow, z, times=times, rtol=1e-9)
    apart = jax.vmap(lambda s: px.solve(flow, s, times=times, rtol=1e-9))(z)
    assert together.xs.shape == apart.xs.shape == (5, 4, 2)
    assert_close(together.xs, apart.xs, 1e-6)
    assert_close(together.end, together.xs[:, -1], 0)
    fixed = px.solve_batch(flow, z, steps=7)
    assert_close(
        fixed.end, jax.vmap(lambda s: px.solve(flow, s, steps=7).end)(z), 1e-13
    )


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_fixed_steps_between_two_times(steps, x32):
    """The clock is read at the ends twice, and the readings may differ in a bit."""
    process = px.EDM(sigma_data=1.0)
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(3), 1.0), process)
    z = process.prior(jax.random.key(0), (4, 3))
    times = jnp.array([process.t_max, process.t_min])
    path = px.solve_batch(flow, z, times=times, steps=steps)
    shrunk = np.sqrt((1 + process.t_min**2) / (1 + process.t_max**2))
    assert_close(path.end, z * shrunk, 1e-5)


@pytest.mark.slow
def test_a_batch_is_as_good_as_its_worst_sample(x64):
    """Mean norm over the batch lets one sample go; the max norm does not."""
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), px.EDM())
    easy = jnp.broadcast_to(jnp.array([80.0, 0.0]), (255, 2))
    z = jnp.concatenate([easy, 80 * jnp.array([[0.05, 0.02]])])
    exact = px.solve(flow, z[-1], rtol=1e-11).end
    worst = px.solve_batch(flow, z, rtol=1e-4).end[-1]
    mean = diffrax.PIDController(1e-4, 1e-4, pcoeff=0.3, icoeff=0.4)
    diluted = px.solve_batch(flow, z, stepsize_controller=mean).end[-1]
    assert jnp.linalg.norm(worst - exact) < 2e-3
    assert jnp.linalg.norm(diluted - exact) > 2 * jnp.linalg.norm(worst - exact)


@pytest.mark.slow
def test_conditions_ride_along(key, x64):
    mixture = full_mixture()
    flow = px.ProbabilityFlow(mixture, px.EDM())
    z = flow.process.prior(key, (2, 2))
    one = px.solve(flow, z[0], condition=1)
    only = px.Gaussian(
        mixture.means[2], jax.tree.map(lambda a: a[2], mixture.covariances)
    )
    exact = only.transport(z[0], (80.0, 1.0), (0.002, 1.0))
    assert_close(one.end, exact, 1e-3)
    many = px.solve_batch(flow, z, condition=jnp.array([1, 0]), rtol=1e-8)
    assert_close(many.end[0], exact, 1e-6)
    shared = px.solve_batch(flow, z, condition=jnp.asarray(1), rtol=1e-8)
    assert_close(shared.end[0], exact, 1e-6)
    assert jnp.linalg.norm(shared.end[1] - many.end[1]) > 0.1
    latent = px.encode(flow, exact, condition=1, rtol=1e-8).end
    assert_close(latent / 80, z[0] / 80, 1e-6)
    draws = px.sample(flow, 3, key=key, condition=jnp.array([1, 1, 0]))
    assert draws.shape == (3, 2)


@pytest.mark.slow
def test_samples_have_the_law_of_the_data(key):
    """Mean and covariance of 4000 one-dimensional draws, within five errors."""
    teacher = px.Gaussian(jnp.array([0.7]), 0.09)
    flow = px.ProbabilityFlow(teacher, px.EDM())
    draws = px.sample(flow, 4000, key=key)
    assert abs(draws.mean() - 0.7) < 5 * 0.3 / 4000**0.5
    assert abs(draws.std() - 0.3) < 5 * 0.3 / 8000**0.5


@pytest.mark.slow
def test_dense_output(key, x64):
    teacher, process = gaussian(), px.VP()
    flow = px.ProbabilityFlow(teacher, process)
    z = process.prior(key, (3,))
    path = px.solve(flow, z, dense=True, rtol=1e-8)
    for t in (0.9, 0.31, 0.02):
        exact = teacher.transport(z, process.level(1.0), process.level(t))
        assert_close(path.evaluate(t), exact, 3e-6)


@pytest.mark.slow
def test_saveat_passes_through_in_process_times_and_states(key, x64):
    teacher, process = gaussian(), px.EDM()
    flow = px.ProbabilityFlow(teacher, process)
    z = process.prior(key, (3,))
    path = px.solve(flow, z, saveat=diffrax.SaveAt(t0=True, steps=True), rtol=1e-6)
    count = int(path.stats["num_accepted_steps"])
    assert_close(path.ts[0], 80.0, 1e-9)
    assert_close(path.ts[count], 0.002, 1e-9)
    assert jnp.isinf(path.ts[count + 1 :]).all()
    exact = jax.vmap(lambda t: teacher.transport(z, (80.0, 1.0), (t, 1.0)))
    assert_close(path.xs[: count + 1], exact(path.ts[: count + 1]), 1e-4)
    norms = px.solve(
        flow,
        z,
        rtol=1e-8,
        saveat=diffrax.SaveAt(ts=jnp.array([5.0, 0.5]), fn=lambda t, x, c: x / t),
    )
    middle = teacher.transport(z, (80.0, 1.0), (5.0, 1.0)) / 5
    assert_close(norms.xs[0], middle, 1e-6)
    assert_close(norms.end, exact(jnp.array([0.002]))[0], 1e-6)
    assert_close(norms.ts, jnp.array([5.0, 0.5]), 1e-9)


@pytest.mark.slow
def test_any_diffrax_solver_and_adjoint(key, x64):
    teacher, process = gaussian(), px.EDM()
    flow = px.ProbabilityFlow(teacher, process)
    z = process.prior(key, (3,))
    exact = teacher.transport(z, (80.0, 1.0), (0.002, 1.0))
    for solver in (diffrax.Bosh3(), diffrax.Kvaerno3()):
        path = px.solve(flow, z, solver=solver, rtol=1e-6)
        assert_close(path.end, exact, 1e-3)
    assert path.stats["evaluations"] is None  # implicit: not countable, and said so
    direct = diffrax.diffeqsolve(
        flow.term(),
        diffrax.Tsit5(),
        *(flow.enter(z, t)[0] for t in (80.0, 0.002)),
        dt0=-0.1,
        y0=flow.enter(z, 80.0)[1],
        stepsize_controller=diffrax.PIDController(1e-8, 1e-8),
    )
    assert direct.ys is not None
    assert_close(flow.leave(flow.enter(z, 0.002)[0], direct.ys[0])[0], exact, 1e-6)
    tangent = jax.jvp(
        lambda s: px.solve(flow, s, adjoint=diffrax.ForwardMode(), rtol=1e-8).end,
        (z,),
        (jnp.ones(3),),
    )[1]
    step = teacher.transport(z + 1, (80.0, 1.0), (0.002, 1.0)) - exact
    assert_close(tangent, step, 1e-6)


@pytest.mark.slow
def test_gradients_against_finite_differences(key, x64):
    """With respect to the start, a parameter of the data and one of the process."""
    z = px.EDM().prior(key, (2,))

    def end(shift, scale, z):
        means = jnp.array([[0.5, 0.2], [-0.6, 0.1]]) + shift
        teacher = px.GaussianMixture(means, scale * jnp.ones(2))
        flow = px.ProbabilityFlow(teacher, px.EDM())
        return px.solve(flow, z, rtol=1e-10).end.sum()

    args = (jnp.asarray(0.1), jnp.asarray(0.2), z)
    grads = jax.grad(end, argnums=(0, 1, 2))(*args)

    def of_process(sigma_max):
        flow = px.ProbabilityFlow(full_mixture(), px.EDM(sigma_max=sigma_max))
        return px.solve(flow, z, rtol=1e-10).end.sum()

    slope = jax.grad(of_process)(80.0)
    numeric = (of_process(80.01) - of_process(79.99)) / 0.02
    assert_close(slope, numeric, 1e-6)
    h = 1e-5
    for i in range(2):
        up, down = list(args), list(args)
        up[i], down[i] = args[i] + h, args[i] - h
        assert_close(grads[i], (end(*up) - end(*down)) / (2 * h), 1e-5)
    e = jnp.array([1.0, 0.0]) * 1e-2
    assert_close(
        grads[2][0], (end(*args[:2], z + e) - end(*args[:2], z - e)) / 2e-2, 1e-5
    )


@pytest.mark.slow
def test_solving_inside_jit_and_vmap_over_scales(key, x64):
    """Flows are pytrees: vmap over the data's own parameters."""
    z = px.EDM().prior(key, (2,))

    @jax.jit
    @jax.vmap
    def ends(std):
        teacher = px.Gaussian(jnp.zeros(2), std**2 * jnp.ones(2))
        return px.solve(px.ProbabilityFlow(teacher, px.EDM()), z, rtol=1e-8).end

    stds = jnp.array([0.1, 0.5, 2.0])
    expected = z * jnp.sqrt(stds[:, None] ** 2 + 0.002**2)
    expected /= jnp.sqrt(stds[:, None] ** 2 + 6400)
    assert_close(ends(stds), expected, 1e-6)


def test_one_compilation_serves_every_state(key):
    traces = []

    def denoise(x, sigma, alpha):
        traces.append(None)
        return x * alpha / (alpha**2 + sigma**2)

    flow = px.ProbabilityFlow(px.from_function(denoise, shape=(2,)), px.EDM())
    px.solve(flow, flow.process.prior(jax.random.key(0), (2,)))
    first = len(traces)
    for i in range(1, 4):
        z = flow.process.prior(jax.random.key(i), (2,))
        px.solve(flow, z, rtol=10.0**-i)  # another tolerance is no compilation either
    assert len(traces) == first


def counted_flow(calls):
    """A denoiser that counts its own calls at run time."""

    def denoise(x, sigma, alpha):
        jax.debug.callback(lambda: calls.append(None))
        gain = 0.25 * alpha / (0.25 * alpha**2 + sigma**2)
        return x * gain + 0.1 * alpha * jnp.tanh(3 * x)

    return px.ProbabilityFlow(px.from_function(denoise, shape=(2,)), px.EDM())


SOLVERS = [diffrax.Tsit5, diffrax.Heun] + [
    pytest.param(solver, marks=pytest.mark.slow)
    for solver in (diffrax.Dopri5, diffrax.Dopri8, diffrax.Bosh3)
]


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_ledger_counts_every_call(solver):
    calls = []
    flow = counted_flow(calls)
    z = jnp.array([10.0, -70.0])
    # A first step that is too long is rejected, and begun anew each time.
    cases: list[px.flow.SolveOptions] = [
        {"rtol": 1e-3},
        {"rtol": 1e-5, "dt0": 1.5},
        {"steps": 4},
    ]
    for options in cases:
        calls.clear()
        options["solver"] = solver()
        path = px.solve(flow, z, denoise=True, **options)
        jax.effects_barrier()
        assert len(calls) == path.stats["evaluations"]
    calls.clear()
    path = px.solve(flow, z, steps=6, solver=diffrax.Euler())
    jax.effects_barrier()
    assert len(calls) == path.stats["evaluations"] == 6


@pytest.mark.slow
def test_the_ledger_counts_rejected_steps_and_guidance():
    mixture = px.GaussianMixture.two_moons()
    plain = px.ProbabilityFlow(mixture, px.EDM())
    guided = px.ProbabilityFlow(px.Guided(mixture, 1.0), px.EDM())
    z = jnp.array([30.0, 12.0])
    one = px.solve(plain, z, condition=1, dt0=1.5)
    two = px.solve(guided, z, condition=1, dt0=1.5)
    assert one.stats["num_rejected_steps"] > 0
    assert two.stats["evaluations"] == 2 * one.stats["evaluations"]


def test_the_ledger_of_a_density_counts_every_call():
    calls = []
    flow = counted_flow(calls)
    result = px.log_density(flow, jnp.array([0.1, -0.7]), rtol=1e-3, dt0=1.5)
    jax.effects_barrier()
    assert result.stats["num_rejected_steps"] > 0
    assert len(calls) == result.stats["evaluations"]


@pytest.mark.slow
def test_evaluations_under_vmap_have_a_mean_and_a_maximum(key, x64):
    flow = px.ProbabilityFlow(full_mixture(), px.EDM())
    z = flow.process.prior(key, (6, 2))
    paths = jax.vmap(lambda s: px.solve(flow, s))(z)
    each = [int(px.solve(flow, s).stats["evaluations"]) for s in z]
    assert paths.evaluations() == (pytest.approx(np.mean(each)), max(each))
    assert "solved, evaluations: mean" in str(paths)


# --- what the options mean ------------------------------------------------------------


def test_the_defaults_are_those_documented(x64):
    flow = px.ProbabilityFlow(gaussian(), px.EDM())
    times = jnp.array([80.0, 0.002])

    def plan(dense=False, **options: Any):
        return make_plan(px.flow.SolveOptions(**options), flow, times, rms, dense=dense)

    assert isinstance(plan().solver, diffrax.Tsit5)
    assert isinstance(plan(rtol=1e-8).solver, diffrax.Dopri8)
    assert isinstance(plan(steps=5).solver, diffrax.Dopri5)
    controller = plan().controller
    assert isinstance(controller, diffrax.PIDController)
    assert (controller.pcoeff, controller.icoeff) == (0.3, 0.4)
    assert controller.rtol == controller.atol == 1e-4
    assert plan(dense=True).max_steps < plan().max_steps
    angles = flow.process.angle(times)
    assert_close(plan().dt0, 0.1 * (angles[1] - angles[0]), 1e-12)
    assert_close(plan(dt0=0.3).dt0, -0.3, 0)


@pytest.mark.slow
def test_the_last_step_is_the_denoiser_at_the_last_time(key, x64):
    mixture, process = full_mixture(), px.VP()
    flow = px.ProbabilityFlow(mixture, process)
    z, times = process.prior(key, (2,)), jnp.array([1.0, 0.4])
    plain = px.solve(flow, z, times=times, condition=1)
    path = px.solve(flow, z, times=times, condition=1, denoise=True)
    expected = mixture(plain.end, process.sigma(0.4), process.alpha(0.4), 1)
    assert_close(path.end, expected, 1e-12)
    assert_close(path.xs[-1], expected, 1e-12)
    assert path.stats["evaluations"] == plain.stats["evaluations"] + 1


@pytest.mark.slow
def test_grids_with_a_final_zero_work_inside_jit(key):
    flow = px.ProbabilityFlow(full_mixture(), px.EDM())
    z = flow.process.prior(key, (2,))

    def end(z):
        times = px.karras(5, px.EDM(), final_zero=True)
        return px.solve(flow, z, times=times).end

    assert_close(jax.jit(end)(z), end(z), 1e-5)


@pytest.mark.slow
def test_saveat_of_a_batch_and_dense_alone(key, x64):
    flow = px.ProbabilityFlow(full_mixture(), px.EDM())
    z = flow.process.prior(key, (3, 2))
    ts = jnp.array([5.0, 0.5])
    batch = px.solve_batch(flow, z, saveat=diffrax.SaveAt(ts=ts), rtol=1e-8)
    assert batch.xs.shape == (3, 2, 2)
    dense = px.solve(flow, z[0], saveat=diffrax.SaveAt(dense=True), rtol=1e-8)
    assert_close(batch.xs[0, 1], dense.evaluate(0.5), 1e-5)
    many = jax.vmap(lambda s: px.solve(flow, s, dense=True, rtol=1e-8))(z)
    assert_close(jax.vmap(lambda p: p.evaluate(0.5))(many), batch.xs[:, 1], 1e-5)


@pytest.mark.slow
def test_the_backsolve_adjoint(x64):
    """Of an MLP of one layer: it holds an empty tuple, which Diffrax cannot carry."""
    network = px.nn.MLP(2, 2, width=4, depth=1, key=jax.random.key(0))
    flow = px.ProbabilityFlow(px.Preconditioned(network, px.EDM()), px.EDM())
    arrays, rest = eqx.partition(flow, eqx.is_inexact_array)
    z = jnp.array([30.0, -20.0])

    @jax.jit
    def end(arrays, adjoint):
        flow = eqx.combine(arrays, rest)
        options = {"rtol": 1e-7, "solver": diffrax.Heun()}
        return px.solve(flow, z, times=[80, 5], adjoint=adjoint, **options).end.sum()

    adjoint = diffrax.BacksolveAdjoint()
    grads = jax.jit(jax.grad(lambda arrays: end(arrays, adjoint)))(arrays)
    moved = lambda h: end(jax.tree.map(lambda a: a + h, arrays), adjoint)
    expected = (moved(1e-4) - moved(-1e-4)) / 2e-4
    # The adjoint's own error is large: its steps are chosen for all states together.
    assert_close(sum(g.sum() for g in jax.tree.leaves(grads)), expected, 0.05)


@pytest.mark.slow
def test_times_of_any_kind_and_batches_of_none(key, x32):
    flow = px.ProbabilityFlow(full_mixture(), px.EDM())
    z = flow.process.prior(key, (2,))
    ends = jnp.array([80.0, 0.5])
    expected = px.solve(flow, z, times=ends, steps=3).end
    assert_close(px.solve(flow, z, times=[80, 0.5], steps=np.int64(3)).end, expected, 0)
    draw = lambda count, **given: px.sample(flow, count, key=key, steps=3, **given)
    assert_close(draw(np.int64(1), times=[80.0, 0.5]), draw(1, times=ends), 0)
    with pytest.raises(ValueError, match=r"at least one sample, got .*\(0, 2\). Leave"):
        px.solve_batch(flow, jnp.zeros((0, 2)))
