"""Samples of a student: their latents, in any batches and on any devices."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, gaussian

import pidax as px


def exact():
    return px.ExactStudent(gaussian(), px.EDM())


class Shifted(eqx.Module):
    """A network whose clean sample is its condition, and which counts its traces."""

    traces: list = eqx.field(static=True)
    shape = (2,)
    classes = None

    def __call__(self, x, c_noise, condition=None, *, key=None):
        self.traces.append(None)
        return 0.0 * x + (0.0 if condition is None else condition)


def latents(key, rows, shape=(3,)):
    """As said in the module: the draw of sample i is of fold_in(fold_in(key, 0), i)."""
    own = jax.random.fold_in(key, 0)
    draw = lambda i: jax.random.normal(jax.random.fold_in(own, i), shape)
    return px.EDM().t_max * jnp.stack([draw(i) for i in rows])


def test_sample_i_is_that_of_its_own_latent_in_any_batches(key, x64):
    """The student's own value at the latent, in one batch and in four."""
    student = exact()
    z = latents(key, range(7))
    expected = jax.vmap(student.sample)(z)
    assert np.ptp(np.asarray(expected), axis=0).min() > 0.1
    for batch_size in (None, 2, 7):
        found = px.sample(student, 7, key=key, batch_size=batch_size)
        assert_close(found, expected, 1e-12)
    assert_close(px.sample(student, 4, key=key), expected[:4], 1e-12)


def test_a_batch_is_divided_over_the_devices(key, x64):
    student, devices = exact(), jax.devices()
    assert len(devices) == 2
    alone = px.sample(student, 5, key=key, devices=devices[1:])
    both = px.sample(student, 5, key=key, devices=devices, batch_size=3)
    assert_close(both, alone, 1e-12)
    assert_close(alone, jax.vmap(student.sample)(latents(key, range(5))), 1e-12)


def test_each_sample_meets_its_own_condition(key, x64):
    """Where the clean sample is c, x(z, t) = t/T z + (1 - t/T) c."""
    student, process = px.Student(Shifted([]), px.EDM()), px.EDM()
    c = jnp.arange(10.0).reshape(5, 2)
    t = process.t_min / process.t_max
    expected = t * latents(key, range(5), (2,)) + (1 - t) * c
    found = px.sample(student, 5, key=key, condition=c, batch_size=2)
    assert_close(found, expected, 1e-12)
    # A scalar is shared by all.
    found = px.sample(student, 5, key=key, condition=jnp.asarray(3.0))
    assert_close(found, expected + (1 - t) * (3.0 - c), 1e-12)


def test_another_number_of_samples_compiles_nothing_new(key):
    network = Shifted([])
    student = px.Student(network, px.EDM())
    for count in (5, 8, 6, 7):
        px.sample(student, count, key=key)
    once = len(network.traces)
    px.sample(student, 11, key=key, batch_size=8)  # two batches of eight
    px.sample(student, 30, key=jax.random.key(1), batch_size=8)
    assert len(network.traces) == once > 0


@pytest.mark.slow  # two batched solves are compiled
def test_a_flow_is_solved_in_batches_from_the_same_draws(key, x64):
    """Fixed steps do not know of the other samples: the batches change nothing."""
    flow = px.ProbabilityFlow(gaussian(), px.EDM())
    z = flow.process.prior(key, (5, 3))
    expected = px.solve_batch(flow, z, steps=3).end
    for batch_size in (None, 2):
        found = px.sample(flow, 5, key=key, steps=3, batch_size=batch_size)
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (lambda: exact(), {"steps": 3}, "no options of a solve, got steps"),
        (lambda: exact(), {"denoise": True}, "no options of a solve, got denoise"),
        (lambda: gaussian(), {}, "ProbabilityFlow.denoiser, process."),
        (
            lambda: px.ProbabilityFlow(gaussian(), px.EDM()),
            {"devices": jax.devices()},
            "expected devices=None",
        ),
        (lambda: exact(), {"batch_size": 0}, "batch_size must be a whole number"),
    ],
)
def test_what_does_not_belong_together_is_named(model, given, message):
    with pytest.raises(ValueError, match=message):
        px.sample(model(), 4, key=jax.random.key(0), **given)
