r"""Time grids that are found for a denoiser and a solver, not guessed.

A grid of $N$ steps is judged by the ends of trajectories: the geometric mean over
draws of the prior of the root mean square distance, per component, to the end of a fine
solve. A geometric mean weighs a factor in the error of every draw alike, so that one
draw that comes to another mode of the data does not decide.

Three searches:

- *dynamic*: a fine solve gives the states at many nodes. The cost of an edge from node
  $i$ to $j$ is the error of one DDIM step between them, in
  $y = x/\sqrt{(\alpha\sigma_{data})^2 + \sigma^2}$; dynamic programming finds the
  path of $N$ edges with the least sum (GITS: Chen et al. 2024, "On the trajectory
  regularity of ODE-based diffusion sampling").
- *gradient*: Adam on the logarithms of the steps' angles, with the gradient through
  the solve (LD3: Tong et al. 2025, "Learning to discretize denoising diffusion ODEs";
  here without moving the starts).
- *evolution*: mutations of the same logarithms and of the steps themselves; the next
  generation is mutated from the mean of the best three so far (AutoDiffusion: Li et al.
  2023). It needs no gradient.
"""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import check_condition, is_traced, whole_number
from .._progress import advance, progress_bar
from ..flow import ProbabilityFlow, check_times, solve_batch, step_times
from ..process import AbstractProcess, karras, uniform_angle, uniform_log_snr
from ..types import (
    Batch,
    Condition,
    Key,
    Scalar,
    Times,
    TimesLike,
    WholeLike,
    typed,
)

DRAWS = 128
FINE = 129  # nodes of the dynamic search
TOLERANCE = 1e-5  # of the fine solve
RATE = 0.1  # of Adam; the logarithms of usual grids differ by 1 to 5
ITERATIONS = {"dynamic": 1, "gradient": 100, "evolution": 15}
POPULATION, PARENTS = 12, 3
LEAST = 1e-4  # of the mean step
MUTATION, COOLING = 0.5, 0.88  # the first spread, and its fall in a generation


class FoundGrid(eqx.Module):
    """A grid found by `optimise_grid`. Pass `steps=grid.times` to `solve`.

    It is saved by `px.save` and loaded by `px.load`; `np.asarray(grid.times)` is an
    ordinary array.

    - `times`: the process times at which steps end, from `t_max` to `t_min`;
    - `error`, `start_error`: of this grid and of the grid from which the search began,
      on draws that the search did not see: the geometric mean over the draws of the
      root mean square per component;
    - `evaluations`: calls of the denoiser for a sample, in all: fine solves and trials;
    - `differentiated`: how many of them were differentiated as well, which costs more;
    - `search`: the method.
    """

    times: Times
    error: Scalar
    start_error: Scalar
    evaluations: int = eqx.field(static=True)
    differentiated: int = eqx.field(static=True)
    search: str = eqx.field(static=True)

    def __str__(self) -> str:
        if is_traced(self):
            return repr(self)
        cost = f"{self.evaluations:,} evaluations"
        if self.differentiated:
            cost += f", {self.differentiated:,} of them differentiated"
        return (
            f"FoundGrid of {self.times.shape[0] - 1} steps: error "
            f"{float(self.error):.2e}, {float(self.start_error):.2e} before the "
            f"{self.search} search, which took {cost}"
        )


@typed
def optimise_grid(
    flow: ProbabilityFlow,
    steps: WholeLike,
    *,
    key: Key,
    solver: diffrax.AbstractSolver | None = None,
    search: str = "gradient",
    start: TimesLike | None = None,
    draws: WholeLike = DRAWS,
    iterations: WholeLike | None = None,
    condition: Condition = None,
    progress: bool = False,
) -> FoundGrid:
    r"""The times at which `steps` steps of `solver` should end for this denoiser.

        found = px.optimise_grid(flow, 6, solver=solver, key=key)
        px.solve(flow, z, solver=solver, steps=found.times)

    Half of the draws are searched on. On the other half the result is compared with the
    start, and the better one is returned, so a search does not make a grid worse on new
    draws, apart from chance.

    It is worth its cost for a teacher that is sampled often with few steps, by Euler's
    method above all. The cost is `draws` fine solves of about 100 evaluations each, and
    then:

    - `"dynamic"`: 129 evaluations for each searched draw, none in trials. The cost of
      an edge is for DDIM, whatever `solver` is; the sum ignores how errors grow later
      on.
    - `"gradient"`: 100 solves of the searched draws and their gradients.
    - `"evolution"`: 180 solves of the searched draws.

    **Arguments:**

    - `solver`: as in `solve`.
    - `start`: the grid from which the search begins; by default the best of
      `uniform_angle`, `uniform_log_snr` and `karras` on the searched draws.
    - `draws`: of the prior, at least 2.
    - `iterations`: of Adam, by default 100; generations, by default 15.
    - `condition`: for a flow that takes one, with the draw as the first axis.
    - `progress`: show a bar.
    """
    steps = whole_number("steps", steps)
    draws = whole_number("draws", draws, least=2)
    if search not in ITERATIONS:
        raise ValueError(
            f"search must be one of {', '.join(map(repr, ITERATIONS))}, got {search!r}."
            " Start with 'gradient'."
        )
    rounds = ITERATIONS[search] if iterations is None else iterations
    rounds = whole_number("iterations", rounds)
    if flow.shape is None:
        raise ValueError(
            "the shape of one sample is not known, got a flow without one. Pass "
            "shape= to ProbabilityFlow."
        )
    z = flow.process.prior(key, (draws, *flow.shape))
    ends, _ = check_times(None, flow.process, -1, z.dtype)
    if start is None:
        usual = uniform_angle, uniform_log_snr, karras
        starts = [grid(steps + 1, flow.process).astype(z.dtype) for grid in usual]
    else:
        starts = [step_times(start, flow, ends)]
    if starts[0].shape[0] != steps + 1:
        raise ValueError(
            f"start must hold the {steps + 1} times of {steps} steps, got "
            f"{starts[0].shape[0]}. Pass the number of its steps as steps."
        )
    condition = check_condition(condition, draws)
    fine = _fine_nodes(flow.process, z.dtype) if search == "dynamic" else ends
    path = solve_batch(
        flow, z, times=fine, condition=condition, rtol=TOLERANCE, atol=TOLERANCE
    )
    count = round(draws * path.evaluations()[0])
    half = draws - draws // 2
    cut = lambda rows: jax.tree.map(lambda a: a[rows], (z, path.end, condition))
    seen, unseen = (Trial(*cut(r)) for r in (slice(half), slice(half, None)))
    judged = [judge(flow, solver, times, seen) for times in starts]
    count += sum(half * calls for _, calls in judged)
    start = starts[int(np.argmin([or_infinity(error) for error, _ in judged]))]
    differentiated = 0
    with progress_bar(rounds, f"{search} search", "iteration", progress) as bar:
        if search == "dynamic":
            times = _dynamic(flow, fine, path.xs[:half], seen.condition, steps)
            count += half * FINE * flow.denoiser.evaluations(condition)
            advance(bar, 1)
        elif search == "gradient":
            times, differentiated = _gradient(flow, solver, start, seen, rounds, bar)
            count += differentiated
        else:
            times, calls = _evolution(flow, solver, start, seen, rounds, key, bar)
            count += calls
    (error, _), (before, calls) = (
        judge(flow, solver, grid, unseen) for grid in (times, start)
    )
    count += 2 * (draws - half) * calls
    if not float(error) < float(before):
        times, error = start, before
    return FoundGrid(times, error, before, int(count), int(differentiated), search)


class Trial(NamedTuple):
    """Draws of the prior and the ends of their fine solves."""

    z: Batch
    end: Batch
    condition: Condition


def or_infinity(error: Scalar) -> float:
    """A failed solve is the worst."""
    return float(error) if bool(jnp.isfinite(error)) else float("inf")


@eqx.filter_jit
def judge(
    flow: ProbabilityFlow,
    solver: diffrax.AbstractSolver | None,
    times: Times,
    trial: Trial,
) -> tuple[Scalar, Any]:
    """The error of a grid, and the evaluations for a sample."""
    error, calls = _log_error(times, flow, solver, trial)
    return jnp.exp(error), calls


def _log_error(
    times: Times,
    flow: ProbabilityFlow,
    solver: diffrax.AbstractSolver | None,
    trial: Trial,
) -> tuple[Scalar, Any]:
    path = solve_batch(
        flow,
        trial.z,
        condition=trial.condition,
        steps=times,
        solver=solver,
        throw=False,
    )
    axes = tuple(range(1, trial.z.ndim))
    square = jnp.mean((path.end - trial.end) ** 2, axis=axes)
    # The fine solve is no more exact than that.
    least = (TOLERANCE * flow.process.sigma_data) ** 2
    return jnp.mean(jnp.log(square + least)) / 2, path.stats["evaluations"]


# --- dynamic programming -------------------------------------------------------------


def _fine_nodes(process: AbstractProcess, dtype: Any) -> Times:
    """Nodes whose angles and whose log-SNR are both dense."""
    angles = process.angle(uniform_angle(FINE, process))
    logs = process.angle(uniform_log_snr(FINE, process))
    return (
        process.time_of_angle((angles + logs) / 2)
        .astype(dtype)
        .at[jnp.array([0, -1])]
        .set(jnp.asarray([process.t_max, process.t_min], dtype))
    )


def _dynamic(
    flow: ProbabilityFlow,
    nodes: Times,
    xs: Float[Array, "draw node *event"],
    condition: Condition,
    steps: int,
) -> Times:
    """The path of `steps` edges with the least sum of errors of one DDIM step."""
    if steps >= nodes.shape[0]:
        raise ValueError(
            f"the dynamic search chooses among {nodes.shape[0]} nodes: expected fewer "
            f"steps, got {steps}. Take search='gradient'."
        )
    process = flow.process
    levels = process.level(nodes)
    clean = _clean_at(flow, xs, levels, condition)
    flat = lambda a: np.asarray(a, np.float64).reshape(*xs.shape[:2], -1)
    angle, size = (
        np.asarray(f(nodes), np.float64) for f in (process.angle, process.scale)
    )
    y = flat(xs) / size[:, None]
    sine, cosine = np.sin(angle)[:, None], np.cos(angle)[:, None]
    velocity = (cosine * y - flat(clean) / float(process.sigma_data)) / sine
    cost = np.full((len(angle),) * 2, np.inf)
    for i in range(len(angle) - 1):
        turn = (angle[i + 1 :] - angle[i])[:, None]
        step = np.cos(turn) * y[:, i, None] + np.sin(turn) * velocity[:, i, None]
        square = ((step - y[:, i + 1 :]) ** 2).mean(axis=-1)
        cost[i, i + 1 :] = np.sqrt(square).mean(axis=0)
    return nodes[cheapest_path(cost, steps)]


def cheapest_path(cost: np.ndarray, edges: int) -> np.ndarray:
    """The nodes of the cheapest path from the first to the last with so many edges."""
    best, before = cost[0], []
    for _ in range(edges - 1):
        total = best[:, None] + cost
        before.append(total.argmin(axis=0))
        best = total.min(axis=0)
    path = [cost.shape[0] - 1]
    for parents in reversed(before):
        path.append(int(parents[path[-1]]))
    return np.array([0, *path[::-1]])


@eqx.filter_jit
def _clean_at(
    flow: ProbabilityFlow, xs: Array, levels: tuple[Array, Array], condition: Condition
) -> Array:
    """The clean samples at all nodes, one node after another."""
    one = lambda x, s, a, c: flow.denoiser(x, s, a, c).astype(x.dtype)
    draws = jax.vmap(one, in_axes=(0, None, None, 0))
    node = lambda row: draws(row[0], row[1], row[2], condition)
    rows = jnp.swapaxes(xs, 0, 1), *levels
    return jnp.swapaxes(jax.lax.map(node, rows), 0, 1)


# --- searches over the logarithms of the steps ---------------------------------------


def _logarithms(times: Times, process: AbstractProcess) -> Float[Array, " step"]:
    """The logarithms of the steps' angles, up to a constant."""
    return jnp.log(-jnp.diff(process.angle(times)))


def _grid_of(
    logs: Float[Array, " step"], ends: Times, process: AbstractProcess
) -> Times:
    """The grid between `ends` whose steps have these logarithms."""
    first, last = process.angle(ends)
    share = jnp.cumsum(jax.nn.softmax(logs))[:-1]
    times = process.time_of_angle(first + share * (last - first))
    return jnp.concatenate([ends[:1], times, ends[1:]])


def _gradient(
    flow: ProbabilityFlow,
    solver: diffrax.AbstractSolver | None,
    start: Times,
    seen: Trial,
    iterations: int,
    bar: Any,
) -> tuple[Times, int]:
    """Adam from `start`; the best grid on the way, and its evaluations."""
    import optax

    ends = start[jnp.array([0, -1])]
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, iterations))

    @eqx.filter_jit
    def step(logs: Array, state: Any, flow: Any, solver: Any, seen: Trial) -> Any:
        loss = lambda logs: _log_error(
            _grid_of(logs, ends, flow.process), flow, solver, seen
        )
        (error, calls), slope = jax.value_and_grad(loss, has_aux=True)(logs)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes dtypes
            update, state = optimiser.update(slope, state)
        return optax.apply_updates(logs, update), state, error, calls

    logs = _logarithms(start, flow.process)
    state, least, best, count = optimiser.init(logs), np.inf, logs, 0
    for _ in range(iterations):
        after, state, error, calls = step(logs, state, flow, solver, seen)
        count += seen.z.shape[0] * int(calls)
        if or_infinity(error) < least:
            least, best = float(error), logs
        advance(bar, 1, f"error {np.exp(least):.2e}")
        if not bool(jnp.isfinite(after).all()):
            break
        logs = after
    return _grid_of(best, ends, flow.process), count


def _evolution(
    flow: ProbabilityFlow,
    solver: diffrax.AbstractSolver | None,
    start: Times,
    seen: Trial,
    generations: int,
    key: Key,
    bar: Any,
) -> tuple[Times, int]:
    """The best of some generations of mutated grids, and their evaluations."""
    ends = start[jnp.array([0, -1])]
    known = _logarithms(start, flow.process)
    parents = [(or_infinity(judge(flow, solver, start, seen)[0]), known)]
    spread, count = MUTATION, 0
    for generation in range(generations):
        mutations = spread * jax.random.normal(
            jax.random.fold_in(key, generation), (POPULATION, known.size), known.dtype
        )
        middle = sum(logs for _, logs in parents) / len(parents)
        children = []
        for i, mutation in enumerate(mutations):
            child = middle + mutation
            if i % 2:  # of the steps: a logarithm makes a small step large slowly
                steps = jax.nn.softmax(middle) + mutation / known.size
                child = jnp.log(jnp.abs(steps) + LEAST / known.size)
            grid = _grid_of(child, ends, flow.process)
            error, calls = judge(flow, solver, grid, seen)
            children.append((or_infinity(error), child))
            count += seen.z.shape[0] * int(calls)
        ranked = sorted([*parents, *children], key=lambda pair: pair[0])
        parents, spread = ranked[:PARENTS], spread * COOLING
        advance(bar, 1, f"error {parents[0][0]:.2e}")
    return _grid_of(parents[0][1], ends, flow.process), count
