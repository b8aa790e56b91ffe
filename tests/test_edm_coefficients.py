"""Noise predictors' coefficients against their closed forms, in every chart."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PROCESSES, assert_close, gaussian, tolerance

import pidax as px
from pidax.denoiser import (
    IDDPMCoefficients,
    VECoefficients,
    VPCoefficients,
    iddpm_levels,
    log_ratio,
)

TABLE = iddpm_levels(100)
MADE: dict[str, tuple[Any, Any]] = {
    "vp": (VPCoefficients(), px.VP(t_min=1e-5)),
    "ve": (VECoefficients(), px.VE()),
    "iddpm": (IDDPMCoefficients(TABLE), px.EDM(TABLE[-2], TABLE[0])),
}
every_kind = pytest.mark.parametrize("kind", MADE)


class Known(eqx.Module):
    """A network with a formula: a tanh of its input, waves of its `c_noise`."""

    classes: None = None
    shape: tuple[int, ...] = eqx.field(static=True, default=(3,))
    doubled: bool = eqx.field(static=True, default=False)

    def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
        out = jnp.tanh(x) * jnp.cos(0.1 * c_noise)
        return jnp.concatenate([out, 100 + out]) if self.doubled else out


def made(kind):
    coefficients, process = MADE[kind]
    return px.Preconditioned(Known(doubled=kind == "iddpm"), process, coefficients)


def formula(kind, x, s):
    """Karras et al. 2022, Table 1, for unscaled data and noise `s`."""
    out = lambda x, c_noise: np.tanh(x) * np.cos(0.1 * c_noise)
    if kind == "vp":
        root = np.sqrt(0.1**2 + 2 * 19.9 * np.log1p(s**2))
        return x - s * out(x / np.sqrt(s**2 + 1), 999 * (root - 0.1) / 19.9)
    if kind == "ve":
        return x + s * out(x, np.log(s / 2))
    index = np.argmin(np.abs(np.asarray(TABLE) - s))
    return x - s * out(x / np.sqrt(s**2 + 1), 99 - index)


@eqx.filter_jit
def ask(denoiser, x, sigma, alpha):
    return jax.vmap(denoiser)(x, sigma, alpha)


@every_kind
def test_the_closed_form_in_every_chart(kind, x64):
    s = np.array([0.03, 0.4, 3.0, 80.0])
    x = np.random.default_rng(0).normal(size=(4, 3)) * np.hypot(s, 0.5)[:, None]
    denoiser = made(kind)
    expected = np.stack([formula(kind, *pair) for pair in zip(x, s, strict=True)])
    assert_close(ask(denoiser, x, s, np.ones(4)), expected, 1e-9)
    for make in PROCESSES.values():
        process = make()
        sigma, alpha = process.level(process.time(jnp.asarray(s)))
        x_there = x * alpha[:, None]
        assert_close(ask(denoiser, x_there, sigma, alpha), expected, 1e-6)


@pytest.mark.slow
@every_kind
def test_finite_without_signal_and_without_noise(kind, dtype):
    """Beyond the largest ratio the answer is that there, and D = x/alpha at the end."""
    denoiser = made(kind)
    x = np.full((3, 3), 0.4, dtype)
    levels = np.array([[1, 1, 0], [0, 1e-9, 0.5]], dtype)

    def of(sigma, alpha):
        value = denoiser(x[0], sigma, alpha)
        return value, jax.jacfwd(lambda x: denoiser(x, sigma, alpha))(x[0])

    found, slopes = jax.jit(jax.vmap(of))(*levels)
    assert np.isfinite(found).all()
    assert np.isfinite(slopes).all()
    assert_close(found[0], found[1], 1e-3, 1e-3)
    assert_close(found[2], x[2] / 0.5, tolerance(dtype))
    sigma, alpha = jnp.asarray(levels[:, 0])
    c = jnp.stack(denoiser.coefficients(sigma, alpha, denoiser.process))
    assert np.isfinite(c).all()


class Noise(eqx.Module):
    """The exact noise at one level, of what each kind is given and with its sign."""

    s: Any
    kind: str = eqx.field(static=True)
    classes: None = None
    shape: tuple[int, ...] = eqx.field(static=True, default=(3,))

    def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
        if self.kind == "ve":
            return -gaussian().noise(x, self.s)
        return gaussian().noise(x * jnp.hypot(self.s, 1.0), self.s)


@every_kind
def test_an_exact_noise_prediction_makes_the_exact_denoiser(kind, x64):
    """In every process, at levels within its own."""
    coefficients, process = MADE[kind]

    @jax.jit
    def both(x, sigma, alpha):
        noise = Noise(sigma / alpha, kind)
        denoiser = px.Preconditioned(noise, process, coefficients)
        return denoiser(x, sigma, alpha), gaussian()(x, sigma, alpha)

    for make in PROCESSES.values():
        other = make()
        for ratio in (0.05, 0.7, 20.0):
            sigma, alpha = other.level(other.time(jnp.asarray(ratio)))
            x = sigma * jnp.array([0.3, -1.0, 0.4])
            found, expected = both(x, sigma, alpha)
            assert_close(found, expected, 1e-9)


def test_the_levels_of_iddpm():
    """Their recursion, and that it ends where the cosine schedule does."""
    levels = np.asarray(iddpm_levels())
    assert levels.size == 1001
    assert levels[-1] == 0
    assert (np.diff(levels) < 0).all()
    j = np.arange(1001)
    signal = np.sin(0.5 * np.pi * j / (1000 * 1.008)) ** 2
    free = j > 50  # where no ratio is cut, it is the schedule itself but for a constant
    expected = (levels[-1] ** 2 + 1) * signal[-1] / signal[free] - 1
    assert_close(levels[free] ** 2, expected, 1e-8)
    assert 15_000 < levels[0] < 25_000
    assert 0.005 < levels[-2] < 0.015


def test_iddpm_looks_up_the_nearest_level(x64):
    _, process = MADE["iddpm"]
    coefficients = MADE["iddpm"][0]
    for j in (0, 1, 50, 99):
        near = TABLE[j] + 0.4 * (TABLE[j + 1] - TABLE[j])
        for s in (TABLE[j], near):
            for alpha in (1.0, 0.2):
                sigma = jnp.asarray(s * alpha)
                c = coefficients(sigma, jnp.asarray(alpha), process)
                assert float(c[3]) == 99 - j
                assert_close(c[1], -s, 1e-9)


def test_levels_that_are_none_are_refused():
    for levels in [(), (1.0, 0.0), (1.0, 2.0, 0.0), (2.0, 1.0, 0.5)]:
        with pytest.raises(ValueError, match="levels must be finite and decrease"):
            IDDPMCoefficients(levels)


@every_kind
def test_a_noise_predictor_is_no_start_for_a_student(kind):
    denoiser = made(kind)
    with pytest.raises(ValueError, match="predicts the noise"):
        px.Student.from_teacher(denoiser, denoiser.process)


def test_a_network_with_the_wrong_channels_is_refused():
    for coefficients in (VECoefficients(), None):
        denoiser = px.Preconditioned(Known(doubled=True), px.VE(), coefficients)
        with pytest.raises(ValueError, match="the network must return one array"):
            denoiser(jnp.ones(3), 1.0)


def test_a_factor_in_the_logarithm_is_one_there(x64):
    process = px.VE()
    for sigma, alpha in [(0.001, 1.0), (0.3, 1.0), (3.0, 0.1), (1.0, 0.0)]:
        sigma, alpha = jnp.asarray(sigma), jnp.asarray(alpha)
        found = log_ratio(sigma, alpha, process, factor=0.5)
        assert_close(found, log_ratio(sigma, alpha, process) + np.log(0.5), 1e-12)
