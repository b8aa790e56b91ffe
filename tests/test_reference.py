"""Banks and references against a linear problem, of which everything is known."""

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
    SMC,
    AbstractSampler,
    Bank,
    Foreign,
    LatentPrior,
    RandomisedMaximumLikelihood,
    agreement,
    check_reference,
    simulated_ranks,
)

KEY = jax.random.key(3)
MATRIX = np.array([[1.0, 0.5, 0.0], [0.5, 2.0, 0.3], [0.2, -1.0, 1.0], [0, 1, 1.0]])
NOISE, VALUES = np.array([0.5, 0.8]), np.array([1.5, -0.5])
SEEN = MATRIX[[1, 3]]


class Linear(eqx.Module):
    matrix: Any

    def __call__(self, e):
        return (self.matrix.astype(e.dtype) @ e)[:, None]


PRIOR = LatentPrior(Linear(jnp.asarray(MATRIX, jnp.float32)), (3,))


def observed(values=VALUES, scale=1.0):
    """Entries 1 and 3 of four, with noise."""
    mask, full, noise = np.zeros((3, 4, 1), np.float32)
    mask[[1, 3]], full[[1, 3], 0], noise[[1, 3], 0] = 1, values, scale * NOISE
    return px.Observation(mask > 0, full, noise)


def infer(observation, method, samples=4000, key=KEY, **options):
    own: dict[str, Any] = {"progress": False, **options}
    return px.infer(PRIOR, observation, key=key, method=method, samples=samples, **own)


def mean_likelihood(values, power=1):
    """E L^power under the prior: L is a Gaussian function of the values."""
    noise = np.diag(NOISE**2) / power
    cov = SEEN @ SEEN.T + noise
    size = np.sqrt(np.linalg.det(noise) / np.linalg.det(cov))
    return size * np.exp(-0.5 * values @ np.linalg.solve(cov, values))


def law(values):
    gain = SEEN.T @ np.linalg.inv(SEEN @ SEEN.T + np.diag(NOISE**2))
    cov = MATRIX @ (np.eye(3) - gain @ SEEN) @ MATRIX.T
    return MATRIX @ gain @ values, np.sqrt(np.diag(cov))


@pytest.fixture(scope="module")
def bank():
    return Bank.of(PRIOR, key=KEY, count=20_000, progress=False)


def test_a_bank_has_the_posterior_the_evidence_and_the_effective_size(bank):
    """One bank for several truths, and against closed forms for each."""
    for values in (VALUES, np.array([-1.0, 1.0])):
        found = infer(observed(values), bank)
        mean, std = law(values)
        samples = found.fields[..., 0]
        assert np.abs((samples.mean(axis=0) - mean) / std).max() < 0.06
        assert np.abs(samples.std(axis=0) / std - 1).max() < 0.05
        exact = mean_likelihood(values)
        assert abs(found.log_evidence - np.log(exact)) < 0.04
        share = exact**2 / mean_likelihood(values, 2)
        assert_close(found.bank_ess, 20_000 * share, 0.05)
        both = 1 / (1 / found.bank_ess + 1 / 4000)
        assert_close(found.bulk_ess, both, 1e-6)
        off = (samples[:, [1, 3]] - values) / NOISE
        assert_close(found.log_likelihood, -0.5 * (off**2).sum(axis=1), 1e-4)
        assert found.trusted


def test_a_bank_that_is_worth_too_little_says_what_would_be_enough(bank):
    """Noise times a tenth; what it advises passes."""
    found = infer(observed(scale=0.1), bank)
    assert found.bank_ess < 200
    first, second = str(found).splitlines()[:2]
    assert "no reference" in first
    factor = float(second.split("noise ")[1].split(" times")[0])
    draws = float(second.split("about ")[1].split(" draws")[0].replace(",", ""))
    assert_close(draws, 20_000 * 200 / found.bank_ess, 0.05)
    again = infer(observed(scale=0.1 * factor), bank)
    assert 190 < again.bank_ess < 300
    with pytest.raises(ValueError, match=r"Bank is refused.*worth \d+.*times as large"):
        check_reference(found, again)


def test_a_bank_advises_as_many_values_as_it_can_bear():
    """Equal values: a share of them has this share of the log-likelihood, exactly."""
    prior = LatentPrior(lambda e: jnp.full((40, 1), e[0]), (1,))

    def found(count):
        mask = (np.arange(40) < count)[:, None]
        seen = px.Observation(mask, np.full((40, 1), 1.5, np.float32), 2.0)
        options: Any = {"samples": 100, "method": Bank(400), "progress": False}
        return px.infer(prior, seen, key=KEY, **options)

    every = found(40)
    told = str(every).splitlines()[1].split("about ")[2]
    assert "of the 40 observed values" in told
    fewer = int(told.split(" of")[0])
    assert every.bank_ess < found(2 * fewer).bank_ess < 200 <= found(fewer).bank_ess


def test_runs_that_agree_are_a_reference_and_others_are_not(bank):
    first = infer(observed(), bank)
    second = infer(observed(), bank, key=jax.random.key(8))
    found = check_reference(first, second)
    assert found.agrees
    assert found.distance < found.by_chance
    assert found.log_evidence == 0  # of the same draws
    assert str(found).startswith("the runs agree")
    other = infer(observed(VALUES + 0.4 * NOISE), bank)
    apart = agreement(first, other)
    assert not apart.agrees
    assert apart.distance > 4 * apart.by_chance
    with pytest.raises(ValueError, match=r"disagree are no reference.*missed"):
        check_reference(first, other)
    with pytest.raises(ValueError, match="at least two runs without weights, got 1"):
        agreement(first)


def test_a_bank_of_another_prior_is_refused(bank):
    with pytest.raises(ValueError, match=r"one prior and one forward map"):
        px.infer(
            LatentPrior(Linear(jnp.asarray(2 * MATRIX)), (3,)), observed(),
            key=KEY, method=bank, samples=8, progress=False,
        )  # fmt: skip
    with pytest.raises(ValueError, match="count"):
        Bank(count=1)


def second_of(fields):
    return fields[..., 1, 0]


class Doubtful(AbstractSampler):
    """A bank that takes the noise for three times as large: too wide."""

    bank: Bank

    @property
    def advice(self):
        return self.bank.advice

    def draw(self, problem, *args, **options):
        wide = eqx.tree_at(lambda p: p.noise, problem, 3 * problem.noise)
        return self.bank.draw(wide, *args, **options)


@pytest.mark.slow
def test_ranks_of_truths_are_uniform_and_are_not_if_the_noise_is_wrong(bank):
    """chi^2 of 19 degrees: 99.9% of it is below 43.8."""
    right = simulated_ranks(
        PRIOR, observed(), second_of, key=KEY, method=bank, samples=400, progress=False
    )
    assert right.degrees == 19
    assert right.counts.sum() == 200
    assert right.chi_squared < 43.8

    rows = np.zeros((2, 4, 1))
    rows[[0, 1], [1, 3]] = 1
    linear = simulated_ranks(
        PRIOR, Affine(rows, VALUES, noise=NOISE), second_of, key=KEY, method=bank,
        samples=400, progress=False,
    )  # fmt: skip
    assert linear.chi_squared < 43.8
    wrong = simulated_ranks(
        PRIOR, observed(), second_of, key=KEY, method=Doubtful(bank), samples=400,
        progress=False,
    )  # fmt: skip
    assert wrong.chi_squared > 43.8
    assert wrong.counts[8:12].sum() > 3 * wrong.counts[[0, 1, 18, 19]].sum()


@pytest.mark.slow
def test_a_bank_and_particles_agree(bank):
    particles = infer(observed(), SMC(), key=jax.random.key(9))
    found = check_reference(infer(observed(), bank), particles)
    assert 0 < found.log_evidence < 0.15
    minima = infer(observed(), RandomisedMaximumLikelihood(), 200)
    with pytest.raises(ValueError, match="RandomisedMaximumLikelihood is refused"):
        check_reference(minima, particles)


@pytest.mark.slow
def test_a_foreign_solver_is_called_once_for_each_draw():
    calls = []

    def run(fields):
        calls.append(len(fields))
        if (fields[..., 0, 0] > 1.5).any():
            raise RuntimeError("no convergence")
        return fields[:, [1, 3], 0]

    forward = Foreign(lambda f: run(f[None])[0], (2,))
    bank = Bank.of(PRIOR, key=KEY, count=600, forward=forward, progress=False)
    assert sum(calls) == 600
    for values in (VALUES, -VALUES):
        seen = px.Observation(np.ones(2, bool), values, NOISE)
        found = infer(seen, bank, 300, forward=forward)
        assert found.predicted is not None
        assert_close(found.predicted, found.fields[:, [1, 3], 0], 1e-6)
        assert (found.fields[:, 0, 0] <= 1.5).all()
        assert found.failed > 0
        mean, std = law(values)
        assert abs(found.fields[:, 1, 0].mean() - mean[1]) < 0.5 * std[1]
    assert sum(calls) < 640  # a few, to see whether it is the same solver


# --- a penalised residual of Darcy's equation ----------------------------------------


class NearSolver(eqx.Module):
    """a as in the exact law, and u = S(a) + L e2 at the unknowns, with a small L: the
    density of the residual at zero is 1/det A(a) times a constant.
    """

    equation: Any
    given: LatentPrior
    factor: Any

    def __call__(self, e):
        first, second = jnp.split(e, self.given.shape)
        a, grid = self.given(first)[..., 0], self.equation.grid
        off = (self.factor @ second).reshape(grid.unknown_shape)
        return jnp.stack([a, self.equation.solve(a).solution + grid.pad(off)], axis=-1)


def matrix_of(equation, a):
    """dR/du at the unknowns, column by column."""
    grid = equation.grid

    def residual(u):
        fields = equation.Fields(a, grid.pad(u.reshape(grid.unknown_shape)))
        return grid.restrict(equation.residual(fields)).ravel()

    return jax.jacfwd(residual)(jnp.zeros(grid.unknown_shape).ravel())


@pytest.mark.slow
def test_the_cures_of_a_penalised_residual_are_right_on_darcy(x64):
    """Five sensors on 6 x 6 points, against a bank of the exact prior.

    The slack is a sixth of the student's own residual, so that the law without a cure
    is that of the bank with each draw divided by det A(a).
    """
    grid = px.pde.Grid((6, 6))
    darcy = px.pde.Darcy.lognormal(grid, scale=2.0)
    given, size = LatentPrior.of(darcy, modes=6), int(np.prod(grid.unknown_shape))
    slack, scale = 0.002, float(darcy.scale(darcy.sample(key=KEY)))
    unit = np.linalg.inv(matrix_of(darcy, jnp.ones((6, 6))))
    student = NearSolver(darcy, given, jnp.asarray(6 * slack * scale * unit))
    prior = LatentPrior(student, (given.shape[0] + size,))
    truth = darcy.stack(darcy.sample(key=jax.random.key(7)))
    mask = np.zeros((6, 6, 2), bool)
    mask[[1, 2, 3, 4, 4], [1, 3, 2, 1, 4], 1] = True
    eta = np.random.default_rng(0).normal(size=mask.shape)
    seen = px.Observation(mask, np.where(mask, truth + 0.007 * eta, 0.0), 0.007)
    identity = px.pde.Normaliser((0.0, 0.0), (1.0, 1.0))
    log_det = jax.jit(jax.vmap(lambda a: jnp.linalg.slogdet(matrix_of(darcy, a))[1]))

    def numbers(found):
        """The determinant, ln a and u in the middle."""
        a, u = found.fields[..., 0], found.fields[:, 2, 2, 1]
        return np.stack([log_det(jnp.asarray(a)), np.log(a[:, 2, 2]), u], axis=-1)

    bank = px.infer(
        given, seen, key=KEY, samples=8000, progress=False, method=Bank(40_000),
        forward=darcy,
    )  # fmt: skip
    assert bank.bulk_ess > 1000
    exact = numbers(bank)
    middle, deviation = exact.mean(axis=0), exact.std(axis=0)
    tilt = np.exp(exact[:, 0].min() - exact[:, 0])[:, None]
    tilted = (tilt * exact).sum(axis=0) / tilt.sum()
    assert tilted[0] < middle[0] - 0.4 * deviation[0]
    cures: list[tuple[dict[str, Any], Any]] = [
        ({}, tilted),
        ({"determinant": True}, middle),
        ({"slack_on": "solution"}, middle),
    ]
    for options, expected in cures:
        found = px.infer(
            prior, seen, px.Residual(darcy, identity), key=KEY, samples=2000,
            progress=False, slack=slack, method=SMC(moves=40), **options,
        )  # fmt: skip
        own = numbers(found).mean(axis=0)
        error = deviation * np.sqrt(1 / bank.bulk_ess + 1 / found.bulk_ess)
        assert np.abs((own - expected) / error).max() < 4
        assert ((own - middle)[0] / error[0] < -5) == (not options)
