"""Guided samplers: one contract for all of them, and the linear Gaussian problem.

The teacher is the exact denoiser of Gaussian data, so the posterior is known. Without
noise of its own a method is an affine map of the latent there: its law is found from
the latents zero and the unit vectors, without chance.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, covariance

import pidax as px
from pidax import inference
from pidax.constraint import Affine
from pidax.inference import (
    DAPS,
    DPS,
    ECI,
    PCFM,
    PCN,
    CoCoGen,
    DFlow,
    DiffusionPDE,
    EnsembleGuidance,
    FlowChef,
    PiGDM,
    ProFlow,
    REDDiff,
    SolvedFlow,
    Twisted,
)
from pidax.inference._guided._contract import one
from pidax.inference._guided._levels import ratios
from pidax.inference._guided._target import aim

KEY = jax.random.key(3)
ROWS = np.array([[1.0, 0.5, -1.0]])[..., None]
VALUES, NOISE = np.array([0.4]), 0.1
STEPS = 6
LATENTS = jax.random.normal(KEY, (4, 3, 1))
KEYS = jax.random.split(KEY, 4)
QUICK = ("DPS",)
OTHERS = ("ECI, mixed", "DAPS", "REDDiff")  # which have another noise than the state's
METHODS: dict[str, Any] = {
    "DPS": DPS(steps=STEPS, strength=jnp.asarray(1.0)),
    "PiGDM": PiGDM(steps=STEPS),
    "PiGDM, tweedie": PiGDM(steps=STEPS, covariance="tweedie", eta=1.0),
    "FlowChef": FlowChef(steps=STEPS),
    "DiffusionPDE": DiffusionPDE(steps=STEPS),
    "ECI": ECI(steps=STEPS),
    "ECI, mixed": ECI(steps=STEPS, mixing=2, resample=2, noise="first"),
    "PCFM": PCFM(steps=STEPS),
    "CoCoGen": CoCoGen(steps=STEPS, extra=2),
    "ProFlow": ProFlow(steps=STEPS),
    "DAPS": DAPS(steps=STEPS),
    "REDDiff": REDDiff(steps=STEPS),
}


def every(methods):
    slow = lambda name: () if name in QUICK else pytest.mark.slow
    return [pytest.param(n, m, marks=slow(n), id=n) for n, m in methods.items()]


def slowly(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def law(white=False):
    cov = 0.3**2 if white else covariance(3)
    return px.Gaussian(jnp.array([[0.3], [-0.2], [0.1]]), jnp.asarray(cov, float))


def flow(white=False, process=px.EDM, **options):
    size = 0.3 if white else 0.5
    return px.ProbabilityFlow(law(white), process(sigma_data=size), **options)


def measured(noise=NOISE):
    return Affine(jnp.asarray(ROWS, float), jnp.asarray(VALUES, float), noise=noise)


def suiting(method):
    """Noise only for a method that takes it."""
    return measured(NOISE if "values with noise" in method.takes else 0.0)


def problem(prior, observed=None):
    return inference.Problem(SolvedFlow(prior), observed, scale=1.0, exact_noise=1.0)


@eqx.filter_jit
def samples(method, target, levels, latents, keys):
    go = lambda latent, key: one(method, target, levels, latent, key)
    return jax.vmap(go)(latents, keys)


def run(method, posed, latents=LATENTS, keys=KEYS):
    levels = ratios(posed.student.flow, method.steps, method.grid)
    return samples(method, aim(posed, None, levels[0]), levels, latents, keys)


@eqx.filter_jit
def ddim_of(law, levels, latents):
    """Euler's method of the ODE in the ratio of noise to signal."""

    def one(latent):
        u = levels[0] * latent
        for i in range(STEPS):
            clean = law(u, levels[i])
            u = clean + levels[i + 1] / levels[i] * (u - clean)
        return u

    return jax.vmap(one)(latents)


# --- the contract --------------------------------------------------------------------


SAMPLERS = {n: m for n, m in METHODS.items() if n not in OTHERS}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), every(SAMPLERS))
def test_without_a_constraint_it_is_the_plain_sampler(name, method):
    found = run(method, problem(flow())).x
    plain = PiGDM(steps=STEPS, eta=getattr(method, "eta", 0.0))  # no more than a step
    if name == "DiffusionPDE":  # EDM's sampler
        times = px.karras(STEPS, px.EDM(), final_zero=True)
        sampler = lambda z: px.sample_with_churn(flow(), 80.0 * z, key=KEY, times=times)
        assert_close(found, jax.jit(jax.vmap(sampler))(LATENTS), 1e-5, 1e-5)
        return
    np.testing.assert_array_equal(found, run(plain, problem(flow())).x)


@pytest.mark.slow
@pytest.mark.parametrize("process", [px.EDM, px.RectifiedFlow])
def test_the_plain_sampler_is_ddim(process):
    own = flow(process=process)
    found = run(PiGDM(steps=STEPS), problem(own)).x
    levels = ratios(own, STEPS, px.karras)
    assert_close(
        found, jax.jit(lambda z: ddim_of(law(), levels, z))(LATENTS), 1e-5, 1e-5
    )


@pytest.mark.parametrize(("name", "method"), every(METHODS))
def test_a_sample_depends_on_its_own_key_alone(name, method):
    posed = problem(flow(), suiting(method))
    order = jnp.array([2, 0, 3, 1])
    found = run(method, posed)
    again = run(method, posed, LATENTS[order], KEYS[order])
    np.testing.assert_array_equal(again.x, found.x[order])
    assert bool(found.fine.all())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), every(METHODS))
def test_batches_change_rounding_only(name, method):
    found = []
    for size in (2, 256):
        own = dataclasses.replace(method, batch_size=size)
        found.append(asked(flow(), own, suiting(method)).fields)
    assert_close(found[0], found[1], 2e-5, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), every(METHODS))
def test_derivatives_by_the_observed_values_are_finite(name, method):
    posed = problem(flow(), suiting(method))
    levels = ratios(flow(), STEPS, px.karras)
    target = aim(posed, None, levels[0])

    @eqx.filter_jit
    def total(values):
        where = lambda t: t.problem.linear[0].values
        moved = eqx.tree_at(where, target, values)
        return jnp.sum(samples(method, moved, levels, LATENTS, KEYS).x ** 2)

    values = posed.linear[0].values
    change = jax.jvp(total, (values,), (jnp.ones_like(values),))[1]
    assert 0 < np.abs(float(change)) < np.inf


class Counting(px.AbstractDenoiser):
    """The exact denoiser, and how often it was asked when the program ran."""

    inner: Any
    calls: Any = eqx.field(static=True)

    @property
    def shape(self):
        return self.inner.shape

    @property
    def interval(self):
        return self.inner.interval

    def evaluations(self, condition=None):
        return 1

    def __call__(self, x, sigma, alpha=1.0, condition=None, *, augment=None, key=None):
        jax.debug.callback(lambda _: self.calls.append(1), x.ravel()[0])
        return self.inner(x, sigma, alpha)


class Calls(list):
    """A list that is the same only as itself."""

    def __hash__(self):  # type: ignore[override]
        return id(self)

    def __eq__(self, other):
        return self is other


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), every(METHODS))
def test_evaluations_are_those_of_the_run(name, method):
    calls = Calls()
    normaliser = px.pde.Normaliser((0.0,), (1.0,))
    counted = px.ProbabilityFlow(Counting(law(), calls), px.EDM())
    found = px.infer(
        counted, suiting(method), key=KEY, method=method, samples=4, progress=False,
        normaliser=normaliser,
    )  # fmt: skip
    jax.effects_barrier()
    assert found.cost.network == len(calls)
    assert found.fields.shape == (4, 3, 1)
    assert str(found).startswith("believe with care: ")


# --- the linear Gaussian problem -----------------------------------------------------


@pytest.mark.parametrize(("form", "white"), [("white", True), slowly("tweedie", False)])
def test_pseudo_inverse_guidance_has_the_denoiser_of_the_posterior(form, white):
    """Of white Gaussian data, and with the denoiser's covariance of all Gaussian
    data: every sample is DDIM's with the posterior's denoiser.
    """
    method = PiGDM(steps=STEPS, covariance=form)
    found = run(method, problem(flow(white), measured())).x
    rows, values = jnp.asarray(ROWS, float), jnp.asarray(VALUES, float)
    posterior = law(white).posterior(rows, values, NOISE)
    levels = ratios(flow(white), STEPS, px.karras)
    assert_close(found, ddim_of(posterior, levels, LATENTS), 1e-4, 1e-4)


@pytest.mark.slow
def test_exact_values_are_met_in_the_last_step():
    for method in (PiGDM(steps=STEPS), ProFlow(steps=STEPS)):
        x = run(method, problem(flow(), measured(noise=0.0))).x
        assert_close(np.einsum("kij,nij->nk", ROWS, x), np.tile(VALUES, (4, 1)), 1e-3)


# --- methods that are exact, or nearly -----------------------------------------------


def exact(white=False):
    found = law(white).posterior(
        jnp.asarray(ROWS, float), jnp.asarray(VALUES, float), NOISE
    )
    factor = np.asarray(found.covariance.factor((3, 1)), np.float64)
    return np.asarray(found.mean, np.float64)[:, 0], factor @ factor.T


def apart(fields, white=False):
    """Errors of mean and covariance in units of the posterior's deviations."""
    mean, cov = exact(white)
    size = np.sqrt(np.diag(cov))
    x = np.asarray(fields, np.float64)[..., 0]
    off = np.abs((x.mean(0) - mean) / size).max()
    return off, np.abs((np.cov(x.T) - cov) / np.outer(size, size)).max()


@pytest.mark.slow
@pytest.mark.parametrize("gradient", [True, False])
def test_twisted_particles_converge_to_the_posterior(gradient):
    """With the evidence, and an error that falls with the number of particles."""
    method = Twisted(steps=150, gradient=gradient)
    found = asked(flow(), method, measured(), samples=4096)
    errors = apart(found.fields)
    assert max(errors) < 0.05 + 5 / np.sqrt(found.bulk_ess)
    again = asked(flow(), method, measured(), samples=4096)
    np.testing.assert_array_equal(found.fields, again.fields)
    few = [apart(asked(flow(), method, measured(), samples=n).fields) for n in (16, 64)]
    assert np.mean(few) > 2 * np.mean(errors)
    row, mean = ROWS.reshape(1, 3), np.asarray(law().mean)[:, 0]
    variance = (row @ covariance(3) @ row.T)[0, 0] + NOISE**2
    off = (row @ mean - VALUES)[0]
    wanted = -0.5 * off**2 / variance - 0.5 * np.log(variance / NOISE**2)
    assert found.log_evidence is not None
    assert abs(found.log_evidence - wanted) < 0.1
    assert found.trusted == (found.bulk_ess >= 400)


@pytest.mark.slow
def test_twisted_particles_without_a_condition_are_never_drawn_again():
    found = asked(flow(), Twisted(steps=150), samples=4096)
    x = np.asarray(found.fields, np.float64)[..., 0]
    assert found.log_evidence is not None
    assert abs(found.log_evidence) < 1e-5
    assert_close(np.cov(x.T), covariance(3), 0.1, 0.02)


@pytest.mark.slow
def test_decoupled_annealing_is_exact_for_white_data():
    """With one inner evaluation, whatever the number of levels."""
    method = DAPS(steps=8, inner=1, iterations=1)
    found = asked(flow(white=True), method, measured(), samples=8192)
    assert max(apart(found.fields, white=True)) < 0.05


@pytest.mark.slow
def test_regressions_over_many_members_are_pseudo_inverse_guidance():
    """Member by member, for linear rows and white data; and without rows DDIM."""
    count = 4096
    found = asked(flow(True), EnsembleGuidance(steps=STEPS), measured(), samples=count)
    wanted = asked(flow(True), PiGDM(steps=STEPS), measured(), samples=count)
    assert_close(found.fields, wanted.fields, 0.0, 0.04)
    assert np.abs(found.fields - wanted.fields).mean() < 0.01
    assert found.cost.network == count * STEPS + 1
    assert found.cost.vjp == 0
    plain = asked(flow(), EnsembleGuidance(steps=STEPS))
    assert_close(plain.fields, asked(flow(), PiGDM(steps=STEPS)).fields, 1e-5, 1e-5)


@pytest.mark.slow
def test_a_latent_is_found_whose_ode_ends_at_the_value():
    found = asked(flow(), DFlow(steps=4), measured(0.0))
    off = np.einsum("kij,nij->nk", ROWS, found.fields) - VALUES
    assert np.abs(off).max() < 0.02
    assert "minima without an anchor" in str(found)
    assert found.cost.network % (2 * 4 + 1) == 0


# --- conditions that hold ------------------------------------------------------------

UNIT = px.pde.Normaliser((0.1,), (2.0,))


def circle(radius):
    """The first two numbers are on a circle."""
    of = lambda fields: jnp.sum(fields[:2, 0] ** 2)[None] - radius**2
    return px.constraint.from_residual(of, (3, 1), UNIT)


@pytest.mark.slow
@pytest.mark.parametrize("method", [METHODS["ECI, mixed"], METHODS["PCFM"]])
def test_hard_conditions_hold(method):
    posed = problem(flow(), measured(0.0))
    found = run(method, posed)
    off = np.einsum("kij,nij->nk", ROWS, np.asarray(found.fields)) - VALUES
    assert np.abs(off).max() < 1e-6
    assert found.left.max() < 1e-6


@pytest.mark.slow
def test_exact_values_are_written_and_the_mean_beside_them_holds():
    mask = np.array([True, False, False])[:, None]
    seen = px.Observation(mask, np.full((3, 1), 0.3))
    both = px.constraint.Mean(0.2) & seen
    x = np.asarray(run(ECI(steps=STEPS), problem(flow(), both)).fields)
    np.testing.assert_array_equal(x[:, 0, 0], np.float32(0.3))
    assert_close(x.mean((1, 2)), np.full(4, 0.2), 1e-6)


@pytest.mark.slow
def test_projections_by_newton_are_those_in_closed_form():
    """PCFM without relaxation is ECI, if conditions are values at points."""
    mask = np.array([True, False, True])[:, None]
    posed = problem(flow(), px.Observation(mask, np.full((3, 1), 0.3)))
    newton = run(PCFM(steps=STEPS, relaxation=0.0), posed)
    assert_close(newton.fields, run(ECI(steps=STEPS), posed).fields, 1e-5, 1e-5)
    rows = problem(flow(), measured(0.0))  # and one linear function of all
    newton = run(PCFM(steps=STEPS, relaxation=0.0), rows)
    assert_close(newton.fields, run(ECI(steps=STEPS), rows).fields, 1e-5, 1e-5)


@pytest.mark.slow
def test_nonlinear_conditions_hold_and_the_projection_is_nearest():
    posed = inference.Problem(SolvedFlow(flow()), None, circle(1.0), scale=1.0)
    found = run(PCFM(steps=STEPS), posed)
    radius = np.linalg.norm(np.asarray(found.fields)[:, :2, 0], axis=1)
    assert_close(radius, np.ones(4), 1e-6)
    method, levels = PCFM(steps=STEPS), ratios(flow(), STEPS, px.karras)
    target = aim(posed, None, levels[0])
    x = 0.3 * LATENTS[0]
    onto = eqx.filter_jit(lambda x: method.end(target, (x, x), KEY)[0])
    wanted = np.array(UNIT.restore(x))
    wanted[:2] /= np.linalg.norm(wanted[:2])
    # Along the radius; Gauss-Newton ends near the nearest point, and here in it.
    assert_close(UNIT.restore(onto(x)), wanted, 1e-5, 1e-5)


@pytest.mark.slow
def test_conditions_that_contradict_each_other_are_refused():
    twice = Affine(jnp.ones((1, 3, 1)), jnp.ones(1)) & measured(0.0)
    with pytest.raises(ValueError, match="Write them as rows of one Affine"):
        asked(flow(), ECI(steps=STEPS), twice)
    impossible = px.constraint.from_residual(
        lambda fields: fields.ravel()[:1] ** 2 + 1.0, (3, 1), UNIT
    )
    message = "4 of 4 by PCFM whose largest violation is .* standard deviations"
    with pytest.raises(ValueError, match=message):
        asked(flow(), PCFM(steps=STEPS), None, impossible)
    many = Affine(jnp.eye(3)[..., None], jnp.ones(3)) & circle(1.0)
    with pytest.raises(ValueError, match="most 3, the number of unknowns, got 4"):
        asked(flow(), PCFM(steps=STEPS), many)


def test_guidance_moves_towards_the_values():
    """And more of it moves further, for the same latents."""
    posed, off = problem(flow(), measured()), []
    for strength in (0.0, 0.3, 1.0):
        method = DPS(steps=STEPS, strength=jnp.asarray(strength))
        x = np.asarray(run(method, posed).x)
        off.append(np.square(np.einsum("kij,nij->nk", ROWS, x) - VALUES).mean())
    assert off[0] > 1.2 * off[1]
    assert off[1] > 1.2 * off[2]


# --- what cannot work ----------------------------------------------------------------


def asked(prior, method, observed=None, constraint=None, **options):
    options = {"samples": 4, "progress": False} | options
    return px.infer(prior, observed, constraint, key=KEY, method=method, **options)


def test_a_method_says_what_it_cannot_take_and_which_can():
    square = px.constraint.from_residual(
        lambda fields: fields.ravel()[:1] ** 2,
        (3, 1),
        px.pde.Normaliser((0.0,), (1.0,)),
    )
    message = r"PiGDM takes exact values, values with noise: got a constraint such as"
    with pytest.raises(ValueError, match=message) as caught:
        asked(flow(), PiGDM(), measured(), square, slack=0.1)
    assert "take it: CoCoGen(), DAPS(), DPS(), DiffusionPDE(), " in str(caught.value)


def test_a_strength_that_diverges_is_named_and_nothing_is_returned():
    message = r"4 of 4 that diverged under FlowChef\([^)]*strength=50"
    with pytest.raises(
        ValueError, match=message.replace("strength", "(?s:.)*strength")
    ):
        asked(flow(), FlowChef(steps=STEPS, strength=50.0), measured())


def test_a_teacher_needs_a_guided_method_and_a_guided_method_a_teacher():
    with pytest.raises(ValueError, match=r"A teacher, .* method=inference.DPS\(\)"):
        asked(flow(), PCN(), measured())
    with pytest.raises(
        ValueError, match="expected a ProbabilityFlow as the prior, got"
    ):
        asked(law(), DPS(), measured())


def test_noise_levels_outside_the_teachers_interval_are_refused():
    network = lambda x, t, condition=None: x
    inner = px.from_function(network, px.EDM(sigma_min=0.01, sigma_max=10.0))
    own = px.ProbabilityFlow(inner, px.EDM(sigma_min=0.01, sigma_max=10.0))
    wider = lambda n, process: px.karras(n, px.EDM())
    with pytest.raises(
        ValueError, match=r"ratios from 80.* is trained for \[0.01, 10\]"
    ):
        ratios(own, 5, wider)
    with pytest.raises(ValueError, match="a grid of a guided sampler has decreasing"):
        ratios(own, 5, lambda n, process: px.karras(n, process)[::-1])
