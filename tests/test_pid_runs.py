"""Physics-informed distillation from step to step: its state, short runs, messages."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, gaussian
from networks import Network
from objectives import ONE

import pidax as px
from pidax.distill import PID, Causal, Curriculum
from pidax.student import Central, SolverStep, Student, Upwind

EDM = px.EDM()
KEY = jax.random.key(5)


def flow(denoiser=None):
    return px.ProbabilityFlow(denoiser or gaussian(), EDM)


# --- the state, and whole runs -------------------------------------------------------


def test_the_slow_copy_is_an_average_of_students(x64):
    first = Student(Network(), EDM)
    second = jax.tree.map(lambda a: a + 1 if eqx.is_array(a) else a, first)
    pid = PID.paper(flow(), 8, slow=0.75)
    state = pid.init(first, key=KEY)
    assert eqx.tree_equal(state.slow, first)
    found = pid.advance(second, pid.advance(second, state, ()), ()).slow
    shift = found.network.inner - first.network.inner
    assert_close(shift, np.full(shift.shape, 1 - 0.75**2), 1e-12)


def run(pid, steps=12, **options):
    options = {"batch_size": 16, "progress": False, "devices": ONE} | options
    student = Student(Network(), EDM)
    return px.fit(student, pid, steps=steps, key=KEY, **options)


@pytest.mark.slow
def test_borders_live_through_checkpoints_and_on_two_devices(tmp_path):
    """Keys in a state: resumed after a choice of borders, and divided batches."""
    borders = px.distill.Borders(kept=8, candidates=32, every=4)
    pid = PID.paper(flow(), 8, borders=borders)
    whole = run(pid, steps=10)
    run(pid, steps=6, directory=tmp_path, checkpoint_every=2)
    again = run(pid, steps=10, directory=tmp_path, checkpoint_every=2)
    assert eqx.tree_equal(whole.model, again.model)
    two = run(pid, steps=10, devices=jax.devices()[:2])
    assert_close(two.model.network.inner, whole.model.network.inner, 1e-5, 1e-6)
    data = lambda result: jax.random.key_data(result.state.objective.borders)
    np.testing.assert_array_equal(data(whole), data(again))
    # The state of the run, after refreshes at 4 and 8, is not that of its beginning.
    first = pid.init(Student(Network(), EDM), key=KEY).borders
    assert first is not None
    assert not np.array_equal(data(whole), jax.random.key_data(first))


@pytest.mark.slow
def test_its_state_lives_through_training_in_micro_batches():
    """A step adds one draw, spread over the rows; those it sees forget a hundredth.

    A row that is not open yet is never drawn: it keeps the count of the start.
    """
    counts = []

    def look(step, terms, result):
        counts.append(np.asarray(result.state.objective.losses.count))

    options = {"sampling": Curriculum(by=0.5), "weighting": Causal(), "slow": 0.9}
    pid = PID.paper(flow(), 8, **options)
    result = run(
        pid, steps=8, log_every=1, steps_per_dispatch=1, callback=look, accumulate=2
    )
    assert len(counts) == 8
    for step, count in enumerate(counts):
        closed = np.arange(7) >= 1 + 7 * step / 4
        assert_close(count[closed], np.full(closed.sum(), 1e-3), 1e-6, 0.0)
        assert count[0] > 0.1
    assert (counts[-1] > 0.01).all()
    losses = result.state.objective.losses
    least = 7e-3 * 0.99**8 + (1 - 0.99**8) / 0.01  # each row seen in every step
    assert least * (1 - 1e-4) <= losses.count.sum() < 8.007
    assert (losses.total >= 0).all()
    assert not np.allclose(losses.total, losses.count)
    start, end = Student(Network(), EDM).network.inner, result.model.network.inner
    slow = result.state.objective.slow.network.inner
    assert 0 < jnp.abs(slow - start).max() < jnp.abs(end - start).max()
    assert np.isfinite(result.history["residual"]).all()


@pytest.mark.slow
def test_a_short_run_learns_the_trajectories():
    """From 1.2 to below 0.2 of the exact endpoint, for data of size one."""
    exact = px.Gaussian(jnp.array([0.7, -0.2]), jnp.array([[0.5, 0.3], [0.3, 0.4]]))
    network = px.nn.MLP(2, 2, width=32, depth=2, key=jax.random.key(1))
    pid = PID(flow(exact), times=px.karras(12, EDM))
    z = EDM.prior(jax.random.key(2), (256, 2))
    ends = EDM.level(80.0), EDM.level(0.002)
    true = jax.vmap(lambda z: exact.transport(z, *ends))(z)

    @eqx.filter_jit
    def error(student):
        return jnp.sqrt(jnp.mean(jnp.sum((jax.vmap(student.sample)(z) - true) ** 2, 1)))

    student, schedule = Student(network, EDM), optax.cosine_decay_schedule(1e-2, 200)
    result = px.fit(
        student,
        pid,
        steps=200,
        batch_size=64,
        key=KEY,
        optimiser=optax.adam(schedule),
        progress=False,
        devices=ONE,
    )
    assert error(student) > 1
    assert error(result.model) < 0.2


# --- bad input -----------------------------------------------------------------------


def refuse(model=None, data=None, denoiser=None, **choices):
    def make():
        student = Student(Network(), EDM) if model is None else model
        small = {"times": px.karras(4, EDM), "derivative": Upwind()}
        PID(flow(denoiser), **{**small, **choices}).check(student, data)

    return make


def faulty(x, sigma, alpha):
    return jnp.where(sigma < 0.5, jnp.nan, x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            refuse(times=jnp.array([80.0])),
            r"two or more that decrease.*Use a time grid",
        ),
        (
            refuse(times=jnp.array([80.0, 0.1])),
            "from t_max to t_min, here from 80.0 to",
        ),
        (refuse(times=jnp.array([90.0, 0.002])), "from t_max to t_min.*karras"),
        (refuse(times=jnp.array([80.0, 1.0, 2.0, 0.002])), "decrease from t_max"),
        (
            refuse(times=px.karras(4, EDM, final_zero=True)),
            "(?s)decrease from t_max.*without a final zero",
        ),
        (refuse(Network()), "trains a student, got.*Network. Make one"),
        (
            refuse(data=np.ones((4, 3))),
            "needs no data.*got data of type ndarray. Leave",
        ),
        (
            refuse(Student(Network(), px.VP())),
            "same process, got VP.*Make both with one",
        ),
        (refuse(Student(Network(2), EDM)), r"shape \(3,\), the student's \(2,\). Make"),
        (
            refuse(
                Student(lambda *a, **k: a[0], EDM),
                denoiser=px.from_function(lambda x, t: x, EDM),
            ),
            "shape of one sample is not known.*Pass shape= to",
        ),
        (refuse(classes=3), "labels of 3 classes.* knows none. Leave out classes="),
        (
            refuse(Student(Network(classes=2), EDM), classes=3),
            "the student knows 2. Pass classes=2, or make it with 3",
        ),
        (
            refuse(
                Student(Network(classes=3), EDM),
                denoiser=px.Preconditioned(Network(), EDM),
                classes=3,
            ),
            "the teacher knows none. Leave out classes=, or make",
        ),
        (
            refuse(
                denoiser=px.from_function(faulty, shape=(3,)),
                times=jnp.array([80.0, 1.0, 0.25, 0.002]),
            ),
            r"not finite in 1 of the 3 equations.* at t=0.25 \(sigma=0.25\) or in",
        ),
        (  # in a stage of the last step alone
            refuse(
                denoiser=px.from_function(
                    lambda x, s, a: jnp.where(s / a < 0.15, jnp.nan, x), shape=(3,)
                ),
                times=jnp.array([80.0, 1.0, 0.25, 0.002]),
                derivative=SolverStep(diffrax.Heun()),
            ),
            r"not finite in 1 of the 3 equations.* at t=0.25 \(sigma=0.25\) or in",
        ),
        (  # at no node, but midway between two
            refuse(
                denoiser=px.from_function(
                    lambda x, s, a: jnp.where(jnp.abs(s / a - 0.5) < 0.1, jnp.nan, x),
                    shape=(3,),
                ),
                times=jnp.array([80.0, 1.0, 0.25, 0.002]),
                derivative=Central(),
            ),
            "not finite in 1 of the 3 equations.* at t=0.5 ",
        ),
        (  # with one of its labels
            refuse(
                Student(Network(classes=2), EDM),
                denoiser=px.from_function(
                    lambda x, s, a, c: x / (1 - c).astype(x.dtype), shape=(3,)
                ),
                classes=2,
            ),
            "not finite in [123] of the 3 equations",
        ),
        (
            refuse(Student(Network(classes=4), EDM)),
            "student knows 4 classes, but no labels are drawn. Pass classes=4; or cond",
        ),
        (
            refuse(classes=2, condition=lambda key: -1),
            "classes=2 draws labels, but condition= gives them already",
        ),
        (
            refuse(condition=-1),
            "condition must be a function of a key.*got int. For one and the same",
        ),
        (refuse(classes=0), "classes must be a whole.*got classes=0. Leave it out"),
        (
            refuse(Student(lambda x, *_, **__: x[:1], EDM, shape=(3,))),
            r"network must return one array of the shape \(3,\) .*got \(1,\)",
        ),
        (refuse(form="x"), "form must be one of .*'velocity'.*got 'x'"),
        (refuse(slow=1.0), "between 0 and 1, got slow=1.0. Use 0.98, or None"),
        (refuse(clamp=(1, -1)), r"clamp must be an interval.*got \(1, -1\)"),
        (refuse(boundary_weight=-1.0), "must not be negative, got -1.0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_a_teacher_says_without_a_class_may_be_distilled():
    """Into a student without classes, or with the label that stands for none."""
    teacher = px.Preconditioned(Network(classes=4), EDM)
    refuse(denoiser=teacher)()
    none = {"denoiser": teacher, "condition": lambda key: -1}
    refuse(Student(Network(classes=4), EDM), **none)()
