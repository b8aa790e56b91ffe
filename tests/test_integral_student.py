"""The integral student: its quadrature, its residual, its loss and its bad input."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import PROCESSES, assert_close, gaussian
from networks import Network

import pidax as px
from pidax.distill import (
    L2,
    PID,
    AbstractWeighting,
    Borders,
    ByLoss,
    PIDState,
    PowerLaw,
    Slope,
    SlopeAlongDraws,
    Uniform,
    Unweighted,
)
from pidax.distill._row_sampling import RunningMeans, draw_rows, steepness
from pidax.student import IntegralStudent, integral_residual

EDM = px.EDM()
KEY = jax.random.key(5)
NOW: Any = np.zeros((), np.float32)  # progress, where nothing looks at it


class Table(eqx.Module):
    """A "network" that knows the clean samples of one trajectory by heart."""

    clean: jax.Array

    classes = None
    shape = (3,)

    def __call__(self, x, c_noise, condition=None, *, key=None):
        return self.clean.reshape(-1)


def table(process, n, interpolant="cubic", clean=None, **options):
    clean = np.random.default_rng(0).normal(size=(n, 3)) if clean is None else clean
    network = Table(jnp.asarray(clean, float))
    times = px.uniform_log_snr(n, process)
    return IntegralStudent(network, process, times, interpolant=interpolant, **options)


def ratios(student):
    sigma, alpha = np.array(student.levels).T
    return alpha / sigma


def exact_path(process, z, times):
    """The states of Gaussian data in closed form, and their clean samples."""
    exact, start = gaussian(), process.level(process.t_max)

    @jax.jit
    @jax.vmap
    def at(t):
        state = exact.transport(z, start, process.level(t))
        return state, exact(state, *process.level(t))

    return at(times)


# --- the quadrature ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_at_the_start_it_is_the_latent_and_at_the_nodes_the_path(name, x32):
    student = table(PROCESSES[name](), 9)
    z = student.process.prior(KEY, (3,))
    path, each = jax.jit(
        lambda z, s=student: (s.path(z), jax.vmap(s, (None, 0))(z, s.times))
    )(z)
    np.testing.assert_array_equal(path[0], z)
    np.testing.assert_array_equal(each[0], z)
    size = student.process.scale(student.times)[:, None]
    assert_close(path / size, each / size, 1e-5, 3e-6)


def antiderivative(interpolant, shift):
    """A function of rho that the interpolant can be, and its integral."""
    if interpolant == "linear":
        return (lambda r: 1 + 2 * r), (lambda r: r + r**2)
    # v^2 with v = ln(rho + shift); its integral is (rho + shift) (v^2 - 2 v + 2).
    log = lambda r: np.log(r + shift)
    return (
        lambda r: log(r) ** 2,
        lambda r: (r + shift) * (log(r) ** 2 - 2 * log(r) + 2),
    )


@pytest.mark.parametrize("interpolant", ["linear", "cubic"])
def test_the_mean_of_what_the_interpolant_can_be_is_exact(interpolant, x64):
    """d/d rho of known functions, at the nodes and between them."""
    for make in (px.EDM, px.RectifiedFlow):
        student = table(make(), 9, interpolant)
        rho = ratios(student)
        value, total = antiderivative(interpolant, student.shift)
        nodes = np.asarray(student.times)
        between = np.sqrt(nodes[:-1] * nodes[1:])
        times = jnp.asarray([*between, *nodes[1:]])
        sigma, alpha = map(np.asarray, student.process.level(times))
        r = alpha / sigma
        mean = (total(r) - total(rho[0])) / (r - rho[0])
        rows = jax.jit(jax.vmap(student._means_up_to))(times)
        assert_close(rows @ value(rho), mean, 1e-8)
        assert_close(rows.sum(1), 1.0, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("interpolant", "order"), [("linear", 2), ("cubic", 4)])
def test_it_converges_at_its_order_to_the_exact_trajectory(interpolant, order, x64):
    """The integral of the exact clean samples, on 40 and on 160 nodes."""
    process = px.VP()
    z = process.prior(KEY, (3,))
    errors = []
    for n in (40, 160):
        student = table(process, n, interpolant)
        states, clean = exact_path(process, z, student.times)
        sigma, alpha = np.array(student.levels).T
        gap = alpha - sigma * alpha[0] / sigma[0]
        path = sigma[:, None] / sigma[0] * z + gap[:, None] * (
            student.weights @ np.asarray(clean)
        )
        errors.append(np.sqrt(np.mean((path - states) ** 2)))
    assert_close(np.log(errors[0] / errors[1]) / np.log(4), order, 0.0, 0.2)


@pytest.mark.slow
def test_an_error_of_the_network_is_amplified_no_more_than_stated(x64):
    """The largest mean, at any time, of clean samples between -1 and 1."""
    student = table(EDM, 12)
    times = student.times[1:]
    rows = jax.jit(jax.vmap(student._means_up_to))(times)
    assert 1 < student.amplification < 2.5
    assert_close(jnp.abs(rows).sum(1).max(), student.amplification, 1e-9)
    between = jnp.sqrt(times[:-1] * times[1:])
    rows = jax.jit(jax.vmap(student._means_up_to))(between)
    assert jnp.abs(rows).sum(1).max() < 1.02 * student.amplification


# --- the residual --------------------------------------------------------------------


def collocation(student, flow, z):
    """The clean samples that solve `clean = D(path(clean))`, a linear system here."""
    n = len(student.nodes)
    unit = z / student.levels[0][0]
    sigma, alpha = (jnp.asarray(a) for a in np.array(student.levels).T)

    def right(clean):
        states = student.states(unit, clean.reshape(n, 3))
        return jax.vmap(flow.denoiser)(states, sigma, alpha).reshape(-1)

    zero = jnp.zeros(3 * n)
    matrix = np.eye(3 * n) - np.asarray(jax.jacfwd(right)(zero))
    return np.linalg.solve(matrix, np.asarray(right(zero))).reshape(n, 3)


@pytest.mark.slow
def test_no_loss_is_the_collocation_solution_and_nothing_else(x64):
    """Lemma 1 of Tee et al. 2024 for this quadrature."""
    process = px.VP()
    flow = px.ProbabilityFlow(gaussian(), process)
    z = process.prior(KEY, (3,))
    student = table(process, 10)
    solved = collocation(student, flow, z)
    student = eqx.tree_at(lambda s: s.network.clean, student, jnp.asarray(solved))
    unit = z / student.levels[0][0]
    predicted, denoised = integral_residual(student, flow, unit)
    assert_close(predicted, denoised, 0.0, 1e-12)
    runs = jnp.arange(10).reshape(2, 5)
    predicted, denoised = integral_residual(student, flow, unit, which=runs)
    assert_close(predicted, denoised, 0.0, 1e-12)
    # Each other table has a residual: the map of the errors to it is regular.
    residual = lambda clean: jnp.subtract(
        *integral_residual(
            eqx.tree_at(lambda s: s.network.clean, student, clean.reshape(10, 3)),
            flow,
            unit,
        )
    ).reshape(-1)
    singular = np.linalg.svd(jax.jacfwd(residual)(jnp.zeros(30)), compute_uv=False)
    assert singular.min() > 0.05
    # ... and the solution is the ODE's, but for the quadrature.
    states, _ = exact_path(process, z, student.times)
    assert_close(student.path(z)[-1], states[-1], 0.0, 2e-3)


class Measured(AbstractWeighting):
    """What was measured is the weight."""

    def __call__(self, times, losses, progress, measured):
        return measured


def latent(key, count=3):
    return jax.random.normal(jax.random.split(key, 3)[0], (count,))


def test_the_loss_is_the_weighted_residual_at_the_nodes(x64):
    flow = px.ProbabilityFlow(gaussian(), EDM)
    student, weights = table(EDM, 8), np.linspace(1.0, 0.2, 8)
    pid = PID(flow, weighting=Measured(), reach=1, distance=L2())
    state = pid.init(student, key=KEY)
    state = eqx.tree_at(lambda s: s.measured, state, jnp.asarray(weights))
    of = lambda pid: eqx.filter_jit(pid.loss)(student, state, None, NOW, key=KEY)
    loss, (_, terms) = of(pid)
    clean, unit = np.asarray(student.network.clean), latent(KEY)
    states = student.path(80.0 * unit)
    wanted = jax.jit(jax.vmap(gaussian()))(states, student.times)
    squares = np.mean((clean - wanted) ** 2, axis=1)
    assert_close(loss, np.mean(weights * squares), 1e-10)
    assert_close(terms["residual"], squares.mean(), 1e-10)
    # By default the distance is linear above 0.01.
    robust = np.sqrt(squares + 0.01**2) - 0.01
    plain, (_, terms) = of(PID(flow, weighting=Measured(), reach=1))
    assert_close(plain, np.mean(weights * robust), 1e-10)
    assert_close(terms["residual"], squares.mean(), 1e-10)


def test_the_gradient_goes_through_the_prediction_alone(x64):
    flow = px.ProbabilityFlow(gaussian(), EDM)
    student = table(EDM, 8)
    squared = functools.partial(PID, flow, weighting=Unweighted(), distance=L2())
    held, whole = squared(reach=4), squared(reach=4, stop_gradient=False)
    state = held.init(student, key=KEY)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(clean, pid):
        moved = eqx.tree_at(lambda s: s.network.clean, student, clean)
        return pid.loss(moved, state, None, NOW, key=KEY)[0]

    clean = student.network.clean
    rows, _ = draw_rows(
        8, 4, Uniform(), Unweighted(), state.measured, state.measured, NOW, NOW,
        jax.random.split(KEY, 3)[1],
    )  # fmt: skip
    sides = integral_residual(student, flow, latent(KEY), which=rows)
    residual = jnp.zeros((8, 3)).at[rows].set(sides[0] - sides[1])
    assert_close(loss(clean, held)[1], 2 / 24 * residual, 1e-9)
    # Through the states too, against a difference of the loss.
    direction = jnp.asarray(np.random.default_rng(1).normal(size=(8, 3)))
    at = lambda h: loss(clean + h * direction, whole)[0]
    slope = (at(1e-4) - at(-1e-4)) / 2e-4
    assert_close(jnp.sum(loss(clean, whole)[1] * direction), slope, 1e-6)


@pytest.mark.slow
def test_the_teacher_is_asked_at_as_many_nodes_as_are_drawn(x64):
    flow = px.ProbabilityFlow(gaussian(), EDM)
    student = table(EDM, 9)
    state = PID(flow, weighting=Unweighted()).init(student, key=KEY)
    of = lambda draw, key: PID(
        flow, draw=draw, weighting=Unweighted(), reach=1, distance=L2()
    ).loss(student, state, None, NOW, key=key)[0]
    keys = jax.random.split(KEY, 4000)
    # The latent of a key is the same for any draw, so that the means may be compared.
    one, some, every = (
        jax.jit(jax.vmap(lambda key, n=n: of(n, key)))(keys) for n in (1, 4, 9)
    )
    error = np.std(some - every) / np.sqrt(4000)
    assert_close(some.mean(), every.mean(), 0.0, 4 * error)
    # Systematic draws lie apart: better than four independent ones.
    assert np.var(some - every) < np.var(one - every) / 4
    assert_close(of(40, KEY), of(9, KEY), 1e-12)


def test_the_teacher_is_asked_in_the_states_of_the_slow_copy(x64):
    flow = px.ProbabilityFlow(gaussian(), EDM)
    student = table(EDM, 8)
    slow = eqx.tree_at(lambda s: s.network.clean, student, jnp.ones((8, 3)))
    unit = latent(KEY)
    predicted, denoised = integral_residual(student, flow, unit, inside=slow)
    assert_close(predicted, student.network.clean, 1e-12)
    states = slow.path(80.0 * unit)
    assert_close(denoised, jax.vmap(gaussian())(states, student.times), 1e-10)


def along(student, unit, runs, slope):
    """The teacher's answers along runs, for the denoiser `slope[j] * x` at node j."""
    sigma, alpha = np.array(student.levels).T
    gap = (alpha - sigma * alpha[0] / sigma[0])[:, None] * student.weights
    predicted = np.asarray(student.network.clean)
    found = []
    for run in runs:
        values = predicted.copy()
        for node in run:
            if node == 0:  # a trajectory begins
                values = predicted.copy()
            state = sigma[node] * unit + gap[node] @ values
            found.append(slope[node] * state)
            values[node] = found[-1]
    return np.reshape(found, (*np.shape(runs), 3))


def test_along_a_run_the_states_contain_the_answers_before(x64):
    exact = px.Gaussian(jnp.zeros(3), 0.25 * jnp.eye(3))
    flow = px.ProbabilityFlow(exact, EDM)
    student, unit = table(EDM, 8), np.asarray(latent(KEY))
    slope = 0.25 / (0.25 + np.array(student.nodes) ** 2)
    runs = np.array([[1, 2, 3], [4, 5, 6], [6, 7, 0], [7, 0, 1]])
    ask = lambda runs: integral_residual(student, flow, jnp.asarray(unit), which=runs)
    predicted, denoised = jax.jit(ask)(jnp.asarray(runs))
    assert_close(denoised, along(student, unit, runs, slope), 1e-9)
    np.testing.assert_array_equal(predicted, student.network.clean[runs])
    # Runs of one node are the student's own states.
    one = jax.jit(ask)(jnp.arange(8)[:, None])[1][:, 0]
    assert_close(one, ask(jnp.arange(8))[1], 1e-12)


def test_evenly_drawn_runs_cover_each_node_once(x64):
    laws = Uniform(), Unweighted()
    one = jnp.ones(20)
    draw = lambda key: draw_rows(20, 5, *laws, one, one, NOW, one, key)
    rows, factors = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 50))
    assert rows.shape == (50, 4, 5)
    np.testing.assert_array_equal(
        np.sort(rows.reshape(50, 20), axis=1), np.tile(np.arange(20), (50, 1))
    )
    np.testing.assert_array_equal(np.diff(rows, axis=2) % 20, 1)
    assert len(np.unique(rows[:, 0, 0])) > 3
    assert_close(factors, 1.0, 1e-12)


@pytest.mark.parametrize("compensates", [False, True])
def test_factors_make_up_for_how_often_a_row_is_in_a_run(compensates, x64):
    """The mean over draws is the law's mean; the plain mean, if the law compensates."""
    losses = jnp.asarray(np.random.default_rng(2).uniform(0.1, 3.0, 7))
    law = ByLoss() if compensates else PowerLaw()
    draw = lambda key: draw_rows(3, 3, law, Unweighted(), losses, losses, NOW, NOW, key)
    rows, factors = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 20_000))
    values = np.asarray(np.random.default_rng(3).normal(size=7))
    chances = np.asarray(law(losses, losses, NOW))
    wanted = values.mean() if compensates else values @ chances / chances.sum()
    found = (np.asarray(factors) * values[rows]).mean(axis=(1, 2))
    error = found.std() / np.sqrt(len(found))
    assert_close(found.mean(), wanted, 0.0, 4 * error)
    assert abs(wanted) > 20 * error


# --- several starts ------------------------------------------------------------------


def known(starts, n=16):
    """A student whose predictions are a function of rho, and its integral."""
    student = table(EDM, n, starts=starts)
    value, total = antiderivative("cubic", student.shift)
    clean = np.outer(value(ratios(student)), [1.0, -2.0, 0.5])
    at = lambda t: total(1 / np.asarray(t))[..., None] * np.array([1.0, -2.0, 0.5])
    return table(EDM, n, clean=clean, starts=starts), at


def test_it_goes_from_a_start_to_any_later_time(x64):
    """x_t / t = x_s / s + the integral over rho, in closed form."""
    student, total = known(4)
    assert student.start_nodes == (0, 4, 8, 12)
    x = np.array([0.3, -1.0, 2.0])
    for s in student.start_times[1::2]:
        times = np.geomspace(0.9 * s, EDM.t_min * 1.001, 7)
        to = jax.jit(jax.vmap(lambda t, s=s: student.transport(x, s, t)))
        wanted = times[:, None] * (x / s + total(times) - total(s))
        assert_close(to(jnp.asarray(times)), wanted, 1e-8)
        np.testing.assert_array_equal(to(jnp.array([s])), [x])


@pytest.mark.slow
def test_several_steps_are_the_maps_one_after_the_other(x64):
    student, _ = known(4)
    moved = eqx.tree_at(lambda s: s.network, student, Bent(student.network.clean))
    z = EDM.prior(KEY, (3,))
    stops = moved.start_times[::2]
    middle = moved.transport(z, stops[0], stops[1])
    two = moved.in_steps(2)
    early, late = np.sqrt(80.0 * stops[1]), 0.5 * stops[1]
    assert_close(two(z, early), moved(z, early), 1e-10)
    assert_close(two(z, late), moved.transport(middle, stops[1], late), 1e-10)
    assert abs(two(z, late) - moved(z, late)).max() > 1e-3
    one = moved.in_steps(1)
    assert_close(one.sample(z), moved.sample(z), 1e-10)
    # `px.sample` takes the same number.
    draws = px.sample(moved, 5, key=KEY, steps=2)
    assert_close(draws, px.sample(two, 5, key=KEY), 1e-10)


class Bent(eqx.Module):
    """Predictions that depend on the state and on where it is."""

    clean: jax.Array
    classes = None
    shape = (3,)

    def __call__(self, x, c_noise, condition=None, *, key=None):
        return (self.clean * (1 + 0.1 * c_noise) + jnp.sin(x)).reshape(-1)


def test_a_pass_from_a_later_start_has_the_residual_of_its_own_states(x64):
    student, total = known(3)
    flow = px.ProbabilityFlow(gaussian(), EDM)
    node = student.start_nodes[1]
    x, s = np.array([0.3, -1.0, 2.0]), student.nodes[node]
    times = np.array(student.nodes[node:])
    predicted, denoised = jax.jit(
        lambda unit: integral_residual(student, flow, unit, start=1)
    )(jnp.asarray(x / s))
    states = times[:, None] * (x / s + total(times) - total(s))
    wanted = jax.vmap(gaussian())(jnp.asarray(states), jnp.asarray(times))
    assert_close(denoised[node:], wanted, 1e-8)
    np.testing.assert_array_equal(predicted, student.network.clean)


def test_the_loss_of_the_legs(x64):
    """Their share, with weights from the start on; with none the plain loss."""
    flow = px.ProbabilityFlow(gaussian(), EDM)
    one, two = table(EDM, 8), table(EDM, 8, starts=2)
    weights = jnp.asarray(np.linspace(1.0, 0.2, 8))
    state = PID(flow, weighting=Unweighted()).init(one, key=KEY)
    state = eqx.tree_at(lambda s: s.measured, state, weights)

    def loss(student, legs):
        pid = PID(flow, weighting=Measured(), reach=1, legs=legs, distance=L2())
        return eqx.filter_jit(pid.loss)(student, state, None, NOW, key=KEY)[0]

    plain = loss(one, 0.5)
    assert loss(two, 0) == plain
    # One later start, node 4: from the state there, on the nodes 4 to 7.
    unit, node = latent(KEY), two.start_nodes[1]
    there = two.path(80.0 * unit)[node] / two.nodes[node]
    sides = integral_residual(two, flow, there, start=1)
    squares = np.mean(np.square(sides[0] - sides[1]), axis=1)[4:]
    leg = np.mean(squares * np.asarray(weights[4:] / weights[4]))
    assert_close(loss(two, 0.3), 0.7 * plain + 0.3 * leg, 1e-9)


def bent(n=8, starts=2):
    student = table(EDM, n, starts=starts)
    return eqx.tree_at(lambda s: s.network, student, Bent(student.network.clean))


@pytest.mark.slow
def test_the_loss_of_the_semigroup(x64):
    """The first pass against one from the later start, at the nodes of the second.

    The gradient moves the first pass alone.
    """
    flow = px.ProbabilityFlow(gaussian(), EDM)
    student, slow = bent(), table(EDM, 8, starts=2)
    weights = jnp.asarray(np.linspace(1.0, 0.2, 8))

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(clean, semigroup, copy):
        moved = eqx.tree_at(lambda s: s.network.clean, student, clean)
        pid = PID(
            flow, weighting=Measured(), reach=1, distance=L2(), semigroup=semigroup,
            slow=None if copy is None else 0.5,
        )  # fmt: skip
        state = PIDState(None, copy, weights, None)
        return pid.loss(moved, state, None, NOW, key=KEY)[0]

    unit, node = latent(KEY), student.start_nodes[1]
    first = np.asarray(student.predicted(unit))
    there = student.path(80.0 * unit)[node] / student.nodes[node]
    second = np.asarray(student.predicted(there, start=1))
    clean = student.network.clean
    plain = loss(clean, 0.0, None)
    share, (value, moved) = 0.25, loss(clean, 0.25, None)
    squares = np.mean((first - second) ** 2, axis=1)
    wanted = np.mean((np.asarray(weights) * squares)[node:])
    assert_close(value, (1 - share) * plain[0] + share * wanted, 1e-10)
    # d/d clean of the first pass is 1 + 0.1 c_noise (see Bent), c_noise = ln(T) / 4.
    gain = 1 + 0.1 * np.log(80.0) / 4
    slope = 2 * gain / 12 * np.asarray(weights)[:, None] * (first - second)
    slope[:node] = 0
    assert_close(moved, (1 - share) * plain[1] + share * slope, 1e-9)
    # With a slow copy it is the copy that answers from the later start.
    plain, (value, _) = loss(clean, 0.0, slow), loss(clean, share, slow)
    squares = np.mean((first - np.asarray(slow.network.clean)) ** 2, axis=1)
    wanted = np.mean((np.asarray(weights) * squares)[node:])
    assert_close(value, (1 - share) * plain[0] + share * wanted, 1e-10)


# --- draws near borders --------------------------------------------------------------


@pytest.mark.slow
def test_borders_are_the_draws_with_the_largest_loss(x64):
    """A student that knows one trajectory: the loss of a draw in closed form."""
    flow = px.ProbabilityFlow(gaussian(), EDM)
    student = table(EDM, 8)
    borders = Borders(kept=10, candidates=600, every=7)
    pid = PID(flow, weighting=Unweighted(), reach=1, distance=L2(), borders=borders)
    state = pid.init(student, key=KEY)
    assert pid.refresh_every == 7

    @jax.jit
    @jax.vmap
    def loss(key):
        sides = integral_residual(student, flow, latent(key))
        return jnp.mean((sides[0] - sides[1]) ** 2)

    keys = jax.random.split(jax.random.fold_in(KEY, 1), 600)
    losses = np.asarray(loss(keys))
    numbers = lambda keys: np.asarray(jax.random.key_data(keys))
    largest = keys[np.argsort(-losses)[:10]]
    np.testing.assert_array_equal(numbers(state.borders), numbers(largest))
    # Half of the draws are kept ones, the others are even.
    fresh = jax.random.split(jax.random.key(3), 4000)
    got = jax.jit(jax.vmap(lambda k: pid.loss(student, state, None, NOW, key=k)[0]))
    drawn = np.asarray(got(fresh))
    known = np.isclose(drawn[:, None], losses[np.argsort(-losses)[:10]], rtol=1e-9)
    assert abs(known.any(1).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    assert (known.sum(0) > 120).all()
    even = ~known.any(1)
    assert_close(drawn[even], loss(fresh)[even], 1e-9)
    # A better student has other borders.
    other = eqx.tree_at(lambda s: s.network.clean, student, jnp.zeros((8, 3)))
    again = pid.refresh(other, state, key=KEY)
    assert (numbers(again.borders) != numbers(state.borders)).any()


# --- weights -------------------------------------------------------------------------


def test_weights_of_a_draw_follow_two_neighbours(x64):
    """Against the distance of two paths of the student, from noises close by."""
    clean = np.random.default_rng(4).normal(size=(12, 3))
    student = table(EDM, 12, clean=clean)
    student = eqx.tree_at(lambda s: s.network, student, Steep(student.network.clean))
    unit, key = latent(KEY), jax.random.key(8)
    found = np.asarray(steepness(student, unit, None, key=key))
    v = jax.random.normal(key, (3,))
    two = [np.asarray(student.path(80.0 * (unit + h * v))) for h in (1e-4, -1e-4)]
    apart = np.sqrt(((two[0] - two[1]) ** 2).sum(1))
    wanted = np.minimum(1, np.minimum.accumulate(apart) / apart) ** 2
    assert_close(found, wanted, 1e-6)
    assert found.min() < 0.2
    assert found[0] == 1


class Steep(Bent):
    def __call__(self, x, c_noise, condition=None, *, key=None):
        rate = jnp.linspace(0.0, 3.0, len(self.clean))[:, None]
        return (self.clean * jnp.sin(rate * x)).reshape(-1)


@pytest.mark.slow
def test_each_draw_has_its_weights(x64):
    flow = px.ProbabilityFlow(gaussian(), EDM)
    student = table(EDM, 12)
    student = eqx.tree_at(lambda s: s.network, student, Steep(student.network.clean))
    weighting = SlopeAlongDraws(strength=2.0, shared=0.0)
    pid = PID(flow, weighting=weighting, reach=1, distance=L2())
    state = pid.init(student, key=KEY)
    np.testing.assert_array_equal(state.measured, np.ones(12))
    common = jnp.asarray(np.linspace(1.0, 0.3, 12))
    state = eqx.tree_at(lambda s: s.measured, state, common)
    unit = latent(KEY)
    weights = steepness(student, unit, None, key=jax.random.fold_in(KEY, 3))
    sides = integral_residual(student, flow, unit)
    squares = np.mean(np.square(sides[0] - sides[1]), axis=1)
    loss = eqx.filter_jit(pid.loss)(student, state, None, NOW, key=KEY)[0]
    weights = np.maximum((common * weights) ** 2, 1e-3)
    assert_close(loss, np.mean(weights * squares), 1e-10)


def two_modes():
    return px.GaussianMixture(jnp.array([[-0.6], [0.6]]), 0.1)


@pytest.mark.slow  # solves trajectories, and takes derivatives along them
def test_weights_fall_where_neighbours_part_and_nowhere_else(x64):
    """Against the largest eigenvalue in closed form, 1-D: (s_1 ... ) of two modes."""
    flow = px.ProbabilityFlow(two_modes(), EDM)
    times = px.karras(60, EDM)
    draw = lambda key: None
    weights = Slope(quantile=1.0).measure(flow, times, (1,), draw, key=KEY)
    xs = px.flow.trajectories(flow, times, key=jax.random.split(KEY, 3)[0], draws=256)[
        :, :, 0
    ]
    # Var(x0 | x) of two modes: shrunk scales, and the spread of the posterior means.
    s2, t2 = 0.1**2, np.asarray(times) ** 2
    gain = s2 / (s2 + t2)
    odds = 1 / (1 + np.exp(-2 * 0.6 * np.asarray(xs) / (s2 + t2)))
    slope = gain + odds * (1 - odds) * (2 * 0.6 * (1 - gain)) ** 2 / t2
    above = np.maximum(slope.max(0) - 1, 0)
    log = np.log(np.asarray(times))
    grown = np.cumsum((above[1:] + above[:-1]) / 2 * (log[:-1] - log[1:]))
    assert_close(weights[1:], np.exp(-2 * grown), 1e-5)
    assert weights[0] == 1
    assert weights[-1] < 1e-2
    # One mode: trajectories never part.
    single = px.ProbabilityFlow(gaussian(), EDM)
    assert_close(Slope().measure(single, times, (3,), draw, key=KEY), np.ones(60), 1e-9)
    # The common part of weights per draw is the root of it, by default.
    common = SlopeAlongDraws().measure(flow, times, (1,), draw, key=KEY)
    wanted = Slope().measure(flow, times, (1,), draw, key=KEY)
    assert_close(common, np.sqrt(wanted), 1e-12)


def test_strength_and_floor_of_the_weights(x64):
    measured = jnp.array([1.0, 0.1, 1e-4])
    weights = Slope(strength=0.5, least=0.05)(measured, measured, NOW, measured)
    assert_close(weights, [1.0, 0.1**0.5, 0.05], 1e-12)


def test_weights_ease_as_draws_agree(x64):
    """A power s / (s + q) of the weights; s is the largest share of the nodes."""
    flow = px.ProbabilityFlow(gaussian(), EDM)
    off = np.linspace(0.0, 2.0, 8)[:, None] * np.random.default_rng(0).normal(size=3)
    student = table(EDM, 8, clean=off + np.array([0.7, -0.2, 0.1]))
    pid = PID(flow, weighting=Slope(tolerated=0.02), reach=1, distance=L2())
    measured = np.geomspace(1.0, 0.01, 8)
    sides = integral_residual(student, flow, latent(KEY))
    squares = np.mean(np.square(sides[0] - sides[1]), axis=1)
    ones, shares = np.ones(8), np.array([0.0, 0.01, 0.03, 0, 0, 0.005, 0, 0])

    def after(shares):
        seen = RunningMeans(jnp.asarray(shares * 40.0), jnp.asarray(ones * 40.0))
        state = PIDState(None, None, jnp.asarray(measured), None, seen)
        loss, (update, _) = eqx.filter_jit(pid.loss)(student, state, None, NOW, key=KEY)
        return loss, pid.advance(student, state, update).disagree

    loss, seen = after(shares)
    assert seen is not None
    assert_close(loss, np.mean(measured**0.6 * squares), 1e-10)
    assert_close(after(0 * shares)[0], np.mean(squares), 1e-10)
    # Here a draw disagrees whose sides are an eighth apart: a quarter of sigma_data.
    apart = squares > 0.125**2
    assert 0 < apart.sum() < 8
    assert_close(seen.means(), (0.99 * 40 * shares + apart) / (0.99 * 40 + 1), 1e-12)
    # At first all disagree; with tolerated=0 nobody asks.
    start = pid.init(student, key=KEY).disagree
    assert start is not None
    assert_close(start.means(), ones, 1e-12)
    kept = PID(flow, weighting=Slope(tolerated=0.0))
    assert kept.init(student, key=KEY).disagree is None


@pytest.mark.slow  # solves trajectories
def test_nodes_are_where_the_clean_sample_moves(x64):
    """One Gaussian component: D moves by |z| times a closed form."""
    exact = px.Gaussian(jnp.zeros(1), jnp.array([[0.25]]))
    flow = px.ProbabilityFlow(exact, EDM)
    times = np.asarray(px.where_it_moves(flow, 7, key=KEY, even=0.3, draws=16))
    assert times[0] == EDM.t_max
    assert times[-1] == EDM.t_min
    # D = c x / (c + t^2) with x ~ sqrt(c + t^2), and its motion in u = ln(1/t).
    u = np.linspace(np.log(1 / 80.0), np.log(1 / 0.002), 2001)
    rate = np.exp(-2 * u) / (0.25 + np.exp(-2 * u)) ** 1.5
    width = 5 / 128 * (u[-1] - u[0])
    apart = (u[:, None] - u) / width
    kernel = np.exp(-0.5 * apart**2)
    smooth = kernel @ rate / kernel.sum(1).max()
    moved = np.cumsum(smooth) / smooth.sum()
    even = np.linspace(0, 1, 2001)
    found = np.interp(np.log(1 / times), u, 0.7 * moved + 0.3 * even)
    assert_close(found, np.arange(7) / 6, 0.0, 5e-3)


# --- networks, files, training -------------------------------------------------------


@pytest.mark.slow
def test_a_student_of_a_teacher_begins_with_its_denoiser_at_the_start(x32):
    network = px.nn.MLP(3, 3, width=8, depth=1, key=KEY)
    network = eqx.tree_at(lambda n: n.out.bias, network, jnp.array([0.1, -0.3, 0.2]))
    teacher = px.Preconditioned(network, EDM)
    student = IntegralStudent.from_teacher(teacher, EDM, px.karras(5, EDM))
    unit = jax.random.normal(KEY, (3,))
    expected = teacher(80.0 * unit, 80.0)
    assert_close(student.predicted(unit), jnp.stack([expected] * 5), 1e-5, 1e-6)
    flow = px.ProbabilityFlow(teacher, EDM, shape=(3,))
    predicted, denoised = integral_residual(student, flow, unit)
    assert_close(predicted[0], denoised[0], 1e-5, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["standard", "skip"])
def test_a_student_of_a_unet_answers_as_its_teacher_at_every_node(decoder, x32):
    network = px.nn.SongUNet(
        3, 3, resolution=4, width=4, multipliers=(1, 1), blocks=1, attention=(),
        decoder=decoder, dropout=0.0, key=KEY,
    )  # fmt: skip
    teacher = px.Preconditioned(network, EDM)
    student = IntegralStudent.from_teacher(teacher, EDM, px.karras(4, EDM))
    unit = jax.random.normal(KEY, (4, 4, 3))
    expected = teacher(80.0 * unit, 80.0)
    assert float(jnp.std(expected)) > 1e-3
    assert_close(student.predicted(unit), jnp.stack([expected] * 4), 1e-4, 1e-5)


@pytest.mark.slow
def test_a_student_of_a_small_unet_answers_as_its_teacher(x32):
    """Its decoder is a tuple of blocks; its last layer is `out`."""
    network = px.nn.UNet(3, 3, width=8, key=KEY)
    network = eqx.tree_at(lambda n: n.out.bias, network, jnp.array([0.1, -0.3, 0.2]))
    teacher = px.Preconditioned(network, EDM)
    student = IntegralStudent.from_teacher(teacher, EDM, px.karras(4, EDM))
    unit = jax.random.normal(KEY, (4, 4, 3))
    expected = teacher(80.0 * unit, 80.0)
    assert float(jnp.std(expected)) > 1e-2
    assert_close(student.predicted(unit), jnp.stack([expected] * 4), 1e-4, 1e-5)


def test_a_grid_has_its_nodes_in_its_channels(x32):
    """The clean samples of node j are the channels j c to (j + 1) c - 1."""
    answer = jnp.arange(2 * 2 * 12.0).reshape(2, 2, 12)
    network = lambda x, c_noise, condition, *, key=None: answer
    student = IntegralStudent(network, EDM, px.karras(4, EDM), shape=(2, 2, 3))
    clean = student.predicted(jnp.zeros((2, 2, 3)))
    for j in range(4):
        np.testing.assert_array_equal(clean[j], answer[..., 3 * j : 3 * j + 3])


@pytest.mark.slow
def test_a_trained_student_is_the_solution(x32, tmp_path):
    """Two modes in one dimension, against the adaptive solution."""
    flow = px.ProbabilityFlow(two_modes(), EDM)
    times = px.where_it_moves(flow, 12, key=KEY)
    network = px.nn.MLP(1, 12, width=32, depth=2, key=KEY)
    student = px.IntegralStudent(network, EDM, times)
    result = px.fit(
        student,
        px.PID(flow),
        steps=600,
        batch_size=256,
        optimiser=optax.adam(px.warmup_cosine(5e-3, 600)),
        key=KEY,
        progress=False,
    )
    trained = result.ema()
    z = EDM.prior(jax.random.key(1), (256, 1))
    solved = px.solve_batch(flow, z).end
    error = jax.vmap(trained.sample)(z) - solved
    assert float(jnp.sqrt(jnp.mean(error**2))) < 0.1
    px.save(tmp_path / "student.pidax", trained)
    again = px.load(tmp_path / "student.pidax")
    np.testing.assert_array_equal(again.sample(z[0]), trained.sample(z[0]))


@pytest.mark.slow  # trains
def test_a_second_step_halves_the_median_error(x32):
    flow = px.ProbabilityFlow(two_modes(), EDM)
    times = px.where_it_moves(flow, 12, key=KEY)
    network = px.nn.MLP(1, 12, width=32, depth=2, key=KEY)
    result = px.fit(
        px.IntegralStudent(network, EDM, times, starts=2),
        px.PID(flow),
        steps=600,
        batch_size=256,
        optimiser=optax.adam(px.warmup_cosine(5e-3, 600)),
        key=KEY,
        progress=False,
    )
    z = EDM.prior(jax.random.key(1), (512, 1))
    solved = px.solve_batch(flow, z).end
    one, two = (
        np.abs(jax.vmap(result.ema().in_steps(k).sample)(z) - solved) for k in (1, 2)
    )
    assert np.median(one) < 0.04
    assert np.median(two) < 0.7 * np.median(one)
    assert np.sqrt(np.mean(two**2)) < 0.85 * np.sqrt(np.mean(one**2))


# --- bad input -----------------------------------------------------------------------


def make(n=4, **options):
    times = options.pop("times", px.karras(n, EDM))
    return IntegralStudent(Network(), EDM, times, **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: make(3), "needs at least 4 nodes, got 3 times. Pass more times"),
        (lambda: make(interpolant="quadratic"), "must be one of .*'cubic'"),
        (
            lambda: make(times=jnp.array([80.0, 1.0, 2.0, 0.1, 0.002])),
            "decrease from t_max to t_min",
        ),
        (lambda: make(times=jnp.array([70.0, 1.0, 0.1, 0.002])), "from t_max to t_min"),
        (
            lambda: make().sample(jnp.ones(3)),
            r"must return 4 clean samples .* shape \(12,\), got \(3,\)",
        ),
        (
            lambda: IntegralStudent.from_teacher(
                px.Preconditioned(Network(), EDM), EDM, px.karras(4, EDM)
            ),
            "repeats the teacher's last layer .* got a Network",
        ),
        (lambda: jax.jit(lambda t: make(times=t))(px.karras(4, EDM)), "outside jit"),
        (
            lambda: PID(px.ProbabilityFlow(gaussian(), EDM), draw=0),
            "draw must be a whole number of at least 1",
        ),
        (
            lambda: make(8, starts=4),
            "leave 2 after the last start, expected at least 4",
        ),
        (lambda: make(starts=0), "starts must be a whole number of at least 1"),
        (lambda: make(8, starts=2).in_steps(3), r"one of \[1, 2\] steps, got steps=3"),
        (lambda: make(8, starts=2).in_steps(0), "steps must be a whole number of at"),
        (
            lambda: make(8, starts=2).transport(jnp.ones(3), 80.0, 81.0),
            "t must lie in the process's interval",
        ),
        (
            lambda: make(8, starts=2).transport(
                jnp.ones(3), make(8, starts=2).start_times[1], 40.0
            ),
            "t must not be larger than s: .* got t=40.0",
        ),
        (
            lambda: make(8, starts=2).transport(jnp.ones(3), 33.0, 1.0),
            r"starts from one of the times \(80.0, .*\), got s=33.0",
        ),
        (
            lambda: px.sample(make(8), 3, key=KEY, rtol=1e-3),
            "got rtol. Leave them out. An IntegralStudent",
        ),
        (
            lambda: PID(px.ProbabilityFlow(gaussian(), EDM), legs=1.0),
            r"legs is the share .* in \[0, 1\), got legs=1.0",
        ),
        (
            lambda: PID(px.ProbabilityFlow(gaussian(), EDM), reach=0),
            "reach must be a whole number of at least 1",
        ),
        (
            lambda: PID(px.ProbabilityFlow(gaussian(), EDM), semigroup=0.2, legs=0),
            "needs legs, which train the later one: got semigroup=0.2, legs=0",
        ),
        (
            lambda: PID(px.ProbabilityFlow(gaussian(), EDM), semigroup=0.2).check(
                table(EDM, 8), None
            ),
            "with several starts, got semigroup=0.2 and a student without them. Make",
        ),
        (lambda: Borders(share=1.0), r"in \(0, 1\), got share=1.0. Even draws must"),
        (
            lambda: Borders(kept=64, candidates=64),
            "fewer kept than candidates, got kept=64 of candidates=64",
        ),
        (
            lambda: PID(
                px.ProbabilityFlow(gaussian(), EDM), weighting=SlopeAlongDraws()
            ).check(px.Student(Network(), EDM, shape=(3,)), None),
            "follow the trajectory of an IntegralStudent, .* got a Student. Use Slope",
        ),
        (lambda: SlopeAlongDraws(least=2.0), "a power, at least 0: got least=2.0"),
        (lambda: Slope(least=0.0), "least and quantile must be in"),
        (lambda: Slope(tolerated=-1.0), r"a share of draws, in \[0, 1\), got .*=-1.0"),
        (
            lambda: px.where_it_moves(
                px.ProbabilityFlow(gaussian(), EDM), 5, key=KEY, even=0.0
            ),
            "even is the share of evenly spread nodes",
        ),
    ],
)
def test_bad_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
