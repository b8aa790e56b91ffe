"""The implied clean sample: what it stands for, and what is left to rounding."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CLOCKS, assert_close, gaussian, tolerance
from networks import Network
from residuals import TIME, difference, prior, sides, states

import pidax as px
from pidax.student import (
    Autodiff,
    Central,
    CoupledAutomaticNumerical,
    Stencil,
    Student,
    Upwind,
)

# --- against the ODE's left side, literally ------------------------------------------


@eqx.filter_jit
def motion(student, z, times):
    """Positions and velocities in the process's own time: (draw, time, ...)."""
    one = lambda t, z: jax.jvp(lambda t: student(z, t), (t,), (jnp.ones_like(t),))
    return jax.vmap(jax.vmap(one, (0, None)), (None, 0))(times, z)


def parabola(tau):
    """The weights of three values in the slope of their parabola at the middle one."""
    return np.linalg.solve(np.vander(tau - tau[1], increasing=True).T, [0, 1, 0])


def asked(name, tau, v, dv):
    """Where the ODE is asked, in which state, and the state's derivative there."""
    upwind = difference(v, tau)
    if name == "central":
        return (tau[:-1] + tau[1:]) / 2, (v[:, :-1] + v[:, 1:]) / 2, upwind
    if name == "exact":
        return tau, v, dv
    if name == "coupled":
        return tau[:-1], v[:, :-1], 2 * upwind - dv[:, 1:]
    if name == "nodes":
        for i in range(1, len(tau) - 1):
            weights = parabola(tau[i - 1 : i + 2])
            upwind[:, i] = np.einsum("j,zjk->zk", weights, v[:, i - 1 : i + 2])
    return tau[:-1], v[:, :-1], upwind


@eqx.filter_jit
def teacher_of(denoiser, state, sigma, alpha):
    return jax.vmap(jax.vmap(denoiser), (0, None, None))(state, sigma, alpha)


def literal_sides(flow, name, times, x, dx):
    """(sigma v' - sigma' v) / (sigma alpha' - alpha sigma'), and D(v)."""

    def time_and_size(tau):
        t = flow.clock.time(flow.process, tau)
        return t, flow.magnification(t)

    tau = flow.clock.reading(flow.process, times)
    parts = jax.jvp(time_and_size, (tau,), (jnp.ones_like(tau),))
    (_, m), (t_rate, m_rate) = jax.tree.map(lambda a: np.asarray(a)[:, None], parts)
    v, dv = m * x, m_rate * x + m * t_rate * dx
    at, state, slope = asked(name, np.asarray(tau), v, dv)
    level = flow.level(jnp.asarray(at))
    sigma, alpha, sigma_rate, alpha_rate = (np.asarray(a)[:, None] for a in level)
    left = sigma * slope - sigma_rate * state
    right = teacher_of(flow.denoiser, state, sigma[:, 0], alpha[:, 0])
    return left / (sigma * alpha_rate - alpha * sigma_rate), right


CASES = {  # every process, clock and derivative
    "upwind": (px.EDM, "time", Upwind, "hard"),
    "central": (px.SubVP, "angle", lambda clock: Central(clock=clock), "hard"),
    "nodes": (px.RectifiedFlow, "angle", lambda c: Central("nodes", c), "soft"),
    "coupled": (px.VP, "log-time", CoupledAutomaticNumerical, "soft"),
    "exact": (px.VE, "time", Autodiff, "hard"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_odes_left_side_and_the_teacher_sees_the_same_state(name, x64):
    """From the student's states alone, which do not know of clocks."""
    make, clock, derivative, boundary = CASES[name]
    process = make()
    student = Student(Network(), process, boundary=boundary)
    times, z = px.karras(9, process), prior(process, 2)
    x, dx = map(np.asarray, motion(student, z, times))
    assert (np.abs(x - z[:, None])[:, 0].max() > 0.01) == (
        boundary == "soft" and float(process.alpha(process.t_max)) > 1e-3
    )
    flow = px.ProbabilityFlow(gaussian(), process, clock=CLOCKS[clock]())
    derivative = derivative(flow.clock)
    rows = derivative.stencil(process, times)
    found = sides(student, flow, derivative, rows, z)
    for side, part in zip(found, literal_sides(flow, name, times, x, dx), strict=True):
        assert_close(side, part, 1e-8)


def test_any_node_may_be_the_reference(x64):
    """From which differences of the network are taken: the sum is one number."""
    process, derivative = px.VP(), CoupledAutomaticNumerical()
    flow = px.ProbabilityFlow(gaussian(), process)
    rows = derivative.stencil(process, px.karras(9, process))
    assert rows.rows.reference == 1
    first = Stencil(dataclasses.replace(rows.rows, reference=0))
    student = Student(Network(), process, boundary="soft")
    implied = [
        sides(student, flow, derivative, choice, prior(process, 2))[0]
        for choice in (rows, first)
    ]
    assert_close(implied[0], implied[1], 1e-9)


def test_a_row_has_the_clocks_rates_and_the_time_of_the_ode(x64):
    """In EDM's time sigma = t and alpha = 1; in the angle t = tan(phi)/2."""
    process, times = px.EDM(), px.karras(9, px.EDM())
    rates = Upwind(TIME).stencil(process, times).rows.rates
    assert_close(rates, np.tile([1.0, 0.0, 1.0], (8, 2, 1)), 1e-12)
    phi = np.arctan2(np.asarray(times), 0.5)
    middle = 0.5 * np.tan((phi[1:] + phi[:-1]) / 2)
    assert_close(Central().stencil(process, times).rows.at_time, middle, 1e-9)


# --- rounding ------------------------------------------------------------------------


def paper(process):
    """The paper's grid of 250 nodes and its rows."""
    times = px.karras(250, process)
    return times, Upwind(TIME).stencil(process, times)


@pytest.mark.slow
def test_in_float32_the_paper_form_loses_its_digits_and_this_one_does_not():
    """Against float64; near T the paper's form subtracts states of size 80."""
    process, derivative = px.EDM(), Upwind(TIME)
    with jax.enable_x64(False):
        student, exact = Student(Network(), process), gaussian()
        (times, rows), z = paper(process), prior(process, 8)
        flow = px.ProbabilityFlow(exact, process)
        found = sides(student, flow, derivative, rows, z)[0]
        x, t = (np.asarray(a) for a in (states(student, z, times), times))
        literal = x[:, :-1] - t[:-1, None] * difference(x, t)
        assert found.dtype == literal.dtype == np.float32
        given = jax.tree.map(np.asarray, (student, exact, times, z))
    with jax.enable_x64(True):
        wide = lambda a: jnp.asarray(a, float) if eqx.is_array_like(a) else a
        student, exact, times, z = jax.tree.map(wide, given)
        rows = derivative.stencil(process, times)
        flow = px.ProbabilityFlow(exact, process)
        true = np.asarray(sides(student, flow, derivative, rows, z)[0])
    error = np.abs(np.asarray(found, float) - true)
    assert error.max() < 2e-5  # kappa roundings of the network
    assert np.sqrt((error**2).mean()) < 4e-6
    assert np.abs(literal - true)[:, :80].max() > 1e-4


def test_the_paper_form_leaves_no_z_and_amplifies_by_kappa(x64):
    r"""The identity F' + kappa (F' - F) with F' at the next node,
    kappa = t_{i+1} (T - t_i) / (T (t_i - t_{i+1})), whose largest value is 29.2.
    """
    times, rows = paper(px.EDM())
    t, after = np.asarray(times)[:-1], np.asarray(times)[1:]
    kappa = after * (80 - t) / (80 * (t - after))
    assert abs(kappa.max() - 29.2) < 0.05
    assert abs(t[kappa.argmax()] - 10) < 1
    student = Student(Network(), px.EDM())
    rows = rows.rows
    gaps = student.gap(rows.sigma, rows.alpha)
    assert rows.reference == 1
    assert_close(rows.value[:, 0] * gaps[:, 0], -kappa, 1e-9)
    assert_close(student.gap(rows.noise, rows.signal), np.ones(249), 1e-9)
    assert np.abs(rows.noise).max() < 1e-9


# --- how it is made ------------------------------------------------------------------


def same(one: Stencil, other: Stencil, rtol: float) -> None:
    """To so much of the largest number of each kind, or of one."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        assert_close(a, b, 0.0, rtol * max(1.0, float(np.abs(b).max())))


def test_it_does_not_depend_on_the_precision_of_the_session():
    derivative, process = Central("nodes"), px.VP()
    with jax.enable_x64(False):
        times = px.karras(9, process)
        narrow = derivative.stencil(process, times)
        inside = jax.jit(lambda: derivative.stencil(process, times))()
        same(inside, narrow, 0.0)
    with jax.enable_x64(True):
        wide = derivative.stencil(process, jnp.asarray(np.asarray(times), float))
        assert wide.rows.value.dtype == np.float64
        rounded = jax.tree.map(lambda a: np.asarray(a, np.float32), wide)
    assert narrow.rows.value.dtype == np.float32
    # Readings of the clock are rounded down, so that none goes beyond pi/2.
    for name in ("start", "stop"):
        found = np.asarray(getattr(narrow.rows, name))
        exact = np.asarray(getattr(wide.rows, name))
        assert (found.astype(float) <= exact).all()
        assert_close(found, np.asarray(exact, np.float32), 1.2e-7, 0.0)
    downward = {name: getattr(narrow.rows, name) for name in ("start", "stop")}
    same(narrow, Stencil(dataclasses.replace(rounded.rows, **downward)), 0.0)


def test_in_float32_no_reading_lies_beyond_a_quarter_circle(x32):
    """On a rectified flow the first node is pi/2, where a cosine may be negative."""
    process = px.RectifiedFlow()
    row = Upwind().stencil(process, px.uniform_time(5, process))[0]
    sigma, alpha = px.flow.AngleClock().level(process, row.start)
    assert sigma > 0.99
    assert alpha >= 0


@pytest.mark.slow
def test_a_process_may_be_known_only_at_run_time(dtype):
    """As inside a compiled step that takes the process as an argument."""
    derivative = CoupledAutomaticNumerical()
    process = px.EDM(sigma_max=50.0)
    times = px.karras(9, process)
    made = jax.jit(lambda process: derivative.stencil(process, times))(process)
    same(made, derivative.stencil(process, times), tolerance(dtype))
