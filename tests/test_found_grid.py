"""Grids that are found: known optima, and draws that the search has not seen."""

import itertools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import pidax as px
from pidax._progress import progress_bar
from pidax.solver import optimise_grid
from pidax.solver._searches import (
    Found,
    Trial,
    by_dynamic_programming,
    by_gradient,
    cheapest_path,
    fine_nodes,
    within_one,
)

SCALE = 0.5  # the standard deviation of the data
DDIM = diffrax.Euler()  # on EDM's own variables


def gaussian_flow(process):
    """Data N(0, SCALE^2): equal steps of the angle are the best of DDIM."""
    shrink = lambda x, s, a: x * (SCALE**2 * a / (SCALE**2 * a**2 + s**2))
    data = px.from_function(shrink, shape=(2,))
    clock = px.flow.UnitSignalClock()
    return px.ProbabilityFlow(data, process, clock=clock)


def test_the_cheapest_path_is_the_cheapest_of_all():
    cost = np.random.default_rng(0).random((7, 7))
    cost[np.tril_indices(7)] = np.inf
    paths = [(0, *inner, 6) for inner in itertools.combinations(range(1, 6), 3)]
    price = lambda path: sum(cost[i, j] for i, j in itertools.pairwise(path))
    assert tuple(cheapest_path(cost, 4)) == min(paths, key=price)
    assert tuple(cheapest_path(cost, 1)) == (0, 6)


@pytest.mark.slow
def test_dynamic_programming_finds_equal_angles_on_the_exact_path(x64):
    """The states of N(0, SCALE^2) keep their y; no solve is needed to know them."""
    flow = gaussian_flow(px.EDM(sigma_data=SCALE))
    nodes = fine_nodes(flow.process, np.dtype(float))
    y = np.array([[0.3, -1.2], [0.9, 0.1]])
    xs = jnp.asarray(y[:, None] * np.asarray(flow.process.scale(nodes))[:, None])
    seen = Trial(xs[:, 0], xs[:, -1], None)
    times = by_dynamic_programming(flow, nodes, xs, seen, 5)
    angles = np.asarray(flow.process.angle(times))
    spacing = np.abs(np.diff(flow.process.angle(nodes))).max()
    assert_close(angles, np.linspace(angles[0], angles[-1], 6), 0, spacing)
    assert_close(angles[[0, -1]], flow.process.angle(nodes)[np.array([0, -1])], 1e-15)
    with pytest.raises(ValueError, match=r"among 129 nodes: expected fewer.*got 200"):
        by_dynamic_programming(flow, nodes, xs, seen, 200)


@pytest.mark.slow  # compiles two solves
def test_dynamic_programming_finds_equal_angles(x64, key):
    process = px.EDM(sigma_data=SCALE)
    start = px.karras(6, process)
    found = optimise_grid(
        gaussian_flow(process), 5, key=key, solver=DDIM, search="dynamic",
        start=start, draws=4,
    )  # fmt: skip
    angles = np.asarray(process.angle(found.times))
    nodes = process.angle(fine_nodes(process, np.dtype(float)))
    spacing = np.abs(np.diff(nodes)).max()
    even = np.linspace(angles[0], angles[-1], 6)
    assert_close(angles, even, 0, spacing)
    assert_close(angles[[0, -1]], even[[0, -1]], 1e-12)
    # The gain of N equal steps is a product of cosines; the data end with size 0.5.
    gain = lambda times: np.prod(np.cos(np.diff(process.angle(times))))
    ratio = (1 - gain(found.times)) / (1 - gain(start))
    assert_close(found.error / found.start_error, ratio, 2e-3)
    assert found.error < 0.6 * found.start_error
    assert str(found).startswith("FoundGrid of 5 steps: error ")


@pytest.mark.slow
@pytest.mark.parametrize("search", ["gradient", "evolution"])
@pytest.mark.parametrize("make", [px.EDM, px.VP])
def test_searches_find_equal_angles_from_a_poor_start(search, make, x64, key):
    process = make(sigma_data=SCALE)
    found = optimise_grid(
        gaussian_flow(process), 5, key=key, solver=DDIM, search=search,
        start=px.karras(6, process), draws=8,
    )  # fmt: skip
    steps = np.diff(process.angle(found.times))
    assert_close(steps / steps.mean(), 1, 0.03 if search == "gradient" else 0.2)
    gain = lambda times: np.prod(np.cos(np.diff(process.angle(times))))
    best = gain(px.uniform_angle(6, process))
    assert 1 - gain(found.times) < 1.03 * (1 - best)
    half = 4
    assert found.differentiated == (search == "gradient") * 100 * 5 * half
    trials = 100 * 5 * half if search == "gradient" else 15 * 12 * 5 * half
    assert found.evaluations > trials + (1 + 2) * 5 * half


@pytest.mark.slow
@pytest.mark.parametrize("search", ["dynamic", "gradient", "evolution"])
def test_a_found_grid_is_no_worse_on_new_draws_of_a_mixture(search, x64, key, tmp_path):
    process = px.EDM()
    clock = px.flow.UnitSignalClock()
    flow = px.ProbabilityFlow(px.GaussianMixture.ring(), process, clock=clock)
    start = px.karras(7, process)
    found = optimise_grid(flow, 6, key=key, solver=DDIM, search=search, start=start)
    px.save(tmp_path / "grid.pidax", found)
    again = px.load(tmp_path / "grid.pidax")
    assert_close(again.times, found.times, 0)
    assert again.evaluations == found.evaluations
    z = process.prior(jax.random.key(99), (512, 2))
    fine = px.solve_batch(flow, z, rtol=1e-7).end

    def error(times):
        end = px.solve_batch(flow, z, solver=DDIM, steps=times).end
        return np.exp(np.log(np.linalg.norm(end - fine, axis=1)).mean())

    assert error(found.times) <= error(start)
    # What it says of itself is true of new draws.
    assert_close(error(found.times) / 2**0.5, found.error, 0.25)
    assert_close(error(start) / 2**0.5, found.start_error, 0.25)


@pytest.mark.slow
def test_learned_weights_make_each_step_of_ddim_exact_on_a_gaussian(x64, key):
    """Both the sampler and the solution are factors: weights can make them equal."""
    process = px.EDM(sigma_data=SCALE)
    flow, start = gaussian_flow(process), px.karras(5, process)
    found = optimise_grid(
        flow, 4, key=key, solver=px.solver.DDIM(), weights=True, start=start, draws=4,
        iterations=200,
    )  # fmt: skip
    sigma = np.asarray(process.sigma(found.times))
    assert isinstance(found.solver, px.solver.Multistep)
    rule = found.solver.rule
    assert isinstance(rule, px.solver.Weights)
    weight = np.asarray(rule.table)[:, 0]
    keeps = sigma[1:] / sigma[:-1]
    shrinks = SCALE**2 / (SCALE**2 + sigma[:-1] ** 2)
    gain = np.prod(keeps + (1 - keeps) * weight * shrinks)
    exact = np.hypot(sigma[-1], SCALE) / np.hypot(sigma[0], SCALE)
    plain = np.prod(keeps + (1 - keeps) * shrinks)
    assert abs(gain - exact) < 0.01 * abs(plain - exact)
    z = jnp.array([[60.0, -80.0]])
    end = px.solve_batch(flow, z, **found.options).end
    assert_close(end, gain * z, 1e-12)


def searched(flow, start, key, reach):
    """The grid of a search, and its draws."""
    z = flow.process.prior(key, (4, 2))
    last = flow.process.t_max, flow.process.t_min
    ratio = np.divide(*[np.hypot(float(flow.process.sigma(t)), SCALE) for t in last])
    seen = Trial(z, z / ratio, None)
    with progress_bar(60, "search", "iteration", False) as bar:
        options: dict[str, Any] = dict(weights=False, reach=reach, bar=bar)
        return by_gradient(flow, Found(start, DDIM), seen, 60, **options)[0].times


@pytest.mark.slow
def test_starts_that_may_move_take_over_what_a_grid_lacks(x64, key):
    """DDIM shrinks N(0, SCALE^2) too much by 40% on this grid, and by 12% on the best.

    A start may be larger by half: then the grid has less to change.
    """
    process = px.EDM(sigma_data=SCALE)
    flow, start = gaussian_flow(process), px.karras(6, process)
    angles = lambda times: np.diff(process.angle(times))
    assert 1 / np.prod(np.cos(angles(start))) > 1.12
    even = lambda times: angles(times).std() / abs(angles(times)).mean()
    still, moves = (searched(flow, start, key, reach) for reach in (0.0, 0.5))
    assert even(still) < 0.05
    assert even(moves) > 0.3 > 6 * even(still)


def test_a_shift_is_at_most_its_reach():
    shift = jnp.array([[3.0, -4.0], [0.1, 0.2]])
    assert_close(within_one(shift)[0], shift[0] * 2**0.5 / 5, 1e-6)
    assert_close(within_one(shift)[1], shift[1], 0)


@pytest.mark.slow
def test_evolution_chooses_among_solvers_and_orders(x64, key, tmp_path):
    """Of N(0, sigma_data^2) the velocity is zero: Adams is exact on every grid."""
    process = px.EDM(sigma_data=SCALE)
    flow = gaussian_flow(process)
    solvers = [px.solver.DDIM(), px.solver.Adams(2, corrector=False)]
    options: dict[str, Any] = dict(key=key, search="evolution", draws=4, iterations=3)
    start = px.karras(5, process)
    found = optimise_grid(flow, 4, solver=solvers, start=start, **options)
    assert isinstance(found.solver, px.solver.Multistep)
    assert found.solver.target == "velocity"
    assert found.error < 2e-5
    assert found.start_error < 2e-5  # the start is the best of the list, too
    # Orders: the noise of this Gaussian is not a polynomial, so they matter.
    noise = px.solver.Multistep(3, "noise", "log_snr")
    found = optimise_grid(flow, 4, solver=noise, start=start, orders=True, **options)
    assert isinstance(found.solver, px.solver.Multistep)
    assert found.solver.orders is not None
    assert found.solver.orders.shape == (4,)
    assert set(np.asarray(found.solver.orders)) <= {1, 2, 3}
    assert found.error < found.start_error
    px.save(tmp_path / "found.pidax", found)
    again = px.load(tmp_path / "found.pidax")
    z = process.prior(jax.random.key(9), (64, 2))
    ends = [px.solve_batch(flow, z, **one.options).end for one in (found, again)]
    assert_close(ends[0], ends[1], 0)
    sigma = lambda t: float(process.sigma(t))
    exact = z * np.hypot(sigma(process.t_min), SCALE)
    exact = exact / np.hypot(sigma(process.t_max), SCALE)
    rms = jnp.sqrt(jnp.mean((ends[0] - exact) ** 2, axis=1))
    assert_close(jnp.exp(jnp.log(rms).mean()), found.error, 0.5)


def test_bad_input_is_named(key):
    flow = gaussian_flow(px.EDM(sigma_data=SCALE))
    with pytest.raises(ValueError, match=r"search must be one of .*got 'magic'"):
        optimise_grid(flow, 5, key=key, search="magic")
    with pytest.raises(ValueError, match=r"the 6 times of 5 steps, got 8"):
        optimise_grid(flow, 5, key=key, start=px.karras(8, flow.process))
    with pytest.raises(ValueError, match=r"draws must be a whole number of at least 2"):
        optimise_grid(flow, 5, key=key, draws=1)
    bare = px.ProbabilityFlow(px.from_function(lambda x, s, a: x), px.EDM())
    with pytest.raises(ValueError, match=r"Pass shape= to ProbabilityFlow"):
        optimise_grid(bare, 5, key=key)
    with pytest.raises(ValueError, match=r"weights=True is for search='gradient', got"):
        optimise_grid(flow, 5, key=key, search="dynamic", weights=True)
    with pytest.raises(ValueError, match=r"2 solvers is for search='evolution', got"):
        optimise_grid(flow, 5, key=key, solver=[DDIM, DDIM])
    with pytest.raises(ValueError, match=r"orders=True searches .* Multistep, got E"):
        optimise_grid(flow, 5, key=key, solver=DDIM, search="evolution", orders=True)
    with pytest.raises(ValueError, match=r"expected 0 <= reach < 1, got 2"):
        optimise_grid(flow, 5, key=key, solver=DDIM, reach=2.0)
    with pytest.raises(ValueError, match=r"corrector=True.*Multistep\(3, 'noise'"):
        optimise_grid(flow, 5, key=key, solver=px.solver.UniPC(3), weights=True)
