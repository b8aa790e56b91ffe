"""The stiff stepper against closed forms, and as a Diffrax solver."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, tolerance

from pidax.pde import ETDRK4, SemilinearTerm
from pidax.pde._semilinear import coefficients, phi_functions

RATES = np.array([-1.0, -3.0, 0.5])


@eqx.filter_jit
def integrate(term, y0, t0, t1, dt, solver=None, args=None):
    solver = ETDRK4() if solver is None else solver
    t0, t1 = (jnp.asarray(t, float) for t in (t0, t1))
    found: Any = diffrax.diffeqsolve(term, solver, t0, t1, dt, y0, args=args).ys
    return found[0]


# One term, so that one compiled program serves all who integrate it.
BERNOULLI = SemilinearTerm(RATES, lambda t, c, args: -(c**2))


def bernoulli(t, u0=0.3):
    """The solution of u' = l u - u^2."""
    grown = u0 * np.exp(RATES * t)
    return grown / (1 + u0 * np.expm1(RATES * t) / RATES)


def test_order_four_on_a_nonlinear_equation_with_a_known_solution(x64):
    y0 = jnp.full(3, 0.3)
    end = lambda n: integrate(BERNOULLI, y0, 0.0, 2.0, jnp.asarray(2 / n))
    errors = [np.abs(end(n) - bernoulli(2.0)) for n in (8, 16, 32)]
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert_close(orders[-1], 4.0, 0.0, 0.2)
    assert errors[-1].max() < 1e-6


@pytest.mark.slow
def test_order_four_in_time_dependence_too_and_backwards(x64):
    """The solution of u' = l u + (cos t - l sin t + sin^2 t) - u^2 is sin t."""
    rate = jnp.array([-2.0])

    def forced(t, c, args):
        return jnp.cos(t) - args * jnp.sin(t) + jnp.sin(t) ** 2 - c**2

    term = SemilinearTerm(rate, forced)

    def error(n, t0, t1):
        y0, dt = jnp.asarray([np.sin(t0)]), jnp.asarray((t1 - t0) / n)
        end = integrate(term, y0, jnp.asarray(t0), jnp.asarray(t1), dt, args=rate)
        return np.abs(end[0] - np.sin(t1))

    for ends in ((0.2, 1.4), (1.4, 0.2)):
        assert abs(np.log2(error(8, *ends) / error(16, *ends)) - 4) < 0.2


def test_stiffness_does_not_limit_the_step(x64):
    """Of u' = -1e6 (u - 2) the end is reached in one long step."""
    term = SemilinearTerm(
        jnp.array([-1e6, -1.0]), lambda t, c, args: jnp.array([2e6, 0])
    )
    found = integrate(term, jnp.array([5.0, 5.0]), 0.0, 1.0, jnp.asarray(0.25))
    assert_close(found, [2.0, 5 * np.exp(-1.0)], 1e-12)


@pytest.mark.slow
def test_exact_for_linear_waves_of_a_real_field(dtype):
    """Imaginary eigenvalues through the Fourier transform: u moves to the right."""
    n = 32
    x = np.arange(n) * 2 * np.pi / n
    start = lambda x: np.exp(np.sin(x)) + np.cos(3 * x)
    term = SemilinearTerm(
        -1j * np.arange(n // 2 + 1),
        lambda t, c, args: jnp.zeros_like(c),
        jnp.fft.rfft,
        lambda c: jnp.fft.irfft(c, n),
    )
    found = integrate(term, jnp.asarray(start(x), dtype), 0.0, 1.0, jnp.asarray(0.25))
    assert found.dtype == dtype
    assert_close(found, start(x - 1.0), 0.0, tolerance(dtype, 10))


def test_another_solver_of_diffrax_agrees_on_the_same_term(x64):
    other = integrate(
        BERNOULLI, jnp.full(3, 0.3), 0.0, 2.0, jnp.asarray(0.01), diffrax.Tsit5()
    )
    assert_close(other, bernoulli(2.0), 1e-10)


def contour(z, k):
    """phi_k by its mean over a circle (Kassam and Trefethen 2005), in NumPy."""
    points = z[:, None] + 2 * np.exp(2j * np.pi * (np.arange(64) + 0.5) / 64)
    phi = np.exp(points)
    for j in range(k):
        phi = (phi - 1 / [1, 1, 2][j]) / points
    return phi.mean(axis=1)


def test_phi_functions_to_rounding_everywhere(dtype):
    size, phis = np.logspace(-9, 3, 97), jax.jit(phi_functions)
    for z in (-size, 1j * size[size < 30]):
        kind = dtype if z.dtype == float else np.result_type(dtype, np.complex64)
        given = jnp.asarray(z, kind)
        for k, found in enumerate(phis(given)):
            wanted = contour(np.asarray(given).astype(complex), k + 1)
            assert_close(found, wanted if z.dtype != float else wanted.real,
                         tolerance(dtype), 0)  # fmt: skip


def test_the_coefficients_of_a_step_are_those_of_runge_and_kutta_at_zero(x64):
    half, full = jax.jit(coefficients)(jnp.zeros(1), 0.1)
    assert_close(np.stack(half)[:, 0], [1.0, 0.05], 1e-15)
    assert_close(np.stack(full)[:, 0], [1.0, 0.1 / 6, 0.1 / 3, 0.1 / 6], 1e-15)


@pytest.mark.slow
def test_it_is_differentiable_and_batched(x64):
    end = lambda u0: integrate(BERNOULLI, jnp.full(3, u0), 0.0, 1.0, jnp.asarray(0.125))
    u0, h = jnp.array([0.2, 0.3]), 1e-5
    slopes = jax.vmap(jax.grad(lambda u0: end(u0).sum()))(u0)
    ends = jax.vmap(end)(jnp.concatenate([u0 + h, u0 - h])).sum(axis=1)
    assert_close(slopes, (ends[:2] - ends[2:]) / (2 * h), 1e-8)
