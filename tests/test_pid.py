"""Physics-informed distillation: eq. 11 by hand, its gradients and its options."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, gaussian
from networks import Network
from residuals import TIME, states
from scipy import stats

import pidax as px
from pidax.distill import PID, AbstractSampling, Causal
from pidax.student import Student, Upwind

NOW: Any = np.zeros((), np.float32)  # progress, where nothing looks at it
EDM = px.EDM()
KEY = jax.random.key(5)
ROW = 5  # t = 0.7, where the teacher heeds the state


class Only(AbstractSampling):
    """One row, always."""

    row: Any

    @property
    def watches(self):
        return False

    @property
    def compensates(self):
        return False

    def __call__(self, times, losses, progress):
        return (jnp.arange(losses.size) == self.row).astype(losses.dtype)


def flow(denoiser=None, process=EDM, **options):
    return px.ProbabilityFlow(denoiser or gaussian(), process, **options)


def latent(key, size=3):
    """The noise that a sample's key draws."""
    return EDM.prior(jax.random.split(key, 3)[0], (size,))


@eqx.filter_jit
def value(objective, model, key=KEY, slow=None):
    """The loss and terms of one sample, given a slow copy."""
    state = eqx.tree_at(
        lambda s: s.slow,
        objective.init(model, key=key),
        slow,
        is_leaf=lambda leaf: leaf is None,
    )
    loss, (_, terms) = objective.loss(model, state, None, NOW, key=key)
    return loss, terms


gradient = eqx.filter_jit(
    eqx.filter_grad(lambda model, pid, key: value(pid, model, key)[0])
)


def equation_11(student, i=ROW, key=KEY, inside=None):
    """Both sides of eq. 11 at row `i`: x - t dx/dt, and D(x, t)."""
    z, (t, after) = latent(key), np.asarray(px.karras(8, EDM))[i : i + 2]
    x, later = np.asarray(states(student, z[None], jnp.array([t, after])))[0]
    asked = x if inside is None else inside(z, t)
    return x - t * (x - later) / (t - after), np.asarray(gaussian()(asked, t))


def paper(i: Any = ROW, teacher=None, **choices):
    return PID.paper(flow(teacher), 8, sampling=Only(i), **choices)


# --- the loss ------------------------------------------------------------------------


def test_the_papers_loss_is_equation_11_for_each_sample(x64):
    student = Student(Network(), EDM)
    for i, seed in [(0, 1), (3, 2), (6, 3)]:
        key = jax.random.key(seed)
        left, right = equation_11(student, i, key)
        loss, terms = value(paper(jnp.asarray(i)), student, key)
        assert loss > 1e-3
        assert_close(loss, np.mean((left - right) ** 2), 1e-9)
        assert_close(terms["residual"], loss, 1e-12)


@pytest.mark.slow
def test_distances_and_forms(x64):
    student, (left, right) = (s := Student(Network(), EDM)), equation_11(s)
    error, t = left - right, float(px.karras(8, EDM)[ROW])
    for choices, expected in [
        ({"distance": px.distill.L1()}, np.abs(error).mean()),
        ({"distance": px.distill.PseudoHuber(2.0)}, np.sqrt((error**2).mean() + 4) - 2),
        ({"distance": lambda a, b: (a[0] - b[0]) ** 3}, error[0] ** 3),
        ({"form": "velocity"}, np.mean(error**2) / t**2),
        ({"form": "velocity", "distance": lambda a, b: a[0] - b[0]}, -error[0] / t),
        # At the start each of the five rows before has a running loss of one.
        ({"weighting": Causal()}, np.exp(-ROW) * np.mean(error**2)),
        ({"clamp": (-0.1, 0.2)}, np.mean((left - np.clip(right, -0.1, 0.2)) ** 2)),
    ]:
        loss, terms = value(paper(**choices), student)
        assert_close(loss, expected, 1e-9)
        if "clamp" not in choices:
            assert_close(terms["residual"], np.mean(error**2), 1e-9)


def test_the_teacher_is_asked_in_the_state_of_the_slow_copy(x64):
    student = Student(Network(), EDM)
    slow = jax.tree.map(lambda a: 0.8 * a if eqx.is_array(a) else a, student)
    left, right = equation_11(student, inside=jax.jit(lambda z, t: slow(z, t)))
    assert np.abs(right - equation_11(student)[1]).max() > 1e-3
    loss, _ = value(paper(slow=0.9), student, slow=slow)
    assert_close(loss, np.mean((left - right) ** 2), 1e-9)


@pytest.mark.slow
def test_a_soft_boundary_condition_costs_its_square(x64):
    hard, soft = (Student(Network(), EDM, boundary=b) for b in ("hard", "soft"))
    z = latent(KEY)
    start = np.asarray(jax.jit(lambda z: soft(z, 80.0))(z) - z)
    for weight in (1.0, 0.3):
        loss, terms = value(paper(boundary_weight=weight), soft)
        assert_close(terms["boundary"], np.mean(start**2), 1e-9)
        assert_close(loss, terms["residual"] + weight * terms["boundary"], 1e-12)
    assert terms["boundary"] > 1e-3
    assert "boundary" not in value(paper(boundary_weight=3.0), hard)[1]


# --- its gradient --------------------------------------------------------------------


@pytest.mark.slow
def test_the_gradient_holds_the_teacher_fixed_unless_told_otherwise(x64):
    """Against differences of the loss with the teacher's side frozen, and not."""
    student = Student(Network(), EDM)
    arrays, rest = eqx.partition(student, eqx.is_array)
    rng = np.random.default_rng(0)
    way = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), arrays)
    fixed = equation_11(student)[1]

    def losses(h):
        moved = jax.tree.map(lambda a, v: a + h * v, arrays, way)
        left, right = equation_11(eqx.combine(moved, rest))
        return np.array([np.mean((left - side) ** 2) for side in (fixed, right)])

    slopes = (losses(1e-5) - losses(-1e-5)) / 2e-5
    assert abs(slopes[0] - slopes[1]) > 1e-2 * abs(slopes[0])
    for stop, slope in zip((True, False), slopes, strict=True):
        found = gradient(student, paper(stop_gradient=stop), KEY)
        parts = zip(jax.tree.leaves(found), jax.tree.leaves(way), strict=True)
        assert_close(sum(float((g * v).sum()) for g, v in parts), slope, 1e-6)


class Nodes(eqx.Module):
    """One number for each node."""

    values: jax.Array
    c_noises: jax.Array

    def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
        value = self.values[jnp.argmin(jnp.abs(self.c_noises - c_noise))]
        return jnp.full_like(x, value)


@pytest.mark.slow
def test_the_gradient_flows_through_both_evaluations_of_the_student(x64):
    """Of F_{i+1} + kappa (F_{i+1} - F_i): in the ratio -kappa to 1 + kappa."""
    t = np.asarray(px.karras(8, EDM))
    student = Student(Nodes(jnp.arange(8.0), jnp.log(t) / 4), EDM, shape=(3,))
    found = np.asarray(gradient(student, paper(), KEY).network.values)
    here, after = t[ROW], t[ROW + 1]
    kappa = after * (80 - here) / (80 * (here - after))
    assert_close(found[ROW] / found[ROW + 1], -kappa / (1 + kappa), 1e-9)
    assert np.abs(found[ROW + 1]) > 1e-3
    np.testing.assert_array_equal(np.delete(found, [ROW, ROW + 1]), np.zeros(6))


# --- presets and labels --------------------------------------------------------------


@pytest.mark.slow
def test_the_presets_are_the_papers_and_the_authors(x64):
    plain = PID.paper(flow())
    np.testing.assert_array_equal(plain.times, px.karras(250, EDM))
    assert plain.derivative == Upwind(TIME)
    assert (len(plain.stencil), plain.form, plain.slow) == (249, "clean", None)
    assert plain.stop_gradient
    assert PID.paper(flow(), 8, form="velocity", slow=0.5).form == "velocity"
    authors = PID.authors(flow(), 8, sampling=Only(7))
    rows = authors.stencil.rows
    np.testing.assert_array_equal(rows.times[:7], paper().stencil.rows.times)
    t = np.asarray(authors.times)
    np.testing.assert_array_equal(rows.times[7], [t[7], t[6]])
    student, z = Student(Network(), EDM), latent(KEY)[None]
    before, x = np.asarray(states(student, z, authors.times))[0, 6:]
    error = x - t[7] * (x - before) / (t[7] - t[6]) - np.asarray(gaussian()(x, t[7]))
    assert_close(value(authors, student)[0], np.mean(error**2), 1e-9)


@pytest.mark.slow
def test_labels_are_drawn_evenly_and_reach_teacher_and_student(x64):
    """Both answer with their label, which the student's motion then implies."""
    says = lambda x, c: jnp.broadcast_to(c.astype(x.dtype), x.shape)
    teacher = px.from_function(lambda x, s, a, c: says(x, c), shape=(3,))
    network = lambda x, c_noise, c=None, *, augment=None, key=None: says(x, c)
    student = Student(network, EDM, shape=(3,))
    pid = PID.paper(flow(teacher), 8, classes=5, distance=lambda a, b: a.mean())
    over = eqx.filter_jit(
        lambda pid, keys: jax.vmap(lambda k: value(pid, student, k))(keys)
    )
    label, terms = over(pid, jax.random.split(KEY, 500))
    assert_close(terms["residual"], np.zeros(500), 1e-9)
    assert_close(label, np.round(label), 1e-9)
    counts = np.bincount(np.round(label).astype(int))
    assert len(counts) == 5
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.slow
def test_any_condition_is_drawn_and_reaches_teacher_and_student(x64):
    """A pytree of a user's own; the student's motion implies what it says."""
    says = lambda x, c: jnp.broadcast_to(c["mean"].astype(x.dtype), x.shape)
    teacher = px.from_function(lambda x, s, a, c: says(x, c), shape=(3,))
    network = lambda x, c_noise, c=None, *, augment=None, key=None: says(x, c)
    student = Student(network, EDM, shape=(3,))
    draw = lambda key: {"mean": 2.0 + jax.random.normal(key)}
    times = px.karras(8, EDM)
    distance = lambda a, b: b.mean()
    pid = PID(flow(teacher), times=times, condition=draw, distance=distance)
    over = eqx.filter_jit(
        lambda pid, keys: jax.vmap(lambda k: value(pid, student, k))(keys)
    )
    mean, terms = over(pid, jax.random.split(KEY, 500))
    assert_close(terms["residual"], np.zeros(500), 0.1)
    assert stats.kstest(np.asarray(mean) - 2.0, "norm").pvalue > 1e-3

    pairs = px.KnowledgeDistillation(
        pid.flow, pairs=6, block=4, times=px.karras(3, EDM), condition=draw
    ).init(student, key=KEY)
    assert pairs.condition is not None
    assert pairs.condition["mean"].shape == (6,)
    mean, z = np.asarray(pairs.condition["mean"]), np.asarray(pairs.z)
    assert_close(pairs.x[:, -1], mean[:, None] + EDM.t_min * z / EDM.t_max, 1e-3)
