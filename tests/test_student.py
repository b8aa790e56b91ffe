"""The student's boundary condition, its formula, and what it can represent."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PROCESSES, assert_close, gaussian, tolerance
from networks import Network, Trajectory

import pidax as px
from pidax.denoiser import (
    AbstractCoefficients,
    EDMCoefficients,
    FlowCoefficients,
    Preconditioned,
    VelocityCoefficients,
)
from pidax.student import Student

every_process = pytest.mark.parametrize("make", PROCESSES.values(), ids=PROCESSES)
# Every process in float64, and one of them in float32.
WITH_FLOAT32 = [*((name, True) for name in PROCESSES), ("RectifiedFlow", False)]


@pytest.mark.slow
@every_process
def test_at_the_start_it_is_the_latent_to_the_last_bit(make, x32):
    process, dtype = make(), np.float32
    student = Student(Network(), process)
    z = process.prior(jax.random.key(0), (32, 3))
    # The last time known while compiling, and not: two routes to sigma(T).
    both = lambda z, t: (student(z, process.t_max), student(z, t))
    run = jax.jit(jax.vmap(both, in_axes=(0, None)))
    for t in (jnp.asarray(process.t_max), px.karras(5, process)[0]):
        for start in run(z, t):
            np.testing.assert_array_equal(start, z)
    later = run(z, jnp.asarray(0.5 * (process.t_min + process.t_max)))[1]
    assert later.dtype == dtype
    assert jnp.abs(later - z).max() > 1e-3


@pytest.mark.slow
@every_process
def test_its_derivative_in_time_is_not_lost_at_the_start(make, x64):
    """d/dt at T is the limit of the quotient from below."""
    process = make()
    student = Student(Network(), process)
    z, last = process.prior(jax.random.key(0), (3,)), jnp.asarray(process.t_max)
    of = jax.jit(lambda t: student(z, t))
    slope = jax.jit(jax.jacfwd(of))(last)
    h = 1e-5 * process.t_max
    quotient = (3 * of(last) - 4 * of(last - h) + of(last - 2 * h)) / (2 * h)
    assert jnp.abs(slope).max() > 0
    assert_close(slope, quotient, 1e-5)


def test_for_edm_it_is_equation_7_of_the_paper(dtype):
    network = Network()
    student = Student(network, px.EDM())
    z = px.EDM().prior(jax.random.key(0), (3,))
    T = 80.0

    def equation_7(t):
        f = network(z / (0.5**2 + T**2) ** 0.5, jnp.log(t) / 4)
        return t / T * z + (T - t) / T * f

    t = jnp.array([0.002, 0.5, 31.0, 79.0])
    found, expected = jax.jit(jax.vmap(lambda t: (student(z, t), equation_7(t))))(t)
    assert_close(found, expected, tolerance(dtype, 10))


@pytest.mark.slow
@every_process
def test_it_can_be_the_exact_trajectory(make, x64):
    exact, process = gaussian(), make()
    student = Student(Trajectory(exact, process), process, shape=(3,))
    z = process.prior(jax.random.key(2), (3,))
    start = process.level(process.t_max)
    t = jnp.append(px.uniform_angle(6, process), px.uniform_time(4, process))
    expected = lambda t: exact.transport(z, start, process.level(t))
    both = jax.vmap(lambda t: (student(z, t), expected(t)))
    found, expected = jax.jit(both)(t)
    assert_close(found, expected, 1e-8)


def test_a_sample_is_one_evaluation_at_the_end():
    calls = []

    def network(x, c_noise, condition=None, *, augment=None, key=None):
        calls.append((c_noise, condition, key))
        return x

    student = Student(network, px.EDM(), shape=(2,))
    z, key = jnp.array([30.0, -70.0]), jax.random.key(0)
    sample = student.sample(z, 3)
    assert len(calls) == 1
    assert_close(calls[0][0], np.log(0.002) / 4, 1e-6)
    assert calls[0][1:] == (3, None)
    np.testing.assert_array_equal(sample, student(z, 0.002, 3, key=key))
    assert calls[1][2] is key


def test_it_states_what_it_is():
    student = Student(Network(classes=4), px.EDM())
    assert student.shape == (3,)
    assert student.classes == 4
    z = jnp.array([30.0, -70.0, 10.0])
    assert jnp.abs(student.sample(z) - student.sample(z, 1)).max() > 1e-3


# --- a soft boundary condition -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "double"), WITH_FLOAT32)
def test_a_soft_boundary_condition_keeps_the_whole_signal(name, double):
    """(sigma_t / sigma_T) z + alpha_t F, with F that of the hard one."""
    with jax.enable_x64(double):
        soft_boundary(PROCESSES[name](), jnp.zeros(()).dtype)


def soft_boundary(process, dtype):
    network = Network()
    hard, soft = (Student(network, process, boundary=b) for b in ("hard", "soft"))
    z = process.prior(jax.random.key(0), (3,))
    last = process.level(process.t_max)

    def both(t):
        sigma, alpha = process.sigma(t), process.alpha(t)
        F = hard.clean(z / last[0], t, None)
        missing = last[1] * sigma / last[0] * F
        return soft(z, t), sigma / last[0] * z + alpha * F, hard(z, t) + missing

    found, formula, other = jax.jit(jax.vmap(both))(px.uniform_angle(5, process))
    eps = tolerance(dtype, 10)
    assert_close(found, formula, eps)
    assert_close(found, other, eps)
    ends = np.abs(np.asarray(found[0] - z)).max()
    assert (ends > 1e-4) == (float(last[1]) > 1e-3 or isinstance(process, px.VP))


# --- from a teacher ------------------------------------------------------------------

COEFFICIENTS = {
    "edm": EDMCoefficients(),
    "velocity": VelocityCoefficients(),
    "flow": FlowCoefficients(),
}


@pytest.mark.parametrize(
    ("make", "name", "double"),
    [
        (px.EDM, "edm", False),
        (px.VE, "edm", True),
        (px.SubVP, "velocity", True),
        (px.VP, "flow", True),
        (px.RectifiedFlow, "flow", True),
    ],
)
def test_from_a_teacher_its_f_at_the_start_is_the_teachers_denoiser(make, name, double):
    with jax.enable_x64(double):
        from_teacher(make(), name, jnp.zeros(()).dtype)


def from_teacher(process, name, dtype):
    network = Network(classes=4)
    teacher = Preconditioned(network, process, COEFFICIENTS[name])
    student = Student.from_teacher(teacher, process)
    z, label = process.prior(jax.random.key(0), (3,)), jnp.array(2)
    sigma, alpha = process.level(process.t_max)
    middle = jnp.asarray(0.01 * process.t_max)

    @jax.jit
    def both(z):
        c_skip, c_out, c_in, _ = COEFFICIENTS[name](sigma, alpha, process)
        now = process.sigma(middle), process.alpha(middle)
        c_noise = COEFFICIENTS[name](*now, process)[3]
        later = c_skip * z + c_out * network(c_in * z, c_noise, label)
        start = student.clean(z / sigma, jnp.asarray(process.t_max), label)
        return (start, student.clean(z / sigma, middle, label)), (
            teacher(z, sigma, alpha, label),
            later,
        )

    found, expected = both(z)
    assert_close(found, expected, tolerance(dtype, 10))
    assert jnp.abs(found[0] - found[1]).max() > 1e-3
    np.testing.assert_array_equal(student(z, process.t_max, label), z)


def test_from_a_teacher_it_knows_what_the_teacher_knows():
    teacher = Preconditioned(Network(classes=4), px.EDM())
    student = Student.from_teacher(teacher, px.EDM(), boundary="soft")
    assert student.network is teacher.network
    assert (student.shape, student.classes, student.boundary) == ((3,), 4, "soft")
    anything = Preconditioned(lambda x, *rest, **options: x, px.EDM(), shape=(2, 2))
    assert Student.from_teacher(anything, px.EDM()).shape == (2, 2)


class NoiseCoefficients(AbstractCoefficients):
    """A network that predicts the noise: D = (x - sigma N) / alpha."""

    def __call__(self, sigma, alpha, process):
        return 1 / alpha, -sigma / alpha, 1 / process.scale(1.0), jnp.log(sigma / alpha)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Student(Network(), px.EDM())(jnp.ones((5, 3)), 1.0),
            r"z must be one sample of the shape \(3,\), got \(5, 3\).*jax.vmap",
        ),
        (
            lambda: Student(lambda *a, **k: a[0][:1], px.EDM()).sample(jnp.ones(2)),
            r"the network must return one array of the shape \(2,\).*got \(1,\)",
        ),
        (
            lambda: Student(Network(), px.EDM(), boundary="x"),
            "boundary must be 'hard' or 'soft', got 'x'. 'hard' gives",
        ),
        (
            lambda: Student.from_teacher(
                px.from_noise(lambda x, t: x, px.EDM()), px.EDM()
            ),
            r"of a Preconditioned denoiser, got a Wrapped.*Student\(network, process\)",
        ),
        (
            lambda: Student.from_teacher(
                Preconditioned(Network(), px.EDM(), NoiseCoefficients()), px.EDM()
            ),
            "multiplied by 160 sigma_data.*no start for a student.*new network",
        ),
        (
            lambda: Student.from_teacher(
                Preconditioned(Network(), px.EDM()), px.EDM(sigma_data=0.3)
            ),
            "sigma_data=0.5 and 0.3. Make both with one process",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_teacher_of_another_interval_keeps_its_own_noise_levels(x64):
    """At T the student's F is D(z, T) beyond the levels the teacher was made for."""
    network, wide = Network(), px.EDM(sigma_max=200.0)
    teacher = px.Preconditioned(network, px.EDM())
    student = Student.from_teacher(teacher, wide)
    z = wide.prior(jax.random.key(0), (3,))
    found = student.clean(z / 200.0, jnp.asarray(200.0), None)
    assert_close(found, teacher(z, 200.0), 1e-12)


@pytest.mark.parametrize("t", [200.0, -1.0, 1e-3])
def test_a_time_outside_the_interval_is_refused(t):
    with pytest.raises(ValueError, match=r"interval \[0.002, 80.0\].*got t="):
        Student(Network(), px.EDM())(jnp.ones(3), t)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0)),
            r"got a MLP that takes \(x, key",
        ),
        (lambda x: x, r"too many positional.* as network\(x, c_noise, cond"),
        (lambda x, c_noise, other, more: x, "missing a required argument: 'more'"),
        (px.nn.MLP, "got the class MLP. Make one of it"),
        (3.0, "expected a network, got an object of type float"),
    ],
)
def test_a_network_that_is_called_otherwise_is_named_when_it_is_given(network, message):
    for make in (Student, Preconditioned):
        with pytest.raises(ValueError, match=message):
            make(network, px.EDM())


def test_networks_of_any_kind_that_can_be_called_so_are_taken():
    network = Network()
    for same in (eqx.filter_jit(network), lambda *args, **rest: network(*args, **rest)):
        Student(same, px.EDM())
        Preconditioned(same, px.EDM())


class Plain(eqx.Module):
    """An Equinox network as anyone writes it: no condition, no key, no labels."""

    mlp: eqx.nn.MLP

    def __call__(self, x, c_noise):
        return self.mlp(jnp.append(x, c_noise))


def test_a_network_is_given_what_it_takes(x64):
    """The same numbers as of one that takes everything and uses as much."""
    plain = Plain(eqx.nn.MLP(3, 2, 8, 1, key=jax.random.key(0)))
    full = lambda x, c_noise, condition=None, *, augment=None, key=None: plain(
        x, c_noise
    )
    x, key = jnp.array([0.3, -2.0]), jax.random.key(1)
    for make in (Student, Preconditioned):
        ours, theirs = (make(network, px.EDM()) for network in (plain, full))
        found = ours(x, 1.5, key=key)
        assert_close(found, theirs(x, 1.5, key=key), 1e-15)
        assert jnp.abs(found - x).min() > 1e-3
        assert ours.classes is None
        with pytest.raises(ValueError, match="Plain takes no condition, got ArrayImpl"):
            ours(x, 1.5, condition=jnp.ones(2))
    with pytest.raises(ValueError, match="Plain takes no augment"):
        Preconditioned(plain, px.EDM())(x, 1.5, augment=jnp.ones(2))


def test_a_condition_without_a_key_is_enough():
    got = []

    def network(x, c_noise, condition):
        got.append(condition)
        return x

    student = Student(network, px.EDM(), shape=(2,))
    student(jnp.ones(2), 1.5, condition=7, key=jax.random.key(0))
    assert got == [7]
