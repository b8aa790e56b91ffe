"""The searches of `optimise_grid`: dynamic programming, gradient, evolution."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._progress import advance
from ..flow import ProbabilityFlow, solve_batch
from ..process import AbstractProcess, uniform_angle, uniform_log_snr
from ..types import Batch, Condition, Key, Scalar, Times
from ._multistep import Multistep
from ._weight_rules import Weights

FINE = 129  # nodes of the dynamic search
TOLERANCE = 1e-5  # of the fine solve
RATE = 0.1  # of Adam; the logarithms of usual grids differ by 1 to 5
OF_WEIGHTS = 0.1  # a weight moves by this share of a logarithm's move
POPULATION, PARENTS = 12, 3
LEAST = 1e-4  # of the mean step
MUTATION, COOLING = 0.5, 0.88  # the first spread, and its fall in a generation
OTHER_ORDER, OTHER_SOLVER = 0.2, 0.25  # how often a child has one


class Found(NamedTuple):
    """A sampler: the ends of its steps, and the solver."""

    times: Times
    solver: diffrax.AbstractSolver | None


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


def fine_nodes(process: AbstractProcess, dtype: Any) -> Times:
    """Nodes whose angles and whose log-SNR are both dense."""
    angles = process.angle(uniform_angle(FINE, process))
    logs = process.angle(uniform_log_snr(FINE, process))
    return (
        process.time_of_angle((angles + logs) / 2)
        .astype(dtype)
        .at[jnp.array([0, -1])]
        .set(jnp.asarray([process.t_max, process.t_min], dtype))
    )


def by_dynamic_programming(
    flow: ProbabilityFlow,
    nodes: Times,
    xs: Float[Array, "draw node *event"],
    seen: Trial,
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
    clean = _clean_at(flow, xs, levels, seen.condition)
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


class _Parameters(eqx.Module):
    """What the gradient changes; what is not searched is None."""

    logs: Float[Array, " step"]
    weights: Float[Array, "step place"] | None
    shift: Batch | None


def by_gradient(
    flow: ProbabilityFlow,
    first: Found,
    seen: Trial,
    iterations: int,
    *,
    weights: bool,
    reach: float,
    bar: Any,
) -> tuple[Found, int]:
    """Adam from `first`; the best sampler on the way, and its evaluations."""
    import optax

    ends = first.times[jnp.array([0, -1])]
    table = None
    if weights:
        assert isinstance(first.solver, Multistep)
        table = first.solver.weights_on(flow, first.times)
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, iterations))

    def made(parameters: _Parameters, flow: ProbabilityFlow, solver: Any) -> Found:
        times = _grid_of(parameters.logs, ends, flow.process)
        if table is None or parameters.weights is None:
            return Found(times, solver)
        changed = table + OF_WEIGHTS * parameters.weights
        rule = Weights(changed.astype(times.dtype))
        own = solver.order_, solver.target, solver.variable
        return Found(times, Multistep(*own, rule=rule))

    def loss(
        parameters: _Parameters, flow: ProbabilityFlow, solver: Any, seen: Trial
    ) -> tuple[Scalar, Any]:
        found = made(parameters, flow, solver)
        if parameters.shift is not None:
            size = reach * flow.process.sigma(ends[0])
            seen = seen._replace(z=seen.z + size * within_one(parameters.shift))
        return _log_error(found.times, flow, found.solver, seen)

    @eqx.filter_jit
    def step(parameters: Any, state: Any, *rest: Any) -> Any:
        both = jax.value_and_grad(loss, has_aux=True)
        (error, calls), slope = both(parameters, *rest)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes dtypes
            update, state = optimiser.update(slope, state)
        return optax.apply_updates(parameters, update), state, error, calls

    parameters: Any = _Parameters(
        _logarithms(first.times, flow.process),
        None if table is None else jnp.zeros_like(table),
        jnp.zeros_like(seen.z) if reach > 0 else None,
    )
    state, least, best, count = optimiser.init(parameters), np.inf, parameters, 0
    for _ in range(iterations):
        after, state, error, calls = step(parameters, state, flow, first.solver, seen)
        count += seen.z.shape[0] * int(calls)
        if or_infinity(error) < least:
            least, best = float(error), parameters
        advance(bar, 1, f"error {np.exp(least):.2e}")
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(after)):
            break
        parameters = after
    return made(best, flow, first.solver), count


def within_one(shift: Batch) -> Batch:
    """The shifts, of a root mean square of at most one for each draw."""
    axes = tuple(range(1, shift.ndim))
    square = jnp.mean(shift**2, axis=axes, keepdims=True)
    return shift / jnp.sqrt(jnp.maximum(square, 1.0))


class _Child(NamedTuple):
    """A sampler as evolution changes it, and its error."""

    error: float
    logs: Float[Array, " step"]
    which: int  # of the solvers
    orders: np.ndarray | None


def by_evolution(
    flow: ProbabilityFlow,
    first: Found,
    seen: Trial,
    generations: int,
    *,
    solvers: Sequence[Any],
    orders: bool,
    key: Key,
    bar: Any,
) -> tuple[Found, int]:
    """The best of some generations of mutated samplers, and their evaluations."""
    ends = first.times[jnp.array([0, -1])]
    known = _logarithms(first.times, flow.process)
    error = or_infinity(judge(flow, first.solver, first.times, seen)[0])
    which = next(i for i, one in enumerate(solvers) if one is first.solver)
    highest = np.array([getattr(one, "order_", 1) for one in solvers])
    full = lambda i: np.full(known.size, highest[i]) if orders else None
    parents = [_Child(error, known, which, full(which))]
    spread, count = MUTATION, 0
    for generation in range(generations):
        one, two = jax.random.split(jax.random.fold_in(key, generation))
        mutations = spread * jax.random.normal(
            one, (POPULATION, known.size), known.dtype
        )
        chance = np.random.default_rng(np.asarray(jax.random.key_data(two)))
        middle = sum(parent.logs for parent in parents) / len(parents)
        children = []
        for i, mutation in enumerate(mutations):
            logs = middle + mutation
            if i % 2:  # of the steps: a logarithm makes a small step large slowly
                steps = jax.nn.softmax(middle) + mutation / known.size
                logs = jnp.log(jnp.abs(steps) + LEAST / known.size)
            parent = parents[chance.integers(len(parents))]
            which, places = parent.which, parent.orders
            if chance.random() < OTHER_SOLVER:
                which = int(chance.integers(len(solvers)))
            if places is not None:
                change = chance.integers(-1, 2, known.size)
                some = chance.random(known.size) < OTHER_ORDER
                places = np.clip(places + some * change, 1, highest[which])
            child = _Child(np.inf, logs, which, places)
            found = _born(child, ends, flow, solvers)
            error, calls = judge(flow, found.solver, found.times, seen)
            children.append(child._replace(error=or_infinity(error)))
            count += seen.z.shape[0] * int(calls)
        ranked = sorted([*parents, *children], key=lambda child: child.error)
        parents, spread = ranked[:PARENTS], spread * COOLING
        advance(bar, 1, f"error {parents[0].error:.2e}")
    return _born(parents[0], ends, flow, solvers), count


def _born(
    child: _Child, ends: Times, flow: ProbabilityFlow, solvers: Sequence[Any]
) -> Found:
    solver = solvers[child.which]
    if child.orders is not None:
        places = jnp.asarray(child.orders)
        absent = lambda leaf: leaf is None
        solver = eqx.tree_at(lambda s: s.orders, solver, places, is_leaf=absent)
    return Found(_grid_of(child.logs, ends, flow.process), solver)
