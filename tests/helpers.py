"""What the tests share: every public process and denoiser, and one tolerance table."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pidax as px

PROCESSES = {
    "EDM": px.EDM,
    "VE": px.VE,
    "VP": px.VP,
    "SubVP": px.SubVP,
    "RectifiedFlow": px.RectifiedFlow,
}
CLOCKS = {
    "angle": px.flow.AngleClock,
    "time": px.flow.TimeClock,
    "log-time": px.flow.LogTimeClock,
}


def covariance(size: int, seed: int = 0) -> np.ndarray:
    """A well-conditioned covariance with an RMS of about a half."""
    rows = np.random.default_rng(seed).normal(size=(size, size))
    return 0.05 * np.eye(size) + 0.2 * rows @ rows.T / size


def gaussian() -> px.Gaussian:
    return px.Gaussian(jnp.array([0.7, -0.2, 0.1]), jnp.asarray(covariance(3), float))


def low_rank() -> px.Gaussian:
    factor = 0.5 * np.random.default_rng(1).normal(size=(2, 2, 2))
    mean = jnp.array([[0.1, 0.2], [0.3, -0.4]])
    cov = px.denoiser.Covariance.low_rank(jnp.asarray(factor, float), floor=0.01)
    return px.Gaussian(mean, cov)


def full_mixture() -> px.GaussianMixture:
    means = jnp.array([[0.5, 0.2], [-0.6, 0.1], [0.0, -0.5]])
    matrices = jnp.asarray(np.stack([0.2 * covariance(2, s) for s in range(3)]), float)
    return px.GaussianMixture(
        means,
        weights=jnp.array([0.5, 0.3, 0.2]),
        covariances=matrices,
        labels=jnp.array([0, 0, 1]),
    )


def diagonal_mixture() -> px.GaussianMixture:
    means = jnp.array([[[0.5], [0.2]], [[-0.6], [0.1]]])
    return px.GaussianMixture(means, 0.1 + 0.2 * jnp.abs(means))


def observed() -> px.Gaussian:
    return gaussian().posterior(jnp.array([[1.0, 0.5, -1.0]]), jnp.array([0.4]), 0.1)


EXACT = {
    "gaussian": gaussian,
    "low rank": low_rank,
    "variances": lambda: px.Gaussian(jnp.zeros((2, 3)), jnp.full((2, 3), 0.3)),
    "isotropic mixture": px.GaussianMixture.ring,
    "diagonal mixture": diagonal_mixture,
    "full mixture": full_mixture,
    "circle": lambda: px.Circle(0.7),
    "posterior": observed,
}


def charts(*quick: tuple[str, str]) -> list:
    """Every process with every clock, by name; those that are not `quick` are slow."""
    every = itertools.product(PROCESSES, CLOCKS)
    slow = lambda chart: () if chart in quick else pytest.mark.slow
    return [pytest.param(*chart, marks=slow(chart)) for chart in every]


def tolerance(dtype: np.dtype, factor: float = 1.0) -> float:
    """How closely two routes to one number of order one agree, in this dtype."""
    return factor * {4: 2e-5, 8: 1e-12}[np.dtype(dtype).itemsize]


def state(denoiser, process, t, key):
    """A noised sample of the denoiser's data at time `t`."""
    first, second = jax.random.split(key)
    return process.perturb(denoiser.sample(key=first), t, key=second)[0]


def assert_close(actual, expected, rtol: float, atol: float | None = None) -> None:
    np.testing.assert_allclose(
        actual, expected, rtol=rtol, atol=rtol if atol is None else atol
    )
