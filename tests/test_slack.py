"""Slack on the residual against slack on the solution, on R(a, u) = a u - 1.

The student draws a = exp(e1 / 2) and nearly solves: u = 1/a + 0.2 e2. Every a has a
solution, so that the law of a given the equation is the law of a itself. Each point of
the grid is a problem of its own.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.inference.toys import ERROR, Product
from helpers import assert_close

import pidax as px
from pidax.constraint import from_residual
from pidax.inference import PCN, Ensemble, GaussNewton, LatentPrior

KEY = jax.random.key(2)
GRID = px.pde.Grid((3,))
UNIT = px.pde.Normaliser((0.0, 0.0), (1.0, 1.0))
SLACK = 0.1


class Student(eqx.Module):
    """Its solution is wrong by 0.2 e2, whatever a."""

    error: Any

    def __call__(self, e):
        a = jnp.exp(0.5 * e[:, 0])
        return jnp.stack([a, 1 / a + self.error * e[:, 1]], axis=-1)


PRIOR = LatentPrior(Student(ERROR), (3, 2))
RESIDUAL = px.Residual(Product(GRID), UNIT)


def quadrature(slack, on):
    """Mean and standard deviation of e1 under the penalised law."""
    e = np.linspace(-6, 6, 801)
    e1, e2 = np.meshgrid(e, e, indexing="ij")
    off = ERROR * e2 * (1.0 if on == "solution" else np.exp(0.5 * e1)) / slack
    p = np.exp(-0.5 * (e1**2 + e2**2 + off**2))
    if on == "determinant":
        p = p * np.exp(0.5 * e1)
    p /= p.sum()
    mean = (p * e1).sum()
    return mean, np.sqrt((p * e1**2).sum() - mean**2)


def test_the_determinant_is_a_tilt():
    """1/a for a small slack: the mean of e1 falls by 1/2. None for the solution."""
    mean, std = quadrature(0.01, "residual")
    assert_close([mean, std], [-0.5, 1.0], 0.01)
    assert_close(quadrature(0.01, "solution"), [0.0, 1.0], 1e-4)
    assert_close(quadrature(0.01, "determinant"), [0.0, 1.0], 0.01)


LAWS = ["residual", "solution", "determinant"]


def penalty(on) -> tuple[dict[str, Any], float]:
    """The arguments of a law, and its scale beside the slack."""
    if on == "solution":
        return {"slack_on": on}, scale_of_the_solution()
    return {"determinant": on == "determinant"}, 1.0


@pytest.mark.parametrize(
    "on", [pytest.param(on, marks=pytest.mark.slow) for on in LAWS[::2]] + ["solution"]
)
def test_chains_sample_the_law_that_is_asked_for(on, x64):
    """By quadrature: the residual's is not the law of a, the others are."""
    options, scale = penalty(on)
    mean, std = quadrature(SLACK * scale, on)
    found = px.infer(
        PRIOR, constraint=RESIDUAL, key=KEY, slack=SLACK, samples=3200,
        method=PCN(chains=16, warmup=400, thin=20), progress=False, **options,
    )  # fmt: skip
    e1 = found.latent[..., 0]
    assert np.abs(e1.mean(axis=0) - mean).max() < 0.15
    assert np.abs(e1.std(axis=0) / std - 1).max() < 0.1
    assert found.trusted == (on != "residual")
    assert ("det dR/du" in str(found)) == (on == "residual")
    assert found.cost.solves == (found.cost.residual if on == "solution" else 0)
    away = np.abs(e1.mean())
    assert away > 0.3 if on == "residual" else away < 0.1 + abs(mean)


def scale_of_the_solution():
    """The median over prior draws of the root mean square of 1/a at three points."""
    e = np.random.default_rng(0).normal(size=(20000, 3))
    return np.median(np.sqrt(np.exp(-e).mean(axis=1)))


@pytest.mark.slow
def test_refinement_moves_the_given_field_only_for_the_residual(x64):
    """To a smaller a, for which the same error of u has a smaller residual.

    With slack on the solution the objective is a sum of a term in e1, whose minimum is
    the draw, and a term in e2, whose minimum is known.
    """
    options: dict[str, Any] = dict(key=KEY, samples=512, progress=False, slack=0.2)
    options["solver"] = GaussNewton(rtol=1e-12, tolerance=1e-15)
    old = px.refine(PRIOR, constraint=RESIDUAL, **options)
    new = px.refine(PRIOR, constraint=RESIDUAL, slack_on="solution", **options)
    shift = old.latent[..., 0] - old.start[..., 0]
    assert shift.mean() < -10 * shift.std() / np.sqrt(shift.size)
    assert_close(new.latent[..., 0], new.start[..., 0], 1e-6)
    solved = 1 / new.fields[..., 0]
    size = np.median(np.sqrt((1 / np.exp(0.5 * new.start[..., 0]) ** 2).mean(axis=1)))
    best = new.start[..., 1] / (1 + (ERROR / (0.2 * size)) ** 2)
    assert_close(new.latent[..., 1], best, 1e-5)
    assert_close(new.fields[..., 1] - solved, ERROR * best, 1e-5)
    assert new.relative.max() < new.relative_start.max()
    assert "approximate unless" in str(old)


@pytest.mark.slow
@pytest.mark.parametrize("on", LAWS)
def test_weighted_minima_have_the_penalised_law(on, x64):
    options, scale = penalty(on)
    mean, std = quadrature(0.2 * scale, on)
    refined = px.refine(
        PRIOR, constraint=RESIDUAL, key=KEY, samples=2048, slack=0.2, weigh=True,
        progress=False, **options,
    )  # fmt: skip
    e1, weights = refined.latent[..., 0], refined.weights
    assert weights is not None
    w = weights[:, None]
    assert np.abs((w * e1).sum(axis=0) - mean).max() < 0.12
    spread = np.sqrt((w * (e1 - mean) ** 2).sum(axis=0))
    assert np.abs(spread / std - 1).max() < 0.1
    assert 500 < refined.effective < 2049
    assert f"worth {refined.effective:.0f} of 2048" in str(refined)


def test_the_error_of_the_solution_by_hand():
    fields = jnp.array([[2.0, 1.0], [4.0, 0.25], [1.0, 3.0]])
    error = RESIDUAL.solution_error_of(fields)
    assert_close(error, [[0, 0.5], [0, 0], [0, 2.0]], 1e-6)
    size = [np.sqrt(21 / 3), np.sqrt((0.25 + 1 / 16 + 1) / 3)]
    assert_close(RESIDUAL.solution_scale_of(fields), size, 1e-6)


def test_slack_on_something_else_is_refused(x64):
    flat = from_residual(lambda f: f[:, 0], (3, 2), UNIT)
    for constraint, on, message in (
        (RESIDUAL, "u", 'must be "residual" or "solution"'),
        (flat, "solution", "expected a Residual as the only constraint"),
    ):
        with pytest.raises(ValueError, match=message):
            px.refine(PRIOR, constraint=constraint, key=KEY, slack_on=on)
    tilted: dict[str, Any] = dict(determinant=True, key=KEY)
    with pytest.raises(ValueError, match="changes the weights of minima and not"):
        px.refine(PRIOR, constraint=RESIDUAL, **tilted)
    with pytest.raises(ValueError, match='and slack_on="residual", got Residual'):
        px.infer(PRIOR, constraint=RESIDUAL, slack_on="solution", **tilted)
    with pytest.raises(ValueError, match="moves by least squares alone"):
        px.infer(PRIOR, constraint=RESIDUAL, method=Ensemble(), samples=8, **tilted)
    others: list[dict[str, Any]] = [dict(anchor="norm"), dict(anchor_weight=2.0)]
    for options in others:
        with pytest.raises(ValueError, match="weights are known for minima"):
            px.refine(PRIOR, constraint=RESIDUAL, key=KEY, weigh=True, **options)


class Imperfect(eqx.Module):
    """Its solution is wrong by a fifth of e1: by what decides about a."""

    def __call__(self, e):
        a = jnp.exp(0.5 * e[:, 0])
        return jnp.stack([a, (1 + ERROR * e[:, 0]) / a], axis=-1)


@pytest.mark.parametrize("method", ["PCN", pytest.param("RML", marks=pytest.mark.slow)])
def test_by_default_the_slack_is_the_students_own_residual(method, x64):
    """R = e1/5, so that its size is 1/5, and the law of an unobserved e1 has the
    variance 1/(1 + 1) by default, and 1/(1 + 400) with a slack of 0.01.
    """
    prior = LatentPrior(Imperfect(), (3, 1))
    seen = px.Observation(
        np.array([[True, False]] + 2 * [[False] * 2]), np.ones((3, 2)), 9.0
    )
    how = PCN(chains=16, warmup=200, thin=6) if method == "PCN" else None
    run: Any = px.infer if method == "PCN" else px.refine
    options: dict[str, Any] = {"key": KEY, "progress": False, "samples": 1600}
    options |= {"method": how} if method == "PCN" else {}
    found = run(prior, seen, RESIDUAL, **options)
    assert abs(found.slack / ERROR - 1) < 0.2
    assert "slack" in str(found)
    expected = 1 / (1 + (ERROR / found.slack) ** 2)
    assert_close(found.latent.var(axis=0)[1:, 0], np.full(2, expected), 0.12)
    if method == "RML":
        tight = run(prior, seen, RESIDUAL, slack=0.01, **options)
        assert tight.slack == 0.01
        assert_close(tight.latent.var(axis=0)[1:, 0], np.full(2, 1 / 401), 0.12, 0)
        alone = run(prior, None, RESIDUAL, **options)
        assert alone.slack == 0.01
        exact = run(LatentPrior(Student(0.0), (3, 2)), seen, RESIDUAL, **options)
        assert exact.slack == 0.01
