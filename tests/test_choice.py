"""The sampler that is chosen for a number of evaluations."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import pidax as px
from pidax.solver._choice import candidates


def test_the_candidates_fit_the_process_and_the_number_of_steps(x64):
    gaussian = px.Gaussian(jnp.zeros(2), 0.25)
    names = lambda process, steps: {
        (solver.target, solver.variable, solver.order_)
        for _, solver, _ in candidates(px.ProbabilityFlow(gaussian, process), steps)
    }
    assert names(px.RectifiedFlow(), 10) == {("velocity", "angle", 3)}
    logs = {("noise", "log_snr", 2), ("data", "log_snr", 2)}
    assert names(px.VP(), 2) == {("velocity", "angle", 2), *logs}
    # Twice Adams on three grids, the noise twice and UniPC twice on two; of one step
    # all orders are one.
    flow = px.ProbabilityFlow(gaussian, px.VP())
    assert len(candidates(flow, 10)) == 14
    assert len(candidates(flow, 1)) == 7


@pytest.mark.slow  # each candidate compiles a solve
def test_the_choice_follows_the_scales_of_the_data(x64):
    """With one scale the velocity is zero in the angle; with many it is not."""
    process, key = px.EDM(), jax.random.key(0)
    one = px.ProbabilityFlow(px.Gaussian(jnp.zeros(16), 0.25), process)
    scales = 0.5 * np.geomspace(1, 1e-3, 16)
    many = px.ProbabilityFlow(
        px.Gaussian(jnp.zeros(16), jnp.asarray(scales**2)), process
    )
    level = [process.level(t) for t in (process.t_max, process.t_min)]
    z = process.prior(jax.random.key(5), (32, 16))
    for flow, expected in ((one, "Adams in the angle, "), (many, "log-SNR")):
        choice = px.solver.choose(flow, 10, key=key)
        assert expected in choice.name
        errors = [error for _, error in choice.table]
        assert errors == sorted(errors)
        assert len(errors) == 14
        assert errors[-1] > 5 * errors[0]
        assert str(choice).startswith(choice.name)
        # The error is that of new draws, and the cost is as asked for.
        path = px.solve_batch(flow, z, **choice.options)
        assert path.evaluations() == (10, 10)
        law: Any = flow.denoiser
        move = functools.partial(law.transport, start=level[0], end=level[1])
        exact = jax.vmap(move)(z)
        rms = np.sqrt(((path.end - exact) ** 2).mean(axis=1))
        assert np.exp(np.log(rms).mean()) < 2 * float(choice.error) + 1e-4
    drawn = px.sample(flow, 32, key=key, evaluations=10)
    again = px.solver.choose(flow, 10, key=jax.random.fold_in(key, 1))
    assert_close(drawn, px.sample(flow, 32, key=key, **again.options), 1e-12)


def test_bad_input_is_named():
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(2), 0.25), px.EDM())
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"no other options of the solve, got steps"):
        px.sample(flow, 4, key=key, evaluations=10, steps=3)
    with pytest.raises(ValueError, match=r"zero noise takes 1 .*got evaluations=1\."):
        px.sample(flow, 4, key=key, evaluations=1, denoise=True)
    with pytest.raises(ValueError, match=r"evaluations must be a whole number"):
        px.sample(flow, 4, key=key, evaluations=0)
    classes = px.GaussianMixture(jnp.eye(2), 0.1, labels=np.arange(2))
    guided = px.ProbabilityFlow(px.Guided(classes, 2.0), px.EDM())
    condition = jnp.zeros(32, int)
    with pytest.raises(ValueError, match=r"one step .* takes 2 evaluations.*Pass 2"):
        px.solver.choose(guided, 1, key=key, condition=condition)
