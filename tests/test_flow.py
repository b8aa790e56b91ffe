"""The vector field, its clocks and its trajectories, against closed forms."""

import itertools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    CLOCKS,
    EXACT,
    PROCESSES,
    assert_close,
    charts,
    full_mixture,
    gaussian,
    low_rank,
    tolerance,
)

import pidax as px

every_process = pytest.mark.parametrize("make", PROCESSES.values(), ids=PROCESSES)


@pytest.mark.slow
@every_process
def test_textbook_form_in_x_and_t(make, x64):
    """dx/dt = f x - g^2/2 score, f = (log alpha)', g^2 = (sigma^2)' - 2 f sigma^2."""
    process, teacher = make(), gaussian()
    flow = px.ProbabilityFlow(teacher, process, clock=px.flow.TimeClock())
    t, x = jnp.asarray(0.3 * process.t_max), jnp.array([0.7, -1.2, 0.4])

    @jax.jit
    def sides(x, t):
        sigma, alpha = process.sigma(t), process.alpha(t)
        drift = jax.grad(lambda s: jnp.log(process.alpha(s)))(t)
        diffusion2 = jax.grad(lambda s: process.sigma(s) ** 2)(t)
        score = teacher.score(x, sigma, alpha)
        expected = drift * x - (0.5 * diffusion2 - drift * sigma**2) * score
        return flow(t, x), flow.velocity(x, t), expected

    *found, expected = sides(x, t)
    for one in found:
        assert_close(one, expected, 1e-9)


@every_process
def test_angle_form(make, x64):
    """sin(phi) dy/dphi = y cos(phi) - D / sigma_data."""
    process, teacher = make(sigma_data=0.6), gaussian()
    flow = px.ProbabilityFlow(teacher, process)
    t, x = 0.3 * process.t_max, jnp.array([0.7, -1.2, 0.4])

    @jax.jit
    def there_and_back(x, t):
        phi, y = flow.enter(x, t)
        d = teacher(x, *process.level(t))
        expected = (y * jnp.cos(phi) - d / 0.6) / jnp.sin(phi)
        scale = process.scale(t)
        return (
            phi,
            y,
            flow(phi, y),
            expected,
            flow.leave(phi, y),
            process.angle(t),
            scale,
        )

    phi, y, field, expected, back, angle, scale = there_and_back(x, t)
    assert_close(phi, angle, 1e-14)
    assert_close(y, x / scale, 1e-12)
    assert_close(field, expected, 1e-10)
    assert_close(back[0], x, 1e-9)
    assert_close(back[1], t, 1e-9)


@pytest.mark.slow
def test_flow_is_finite_without_signal(dtype):
    teacher = full_mixture()
    flow = px.ProbabilityFlow(teacher, px.RectifiedFlow())
    phi, y = flow.enter(jnp.array([0.3, -1.0]), 1.0)
    mean = teacher(y, 1.0, 0.0)
    assert_close(flow(phi, y), -mean / 0.5, tolerance(dtype, 10))


def test_data_of_the_charts_own_scale_stand_still(x64):
    """dy/dphi = 0 for data ~ N(0, sigma_data^2 I)."""
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(3), 0.49), px.VP(sigma_data=0.7))
    y = jnp.array([0.3, -2.0, 1.0])
    for phi in (0.05, 0.7, 1.5):
        assert_close(flow(jnp.asarray(phi), y), 0.0, 1e-12)


CHARTS = charts(
    ("EDM", "time"),
    ("VE", "log-time"),
    ("VP", "angle"),
    ("SubVP", "log-time"),
    ("RectifiedFlow", "angle"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "clock"), CHARTS)
def test_gaussian_trajectories(name, clock, key, x64):
    """All five processes, all clocks: the closed form on the path."""
    process, teacher = PROCESSES[name](), low_rank()
    flow = px.ProbabilityFlow(teacher, process, clock=CLOCKS[clock]())
    z = process.prior(key, teacher.shape)
    times = px.uniform_angle(5, process)
    path = px.solve(flow, z, times=times, rtol=1e-8, solver=diffrax.Tsit5())
    move = lambda t: teacher.transport(z, process.level(times[0]), process.level(t))
    exact, scale = jax.jit(jax.vmap(lambda t: (move(t), process.scale(t))))(times)
    scale = scale[:, None, None]
    assert_close(path.xs / scale, exact / scale, 1e-6)
    assert_close(path.end, exact[-1], 3e-7)
    assert (path.xs[0] == z).all()
    assert (path.ts == times).all()


@pytest.mark.slow
def test_all_processes_follow_one_trajectory(x64):
    """From one state, five charts arrive at one state, where their angles overlap."""
    teacher, high, low = full_mixture(), 60.0, 0.05
    edm = px.EDM(sigma_min=low, sigma_max=high)
    z = jnp.array([40.0, -25.0])
    expected = px.solve(px.ProbabilityFlow(teacher, edm), z, rtol=1e-11).end
    for make in PROCESSES.values():
        process = make()
        flow = px.ProbabilityFlow(teacher, process)
        ends = jnp.stack([process.time(high), process.time(low)])
        start, _ = edm.convert(z, high, process)
        end = px.solve(flow, start, times=ends, rtol=1e-9).end
        back, _ = process.convert(end, ends[1], edm)
        assert_close(back, expected, 3e-7)


INVERTED = [
    pytest.param(
        name, marks=() if name in ("full mixture", "circle") else pytest.mark.slow
    )
    for name in EXACT
]


@pytest.mark.slow
@pytest.mark.parametrize("name", INVERTED)
def test_encode_is_the_inverse_of_solve(name, key, x64):
    teacher, process = EXACT[name](), px.EDM()
    flow = px.ProbabilityFlow(teacher, process)
    z = process.prior(key, teacher.shape)
    x0 = px.solve(flow, z, rtol=1e-9, solver=diffrax.Tsit5()).end
    path = px.encode(flow, x0, rtol=1e-9, solver=diffrax.Tsit5())
    assert_close(path.end / 80, z / 80, 1e-6)
    assert path.ts[0] < path.ts[-1]
    assert (path.xs[0] == x0).all()


@pytest.mark.slow
def test_float32_reaches_its_floor(x32):
    teacher, process = gaussian(), px.EDM()
    flow = px.ProbabilityFlow(teacher, process)
    z = process.prior(jax.random.key(0), (3,))
    exact = teacher.transport(z, (80.0, 1.0), (0.002, 1.0))
    end = px.solve(flow, z, rtol=1e-6).end
    assert end.dtype == jnp.float32
    assert_close(end, exact, 3e-5)


@pytest.mark.slow
def test_the_default_tolerance_means_what_it_says(x64):
    """1e-4 asked, 1e-3 never exceeded by the worst of 64, for mixtures in 2-D."""
    flow = px.ProbabilityFlow(px.GaussianMixture.two_moons(), px.EDM())
    z = flow.process.prior(jax.random.key(1), (64, 2))
    reference = px.solve_batch(flow, z, rtol=1e-11).end
    error = jnp.sqrt(jnp.mean((px.solve_batch(flow, z).end - reference) ** 2, axis=1))
    assert error.max() < 1e-3
    assert jnp.sqrt(jnp.mean(error**2)) < 2e-4


ORDERS = [(diffrax.Euler, 1, 64), (diffrax.Heun, 2, 32), (diffrax.Tsit5, 5, 32)]


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "order", "steps"), ORDERS)
def test_observed_order_in_the_angle_clock(solver, order, steps, x64):
    """On a nonlinear field, stopped at t = 0.3: near the data's own scale Tsit5's
    fifth-order term is too small to be seen above its sixth.
    """
    flow = px.ProbabilityFlow(px.GaussianMixture.grid(), px.EDM())
    z = flow.process.prior(jax.random.key(3), (8, 2))
    ends = jnp.array([80.0, 0.3])
    exact = px.solve_batch(flow, z, times=ends, rtol=1e-14).end

    def error(n):
        path = px.solve_batch(flow, z, times=ends, steps=n, solver=solver())
        return float(jnp.linalg.norm(path.end - exact))

    observed = np.log2(error(steps) / error(2 * steps))
    assert abs(observed - order) < 0.2


@pytest.mark.slow
def test_edm_heun_and_ddim_are_fixed_steps_of_the_time_clock(key, x64):
    """EDM's Algorithm 1 and DDIM written out by hand, on the grid of Karras."""
    teacher, process = full_mixture(), px.EDM()
    flow = px.ProbabilityFlow(teacher, process, clock=px.flow.TimeClock())
    grid = px.karras(18, process, final_zero=True)
    z = process.prior(key, (2,))
    clean = jax.jit(lambda x, t: teacher(x, t))

    def by_hand(heun):
        x = np.asarray(z)
        for t, t_next in itertools.pairwise(np.asarray(grid)):
            slope = (x - clean(x, t)) / t
            guess = x + (t_next - t) * slope
            if heun and t_next > 0:
                other = (guess - clean(guess, t_next)) / t_next
                guess = x + (t_next - t) * 0.5 * (slope + other)
            x = guess
        return x

    for heun, solver, calls in (
        (True, diffrax.Heun(), 35),
        (False, diffrax.Euler(), 18),
    ):
        path = px.solve(flow, z, times=grid, steps=grid[:-1], solver=solver)
        assert_close(path.end, by_hand(heun), 1e-11)
        assert path.ts[-1] == 0
        assert path.stats["evaluations"] == calls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "clock"),
    [("EDM", "log-time"), ("VE", "time"), ("VP", "time"), ("RectifiedFlow", "angle")],
)
def test_encode_keeps_its_tolerance_on_every_clock(name, clock, x64):
    """A first step taken by the clock alone leaps over the data's end unseen."""
    process, teacher = PROCESSES[name](), gaussian()
    flow = px.ProbabilityFlow(teacher, process, clock=CLOCKS[clock]())
    x0 = jnp.array([0.6, 0.3, -0.4])
    ends = process.level(process.t_min), process.level(process.t_max)
    exact = teacher.transport(x0, *ends)
    scale = process.scale(process.t_max)
    assert_close(px.encode(flow, x0).end / scale, exact / scale, 0, 1e-3)


def test_the_angle_clock_stays_on_the_side_of_the_data(x32):
    """pi/2 rounded to float32 lies beyond pi/2, where alpha would be negative."""
    reading = px.flow.AngleClock().reading(px.RectifiedFlow(), jnp.asarray(1.0))
    _, alpha = px.flow.AngleClock().level(px.RectifiedFlow(), reading)
    assert 0 < alpha < 1e-6
