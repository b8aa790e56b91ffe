"""Refinement against linear algebra: Gaussian posteriors, and the minimisers of each.

The student is the exact one of Poisson's equation, so that the fields are a matrix
times the latent and everything is known: the law given noisy observations, and the
minimiser of each sample's objective. One structure is one program: those tests that
differ in numbers only run the same, in batches of eight.
"""

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from helpers import assert_close
from linear_control import control, noise_of, observed

import pidax as px
from pidax.constraint import Mean, Observation, Residual, from_residual
from pidax.distill import Sum
from pidax.inference import (
    CGLS,
    LBFGS,
    Adam,
    Cost,
    DampedGaussNewton,
    GaussNewton,
    Optimistix,
    Problem,
    RandomisedMaximumLikelihood,
    Training,
    minimise,
)
from pidax.inference._minimum import descend
from pidax.inference._problem import Point
from pidax.student import AbstractStudent, sample_keys

KEY = jax.random.key(5)
EXACTLY = GaussNewton(rtol=1e-13, tolerance=1e-16, products=1000)


def reconstruction(problem, share=0.1, noise=0.1):
    return Observation.at_random(
        problem.equation,
        problem.truth,
        share,
        key=jax.random.key(4),
        noise=noise_of(problem, noise),
    )


# --- each minimiser against linear algebra -------------------------------------------


def refine(problem, observation, samples=8, **options):
    """Of a problem's own student, under its own equation, in batches of eight."""
    return px.refine(
        problem.student,
        observation,
        problem.residual,
        key=KEY,
        samples=samples,
        batch_size=8,
        solver=EXACTLY,
        **options,
    )


def closed_form(problem, observation, refined):
    """The minimiser of each sample, by the draws that the key stands for."""
    seen = observed(problem, observation)
    perturbed = jax.jit(jax.vmap(lambda k: observation.perturb(key=k).values))
    values = np.asarray(perturbed(sample_keys(KEY, jnp.arange(len(refined.start)), 1)))
    at = values.reshape(len(values), -1)[:, seen.where]
    eta = (at - seen.values) / np.where(seen.noise > 0, seen.noise, 1.0)
    assert 0.7 < eta.std() < 1.3  # it is a draw of the noise, and not of nothing
    starts = refined.start.reshape(len(eta), -1)
    best = [seen.optimum(s, e) for s, e in zip(starts, eta, strict=True)]
    return np.stack(best).reshape(refined.latent.shape)


@pytest.mark.slow
def test_gauss_newton_is_the_closed_form_in_two_steps(x64):
    problem = control(8, 12, True)
    observation = reconstruction(problem)
    refined = refine(problem, observation)
    best = closed_form(problem, observation, refined)
    assert_close(refined.latent, best, 1e-9)
    fields = (problem.matrix @ best.reshape(8, -1).T).T.reshape(refined.fields.shape)
    assert_close(refined.fields, fields, 1e-9)
    assert np.abs(best - refined.start).max() > 0.5
    assert refined.converged.all()
    assert refined.steps.max() <= 2
    assert refined.relative.max() < 1e-12  # an equation that all samples solve
    objective = refined.history.objective
    assert_close(objective[:, -1], refined.best.sum(axis=1), 1e-12)
    half = 0.5 * ((best - refined.start) ** 2).reshape(8, -1).sum(axis=1)
    assert_close(refined.best[:, 0], half, 1e-8)


# --- the law of the samples ----------------------------------------------------------


def masks(problem):
    """Forward, inverse, reconstruction: only the mask differs."""
    equation, truth = problem.equation, problem.truth
    for name in equation.names:
        field, noise = getattr(truth, name), noise_of(problem, 0.1)
        yield Observation.of(equation, noise=noise, **{name: field})
    yield reconstruction(problem)


@pytest.mark.slow
def test_the_samples_have_the_law_of_the_posterior(x64):
    """Means within 5 standard errors at every entry, spreads within 5 of theirs."""
    problem, count = control(8, 12, True), 512
    for observation in masks(problem):
        refined = refine(problem, observation, count)
        mean, std = observed(problem, observation).law(problem.matrix)
        samples = refined.fields.reshape(count, -1)
        some = std > 1e-3 * std.max()
        z = (samples.mean(axis=0) - mean)[some] / std[some] * np.sqrt(count)
        assert np.abs(z).max() < 5
        ratio = samples.std(axis=0, ddof=1)[some] / std[some]
        assert np.abs(ratio - 1).max() < 5 / np.sqrt(2 * count)
        assert refined.converged.all()


@pytest.mark.slow
def test_the_closed_form_is_that_of_a_gaussian_posterior(x64):
    problem = control(8, 12, True)
    seen = observed(problem, reconstruction(problem))
    size = problem.matrix.shape[0]
    rows = np.zeros((len(seen.where), size))
    rows[np.arange(len(seen.where)), seen.where] = 1 / seen.noise
    law = px.Gaussian(jnp.zeros(size), jnp.asarray(problem.matrix @ problem.matrix.T))
    exact = law.posterior(rows, seen.values / seen.noise, 1.0)
    mean, std = seen.law(problem.matrix)
    assert_close(mean, exact.mean, 1e-8)
    factor = exact.covariance.factor(exact.shape)
    assert_close(std, np.sqrt((factor**2).sum(axis=1)), 1e-7)


@pytest.mark.slow
def test_anchored_to_zero_it_is_the_mean_and_has_no_spread(x64):
    problem = control(8, 12, True)
    observation = reconstruction(problem)
    refined = refine(problem, observation, anchor="norm")
    mean, std = observed(problem, observation).law(problem.matrix)
    samples = refined.fields.reshape(8, -1)
    assert_close(samples.mean(axis=0), mean, 1e-8)
    assert samples.std(axis=0).max() < 1e-8 * std.max()
    assert refined.start.std() > 0.9  # from different draws
    assert "MAP" in str(refined)


@pytest.mark.slow
def test_antithetic_pairs_have_the_exact_mean(x64):
    """Of a linear student; they are draws all the same: as wide as the posterior."""
    problem = control(8, 12, True)
    observation = reconstruction(problem)
    refined = refine(problem, observation, 64, antithetic=True)
    np.testing.assert_array_equal(refined.start[32:], -refined.start[:32])
    mean, std = observed(problem, observation).law(problem.matrix)
    samples = refined.fields.reshape(64, -1)
    assert_close(samples.mean(axis=0), mean, 1e-8)
    ratio = samples[:32].std(axis=0).mean() / std.mean()
    assert 0.8 < ratio < 1.2
    with pytest.raises(ValueError, match="in pairs"):
        refine(problem, observation, 3, antithetic=True)


@pytest.mark.slow
def test_entries_that_are_not_free_stay_and_the_others_are_the_restricted_minimum(x64):
    problem = control(8, 12, True)
    observation = reconstruction(problem)
    shape = problem.student.shape
    free = np.random.default_rng(0).random(shape) < 0.5
    refined = refine(problem, observation, free=free)
    np.testing.assert_array_equal(refined.latent[:, ~free], refined.start[:, ~free])
    seen = observed(problem, observation)
    perturbed = jax.jit(jax.vmap(lambda k: observation.perturb(key=k).values))
    draws = np.asarray(perturbed(sample_keys(KEY, jnp.arange(8), 1))).reshape(8, -1)[
        :, seen.where
    ]
    rows = seen.rows[:, free.ravel()] / seen.noise[:, None]
    normal = np.eye(free.sum()) + rows.T @ rows
    for start, latent, values in zip(refined.start, refined.latent, draws, strict=True):
        apart = (values - seen.rows @ start.ravel()) / seen.noise
        moved = np.linalg.solve(normal, rows.T @ apart)
        assert_close(latent[free], start[free] + moved, 1e-7)
    with pytest.raises(ValueError, match="free is a mask"):
        refine(problem, observation, free=free[:1])


@pytest.mark.slow
def test_without_an_anchor_the_data_alone_decide(x64):
    """The nearest latent that fits them, as far as the steps are Gauss-Newton's."""
    problem = control(8, 12, True)
    observation = reconstruction(problem, 0.03)
    refined = refine(problem, observation, anchor=None)
    seen = observed(problem, observation)
    starts = refined.start.reshape(8, -1)
    inverse = np.linalg.pinv(seen.rows / seen.noise[:, None]) / seen.noise
    nearest = [s + inverse @ (seen.values - seen.rows @ s) for s in starts]
    assert_close(refined.latent.reshape(8, -1), np.stack(nearest), 1e-6)
    left = (seen.rows @ nearest[0] - seen.values) / seen.noise
    assert_close(refined.best[:, 1], np.full(8, 0.5 * (left**2).sum()), 1e-6)
    assert not refined.history.anchor.any()


@pytest.mark.slow
def test_another_weight_is_another_problem_and_says_so(x64):
    problem = control(8, 12, True)
    observation = reconstruction(problem)
    refined = refine(problem, observation, anchor="norm", anchor_weight=4.0)
    seen = observed(problem, observation)
    heavier = seen._replace(noise=2 * seen.noise)
    best = heavier.optimum(np.zeros(problem.matrix.shape[0]))
    assert_close(refined.latent[0].ravel(), best, 1e-8)
    assert "weight 1, here 4" in refined.kind


# --- observations without noise ------------------------------------------------------


@pytest.mark.slow
def test_what_is_known_exactly_holds_to_the_last_bit(x64):
    problem = control(8, 12, True)
    noise = {"source": noise_of(problem, 0.1)["source"], "solution": 0.0}
    observation = Observation.at_random(
        problem.equation, problem.truth, 0.1, key=jax.random.key(4), noise=noise
    )
    refined = refine(problem, observation)
    exact = np.asarray(observation.exact)
    assert exact.any()
    assert observation.noisy.any()
    for fields in refined.fields:
        np.testing.assert_array_equal(
            fields[exact], np.asarray(observation.values)[exact]
        )
    own = jax.jit(jax.vmap(problem.residual.restore))(jnp.asarray(refined.x))
    left = np.abs(np.asarray(own) - refined.fields)[:, exact]
    assert 0 < left.max() < 1e-3 * problem.sizes["solution"]
    assert (refined.relative < 1e-3).all()


def test_the_inverse_problem_has_one_answer(x64):
    """All of u without noise: f is what the equation says."""
    problem = control(8, 12, True)
    observation = Observation.of(problem.equation, solution=problem.truth.solution)
    refined = refine(problem, observation)
    error = np.abs(refined.fields[..., 0] - np.asarray(problem.truth.source)).max()
    assert error < 1e-2 * problem.sizes["source"]


# --- a student that does not know the equation ---------------------------------------


@pytest.mark.slow
def test_the_residual_is_brought_down_as_linear_algebra_says(x64):
    """Source and solution drawn apart: the equation is all that joins them.

    Some of the source is known exactly, and written over what the residual sees. Then
    the rest of it is held: each sample keeps its own source, and has the solution that
    is nearest to it.
    """
    problem, slack = control(8, 12, True), 0.1
    equation, shape = problem.equation, problem.student.shape
    sizes = np.broadcast_to(list(problem.sizes.values()), shape)
    student = px.ExactStudent(px.Gaussian(jnp.zeros(shape), sizes**2), px.EDM())
    matrix = np.diag(np.sqrt(sizes.ravel() ** 2 / (1 + sizes.ravel() ** 2 / 80.0**2)))
    of = lambda flat: equation.residual(equation.unstack(flat.reshape(shape))).ravel()
    laplace = np.asarray(jax.jit(jax.jacfwd(of))(jnp.zeros(sizes.size)))
    observation = Observation.at_random(
        equation, problem.truth, 0.2, key=jax.random.key(4), names=("source",)
    )
    mask, values = (
        np.asarray(a).ravel() for a in (observation.mask, observation.values)
    )
    given = equation.given_mask.ravel() & ~mask
    options: dict[str, Any] = dict(slack=slack, tightness=1e-2, solver=EXACTLY)
    args = (student, observation, problem.residual)
    found = {}
    for name, held in (("loose", 0 * given > 0), ("held", given)):
        hold = held.reshape(shape) if held.any() else None
        found[name] = px.refine(*args, key=KEY, samples=4, hold=hold, **options)
        refined = found[name]
        starts = refined.start.reshape(4, -1)
        drawn = starts @ matrix
        mixed = jnp.asarray(np.where(mask, values, drawn).reshape(4, *shape))
        scale = np.median(jax.jit(jax.vmap(problem.residual.scale_of))(mixed))
        tight = 1e-2 * drawn.reshape(4, *shape).std(axis=(0, 1, 2))
        noise = np.broadcast_to(tight, shape).ravel()[mask]
        weight = 1 / (scale * slack)
        moves = ~mask & ~held
        blocks = [np.eye(mask.size), matrix[mask] / noise[:, None]]
        blocks.append(weight * laplace @ (matrix * moves[:, None]))
        latents = refined.latent.reshape(4, -1)
        for start, own, latent, fields in zip(
            starts, drawn, latents, refined.fields.reshape(4, -1), strict=True
        ):
            fixed = np.where(mask, values, np.where(held, own, 0.0))
            right = [start, values[mask] / noise, -weight * laplace @ fixed]
            right = np.concatenate(right)
            best = np.linalg.lstsq(np.concatenate(blocks), right, rcond=None)[0]
            assert_close(latent, best, 1e-6)
            assert_close(fields[moves], (matrix @ best)[moves], 1e-6)
            assert_close(fields[held], own[held], 1e-14)
        assert refined.relative.max() < 0.2 * refined.relative_start.min()
    loose, kept = found["loose"], found["held"]
    moved = np.abs(loose.fields.reshape(4, -1) - drawn)[:, given]
    assert moved.max() > 0.1 * np.abs(drawn[:, given]).max()
    for refined in (loose, kept):  # what is held is the start, which is sampled anyway
        assert refined.cost.residual == refined.cost.network + 4
    assert f"{given.sum()} entries of each held" in str(kept)
    whole = equation.given_mask
    for bad in (whole[:1], ~whole | whole, whole & ~whole):
        with pytest.raises(ValueError, match=r"hold is a mask.*given_mask"):
            px.refine(*args, key=KEY, hold=bad)
    with pytest.raises(ValueError, match=rf"got {mask.sum()} in both"):
        px.refine(*args, key=KEY, hold=whole)


# --- students that are not linear ----------------------------------------------------


class Mapped(AbstractStudent):
    """A function of the unit latent, entry by entry, on a line of points."""

    function: Any = eqx.field(static=True)
    process: px.AbstractProcess

    def __init__(self, function):
        self.function, self.process = function, px.EDM()

    @property
    def shape(self):
        return (6, 1)

    @property
    def classes(self):
        return None

    @property
    def end(self):
        return 0.0

    def __call__(self, z, t, condition=None, *, key=None):
        x = self.function(z / 80.0)
        return x if condition is None else x + condition


UNIT = px.pde.Normaliser((0.0,), (1.0,))


def seen(values, noise=0.1, at=(1, 4)):
    """Two of the six points."""
    mask = np.zeros((6, 1), bool)
    mask[list(at)] = True
    full = jnp.full((6, 1), jnp.nan).at[jnp.asarray(at), 0].set(jnp.asarray(values))
    return Observation(mask, full, noise, UNIT)


def double(e):
    return 2 * e


def wave(e):
    return e + 2 * jnp.sin(3 * e)


def halves(fields):
    """Neighbours differ by half, in units of which a thousand are one."""
    return 1e3 * (fields[1:, 0] - fields[:-1, 0] - 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "close"),
    [
        (LBFGS(500, rtol=1e-9, atol=1e-9), 1e-5),
        (Adam(0.05, 1500), 1e-2),
        (optx.GaussNewton(1e-9, 1e-9, linear_solver=CGLS(1e-16, 200)), 1e-6),
    ],
    ids=["L-BFGS", "Adam", "Optimistix's own"],
)
def test_other_solvers_reach_the_same_point(solver, close, x64):
    """Of 2 e, observed with a noise of 0.5: the optimum of each entry by hand."""
    observation = seen([1.5, -2.0], 0.5)
    refined = px.refine(Mapped(double), observation, key=KEY, samples=2, solver=solver)
    draws = [
        observation.perturb(key=k).values for k in sample_keys(KEY, jnp.arange(2), 1)
    ]
    mask, start = np.asarray(observation.mask), refined.start
    best = (start + 2 * np.asarray(draws) / 0.25) / (1 + 4 / 0.25)
    assert_close(refined.latent, np.where(mask, best, start), close)
    assert not refined.failed.any()
    objective = refined.history.objective
    assert_close(objective[:, -1], refined.best.sum(axis=1), 1e-3)
    assert (refined.history.misfit[:, 0] > 2 * refined.best[:, 1]).all()


@pytest.mark.slow
def test_float32_bears_noise_and_slack_as_small_as_it_is_precise(x32):
    """A product of the conjugate gradients would overflow: no step, and no failure."""
    sure = seen([1.5, -2.0], 1e-7)
    refined = px.refine(Mapped(double), sure, key=KEY, samples=4)
    assert_close(refined.fields[:, [1, 4], 0], np.tile([1.5, -2.0], (4, 1)), 1e-6)
    exact = px.refine(Mapped(double), seen([1.5, 0.1], 0.0), key=KEY, samples=4)
    assert exact.fields.dtype == np.float32
    np.testing.assert_array_equal(exact.fields[:, 4, 0], np.full(4, 0.1, np.float32))
    constraint = from_residual(halves, (6, 1), UNIT)
    with warnings.catch_warnings():  # at rounding no step makes the objective smaller
        warnings.filterwarnings("ignore", "the solver broke down", UserWarning)
        refined = px.refine(
            Mapped(double), None, constraint, key=KEY, samples=4, slack=1e-7
        )
    assert refined.relative_start.min() > 100
    assert refined.relative.max() < 1e-2


def rows_of(size):
    """Rows that are `size` times the latent less its target, and the point there."""

    def rows(latent, target):
        row = size * (latent - target)
        return row, Point(latent, 2 * latent, 0.5 * jnp.stack([row @ row] * 3))

    return rows


@pytest.mark.slow
def test_a_step_is_levenbergs_and_its_damping_follows_its_success(x64):
    solver = DampedGaussNewton(linear_solver=CGLS(1e-16, 100))

    def step(rows, y, damping):
        fn = lambda y, args: (rows(y), None)
        state = solver.init(fn, y, None, {}, None, None, frozenset())
        state = eqx.tree_at(lambda s: s.damping, state, jnp.asarray(damping))
        y, state, _ = solver.step(fn, y, None, {}, state, frozenset())
        return y, state.damping, state.finished, state.jvp

    a, b = np.array([[3.0, 1.0], [1.0, 2.0], [0.0, 1.0]]), np.array([1.0, 2.0, 3.0])
    y = np.array([4.0, -5.0])
    linear = jax.jit(lambda y, damping: step(lambda y: a @ y - b, y, damping))
    for damping, after in ((0.0, 0.0), (4.0, 0.4), (5e-4, 0.0)):
        wanted = np.linalg.solve(a.T @ a + damping * np.eye(2), a.T @ (a @ y - b))
        new, lowered, finished, products = linear(y, damping)
        assert_close(new, y - wanted, 1e-10)
        assert_close(lowered, after, 1e-14)
        assert not finished
        assert products <= 6  # two unknowns: rounding and the look back ask for more
    assert not linear(y, 1e6)[2]  # little is promised because of the damping alone
    # A whole step of arctan from 3 overshoots: a quarter is taken, and the damping is
    # a tenth of the square of the slope, 1/(1 + 9), or four times what it was.
    bent = jax.jit(lambda y, damping: step(jnp.arctan, y, damping))
    new, raised, *_ = bent(np.array([3.0]), 0.0)
    assert_close(new, [3 - 0.25 * 10 * np.arctan(3)], 1e-12)
    assert_close(raised, 0.1 * 0.1**2, 1e-12)
    new, raised, *_ = bent(np.array([30.0]), 1e-7)  # the slope is 1/901 there
    whole = np.arctan(30) / 901 / (1 / 901**2 + 1e-7)
    assert_close((30 - new) / whole, [0.25**3], 1e-9)
    assert_close(raised, 4e-7, 1e-12)


def test_no_step_on_a_slope_is_a_breakdown_and_not_the_end(x32):
    nothing = Optimistix(inner=DampedGaussNewton(linear_solver=CGLS(1e-6, 0)), steps=20)
    start = jnp.asarray([1.0, 2.0])
    run = eqx.filter_jit(lambda target: descend(nothing, rows_of(1.0), start, target))
    found = run(jnp.zeros(2))
    assert found.failed
    assert not found.converged
    np.testing.assert_array_equal(found.latent, start)
    assert run(start).converged  # where there is no slope


@pytest.mark.parametrize("method", [LBFGS(), Adam()], ids=repr)
def test_a_gradient_whose_square_overflows_is_a_breakdown(method, x32):
    """Its steps are zero, and would pass for convergence: 1e12 squared is 1e24."""
    start = jnp.asarray([1.0, 2.0])
    run = eqx.filter_jit(lambda size: descend(method, rows_of(size), start, -start))
    large = run(jnp.asarray(1e12))
    arrived = jnp.abs(large.latent + start).max() < 1e-3
    assert arrived | large.failed
    assert arrived | ~large.converged
    assert not run(jnp.asarray(1.0)).failed


@pytest.mark.slow
@pytest.mark.parametrize("method", [GaussNewton(), LBFGS(), Adam()], ids=repr)
def test_a_solve_that_never_saw_a_finite_objective_returns_its_start(method, x32):
    """Whatever solver: not converged at infinity, but failed where it began."""
    start = jnp.asarray([1.0, 2.0])

    def rows(latent, target):
        row = 1e25 * jnp.append(latent - target, 1.0)
        return row, Point(latent, 2 * latent, 0.5 * jnp.stack([row @ row] * 3))

    found = eqx.filter_jit(descend)(method, rows, start, -jnp.ones(2))
    assert found.failed
    assert not found.converged
    np.testing.assert_array_equal(found.latent, start)
    np.testing.assert_array_equal(found.x, 2 * start)


# --- one sample, and one program -----------------------------------------------------


def problem_of(values):
    """A wavy student, two values observed, and an equation between neighbours."""
    constraint = from_residual(halves, (6, 1), UNIT, scale=1e3)
    return Problem(Mapped(wave), seen(values, 0.5), constraint, scale=1e3)


def near(values, latent, key):
    """Of 2 e, two entries observed with noise: the fields of the minimum."""
    problem = Problem(Mapped(double), seen(values, 0.5))
    return minimise(problem, latent, key=key, solver=EXACTLY).fields[..., 0]


def test_minimise_is_mapped_and_differentiated(x64):
    """By hand: the minimum, and the slopes of a weighted sum of its fields."""
    values, at, weights = jnp.asarray([1.5, -2.0]), np.array([1, 4]), jnp.arange(1.0, 7)
    start = jax.random.normal(KEY, (3, 6, 1))
    keys = sample_keys(KEY, jnp.arange(3), 1)

    def along(*args):
        fields = near(*args)
        return fields @ weights, fields

    sloped = jax.value_and_grad(along, (0, 1), has_aux=True)
    mapped = jax.jit(jax.vmap(sloped, (None, 0, 0)))
    (_, found), (by_values, by_start) = mapped(values, start, keys)
    draws = jax.vmap(lambda k: seen(values, 0.5).perturb(key=k).values)(keys)
    best = 2 * (start + 2 * draws / 0.25)[:, at, 0] / (1 + 4 / 0.25)
    assert_close(found[:, at], best, 1e-9)
    gain = 16 / (1 + 16)  # a^2/s^2 over 1 + a^2/s^2
    assert_close(by_values, np.tile([2 * gain, 5 * gain], (3, 1)), 1e-10)
    kept = np.where(np.isin(np.arange(6), at), 2 / (1 + 16), 2.0) * weights
    assert_close(by_start[..., 0], np.tile(kept, (3, 1)), 1e-10)


@pytest.mark.slow
def test_infer_and_refine_return_what_minimise_finds(x64):
    values = jnp.asarray([1.5, -2.0])
    own: dict[str, Any] = {"key": KEY, "samples": 3, "progress": False}
    method = RandomisedMaximumLikelihood(EXACTLY)
    made = px.infer(Mapped(double), seen(values, 0.5), method=method, **own)
    refined = px.refine(Mapped(double), seen(values, 0.5), solver=EXACTLY, **own)
    np.testing.assert_array_equal(made.fields, refined.fields)
    keys = sample_keys(KEY, jnp.arange(3), 1)
    one = jax.jit(jax.vmap(near, (None, 0, 0)))
    found = one(values, jnp.asarray(refined.start), keys)
    assert_close(found, made.fields[..., 0], 1e-9)


@pytest.mark.slow
def test_samples_that_are_compiled_and_mapped_are_those_of_plain_calls(x64):
    values, latents = jnp.asarray([1.5, -2.0]), 0.5 * jax.random.normal(KEY, (3, 6, 1))
    one = lambda latent, key: minimise(problem_of(values), latent, key=key)
    keys = sample_keys(KEY, jnp.arange(3), 1)
    mapped = jax.jit(jax.vmap(one))(latents, keys)
    for i in range(3):
        alone = one(latents[i], keys[i])
        for name in ("fields", "latent", "terms", "history", "steps", "failed"):
            got, expected = getattr(mapped, name)[i], getattr(alone, name)
            assert_close(got, expected, 1e-8)
    assert jnp.abs(mapped.latent - latents).max() > 0.1


@pytest.mark.slow
def test_gradients_are_those_of_the_minimum(x64):
    """Of what was observed and of the start: closed form, and finite differences."""
    start = jax.random.normal(KEY, (6, 1))

    def fields(values, latent, student):
        problem = Problem(student, seen(values, 0.5), None)
        return minimise(problem, latent, solver=EXACTLY).fields[..., 0]

    values = jnp.asarray([1.5, -2.0])
    linear = lambda v, e: fields(v, e, Mapped(double))
    by_values, by_start = jax.jit(jax.jacrev(linear, (0, 1)))(values, start)
    expected = np.zeros((6, 2))
    expected[[1, 4], [0, 1]] = 16 / (1 + 16)  # a^2/s^2 over 1 + a^2/s^2, a = 2, s = .5
    assert_close(by_values, expected, 1e-10)
    observed_at = np.isin(np.arange(6), [1, 4])
    kept = np.where(observed_at, 2 / (1 + 16), 2.0)
    assert_close(by_start[..., 0], np.diag(kept), 1e-10)

    def whole(values):
        refined = minimise(problem_of(values), 0.1 * start, solver=EXACTLY)
        return refined.fields.sum() + refined.terms.sum()

    _, slope = jax.jit(lambda v, d: jax.jvp(whole, (v,), (d,)))(
        values, jnp.asarray([1.0, 0.5])
    )
    far, near = (
        jax.jit(whole)(values + h * jnp.asarray([1.0, 0.5])) for h in (1e-4, -1e-4)
    )
    assert_close(slope, (far - near) / 2e-4, 1e-5)
    assert jnp.abs(slope) > 0.1


@pytest.mark.slow
def test_other_numbers_do_not_compile_again(x32):
    """Of values, samples, draws; nor another anchor, weight, slack, or mask."""
    traced = []

    def counted(e):
        traced.append(1)
        return wave(e)

    def call(values, scale, **options):
        constraint = from_residual(halves, (6, 1), UNIT, scale=scale)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the solver broke down", UserWarning)
            options = {"samples": 3, **options}
            return px.refine(Mapped(counted), seen(values), constraint, **options)

    first = call([1.5, -2.0], 1e3, key=KEY)
    once = len(traced)
    assert once > 0
    some = np.arange(6)[:, None] < 3
    others: list[dict[str, Any]] = [
        {"anchor": "norm"},
        {"anchor": None},
        {"anchor_weight": np.int64(2), "slack": np.float32(0.5), "tightness": 1},
        {"free": some},
        {"hold": some & (np.arange(6)[:, None] != 1)},
        {"batch_size": np.int64(4)},  # 3 samples are a batch of 4, filled up
        {"samples": np.int64(4)},
        {"samples": 7, "batch_size": 4},
    ]
    for options in others:
        other = call([1.0, -1.0], 2e3, key=jax.random.key(1), **options)
        assert np.abs(other.fields[:3] - first.fields).max() > 1e-3
    assert len(traced) == once


@pytest.mark.slow
def test_it_never_makes_a_sample_worse(x32):
    """A wavy map, where a linearisation overshoots: every step is one downwards."""
    observation = seen([1.5, -2.0])
    refined = px.refine(Mapped(wave), observation, key=KEY, samples=64)
    objective = refined.history.objective
    assert np.isfinite(objective).all()
    assert (np.diff(objective, axis=1) <= 1e-5 * objective[:, :1]).all()
    assert (refined.best.sum(axis=1) <= objective[:, 0]).all()
    assert np.median(refined.best.sum(axis=1) / objective[:, 0]) < 0.05
    assert refined.converged.mean() > 0.9
    assert np.isnan(refined.relative).all()  # there is no equation
    moved = np.abs(refined.latent - refined.start)[:, [0, 2, 3, 5]]
    assert moved.max() < 1e-5  # nothing is known there
    draws = jax.vmap(lambda k: observation.perturb(key=k).values)
    values = draws(sample_keys(KEY, jnp.arange(64), 1))[:, [1, 4], 0]
    e, start = (a[:, [1, 4], 0] for a in (refined.latent, refined.start))
    slope = 1 + 6 * np.cos(3 * e)
    gradient = e - start + slope * (wave(e) - values) / 0.1**2
    curvature = slope**2 - 18 * np.sin(3 * e) * (wave(e) - values)
    step = gradient / (1 + curvature / 0.1**2)  # Newton's, to the optimum
    assert np.abs(step[refined.converged]).max() < 0.01
    # Rounding decides between optima, and batches of one round as those of many.
    alone = px.refine(
        Mapped(wave), observation, key=KEY, samples=64, batch_size=np.int64(1)
    )
    assert_close(alone.latent, refined.latent, 1e-5)
    first = px.refine(Mapped(wave), observation, key=KEY, samples=1)
    assert_close(first.latent, alone.latent[:1], 1e-5)


@pytest.mark.slow
def test_a_step_into_nothing_is_not_taken(x32):
    """log(4 + e) has a slope that leads far below -4, where it is NaN."""
    student = Mapped(lambda e: jnp.log(4 + e))
    refined = px.refine(student, seen([-3.0, -3.0], 0.01), key=KEY, samples=32)
    assert np.isfinite(refined.fields).all()
    assert_close(refined.fields[:, [1, 4]], np.full((32, 2, 1), -3.0), 0.1)
    assert not refined.failed.any()


@pytest.mark.slow
def test_a_breakdown_is_said_and_the_start_returned(x32):
    """A student whose derivative is wrong: no step is better, however short."""
    with pytest.warns(UserWarning, match="broke down in 8 of 8 samples"):
        refined = px.refine(Mapped(mirrored), seen([9.0, 9.0]), key=KEY, samples=8)
    assert refined.failed.all()
    assert not refined.converged.any()
    np.testing.assert_array_equal(refined.latent, refined.start)
    assert "8 failed" in str(refined)


@pytest.mark.slow
def test_a_start_whose_square_overflows_is_named(x32):
    """1e25 is a float32 number; its square, what is minimised, is not."""
    student = Mapped(lambda e: jnp.where(e[0, 0] > 0, 1e25, 1.0) * e)
    with pytest.raises(ValueError, match=r"squares of them, at the start.*in \d of 8"):
        px.refine(student, seen([0.0, 0.0]), key=KEY, samples=8)
    poisson = px.pde.Poisson(px.pde.Grid((5, 5)))
    law = px.Gaussian(jnp.zeros((5, 5, 2)), jnp.ones((5, 5, 2)))
    student = px.ExactStudent(law, px.EDM())
    wide, far = (
        Residual(poisson, px.pde.Normaliser((0.0, 0.0), (1.0, std)))
        for std in (1e20, 1e10)
    )
    with pytest.raises(ValueError, match=r"squares of them, at the start.*in 4 of 4"):
        px.refine(student, None, wide, key=KEY, samples=4)
    # Finite in its own units, infinite in units of a slack this small.
    with pytest.raises(ValueError, match="squares of them, at the start"):
        px.refine(student, None, far, key=KEY, samples=4, slack=1e-14)


@jax.custom_jvp
def mirrored(e):
    return e


@mirrored.defjvp
def _(primals, tangents):
    return primals[0], -tangents[0]


@pytest.mark.slow
def test_each_sample_has_its_condition_and_its_draw(x32):
    """In batches of 4, the last filled up; from the key, and from the same draws."""
    observation, condition = seen([0.0, 0.0]), jnp.arange(10.0)
    options: dict[str, Any] = dict(key=KEY, condition=condition, batch_size=4)
    drawn = px.refine(Mapped(double), observation, samples=10, **options)
    perturbed = jax.jit(jax.vmap(lambda k: observation.perturb(key=k).values))
    values = np.asarray(perturbed(sample_keys(KEY, jnp.arange(10), 1)))
    shift, start = np.arange(10.0)[:, None, None], drawn.start
    best = (start + 2 * (values - shift) / 0.1**2) / (1 + 4 / 0.1**2)
    best = np.where(observation.mask, best, start)
    assert_close(drawn.latent, best, 1e-4)
    assert_close(drawn.fields, 2 * best + shift, 1e-4)
    assert_close(drawn.fields[:, 0], 2 * start[:, 0] + shift[:, 0], 1e-5)
    given = px.refine(Mapped(double), observation, z=80.0 * start, **options)
    assert_close(drawn.fields, given.fields, 1e-5)
    assert drawn.cost.network == given.cost.network


# --- the ledger ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "network", "vjp"),
    [
        # The start, 5 steps, and the end with its gradient.
        (Adam(0.01, 5), 1 + 5 + 1, 5 + 1),
        # The start; two steps, each a linearisation and a trial; and the end.
        (GaussNewton(2, tolerance=1e-12), 1 + 2 * 2 + 1, None),
    ],
    ids=["Adam", "Gauss-Newton"],
)
def test_evaluations_are_what_the_network_sees(solver, network, vjp, x32):
    calls = []

    def counted(e):
        jax.debug.callback(lambda _: calls.append(1), e[0, 0])
        return 2 * e

    refined = px.refine(
        Mapped(counted), seen([3.0, 3.0]), key=KEY, samples=2, solver=solver
    )
    jax.effects_barrier()
    assert refined.cost.network == 2 * network == len(calls)
    if vjp is not None:
        assert (refined.cost.jvp, refined.cost.vjp) == (0, 2 * vjp)
    else:
        assert refined.cost.jvp == refined.cost.vjp
    assert refined.cost.residual == refined.cost.solves == 0
    assert refined.cost.samples == 2
    assert refined.cost.seconds > 0


def test_training_pays_off_after_a_number_of_samples():
    teacher = Cost(samples=100, network=3900.0, seconds=10.0)
    drawn = Cost(samples=1000, network=1000.0, seconds=1.0)
    state = SimpleNamespace(objective=SimpleNamespace(evaluations=np.float32(1e4)))
    result = SimpleNamespace(step=500, state=state)  # what px.fit returns, for this
    trained = Cost.of_training(result, seconds=9.0, pair_seconds=0.9)
    assert trained.training == Training(9.0, 500, 1e4, 0.9)
    student = trained + drawn
    # 9.9 s ahead, 0.1 - 0.001 s gained each.
    assert student.pays_off_after(teacher) == 100
    assert teacher.pays_off_after(student) == np.inf
    assert drawn.pays_off_after(teacher) == 0
    assert teacher.pays_off_after(teacher) == 0
    with pytest.raises(ValueError, match="both must be costs of sampling"):
        trained.pays_off_after(teacher)
    said = student.as_dict()
    assert said["training"]["pair_evaluations"] == 1e4
    assert said["network"] == 1000.0
    assert "trained for 500 steps in 9.9 s" in str(student)
    assert Cost(jvp=np.nan).as_dict()["jvp"] is None
    assert (student + student).samples == 2000


@pytest.mark.slow
def test_pairs_are_counted_wherever_an_objective_keeps_them():
    """In states as objectives make them: PIDDM's, a sum's, a PIDDM of a sum's."""
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(2), jnp.ones(2)), px.EDM())
    pairs = px.KnowledgeDistillation(flow, pairs=8, block=8, rtol=1e-2, atol=1e-2)
    pid, law = px.PID(flow), Mean(0.0, None, px.pde.Normaliser((0.0, 0.0), (1.0, 1.0)))
    student = px.Student(px.nn.MLP(2, 2, width=4, depth=1, key=KEY), px.EDM())
    spent = {}
    for name, objective in {
        "pairs": pairs,
        "PIDDM": px.PIDDM(flow, law, distillation=pairs),
        "sum": Sum([(pid, 1.0), (pairs, 1.0)]),
        "PIDDM of a sum": px.PIDDM(
            flow, law, distillation=Sum([(pid, 1.0), (pairs, 1.0)])
        ),
        "PID": pid,
    }.items():
        state = SimpleNamespace(objective=objective.init(student, key=KEY))
        result = SimpleNamespace(step=1, state=state)
        spent[name] = Cost.of_training(result, seconds=1.0).training.pair_evaluations
    assert spent.pop("PID") == 0
    assert spent["pairs"] == float(pairs.init(student, key=KEY).evaluations) > 8
    # Keys differ inside a sum, and so do adaptive steps: of the same size all the same.
    for name, count in spent.items():
        assert 0.5 < count / spent["pairs"] < 2, name


def test_what_the_solver_costs_is_a_row_of_the_same_ledger(x32):
    poisson = px.pde.Poisson(px.pde.Grid((5, 5)))
    sources = jnp.ones((6, 5, 5))
    cost = Cost.of_solver(poisson, sources)
    assert (cost.samples, cost.solves, cost.network) == (6, 6, 0)
    assert cost.seconds > 0
    assert cost.compiling > 0
    drawn = Cost(samples=6, network=6.0, seconds=1.0)
    both = drawn.then(cost)
    assert (both.samples, both.solves, both.network) == (6, 6, 6)
    assert both.seconds == 1.0 + cost.seconds
    with pytest.raises(ValueError, match="on the same samples, got 5 and 6"):
        Cost(samples=5).then(cost)
    with pytest.raises(ValueError, match="solved for the fields source: expected 1"):
        Cost.of_solver(poisson, sources, sources)


@pytest.mark.slow
def test_what_training_had_cost_is_in_the_ledger_if_said(x32):
    spent = Training(9.0, 500, 1e4)
    options: dict[str, Any] = dict(key=KEY, samples=64)
    refined = px.refine(Mapped(wave), seen([1.5, -2.0]), training=spent, **options)
    assert refined.cost.training == spent
    assert "trained for 500 steps" in str(refined)
    unsaid = px.refine(Mapped(wave), seen([1.5, -2.0]), **options)
    assert unsaid.cost.training == Training()


# --- bad input -----------------------------------------------------------------------


def refusals() -> Iterator[tuple[Any, dict[str, Any], str]]:
    """Arguments, and what is said of them."""
    student, six = Mapped(lambda e: e), seen([0.0, 0.0])
    bare = Observation(six.mask, six.values)
    other = px.pde.Normaliser((1.0,), (2.0,))
    grid = px.pde.Grid((5, 5))
    poisson = Residual(px.pde.Poisson(grid), px.pde.Normaliser((0.0, 0.0), (1.0, 1.0)))
    wide = Observation(np.eye(5, 1) > 0, np.zeros((5, 1), np.float32), 0.0, UNIT)
    nan = Mapped(lambda e: jnp.where(e[0, 0] > 0.5, jnp.nan, 1.0) * e)
    yield (student,), {}, "got neither"
    yield (student, bare), {}, "expected a normaliser"
    yield (student, six, six), {}, "expected one observation, got 2"
    yield (
        (student, six, Observation(six.mask, six.values, 0.1, other)),
        {},
        "normaliser",
    )
    yield (student, None, poisson), {}, "of the shape"
    yield (student, wide), {}, "shape"
    yield (student, six), {"anchor": "prior"}, "anchor must be"
    yield (student, six), {"slack": 0.0}, "slack must be positive"
    yield (student, six), {"samples": 0}, "samples must be a whole number"
    yield (student, six), {"z": jnp.zeros((4, 5))}, "z must be draws of the prior"
    yield (student, six), {"z": jnp.full((4, 6, 1), jnp.nan)}, "z must be finite"
    yield (student, six), {"condition": jnp.zeros(3), "samples": 4}, "first axis"
    yield (nan, six), {"samples": 8}, "samples of the student at the start"


def test_bad_input_is_named_with_the_cure(x32):
    for args, options, message in refusals():
        with pytest.raises(ValueError, match=message):
            px.refine(*args, key=KEY, **options)


def test_a_mask_of_nothing_or_everything_is_refused():
    grid = np.zeros((6, 1), np.float32)
    with pytest.raises(ValueError, match="observes nothing"):
        Observation(grid > 0, grid)
    with pytest.raises(ValueError, match="observes everything"):
        Observation(grid == 0, grid)


def test_solvers_and_models_of_another_kind_are_refused():
    six = seen([0.0, 0.0])
    observe = lambda values: Observation(six.mask, values, 0.1, UNIT)
    traced = lambda values: px.refine(Mapped(wave), observe(values), key=KEY)
    with pytest.raises(ValueError, match="steps must be a whole number"):
        Adam(steps=0)
    assert Adam(steps=np.int64(3)).steps == 3
    with pytest.raises(Exception, match="student"):
        px.refine(lambda z: z, seen([0.0, 0.0]), key=KEY)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="called from Python"):
        jax.jit(traced)(six.values)


@pytest.mark.slow
def test_it_prints_what_it_did(x32):
    refined = px.refine(Mapped(wave), seen([1.5, -2.0]), key=KEY, samples=64)
    text = str(refined)
    for part in ("64 refined by GaussNewton", "approximate unless", "misfit"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 88
