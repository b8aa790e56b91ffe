"""Likelihoods against exact densities, and the estimator against the trace."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    CLOCKS,
    EXACT,
    PROCESSES,
    assert_close,
    charts,
    full_mixture,
    gaussian,
    state,
)

import pidax as px

SMALL = {name: make for name, make in EXACT.items() if name != "low rank"}
QUICK = ("gaussian", "isotropic mixture")
SOME = [
    pytest.param(make, marks=() if name in QUICK else pytest.mark.slow)
    for name, make in SMALL.items()
]


@pytest.mark.slow
@pytest.mark.parametrize("exact", SOME, ids=SMALL)
def test_the_flow_density_is_the_exact_one(exact, key, x64):
    """With the exact marginal at T, nothing is left but the solver's error."""
    teacher, process = exact(), px.EDM()
    flow = px.ProbabilityFlow(teacher, process)
    x = state(teacher, process, process.t_min, key)
    options = {"rtol": 1e-8, "solver": diffrax.Tsit5()}
    result = px.log_density(flow, x, terminal=teacher.log_density, **options)
    assert_close(result.value, teacher.log_density(x, process.t_min), 1e-6)
    assert result.standard_error == 0
    assert_close(result.z, px.encode(flow, x, **options).end, 1e-4)


CHARTS = charts(
    ("EDM", "time"),
    ("VE", "log-time"),
    ("VP", "angle"),
    ("SubVP", "time"),
    ("RectifiedFlow", "angle"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "clock"), CHARTS)
def test_in_every_process_and_clock(name, clock, x64):
    """The change of volume between charts is where a sign would go wrong."""
    teacher, process = gaussian(), PROCESSES[name]()
    flow = px.ProbabilityFlow(teacher, process, clock=CLOCKS[clock]())
    t = 0.2 * process.t_max
    x = process.scale(t) * np.array([0.9, -0.3, 1.2])
    options = {"rtol": 1e-8, "solver": diffrax.Tsit5()}
    found = px.log_density(flow, x, t=t, terminal=teacher.log_density, **options)
    assert_close(found.value, teacher.log_density(x, *process.level(t)), 1e-6)


@pytest.mark.slow
def test_the_prior_at_T_is_not_quite_the_marginal(x64):
    """Default terminal: off by log N(z; 0, T^2) - log p_T(z), and by nothing else."""
    teacher, process = px.Gaussian(jnp.full(1, 0.7), 0.04), px.EDM()
    flow = px.ProbabilityFlow(teacher, process)
    x = jnp.array([0.3])
    result = px.log_density(flow, x, rtol=1e-10)
    gap = result.value - teacher.log_density(x, process.t_min)
    z = teacher.transport(x, (0.002, 1.0), (80.0, 1.0))
    expected = process.prior_log_density(z) - teacher.log_density(z, 80.0)
    assert_close(gap, expected, 1e-7)
    assert abs(gap) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_knows_its_error(law, key, x64):
    teacher, process = gaussian(), px.VP()
    flow = px.ProbabilityFlow(teacher, process)
    x = state(teacher, process, process.t_min, key)
    exact = teacher.log_density(x, *process.level(process.t_min))
    options = {"rtol": 1e-6, "terminal": teacher.log_density}
    trace = px.flow.Hutchinson(probes=400, law=law)
    result = px.log_density(flow, x, trace=trace, key=key, **options)
    assert 0 < result.standard_error < 0.5
    assert abs(result.value - exact) < 4 * result.standard_error
    assert result.stats["jvps"] == 400 * result.stats["evaluations"]
    # The square of the stated error is the variance of independent estimates.
    few = px.flow.Hutchinson(probes=3, law=law)
    keys = jax.random.split(key, 400)
    estimate = lambda k: px.log_density(flow, x, trace=few, key=k, **options)
    many = jax.vmap(estimate)(keys)
    assert_close(jnp.mean(many.standard_error**2), many.value.var(), 0.25, 0)


@pytest.mark.slow
def test_rademacher_probes_are_exact_for_a_diagonal_jacobian(key, x64):
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(4), 0.3), px.EDM())
    x = jnp.array([0.1, -0.4, 0.3, 1.0])
    exact = px.log_density(flow, x, trace=px.flow.ExactTrace())
    probed = px.log_density(flow, x, trace=px.flow.Hutchinson(2), key=key)
    assert_close(probed.value, exact.value, 1e-9)
    assert probed.standard_error < 1e-9
    one = px.log_density(flow, x, trace=px.flow.Hutchinson(1), key=key)
    assert jnp.isnan(one.standard_error)


def test_large_samples_ask_for_a_key():
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(200), 0.3), px.EDM())
    euler: Any = dict(steps=2, solver=diffrax.Euler())  # quick to compile
    with pytest.raises(ValueError, match="pass key="):
        px.log_density(flow, jnp.zeros(200))
    small = px.ProbabilityFlow(px.Gaussian(jnp.zeros(128), 0.3), px.EDM())
    assert px.log_density(small, jnp.zeros(128), **euler).standard_error == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: px.flow.Hutchinson(0), "probes must be a whole number"),
        (lambda: px.flow.Hutchinson(4, law="normal"), "'rademacher' or 'gaussian'"),  # type: ignore[arg-type]
    ],
)
def test_bad_probes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_the_density_is_differentiable_and_conditional(x64):
    """Its gradient is the score, through the whole solve."""
    teacher = full_mixture()
    flow = px.ProbabilityFlow(teacher, px.EDM())
    x = jnp.array([0.3, 0.1])

    def value(x):
        return px.log_density(
            flow, x, t=0.1, condition=0, rtol=1e-8, terminal=terminal
        ).value

    def terminal(z, sigma, alpha):
        return teacher.log_density(z, sigma, alpha, 0)

    assert_close(value(x), teacher.log_density(x, 0.1, 1.0, 0), 1e-6)
    assert_close(jax.grad(value)(x), teacher.score(x, 0.1, 1.0, 0), 1e-5)


@pytest.mark.slow
def test_the_density_integrates_to_one(x64):
    """Over a line, by the trapezoidal rule: vmapped densities of a 1-D mixture."""
    teacher = px.GaussianMixture(jnp.array([[-0.6], [0.5]]), 0.15)
    flow = px.ProbabilityFlow(teacher, px.VP())
    x = jnp.linspace(-1.6, 1.5, 80)[:, None]
    values = jax.vmap(lambda s: px.log_density(flow, s, rtol=1e-5).value)(x)
    assert_close(jnp.trapezoid(jnp.exp(values), x[:, 0]), 1.0, 2e-4)
