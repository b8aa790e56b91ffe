"""The student's derivative in time: Lemma 1, orders of convergence, charts, labels."""

import itertools
from typing import Any, cast

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLOCKS, PROCESSES, assert_close, gaussian
from networks import Network, Trajectory
from residuals import ANGLE, TIME, difference, joined, prior, sides, states

import pidax as px
from pidax.denoiser import log_ratio
from pidax.student import (
    Autodiff,
    Central,
    CoupledAutomaticNumerical,
    SolverStep,
    Student,
    Upwind,
    residual,
)

# --- Lemma 1 -------------------------------------------------------------------------


class Table(eqx.Module):
    """An affine map for each node of a grid after the first, whose F has no weight."""

    maps: jax.Array
    nodes: jax.Array

    def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
        nearest = self.maps[jnp.argmin(jnp.abs(self.nodes - c_noise))]
        return nearest[:, :-1] @ x + nearest[:, -1]


@eqx.filter_jit
def table_residuals(flow, derivative, rows, times, maps):
    """Of many tables at once; affine maps are known from d + 1 points."""
    process = flow.process
    sigma, alpha = process.level(times)
    nodes = 0.25 * log_ratio(sigma, alpha, process)[1:]
    z = process.sigma(times[0]) * jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)])

    def residuals(maps):
        table = Table(maps.reshape(nodes.size, 3, 4), nodes)
        student = Student(table, process, shape=(3,))
        implied, denoised = sides(student, flow, derivative, rows, z)
        return (implied - denoised).ravel()

    return jax.vmap(residuals)(maps), nodes


def distilled(flow, derivative, times, z):
    """The optimal student's states at the nodes; residuals are affine in the table."""
    rows = derivative.stencil(flow.process, times)
    size = 12 * (times.size - 1)
    probes = np.concatenate([np.zeros((1, size)), np.eye(size)])
    found, nodes = table_residuals(flow, derivative, rows, times, jnp.asarray(probes))
    offset, columns = np.asarray(found)[0], np.asarray(found)[1:] - found[0]
    best = np.linalg.lstsq(columns.T, -offset, rcond=None)[0]
    table = Table(jnp.asarray(best.reshape(-1, 3, 4)), nodes)
    student = Student(table, flow.process, shape=(3,))
    return np.asarray(states(student, z, times))


@eqx.filter_jit
def slope_of(flow, tau, v):
    return jax.vmap(flow, (None, 0))(tau, v)


def solved(flow, z, times, heun=False):
    """Euler's or Heun's trajectory on the flow's clock, written out."""
    tau = np.asarray(flow.clock.reading(flow.process, times))
    size = np.asarray(flow.magnification(times))
    path = [size[0] * np.asarray(z)]
    slope = lambda tau, v: np.asarray(slope_of(flow, jnp.asarray(tau), jnp.asarray(v)))
    for here, after in itertools.pairwise(tau):
        v, h = path[-1], after - here
        first = slope(here, v)
        last = slope(after, v + h * first) if heun else first
        path.append(v + h * (first + last) / 2)
    return np.stack(path, 1) / size[:, None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "clock"),
    [
        (px.EDM(), TIME),
        (px.RectifiedFlow(), ANGLE),
        (px.VP(), px.flow.UnitSignalClock()),
        (px.RectifiedFlow(), px.flow.UnitNoiseClock()),
    ],
    ids=["EDM-time", "RectifiedFlow-angle", "VP-signal", "RectifiedFlow-noise"],
)
def test_without_residual_the_student_is_the_solver(process, clock, x64):
    """Lemma 1 of Tee et al. 2024, for Euler's, Heun's and the midpoint rule."""
    flow = px.ProbabilityFlow(gaussian(), process, clock=clock)
    times, z = px.karras(6, process), prior(process)
    euler = solved(flow, z, times)
    assert_close(distilled(flow, Upwind(clock), times, z), euler, 1e-9)
    if clock != ANGLE:
        heun = solved(flow, z, times, heun=True)
        assert np.abs(euler - heun)[:, -1].max() > 1e-3
        heuns = SolverStep(diffrax.Heun(), clock)
        assert_close(distilled(flow, heuns, times, z), heun, 1e-9)
        return
    x = distilled(flow, Central(clock=clock), times, z)
    tau = np.asarray(clock.reading(process, times))
    v = x * np.asarray(flow.magnification(times))[:, None]
    for i in range(5):
        middle = (tau[i] + tau[i + 1]) / 2, (v[:, i] + v[:, i + 1]) / 2
        slope = slope_of(flow, *map(jnp.asarray, middle))
        assert_close(difference(v, tau)[:, i], slope, 1e-9)


@pytest.mark.slow
def test_steps_span_the_nearest_whole_number_of_gaps():
    """Of the default's 34 gaps in 12 steps three, of eight in 20 steps one."""
    for nodes, steps, gaps in ((35, 12, 3), (9, 20, 1)):
        rows = SolverStep(diffrax.Heun(), steps=steps).stencil(
            px.EDM(), px.uniform_time(nodes, px.EDM())
        )
        spans = np.diff(-rows.rows.times, axis=1)[:, 0]
        assert_close(spans[gaps:], np.full(nodes - 1 - gaps, spans[gaps]), 1e-3)
        assert_close(spans[gaps] / spans[0], gaps, 1e-2)


@pytest.mark.slow
def test_long_steps_make_interleaved_trajectories_of_the_solver(x64):
    """Three steps over eight gaps, the first of each chain from the start."""
    flow = px.ProbabilityFlow(gaussian(), px.EDM())
    times, z = px.karras(9, flow.process), prior(flow.process)
    found = distilled(flow, SolverStep(diffrax.Heun(), steps=3), times, z)
    for chain in ([0, 3, 6], [0, 1, 4, 7], [0, 2, 5, 8]):
        expected = solved(flow, z, times[jnp.array(chain)], heun=True)
        assert_close(found[:, chain], expected, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("derivative", "order"), [(Upwind(), 1), (Central(), 2)], ids=["upwind", "central"]
)
def test_the_optimal_student_has_the_derivatives_order(derivative, order, x64):
    """Against the exact trajectory, at all nodes and in the angle's chart."""
    process, exact = px.EDM(), gaussian()
    flow = px.ProbabilityFlow(exact, process)
    student = Student(Trajectory(exact, process), process, shape=(3,))
    z, errors = prior(process), []
    for n in (9, 17):
        times = px.uniform_angle(n, process)
        error = distilled(flow, derivative, times, z) - states(student, z, times)
        scale = np.hypot(0.5, times)[:, None]
        errors.append(np.abs(np.asarray(error) / scale).max())
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.1


# --- orders and charts ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "derivative", "order"),
    [
        (px.RectifiedFlow, Central("nodes"), 2),
        (px.VP, CoupledAutomaticNumerical(), 2),
        (px.EDM, SolverStep(diffrax.Bosh3()), 3),
        pytest.param(px.EDM, Upwind(), 1, marks=pytest.mark.slow),
        pytest.param(px.EDM, Central(), 2, marks=pytest.mark.slow),
        pytest.param(px.VP, Central(), 2, marks=pytest.mark.slow),
        pytest.param(px.EDM, SolverStep(diffrax.Heun()), 2, marks=pytest.mark.slow),
    ],
    ids=["nodes", "coupled", "Bosh3", "upwind", "central", "central VP", "heun"],
)
def test_the_exact_trajectory_has_a_residual_of_that_order(
    make, derivative, order, x64
):
    process, exact = make(), gaussian()
    flow = px.ProbabilityFlow(exact, process)
    student = Student(Trajectory(exact, process), process, shape=(3,))
    z, grids = prior(process), [px.uniform_angle(n, process) for n in (9, 17)]
    rows = joined(*(derivative.stencil(process, times) for times in grids))
    implied, denoised = map(np.asarray, sides(student, flow, derivative, rows, z))
    size = np.abs(implied - denoised).max(axis=(0, 2))
    if order == 2 and make is px.RectifiedFlow:
        size[[0, 8]] = 0  # the first row of each is the upwind difference
    assert abs(np.log2(size[:8].max() / size[8:].max()) - order) < 0.25


def same_levels(name):
    """The process between the noise-to-signal ratios 0.01 and 50."""
    make = PROCESSES[name]
    if name in ("EDM", "VE"):
        return make(sigma_min=0.01, sigma_max=50.0)
    return make(t_min=float(make().time(0.01)), t_max=float(make().time(50.0)))


@pytest.mark.slow
def test_with_the_exact_derivative_it_is_one_number_in_every_chart(x64):
    """Three processes over the same noise levels, three clocks, and EDM's by hand."""
    network, exact, found = Network(), gaussian(), []
    unit = jax.random.normal(jax.random.key(4), (3, 3))
    for name in ("EDM", "SubVP", "RectifiedFlow"):
        process = same_levels(name)
        student, flow = Student(network, process), px.ProbabilityFlow(exact, process)
        times = px.uniform_angle(9, process)
        clocks = CLOCKS.values() if name == "EDM" else [px.flow.AngleClock]
        rows = joined(*(Autodiff(c()).stencil(process, times) for c in clocks))
        z = process.sigma(process.t_max) * unit
        found.append(np.stack(sides(student, flow, Autodiff(), rows, z)))
    one = found[0][:, :, :9]
    assert_close(found[0], np.tile(one, (1, 1, 3, 1)), 1e-10)
    assert np.abs(one - one[:, :, :1]).max(axis=(1, 2, 3)).min() > 0.1
    for other in found[1:]:
        assert_close(other, one, 1e-10)

    def by_hand(z, t):
        """F - (1 - t/T) dF/d ln t."""
        of = lambda log: network(z / np.hypot(0.5, 50.0), log / 4)
        F, slope = jax.jvp(of, (jnp.log(t),), (jnp.ones_like(t),))
        return F - (1 - t / 50.0) * slope

    times = px.uniform_angle(9, same_levels("EDM"))
    over = jax.jit(jax.vmap(jax.vmap(by_hand, (None, 0)), (0, None)))
    assert_close(one[0], over(50.0 * unit, times), 1e-10)


def test_the_exact_trajectory_has_no_residual_at_any_time(x64):
    process, exact = px.EDM(), gaussian()
    student = Student(Trajectory(exact, process), process, shape=(3,))
    rows = Autodiff().stencil(process, px.uniform_angle(9, process))
    implied, denoised = sides(
        student, px.ProbabilityFlow(exact, process), Autodiff(), rows, prior(process)
    )
    error = np.asarray(implied - denoised)[:, 1:]  # this network is zero at T
    assert_close(error, 0.0, 1e-10)


# --- what else it does ---------------------------------------------------------------


def test_labels_reach_the_student_and_the_teacher(x64):
    shifted = lambda x, sigma, alpha, c: x / (1 + sigma) + c.astype(float)
    process, derivative = px.EDM(), Upwind(TIME)
    flow = px.ProbabilityFlow(px.from_function(shifted, shape=(3,)), process)
    student = Student(Network(classes=2), process)
    times, z = px.karras(9, process), prior(process)
    rows, t = derivative.stencil(process, times), np.asarray(times)[:-1, None]
    answers = []
    for label in (0, 1):
        c = jnp.asarray(label)
        implied, denoised = map(
            np.asarray, sides(student, flow, derivative, rows, z, c)
        )
        x = np.asarray(states(student, z, times, c))
        assert_close(implied, x[:, :-1] - t * difference(x, times), 1e-8)
        assert_close(denoised, x[:, :-1] / (1 + t) + label, 1e-8)
        answers.append(implied)
    assert np.abs(answers[1] - answers[0]).max() > 1e-3


class Noisy(eqx.Module):
    """A network, and one more where it is given a key."""

    network: Network
    classes: None = None
    shape: tuple[int, ...] = eqx.field(static=True, default=(3,))

    def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
        return self.network(x, c_noise) + (0.0 if key is None else 1.0)


def test_a_slow_copy_is_asked_without_dropout(x64):
    process, derivative = px.EDM(), Upwind(TIME)
    flow = px.ProbabilityFlow(gaussian(), process)
    student = Student(Noisy(Network()), process)
    row = derivative.stencil(process, px.karras(4, process))[1]
    asked = jax.jit(
        lambda unit, key: residual(
            student, flow, derivative, row, unit, inside=student, key=key
        )
    )
    unit = jnp.ones(3)
    noisy, plain = asked(unit, jax.random.key(0)), asked(unit, None)
    assert_close(noisy[0], plain[0] + 1, 1e-9)  # the factors of F sum to one
    assert_close(noisy[1], plain[1], 1e-12)


HISTORY_OR_IMPLICIT = [
    diffrax.LeapfrogMidpoint,
    diffrax.ReversibleHeun,
    diffrax.SemiImplicitEuler,
    diffrax.ImplicitEuler,
    diffrax.Kvaerno3,
]


def test_a_stage_without_weight_is_not_taken():
    asked = []

    def denoise(x, sigma, alpha):
        asked.append(sigma)
        return x

    process, derivative = px.EDM(), SolverStep(diffrax.Bosh3())
    flow = px.ProbabilityFlow(px.from_function(denoise, shape=(3,)), process)
    rows = derivative.stencil(process, px.karras(9, process))
    ask = lambda states: derivative.target(flow, rows[0], states, None)
    jax.eval_shape(ask, jnp.ones((2, 3)))
    assert len(asked) == 3


@pytest.mark.parametrize("solver", HISTORY_OR_IMPLICIT)
def test_solvers_without_a_step_of_their_own_are_refused(solver):
    message = rf"explicit one-step solver of Diffrax.*got {solver.__name__}, .*Use"
    with pytest.raises(ValueError, match=message):
        SolverStep(solver())


class Remembering(diffrax.Euler):
    """One that looks like a one-step solver until it is begun."""

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        return y0


def test_a_solver_that_turns_out_to_keep_a_history_is_refused_too():
    process, derivative = px.EDM(), SolverStep(Remembering())
    rows = derivative.stencil(process, px.karras(9, process))
    flow = px.ProbabilityFlow(gaussian(), process)
    ask = lambda states: derivative.target(flow, rows[0], states, None)
    with pytest.raises(ValueError, match=r"got Remembering, .* keeps a history"):
        jax.eval_shape(ask, jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: Upwind().stencil(px.EDM(), t[:1]), "two or more that decrease"),
        (lambda t: Autodiff().stencil(px.EDM(), t[:1]), "two or more that decrease"),
        (
            lambda t: Central("nodes").stencil(px.EDM(), t),
            "Central needs a grid of at least 3 times, got 2. Take a finer grid",
        ),
        (
            lambda t: SolverStep(diffrax.Heun(), steps=0),
            "from noise to data, at least 1, got steps=0. None steps from node to node",
        ),
        (lambda t: Central(cast(Any, "x")), "one of .*'midpoint', 'nodes'.*got 'x'"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(px.karras(2, px.EDM()))
