"""Posteriors against closed forms and quadrature.

A prior is a small module whose numbers are arrays, so that problems which differ in
numbers only are one program.
"""

import functools
import re
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import pidax as px
from pidax.constraint import Affine
from pidax.inference import (
    HMC,
    MALA,
    PCN,
    SMC,
    Ensemble,
    Foreign,
    LatentPrior,
    RandomisedMaximumLikelihood,
)
from pidax.inference._gradient_chains import _log_density
from pidax.inference._randomised import metropolis

KEY = jax.random.key(11)
CHAINS = PCN(chains=16, warmup=400, thin=40)


def infer(prior, observation, method, samples=3200, **options) -> Any:
    return px.infer(
        prior, observation, key=KEY, method=method, samples=samples, progress=False,
        **options,
    )  # fmt: skip


# --- a nonlinear prior: the banana ---------------------------------------------------


class Banana(eqx.Module):
    """x = (e1, e2 + b (e1^2 - 1))."""

    bend: Any

    def __call__(self, e):
        return jnp.stack([e[0], e[1] + self.bend * (e[0] ** 2 - 1)])[:, None]


BANANAS = [(0.2, 2.0, 1.38, 1.94), (1.0, 0.3, 0.88, 1.11)]


def banana(bend, y):
    prior = LatentPrior(Banana(jnp.asarray(bend)), (2,))
    mask = np.array([[False], [True]])
    return prior, px.Observation(mask, np.full((2, 1), y), 0.3)


@functools.cache
def quadrature(bend, y):
    """Mean, standard deviation and absolute mean of x1."""
    e = np.linspace(-6, 6, 1201)
    e1, e2 = np.meshgrid(e, e, indexing="ij")
    off = (e2 + bend * (e1**2 - 1) - y) / 0.3
    p = np.exp(-0.5 * (e1**2 + e2**2 + off**2))
    p /= p.sum()
    return np.sqrt((p * e1**2).sum()), (p * np.abs(e1)).sum()


LANGEVIN = MALA(chains=16, warmup=400, thin=200)
LEAPS = HMC(chains=16, warmup=200, thin=20, leaps=8)
RIGHT = [
    pytest.param(CHAINS, id="PCN"),
    pytest.param(SMC(), id="SMC"),
    pytest.param(LANGEVIN, id="MALA", marks=pytest.mark.slow),
    pytest.param(LEAPS, id="HMC", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("method", RIGHT)
@pytest.mark.parametrize(("bend", "y", "known", "biased"), BANANAS)
def test_chains_and_particles_are_right_on_the_banana(
    method, bend, y, known, biased, x64
):
    std, size = quadrature(bend, y)
    assert abs(std - known) < 0.01
    found = infer(*banana(bend, y), method)
    x1 = found.fields[:, 0, 0]
    assert abs(np.sqrt((x1**2).mean()) / std - 1) < 0.06
    assert abs(np.abs(x1).mean() / size - 1) < 0.06
    assert abs(x1.mean()) < 0.2 * std
    assert found.bulk_ess > 400
    assert found.trusted
    assert str(found).startswith("believe:")


@pytest.mark.slow
@pytest.mark.parametrize(("bend", "y", "known", "biased"), BANANAS)
def test_randomised_maximum_likelihood_is_not(bend, y, known, biased, x64):
    """However exactly it minimises: the bias is the method's."""
    std, _ = quadrature(bend, y)
    found = infer(*banana(bend, y), RandomisedMaximumLikelihood(), samples=2048)
    x1 = found.fields[:, 0, 0]
    assert abs(x1.std() - biased) < 0.06
    assert x1.std() > 1.2 * std
    assert not found.trusted
    assert "approximate unless" in str(found)
    assert found.refined.converged.mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("bend", "y", "known", "biased"), BANANAS)
def test_its_weights_remove_the_bias(bend, y, known, biased, x64):
    """With b = 1 some problems have two minima, on either side of zero."""
    std, size = quadrature(bend, y)
    method = RandomisedMaximumLikelihood(weigh=True)
    found = infer(*banana(bend, y), method, samples=2048)
    x1, w = found.fields[:, 0, 0], found.weights
    assert w is not None
    assert_close(w.sum(), 1.0, 1e-9)
    assert abs(np.sqrt((w * x1**2).sum()) / std - 1) < 0.06
    assert abs((w * np.abs(x1)).sum() / size - 1) < 0.06
    assert_close(found.bulk_ess, 1 / (w**2).sum(), 1e-9)
    assert found.bulk_ess > 600
    assert not found.trusted
    assert "`weights`" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize(("bend", "y", "known", "biased"), BANANAS)
def test_a_metropolis_step_removes_it_without_weights(bend, y, known, biased, x64):
    std, size = quadrature(bend, y)
    method = RandomisedMaximumLikelihood(metropolis=True)
    found = infer(*banana(bend, y), method, samples=4096)
    x1 = found.fields[:, 0, 0]
    assert abs(np.sqrt((x1**2).mean()) / std - 1) < 0.06
    assert abs(np.abs(x1).mean() / size - 1) < 0.06
    assert len(x1) == 4096
    assert found.weights is None
    assert found.chains == 4
    assert (np.abs(found.acceptance - 0.5) < 0.1).all()
    assert 400 < found.tail_ess < found.refined.effective < 2048
    assert not found.caution


def test_chains_of_proposals_have_the_law_of_their_weights():
    """Three values with weights 1, 2 and 5, proposed equally, and one with none."""
    rng = np.random.default_rng(0)
    kind = rng.integers(4, size=40000)
    with np.errstate(divide="ignore"):
        weights = np.log(np.array([1.0, 2.0, 5.0, 0.0]))[kind]
    index, accepted = metropolis(weights, rng.uniform(size=40000))
    visits = np.bincount(kind[index][100:], minlength=4) / 39900
    assert_close(visits, [0.125, 0.25, 0.625, 0], 0.01)
    w = np.array([1.0, 2.0, 5.0])
    rate = w / w.sum() @ np.minimum(w / w[:, None], 1).sum(axis=1) / 4
    assert_close(accepted, np.full(4, rate), 0.01)


# --- a linear problem: everything is known -------------------------------------------


class Linear(eqx.Module):
    matrix: Any

    def __call__(self, e):
        return (self.matrix @ e)[:, None]


MATRIX = np.array([[1.0, 0.5, 0.0], [0.5, 2.0, 0.3], [0.2, -1.0, 1.0], [0, 1, 1.0]])
NOISE, VALUES = np.array([0.5, 0.8]), np.array([1.5, -0.5])


def linear():
    """Entries 1 and 3 of four, with noise."""
    mask, values, noise = np.zeros((3, 4, 1))
    mask[[1, 3]], values[[1, 3], 0], noise[[1, 3], 0] = 1, VALUES, NOISE
    prior = LatentPrior(Linear(jnp.asarray(MATRIX)), (3,))
    return prior, px.Observation(mask > 0, values, noise)


def closed_form(rows=MATRIX[[1, 3]]):
    gain = rows.T @ np.linalg.inv(rows @ rows.T + np.diag(NOISE**2))
    cov = np.eye(3) - gain @ rows
    mean = MATRIX @ gain @ VALUES
    return mean, np.sqrt(np.diag(MATRIX @ cov @ MATRIX.T))


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(CHAINS, marks=pytest.mark.slow),
        pytest.param(MALA(chains=16, warmup=200, thin=8), marks=pytest.mark.slow),
        pytest.param(HMC(chains=16, leaps=8), marks=pytest.mark.slow),
        SMC(),
        Ensemble(4),
        pytest.param(RandomisedMaximumLikelihood(), marks=pytest.mark.slow),
    ],
)
def test_all_methods_are_right_on_a_linear_problem(method, x64):
    mean, std = closed_form()
    found = infer(*linear(), method)
    samples = found.fields[..., 0]
    assert np.abs((samples.mean(axis=0) - mean) / std).max() < 0.12
    assert np.abs(samples.std(axis=0) / std - 1).max() < 0.08
    off = (samples[:, [1, 3]] - VALUES) / NOISE
    assert_close(found.log_likelihood, -0.5 * (off**2).sum(axis=1), 1e-5)
    assert found.cost.samples == len(samples) == 3200
    assert found.cost.solves == 0


@pytest.mark.slow
def test_gradients_are_counted(x64):
    """One of each move, and `leaps` of them: chains, warmup, and samples by thin."""
    first = infer(*linear(), MALA(chains=4, warmup=20, thin=3), samples=400)
    assert first.cost.vjp == 4 * (20 + 100 * 3)
    second = infer(*linear(), HMC(chains=4, warmup=20, thin=2, leaps=5), samples=400)
    assert second.cost.vjp == 4 * 5 * (20 + 100 * 2)


def refusing(e):
    return eqx.error_if(e, jnp.abs(e).max() > 100, "too far")[:, None]


def test_a_step_that_leaves_the_prior_is_a_move_that_is_rejected(x64):
    """The forward map does not see where it went: it would raise an error."""
    _, seen = banana(0.2, 2.0)
    problem = px.inference.Problem(LatentPrior(refusing, (2,)), seen)
    density = eqx.filter_jit(jax.value_and_grad(_log_density(problem, None)))
    for far in (1e4, np.inf, np.nan):
        value, slope = density(jnp.array([0.5, far]))
        assert value == -np.inf
        assert_close(slope, np.zeros(2), 1e-12)
    value, slope = density(jnp.array([0.5, 1.0]))
    assert_close(value, -0.5 * (0.25 + 1 + 1 / 0.09), 1e-9)
    assert_close(slope, np.array([-0.5, -1 + 1 / 0.09]), 1e-9)


def test_without_blackjax_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax", None)
    with pytest.raises(ValueError, match=r'pip install "pidax\[mcmc\]"'):
        infer(*linear(), MALA(), samples=8)


def test_the_evidence_is_the_density_of_the_values(x64):
    found = infer(*linear(), SMC())
    rows = MATRIX[[1, 3]]
    cov = rows @ rows.T + np.diag(NOISE**2)
    exact = -0.5 * VALUES @ np.linalg.solve(cov, VALUES)
    exact -= 0.5 * np.linalg.slogdet(cov)[1] - np.log(NOISE).sum()
    assert abs(found.log_evidence - exact) < 0.15
    assert found.temperatures[0] == 0
    assert found.temperatures[-1] == 1
    assert (np.diff(found.temperatures) > 0).all()


@pytest.mark.slow
def test_a_linear_function_is_observed_by_its_own_noise(x64):
    """Rows of the identity, as an Affine beside nothing else."""
    prior, _ = linear()
    rows = np.eye(4)[[1, 3]].reshape(2, 4, 1)
    found = infer(prior, Affine(rows, VALUES, noise=NOISE), CHAINS)
    mean, std = closed_form()
    samples = found.fields[..., 0]
    assert np.abs((samples.mean(axis=0) - mean) / std).max() < 0.12
    assert np.abs(samples.std(axis=0) / std - 1).max() < 0.08


# --- a forward map -------------------------------------------------------------------


def two(fields):
    return jnp.asarray(MATRIX[[1, 3]]) @ fields[:, 0]


def identity():
    return LatentPrior(Linear(jnp.eye(3)), (3,))


QUANTITIES = px.Observation(np.ones(2, bool), VALUES, NOISE)


@pytest.mark.slow
def test_a_function_of_the_fields_is_a_forward_map(x64):
    found = infer(identity(), QUANTITIES, SMC(), forward=two)
    mean, std = closed_form()
    samples = found.fields[..., 0] @ MATRIX.T
    assert np.abs((samples.mean(axis=0) - mean) / std).max() < 0.12
    assert_close(found.predicted, samples[:, [1, 3]], 1e-6)
    assert found.cost.solves > 3200
    assert found.cost.network == 0


@pytest.mark.parametrize(
    ("method", "batched"),
    [
        pytest.param(PCN(chains=8, warmup=100, thin=4), False, marks=pytest.mark.slow),
        (SMC(moves=3), True),
        (Ensemble(2), False),
    ],
)
def test_a_foreign_solver_is_called_and_its_failures_are_named(method, batched, x64):
    """It knows nothing of fields whose first number is above 1."""

    def run(fields):
        if batched:
            out = fields[..., 0] @ MATRIX[[1, 3]].T
            return np.where(fields[:, 0, 0, None] > 1, np.nan, out)
        if fields[0, 0] > 1:
            raise RuntimeError("no convergence")
        return MATRIX[[1, 3]] @ fields[:, 0]

    found = infer(
        identity(), QUANTITIES, method, 240, forward=Foreign(run, (2,), batched)
    )
    assert (found.fields[:, 0, 0] <= 1).all()
    assert_close(found.predicted, found.fields[..., 0] @ MATRIX[[1, 3]].T, 1e-9)
    assert found.failed > 0
    [(name, count)] = found.failures.items()
    expected = "a result that is not finite" if batched else "no convergence"
    assert expected in name
    assert count >= found.failed
    assert name in str(found)
    mean, std = closed_form()
    second = found.fields[..., 0] @ MATRIX[1]
    assert abs(second.mean() - mean[1]) < std[1]


@functools.cache
def poisson():
    grid = px.pde.Grid((5, 5))
    return px.pde.Poisson(grid, px.pde.Matern(grid, modes=4))


@pytest.mark.slow
def test_an_equation_is_a_prior_with_its_own_solver(x64):
    """Against the law of all fields, which is Gaussian and known."""
    equation = poisson()
    truth = equation.sample(key=jax.random.key(3))
    law = equation.law()
    factor = np.asarray(law.factor)
    size = np.sqrt((factor[..., 1, :] ** 2).sum(-1).mean())
    observation = px.Observation.at_random(
        equation, truth, 0.3, key=KEY, noise=0.3 * size, names=("solution",)
    )
    found = infer(equation, observation, SMC(moves=10), 1600)
    mask = np.asarray(observation.mask)
    rows, matrix = factor[mask] / (0.3 * size), factor.reshape(-1, factor.shape[-1])
    values = np.asarray(observation.values)[mask] / (0.3 * size)
    cov = np.linalg.inv(np.eye(rows.shape[1]) + rows.T @ rows)
    mean = matrix @ cov @ rows.T @ values
    std = np.sqrt(np.einsum("ij,jk,ik->i", matrix, cov, matrix))
    flat = found.fields.reshape(len(found.fields), -1)
    some = std > 1e-3 * std.max()
    assert np.abs((flat.mean(axis=0) - mean)[some] / std[some]).max() < 0.2
    assert np.abs(flat.std(axis=0)[some] / std[some] - 1).max() < 0.12
    residual = jax.vmap(lambda f: equation.residual(equation.unstack(f)))(found.fields)
    assert np.abs(residual).max() < 1e-8
    assert found.cost.solves > 1600


@pytest.mark.slow
def test_the_student_of_a_law_and_the_law_give_one_posterior(x64):
    """One evaluation a move, counted; and the coordinates of the student."""
    law = px.Gaussian(jnp.zeros((4, 1)), jnp.asarray(MATRIX @ MATRIX.T + np.eye(4)))
    scaled = px.Gaussian(law.mean, 0.25 * (MATRIX @ MATRIX.T + np.eye(4)))
    chart = px.pde.Normaliser((0.0,), (2.0,))
    _, observation = linear()
    own = px.Observation(observation.mask, observation.values, observation.noise, chart)
    student = px.ExactStudent(scaled, px.EDM())
    learned = infer(student, own, CHAINS)
    exact = infer(law, observation, CHAINS)
    assert_close(learned.fields.mean(axis=0), exact.fields.mean(axis=0), 0, 0.2)
    assert_close(learned.fields.std(axis=0), exact.fields.std(axis=0), 0.15)
    assert learned.cost.network == 64 + 16 * (1 + 400 + 200 * 40) + 3200
    assert exact.cost.network == 0


# --- priors --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_coordinates_of_a_student_may_be_passed_by_themselves(x64):
    """Also where its latent has another shape than its fields."""
    fields = np.random.default_rng(0).normal(size=(200, 4, 2)) * [1.0, 5.0]
    chart = px.pde.Whitened.fit(fields, rank=3)
    student = px.ExactStudent(px.Gaussian(jnp.zeros(3), 1.0), px.EDM())
    mask = np.zeros((4, 2), bool)
    mask[1, 1] = True
    observed = lambda **own: px.Observation(mask, fields[0], 0.5, **own)
    apart = px.inference.Problem(student, observed(), normaliser=chart)
    joined = px.inference.Problem(student, observed(normaliser=chart))
    latent = jnp.asarray([0.3, -1.0, 0.7])
    off = (chart.restore(student.sample(80.0 * latent)) - fields[0])[1, 1] / 0.5
    for problem in (apart, joined):
        assert_close(problem.log_likelihood(latent, None), -0.5 * off**2, 1e-10)


@pytest.mark.slow
def test_laws_as_functions_of_a_latent_have_their_moments(x64):
    grid = px.pde.Grid((4, 5))
    field = px.pde.Matern(grid, modes=5)
    lognormal, steps = px.pde.Lognormal(field), px.pde.Thresholded(field)
    mixture = px.GaussianMixture(
        jnp.array([[-1.0, 0.0], [2.0, 1.0]]), 0.1, weights=jnp.array([0.25, 0.75])
    )
    normal = lambda prior: jax.random.normal(KEY, (20000, *prior.shape))
    draws = lambda law: jax.vmap(LatentPrior.of(law))(normal(LatentPrior.of(law)))
    x = draws(field)[..., 0]
    assert_close(x.var(axis=0), field.variance(), 0.06)
    assert_close(draws(lognormal)[..., 0].mean(axis=0), lognormal.mean(), 0.05)
    assert set(np.unique(draws(steps))) == {3.0, 12.0}
    assert_close((draws(steps) == 12).mean(), 0.5, 0.05)
    x = draws(mixture)
    assert_close(x.mean(axis=0), [1.25, 0.75], 0.05)
    assert_close((x[:, 0] > 0.5).mean(), 0.75, 0.02)
    near = x[x[:, 0] > 0.5] - np.array([2.0, 1.0])
    assert_close(near.std(axis=0), [0.1, 0.1], 0.03)


def modes(e):
    return jnp.stack([8 * jnp.sign(e[0]) + 0.1 * e[0], 0.1 * e[1]])[:, None]


@pytest.mark.slow
def test_particles_find_both_modes(x64):
    seen = px.Observation(np.array([[False], [True]]), np.zeros((2, 1)), 0.01)
    found = infer(LatentPrior(modes, (2,)), seen, SMC(), 800)
    assert_close((found.fields[:, 0, 0] > 0).mean(), 0.5, 0, 0.15)


def test_chains_that_cannot_agree_say_so(x64):
    """Two narrow modes far apart, of which the observation says nothing."""
    law = LatentPrior(modes, (2,))
    seen = px.Observation(np.array([[False], [True]]), np.zeros((2, 1)), 0.01)
    short = infer(law, seen, PCN(chains=8, warmup=50, thin=1, step=0.01), 400)
    assert not short.trusted
    assert short.r_hat > 1.5
    first, second = str(short).splitlines()[:2]
    assert first.startswith("do not believe")
    assert "R-hat" in first
    assert "warmup=200" in second


# --- bad input -----------------------------------------------------------------------


def refusals():
    prior, seen = linear()
    exact = px.Observation(seen.mask, seen.values)
    wide = px.Observation(np.ones(3, bool), np.zeros(3), 0.1)
    broken = Foreign(lambda f: np.zeros(3), (2,))
    lost = Foreign(lambda f: np.full(2, np.nan), (2,))
    yield (prior, None), {}, "expected observations to condition on"
    yield (prior, exact), {}, "expected values with noise, got 2"
    yield (prior, wide), {}, r"array of shape \(3,\).*got"
    yield (identity(), wide), {"forward": two}, r"shape \(3,\)"
    yield (px.Circle(), seen), {}, "got Circle. A teacher, a ProbabilityFlow, is guided"
    yield (prior, seen), {"forward": 3}, "forward is an equation"
    yield (prior, seen), {"samples": 0}, "samples must be a whole number"
    yield (identity(), QUANTITIES), {"forward": broken}, r"got \(3,\)"
    yield (identity(), QUANTITIES), {"forward": lost}, "accepted move|none of"
    smooth = {"method": MALA(), "forward": lost}
    yield (identity(), QUANTITIES), smooth, "MALA follows a gradient"
    rml = {"method": RandomisedMaximumLikelihood(), "forward": lost}
    yield (identity(), QUANTITIES), rml, "needs derivatives"
    wrong = LatentPrior(lambda e: e[:, None], (5,))
    yield (
        (wrong, seen),
        {"forward": poisson()},
        "source must have a value",
    )


def test_bad_input_is_named_with_the_cure(x64):
    for args, options, message in refusals():
        options = {"method": PCN(chains=2, warmup=4, thin=1), "samples": 8, **options}
        with pytest.raises(ValueError, match=message):
            px.infer(*args, key=KEY, progress=False, **options)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="comparing it with others"):
        PCN(chains=1)
    with pytest.raises(ValueError, match="step"):
        PCN(step=1.5)
    with pytest.raises(ValueError, match="leaps"):
        HMC(leaps=0)
    with pytest.raises(ValueError, match="step must be"):
        MALA(step=0.0)
    with pytest.raises(ValueError, match="share"):
        SMC(share=0.0)
    with pytest.raises(ValueError, match="steps must be a whole number"):
        Ensemble(steps=0)
    with pytest.raises(ValueError, match="antithetic=False with metropolis=True"):
        RandomisedMaximumLikelihood(metropolis=True, antithetic=True)
    with pytest.raises(ValueError, match="has a function of one latent"):
        LatentPrior(3, (2,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the same in every draw"):
        LatentPrior.of(px.pde.Darcy(px.pde.Grid((4, 4)), 1.0))
    with pytest.raises(ValueError, match="a function of normal numbers"):
        LatentPrior.of(px.Circle())


@pytest.mark.slow
def test_a_chain_that_never_moves_says_which_step_would(x64):
    """With this key all ten proposals of both chains are worse than their starts."""
    prior, seen = linear()
    sharp = px.Observation(seen.mask, seen.values, 1e-4)
    with pytest.raises(
        ValueError, match=r"no accepted move .* A step of .* would"
    ) as e:
        px.infer(
            prior, sharp, key=jax.random.key(114), samples=8, progress=False,
            method=PCN(chains=2, warmup=0, thin=1, step=1.0),
        )  # fmt: skip
    found = re.search(r"PCN\(step=([^)]*)\)", str(e.value))
    assert found is not None
    step = float(found.group(1))
    assert step <= 0.5
    again = px.infer(
        prior, sharp, key=jax.random.key(114), samples=8, progress=False,
        method=PCN(chains=2, warmup=2000, thin=1, step=step),
    )  # fmt: skip
    assert again.acceptance is not None
    assert again.acceptance.max() > 0
