"""The Gaussian's student against a solve of the ODE, and the law of its samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PROCESSES, assert_close, gaussian, low_rank

import pidax as px

every_process = pytest.mark.parametrize("make", PROCESSES.values(), ids=PROCESSES)


@pytest.mark.slow
@every_process
def test_it_is_the_solution_of_the_ode(make, x64):
    """It moves with the ODE's velocity at every time, and starts from z (below)."""
    process, teacher = make(), gaussian()
    student = px.ExactStudent(teacher, process)
    z = process.prior(jax.random.key(0), (3,))

    @jax.jit
    @jax.vmap
    def both(t):
        of = lambda t: student(z, t)
        x, dx = jax.jvp(of, (t,), (jnp.ones_like(t),))
        return dx, teacher.velocity(x, t, process)

    found, expected = both(px.uniform_angle(5, process))
    assert jnp.abs(expected).max() > 0.1
    assert_close(found, expected, 1e-9)


@every_process
def test_at_the_start_it_is_the_latent_to_the_last_bit(make, x32):
    process, dtype = make(), np.float32
    student = px.ExactStudent(low_rank(), process)
    z = process.prior(jax.random.key(0), (16, 2, 2))
    start = jax.jit(jax.vmap(student, in_axes=(0, None)))(z, process.t_max)
    np.testing.assert_array_equal(start, z)
    assert start.dtype == dtype


@every_process
def test_samples_have_the_law_but_for_the_start(make, x64):
    """They are affine in z: their mean and covariance are known without sampling."""
    process, teacher = make(), gaussian()
    student = px.ExactStudent(teacher, process)
    last = jnp.asarray(process.t_max)
    sigma, alpha = process.sigma(last), jnp.maximum(process.alpha(last), 0.0)
    slope = sigma * jax.jit(jax.jacfwd(student.sample))(jnp.zeros(3))
    cov = np.asarray(teacher.covariance.factor((3,)))
    cov = cov @ cov.T
    values, vectors = np.linalg.eigh(cov)
    shrunk = values / (1 + alpha**2 * values / sigma**2)
    assert_close(slope @ slope.T, (vectors * shrunk) @ vectors.T, 1e-10)
    assert_close(slope @ slope.T, cov, 1e-2 if make is px.RectifiedFlow else 2e-3)
    drift = alpha * np.sqrt(values / (alpha**2 * values + sigma**2))
    off = vectors @ (drift * (vectors.T @ teacher.mean))
    assert_close(student.sample(jnp.zeros(3)), teacher.mean - off, 1e-10)


def test_its_samples_are_clean_and_a_students_are_at_t_min(x64):
    student = px.ExactStudent(low_rank(), px.EDM())
    assert student.end == 0.0
    z = px.EDM().prior(jax.random.key(0), (2, 2))
    both = jax.jit(lambda z: (student.sample(z), student(z, 0.0)))
    np.testing.assert_array_equal(*both(z))
    flat = px.Gaussian(
        jnp.zeros(2), px.denoiser.Covariance.low_rank(jnp.array([[1.0], [1.0]]))
    )
    one = px.ExactStudent(flat, px.EDM()).sample(jnp.array([3.0, -1.0]))
    assert_close(one[0], one[1], 1e-12)  # in the span of the data, to rounding


def test_bad_input_is_named():
    student = px.ExactStudent(gaussian(), px.EDM())
    with pytest.raises(ValueError, match="one sample of the shape"):
        student(jnp.zeros((4, 3)), 1.0)
    with pytest.raises(ValueError, match="between 0, clean data, and t_max"):
        student(jnp.zeros(3), 81.0)
