"""Godunov's scheme on a circle beside the exact solution, and that beside Riemann's."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import assert_close

from pidax.pde import Grid, Jumps, Periodic, PeriodicInviscidBurgers, lax_oleinik

EQUATION = PeriodicInviscidBurgers()
LAW = Jumps(EQUATION.grid)
X = (np.arange(64) + 0.5) / 64
BLOCK = np.where(X < 0.5, 1.0, 0.0)


@jax.jit
@jax.vmap
def exact(u, time):
    """At the points, and as means; far in time too."""
    return lax_oleinik(u, time, points=X), lax_oleinik(u, time)


@eqx.filter_jit
@eqx.filter_vmap(in_axes=(None, 0))
def solved(equation, initial):
    return equation.solve(initial).solution[-1]


def of_block(x, t):
    """A fan behind x = 0 and a shock from 1/2; the fan meets it at t = 1."""
    fan = x / t
    if t <= 1:
        return np.where(x < 0.5 + t / 2, np.minimum(fan, 1.0), 0.0)
    shock = (1 + t) / 2  # of a saw-tooth of mean 1/2
    return np.mod(x - (shock - 1), 1.0) / t + (shock - 1) / t


def test_riemann_problems_and_what_comes_of_them(x64):
    """A shock of speed 1/2, a fan; a transonic fan; shocks that move left."""
    times = np.array([0.2, 0.7, 2.2, 0.2, 0.2])
    given = np.stack([BLOCK, BLOCK, BLOCK, 2 * BLOCK - 1, -BLOCK])
    found, _ = exact(given, times)
    for i in range(3):
        assert_close(found[i], of_block(X, times[i]), 1e-12)
    # 1 and -1: the fan is through its sonic point at 0, and the shock stands.
    y = np.mod(X + 0.5, 1.0) - 0.5
    wave = np.where(np.abs(y) < 0.2, y / 0.2, np.where(X < 0.5, 1.0, -1.0))
    assert_close(found[3], wave, 1e-12)
    # The mirror image, u(x) -> -u(1/2 - x).
    assert_close(found[4], -of_block(np.mod(0.5 - X, 1.0), 0.2), 1e-12)


def test_means_are_of_the_values_and_keep_their_sum(x64):
    """Over cells, against the values at many points of each."""
    u = np.random.default_rng(0).uniform(-1, 1, 64)
    fine = (np.arange(64 * 400) + 0.5) / (64 * 400)
    both = jax.jit(lambda u: (lax_oleinik(u, 0.3, points=fine), lax_oleinik(u, 0.3)))
    values, means = (np.asarray(a) for a in both(u))
    assert_close(means, values.reshape(64, 400).mean(axis=1), 0.0, 2e-3)
    assert_close(means.mean(), u.mean(), 1e-13)
    # Oleinik's condition: nothing rises faster than 1/t.
    rise = (np.roll(values, -1) - values) * len(fine)
    assert rise.max() < 1 / 0.3 + 1e-6
    assert (values**2).mean() < (u**2).mean()


def test_godunov_keeps_the_mean_and_solves_its_own_equation(x64):
    latents = np.random.default_rng(1).normal(size=(8, 10))

    @jax.jit
    @jax.vmap
    def solve(e):
        fields = EQUATION.solve(LAW.from_latent(e))
        means = lax_oleinik(fields.initial, 0.5)
        return fields.solution, EQUATION.relative_residual(fields), means

    u, relative, means = (np.asarray(a) for a in solve(latents))
    assert relative.max() < 1e-13
    mean = u.mean(axis=-1)
    assert_close(mean, np.repeat(mean[:, :1], 41, axis=1), 0.0, 1e-13)
    total = np.abs(np.diff(u, axis=-1, append=u[..., :1])).sum(axis=-1)
    assert (np.diff(total, axis=1) < 1e-12).all()  # no new extrema
    assert total[:, 0].min() > 0.1
    error = np.abs(u[:, -1] - means).mean()
    assert error < 0.05 < np.abs(u[:, 0] - means).mean()


def test_the_law_of_jumps():
    law = Jumps(Grid((64,), boundary=Periodic()))
    assert law.latent_size == 10
    e = np.random.default_rng(2).normal(size=(1500, 10)).astype(np.float32)
    shapes, u = jax.jit(jax.vmap(lambda e: (law.shapes(e), law.from_latent(e))))(e)
    counts = np.bincount(np.asarray(shapes.present).sum(axis=1), minlength=5)
    assert counts[:2].sum() == 0
    assert scipy.stats.chisquare(counts[2:]).pvalue > 1e-3
    assert scipy.stats.kstest((u[:, 5] + 1) / 2, "uniform").pvalue > 1e-3
    one = np.asarray(u[0])
    place, value, there = (np.asarray(a[0]) for a in shapes)
    order = np.argsort(place[there])
    where = np.searchsorted(place[there][order], np.arange(64) / 64, side="right") - 1
    assert_close(one, value[there][order][where], 1e-6)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"at most .*= 0.0078.*got 0.0125 .*substeps"):
        EQUATION.solve(jnp.full(64, 2.0))
    with pytest.raises(ValueError, match="needs every axis periodic"):
        PeriodicInviscidBurgers(Grid((64,)))
    with pytest.raises(ValueError, match=r"at least 8 points, two a jump.*Grid\(\(8,"):
        Jumps(Grid((6,), boundary=Periodic()))
    with pytest.raises(ValueError, match="time must be positive"):
        lax_oleinik(jnp.ones(8), 0.0)


@pytest.mark.slow
def test_the_scheme_converges_to_the_exact_solution(x64):
    """In the mean of |u - mean of the exact solution| of order 1/2 to 1."""
    latents = np.random.default_rng(3).normal(size=(16, 10))
    errors = []
    for n in (64, 128, 256):
        grid = Grid((n,), layout="cells", boundary=Periodic())
        # Jumps of the coarsest grid: the same initial field on all.
        coarse = jax.vmap(LAW.from_latent)(jnp.asarray(latents))
        initial = jnp.repeat(coarse, n // 64, axis=1)
        equation = PeriodicInviscidBurgers(grid, rows=2, substeps=5 * n // 8)
        u = solved(equation, initial)
        means = jax.jit(jax.vmap(lambda u: lax_oleinik(u, 0.5)))(initial)
        errors.append(float(np.abs(u - means).mean()))
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert ((orders > 0.5) & (orders < 1.1)).all(), orders
