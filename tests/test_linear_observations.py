"""Measured linear functions of the fields, against linear algebra.

The student is 2 e on a line of six points, so that the posterior is known.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import pidax as px
from pidax.constraint import Affine, Observation, from_residual
from pidax.inference import GaussNewton, Problem, minimise
from pidax.student import AbstractStudent

KEY = jax.random.key(5)
UNIT = px.pde.Normaliser((0.0,), (1.0,))
EXACTLY = GaussNewton(rtol=1e-13, tolerance=1e-16, products=1000)
VALUES = np.array([1.5, -2.0])


class Double(AbstractStudent):
    """x = 2 e on six points."""

    process: px.AbstractProcess = px.EDM()
    shape: Any = eqx.field(static=True, default=(6, 1))
    classes: Any = eqx.field(static=True, default=None)
    end: Any = eqx.field(static=True, default=0.0)

    def __call__(self, z, t, condition=None, *, key=None):
        return 2 * jnp.asarray(z) / 80.0


def at_points(noise):
    """Points 1 and 4, as an observation and as rows of the identity."""
    mask, full = np.zeros((6, 1), bool), np.zeros((6, 1))
    mask[[1, 4]], full[[1, 4], 0] = True, VALUES
    rows = np.eye(6)[[1, 4]].reshape(2, 6, 1)
    return Observation(mask, full, noise, UNIT), Affine(rows, VALUES, UNIT, noise=noise)


def averages(noise):
    """Means of three points, which overlap."""
    rows = np.zeros((2, 6, 1))
    rows[0, :3], rows[1, 2:5] = 1 / 3, 1 / 3
    return Affine(rows, VALUES / 4, UNIT, noise=noise)


def refine(observation, constraint=None, samples=4, **options):
    return px.refine(
        Double(), observation, constraint, key=KEY, samples=samples, solver=EXACTLY,
        progress=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("noise", [0.5, pytest.param(0.0, marks=pytest.mark.slow)])
def test_rows_of_the_identity_are_the_observation(noise, x64):
    """In the point found, in the misfit at every step, and with exact values too."""
    observation, affine = at_points(noise)
    seen = refine(observation, anchor="norm")
    row = refine(affine, anchor="norm")
    assert_close(row.latent, seen.latent, 1e-9)
    assert_close(row.best, seen.best, 1e-9)
    assert_close(row.history.misfit, seen.history.misfit, 1e-7)
    assert seen.history.misfit[:, 0].min() > 1
    if noise:  # by hand: (2 e - y)^2 / s^2 + e^2
        best = 2 * VALUES / (4 + noise**2)
        assert_close(row.latent[0, [1, 4], 0], best, 1e-9)


def test_beside_a_residual_it_still_counts(x64):
    """As an argument of its own, or joined to the constraint."""
    _, affine = at_points(0.5)
    flat = from_residual(lambda f: f[:2, 0] - f[1:3, 0], (6, 1), UNIT)
    options: dict[str, Any] = dict(anchor="norm", slack=0.1)
    joined = refine(None, flat & affine, **options)
    apart = refine(affine, flat, **options)
    assert_close(joined.latent, apart.latent, 1e-10)
    jacobian = np.zeros((4, 6))
    jacobian[:2] = 2 * np.eye(6)[[1, 4]] / 0.5
    jacobian[2, :2], jacobian[3, 1:3] = [20, -20], [20, -20]
    right = np.concatenate([VALUES / 0.5, np.zeros(2)])
    best = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + np.eye(4), right)
    assert_close(joined.latent[0].ravel(), best, 1e-8)
    assert joined.best[0, 1] > 0.1
    assert not np.isnan(joined.relative).any()  # of the residual alone


@pytest.mark.slow
def test_averages_with_noise_have_the_law_of_the_posterior(x64):
    noise, count = 0.3, 512
    affine = averages(noise)
    refined = refine(affine, samples=count, antithetic=True)
    rows = 2 * np.asarray(affine.rows)
    gain = rows.T @ np.linalg.inv(rows @ rows.T + noise**2 * np.eye(2))
    mean, cov = 2 * gain @ (VALUES / 4), 4 * (np.eye(6) - gain @ rows)
    samples = refined.fields.reshape(count, 6)
    assert_close(samples.mean(axis=0), mean, 1e-8)
    ratio = samples[:256].std(axis=0) / np.sqrt(np.diag(cov))
    assert np.abs(ratio - 1).max() < 5 / np.sqrt(512)


@pytest.mark.slow
def test_one_sample_with_several_kinds_of_observations(x64):
    """Points, and two sets of averages, each with its own draw of the noise."""
    observation, _ = at_points(0.5)
    wide = Affine(np.ones((1, 6, 1)), np.array([0.3]), noise=0.2)
    problem = Problem(Double(), observation, averages(0.3) & wide)
    at = eqx.filter_jit(lambda s: minimise(problem, zero, key=KEY, sign=s))
    zero, one = jnp.zeros((6, 1)), jnp.ones(())
    found = at(0 * one)
    rows = np.concatenate([np.eye(6)[[1, 4]], np.asarray(averages(1.0).rows)])
    rows = 2 * np.concatenate([rows, np.ones((1, 6))])
    std = np.array([0.5, 0.5, 0.3, 0.3, 0.2])
    values = np.concatenate([VALUES, VALUES / 4, [0.3]])
    best = rows.T @ np.linalg.solve(rows @ rows.T + np.diag(std**2), values)
    assert_close(found.latent.ravel(), best, 1e-5)
    moved, other = at(one), at(-one)
    assert np.abs(moved.latent - found.latent).max() > 1e-2
    assert_close((moved.latent + other.latent) / 2, found.latent, 1e-4)


def test_observations_of_different_entries_are_one(x64):
    both, _ = at_points(0.5)
    parts = []
    for i in (1, 4):
        mask = np.zeros((6, 1), bool)
        mask[i] = True
        parts.append(Observation(mask, both.values, 0.5, UNIT))
    one = Problem(Double(), parts[0] & parts[1]).observation
    assert one is not None
    for name in ("mask", "values", "noise"):
        np.testing.assert_array_equal(getattr(one, name), getattr(both, name))
    with pytest.raises(ValueError, match="expected one observation, got 2"):
        Problem(Double(), both & parts[0])


def test_only_exact_values_are_projected(x64):
    rows = np.concatenate([np.eye(6)[[1]], np.ones((1, 6))]).reshape(2, 6, 1)
    affine = Affine(rows, np.array([3.0, 5.0]), noise=np.array([0.0, 0.1]))
    fields = jnp.arange(6.0).reshape(6, 1)
    expected = np.asarray(fields).copy()
    expected[1] = 3.0
    assert_close(affine.project_fields(fields), expected, 1e-12)
    assert_close(affine.relative_of(fields)[1], (15 - 5.0) / 0.1, 1e-12)
    twice = np.ones((2, 6, 1))  # measured twice, with two results
    Affine(twice, np.array([1.0, 1.1]), noise=0.1)
    with pytest.raises(ValueError, match=r"differ by .* treat the values as noisy"):
        Affine(twice, np.array([1.0, 1.1]))


def test_bad_noise_is_named(x64):
    rows, values = np.ones((2, 6, 1)), np.ones(2)
    with pytest.raises(ValueError, match=r"one for each of the 2 values.*\(3,\)"):
        Affine(rows, values, noise=np.ones(3))
    with pytest.raises(ValueError, match="finite and not negative, got the least -1"):
        Affine(rows, values, noise=-1.0)
    exact = Affine(rows[:1], values[:1], UNIT)
    with pytest.raises(ValueError, match="observed without noise"):
        Problem(Double(), exact)
