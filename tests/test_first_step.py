"""The first step in closed form, against solves and formulas."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import pidax as px
from pidax.solver import analytic_first_step


@pytest.mark.parametrize("make", [px.EDM, px.RectifiedFlow])
def test_without_data_the_state_of_the_angle_chart_is_constant(make, x64):
    process = make(sigma_data=0.7)
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(2), 0.49), process)
    z, t = jnp.array([30.0, -0.4]), 0.6
    sigma, alpha = process.level(np.array([process.t_max, t]))
    y = np.asarray(z) / np.hypot(0.7 * alpha[0], sigma[0])
    expected = y * np.hypot(0.7 * alpha[1], sigma[1])
    assert_close(analytic_first_step(flow, z, t), expected, 1e-13)


@pytest.mark.slow
def test_with_the_moments_of_the_data_it_is_the_solution(x64):
    process = px.VP()
    data = px.Gaussian(jnp.array([0.8, -0.5]), jnp.array([0.3, 0.02]))
    flow = px.ProbabilityFlow(data, process)
    z = jnp.array([0.7, -1.4])
    times = jnp.array([process.t_max, 0.4, process.t_min])
    path = px.solve(flow, z, times=times, rtol=1e-10)
    x = analytic_first_step(flow, z, 0.4, data=data)
    assert_close(x, path.xs[1], 1e-8)
    rest = px.solve(flow, x, times=times[1:], rtol=1e-10)
    assert_close(rest.end, path.end, 1e-8)
    assert abs(analytic_first_step(flow, z, 0.4) - x).max() > 0.1


def test_a_time_outside_the_process_is_named():
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(2), 0.25), px.EDM())
    with pytest.raises(ValueError, match=r"t_max=80.*got 100\.0\. Pass the end"):
        analytic_first_step(flow, jnp.zeros(2), 100.0)
