r"""Samplers that are parallel in time: many noise levels of one trajectory at once.

With $\rho = \alpha/\sigma$ and $m = x/\sigma$ the probability-flow ODE is
$dm/d\rho = D$, and a DDIM step is Euler's step of it,
$m_{i+1} = m_i + (\rho_{i+1} - \rho_i)\, D(\sigma_i m_i, t_i)$. Both methods compute $N$
such steps in fewer than $N$ *rounds*. A round is one call of the denoiser, on many
states at once, which need not take longer than one state on a machine with free
capacity. The evaluations in all are more than $N$. Compare `rounds` where time counts,
`evaluations` where work counts.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._checks import is_traced, require, require_finite, whole_number
from ..flow import ProbabilityFlow, check_state, check_times, step_times
from ..types import (
    Condition,
    Sample,
    SampleLike,
    ScalarLike,
    Times,
    TimesLike,
    WholeLike,
    typed,
)

TOLERANCE = 1e-3


class ParallelPath(eqx.Module):
    r"""A trajectory that was computed parallel in time.

    - `ts`, `xs`: the process times of the steps' ends, and the states there;
    - `end`: the last state (the step to zero noise if `denoise=True`);
    - `rounds`: calls of the denoiser that waited for another one;
    - `evaluations`: evaluations of the denoiser in all;
    - `change`: the largest change of a state in the last round, as a root mean square
      in units of $\sqrt{(\alpha\sigma_{data})^2 + \sigma^2}$.
    """

    ts: Float[Array, "*batch time"]
    xs: Float[Array, "..."]
    end: Float[Array, "..."]
    rounds: Int[Array, "*batch"]
    evaluations: Int[Array, "*batch"]
    change: Float[Array, "*batch"]

    def __str__(self) -> str:
        if is_traced(self):
            return repr(self)
        steps = self.ts.shape[-1] - 1
        return (
            f"ParallelPath of shape {self.end.shape}: {steps} steps in "
            f"{int(jnp.max(self.rounds))} rounds, {int(jnp.max(self.evaluations))} "
            f"evaluations (maxima), last change {float(jnp.max(self.change)):.1e}"
        )


@typed
def picard(
    flow: ProbabilityFlow,
    z: SampleLike,
    *,
    steps: WholeLike | TimesLike,
    window: WholeLike | None = None,
    tolerance: ScalarLike = TOLERANCE,
    rounds: WholeLike | None = None,
    condition: Condition = None,
    denoise: bool = False,
) -> ParallelPath:
    r"""DDIM by Picard's iteration on a sliding window, for one sample (ParaDiGMS).

    $$ m_i \leftarrow m_0 + \sum_{j<i} (\rho_{j+1} - \rho_j)\, D(\sigma_j m_j, t_j) $$

    for all $i$ of the window at once. The fixed point is DDIM with these steps. A state
    is exact once all states before it are, so $N$ rounds always suffice. The window
    moves past its leading states that changed by at most `tolerance` in a round. Use it
    for one sample, or a few, on a machine that would otherwise be idle. A round costs
    `window` evaluations. Under `jax.vmap` every sample has its own window, and the loop
    runs until the last one is done.

    **Arguments:**

    - `z`: a draw of `process.prior`.
    - `steps`: as in `solve`: a number of equal steps in the clock, or an array of
      process times, such as `px.karras(51, process)`.
    - `window`: the number of states in a round, by default all of them.
    - `tolerance`: of the change of a state; see `ParallelPath.change`. With zero the
      result is that of DDIM to rounding.
    - `rounds`: stop after so many rounds, converged or not; see `change`.
    - `condition`, `denoise`: as in `solve`. The step to zero noise is one more round.

    It has no reverse-mode derivative. Differentiate `solve` with the same steps.

    Shih et al. 2023, "Parallel sampling of diffusion models".
    """
    z, times = _arguments(flow, z, steps, tolerance)
    count = times.shape[0] - 1
    size = count if window is None else min(whole_number("window", window), count)
    most = count if rounds is None else min(whole_number("rounds", rounds), count)
    limits = jnp.asarray(tolerance, z.dtype), jnp.asarray(most)
    return _picard(flow, z, times, condition, limits, size, denoise)


@typed
def parareal(
    flow: ProbabilityFlow,
    z: SampleLike,
    *,
    steps: WholeLike | TimesLike,
    blocks: WholeLike | None = None,
    tolerance: ScalarLike = TOLERANCE,
    iterations: WholeLike | None = None,
    condition: Condition = None,
    denoise: bool = False,
) -> ParallelPath:
    r"""DDIM in blocks of steps that are computed at the same time (parareal, SRDS).

    $$ U_{i+1} \leftarrow G(U_i) + F(U_i^{old}) - G(U_i^{old}) $$

    with $F$ the steps of a block, for all blocks at once, and $G$ one long DDIM step
    over the block. The fixed point is DDIM with these steps, and the first $k$ blocks
    are exact after $k$ iterations. With $B$ blocks of $m$ steps, an iteration costs
    $Bm$ evaluations in $m - 1 + B$ rounds, and the first guess $B$ of each. Takes few
    iterations where one step a block already gives a rough sample: long trajectories.

    **Arguments:**

    - `z`, `steps`, `condition`, `denoise`: as for `picard`.
    - `blocks`: a divisor of the number of steps, by default the nearest to its square
      root.
    - `tolerance`: stop when no end of a block changes by more; see
      `ParallelPath.change`.
    - `iterations`: stop after so many, converged or not.

    It has no reverse-mode derivative. Differentiate `solve` with the same steps.

    Lions, Maday & Turinici 2001; Selvam et al. 2024, "Self-refining diffusion
    samplers".
    """
    z, times = _arguments(flow, z, steps, tolerance)
    count = times.shape[0] - 1
    divisors = [b for b in range(1, count + 1) if count % b == 0]
    if blocks is None:
        blocks = min(divisors, key=lambda b: abs(b - count**0.5))
    blocks = whole_number("blocks", blocks)
    if blocks not in divisors:
        raise ValueError(
            f"blocks must divide the number of steps, {count}, got blocks={blocks}. "
            f"Pass one of {divisors}, or another number of steps."
        )
    most = blocks if iterations is None else whole_number("iterations", iterations)
    limits = jnp.asarray(tolerance, z.dtype), jnp.asarray(min(most, blocks))
    return _parareal(flow, z, times, condition, limits, blocks, denoise)


def _arguments(
    flow: ProbabilityFlow,
    z: SampleLike,
    steps: WholeLike | TimesLike,
    tolerance: ScalarLike,
) -> tuple[Sample, Times]:
    start = require(
        check_state(flow, jnp.asarray(z), "z"),
        tolerance >= 0,
        f"tolerance must not be negative, got tolerance={tolerance}. Pass 0 for all "
        "rounds.",
    )
    ends, _ = check_times(None, flow.process, -1, start.dtype)
    return start, step_times(steps, flow, ends)


class _Nodes(NamedTuple):
    """The noise levels of the states, and what turns `m = x / sigma` into `y`."""

    sigma: Times
    alpha: Times
    rho: Times
    unit: Times  # y = unit * m has size one


def _nodes(flow: ProbabilityFlow, times: Times) -> _Nodes:
    sigma, alpha = flow.process.level(times)
    return _Nodes(sigma, alpha, alpha / sigma, sigma / flow.process.scale(times))


def _like(column: Array, m: Array) -> Array:
    """A column of numbers with the axes of events behind it."""
    return column.reshape(column.shape + (1,) * (m.ndim - column.ndim))


def _size(y: Array) -> Array:
    """The root mean square of each row."""
    return jnp.sqrt(jnp.mean(y**2, axis=tuple(range(1, y.ndim))))


def _denoised(
    flow: ProbabilityFlow, m: Array, sigma: Array, alpha: Array, condition: Condition
) -> Array:
    """The clean samples of many states of one trajectory."""
    one = lambda m, s, a: flow.denoiser(s * m, s, a, condition).astype(m.dtype)
    return jax.vmap(one)(m, sigma, alpha)


def _finish(
    flow: ProbabilityFlow,
    times: Times,
    nodes: _Nodes,
    m: Array,
    z: Sample,
    condition: Condition,
    denoise: bool,
    counts: tuple[Array, Array, Array],
) -> ParallelPath:
    rounds, evaluations, change = counts
    each = flow.denoiser.evaluations(condition)
    xs = (m * _like(nodes.sigma, m)).at[0].set(z)
    end = xs[-1]
    if denoise:
        end = flow.denoiser(end, nodes.sigma[-1], nodes.alpha[-1], condition)
        rounds, evaluations = rounds + 1, evaluations + 1
    end = require_finite("the sample", end, "The denoiser returned NaN or infinity.")
    return ParallelPath(times, xs, end, rounds, each * evaluations, change)


@eqx.filter_jit
def _picard(
    flow: ProbabilityFlow,
    z: Sample,
    times: Times,
    condition: Condition,
    limits: tuple[Array, Array],
    size: int,
    denoise: bool,
) -> ParallelPath:
    nodes = _nodes(flow, times)
    count = times.shape[0] - 1
    steps = jnp.diff(nodes.rho)
    start = z / nodes.sigma[0]
    # The first guess is constant in y: exact where the data look Gaussian.
    guess = lambda m, unit: m * _like(unit / nodes.unit, jnp.zeros((1, *z.shape)))
    tolerance, most = limits

    def going(state: tuple[Array, ...]) -> Array:
        _, done, rounds, _ = state
        return (done < count) & (rounds < most)

    def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
        m, done, rounds, _ = state
        low = jnp.minimum(done, count - size)
        here = lambda a, low=low: jax.lax.dynamic_slice_in_dim(a, low, size)
        places = low + jnp.arange(size)
        ours = _like(places >= done, m)
        clean = _denoised(
            flow, here(m), here(nodes.sigma), here(nodes.alpha), condition
        )
        moves = jnp.where(ours, clean * _like(here(steps), m), 0)
        base = jax.lax.dynamic_index_in_dim(m, done, keepdims=False)
        old = here(m[1:])
        new = jnp.where(ours, base + jnp.cumsum(moves, axis=0), old)
        changes = _size((new - old) * _like(here(nodes.unit[1:]), m))
        # Those after the window begin at its last state.
        m = jax.lax.dynamic_update_slice_in_dim(m, new, low + 1, axis=0)
        last = jax.lax.dynamic_index_in_dim(nodes.unit, low + size, keepdims=False)
        beyond = _like(jnp.arange(count + 1) > low + size, m)
        m = jnp.where(beyond, guess(new[-1], last), m)
        # The first state of the window is exact now, whatever its change.
        settled = (changes <= tolerance) | (places <= done)
        done = low + jnp.argmin(jnp.append(settled, False))
        return m, done, rounds + 1, jnp.max(changes)

    zero = jnp.asarray(0)
    state = (guess(start, nodes.unit[0]), zero, zero, jnp.asarray(jnp.inf, z.dtype))
    m, _, rounds, change = jax.lax.while_loop(going, body, state)
    counts = rounds, rounds * size, change
    return _finish(flow, times, nodes, m, z, condition, denoise, counts)


@eqx.filter_jit
def _parareal(
    flow: ProbabilityFlow,
    z: Sample,
    times: Times,
    condition: Condition,
    limits: tuple[Array, Array],
    blocks: int,
    denoise: bool,
) -> ParallelPath:
    nodes, (tolerance, most) = _nodes(flow, times), limits
    each = (times.shape[0] - 1) // blocks
    steps = jnp.diff(nodes.rho)
    coarse = _Nodes(*(a[::each] for a in nodes))
    long = jnp.diff(coarse.rho)
    inner = lambda a: a[:-1].reshape(blocks, each).T[1:]  # without the blocks' starts
    rows = (inner(nodes.sigma), inner(nodes.alpha), steps.reshape(blocks, each).T[1:])

    def sweep(correction: Array) -> tuple[Array, Array, Array]:
        """Coarse steps from block to block, each with its correction."""

        def step(m: Array, row: tuple[Array, ...]) -> tuple[Array, Any]:
            sigma, alpha, length, more = row
            clean = flow.denoiser(sigma * m, sigma, alpha, condition).astype(m.dtype)
            move = length * clean
            return m + (move + more), (m, clean, move)

        level = coarse.sigma[:-1], coarse.alpha[:-1], long, correction
        last, (m, clean, move) = jax.lax.scan(step, z / nodes.sigma[0], level)
        return jnp.concatenate([m, last[None]]), clean, move

    def fine(starts: Array, clean: Array) -> tuple[Array, Array]:
        """All blocks at once, from their starts and the clean samples there."""

        def step(m: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
            sigma, alpha, length = row
            x0 = _denoised(flow, m, sigma, alpha, condition)
            return m + _like(length, m) * x0, m

        first = starts + _like(steps[::each], starts) * clean
        ends, inside = jax.lax.scan(step, first, rows)
        return ends, jnp.swapaxes(jnp.concatenate([starts[None], inside]), 0, 1)

    def going(state: tuple[Array, ...]) -> Array:
        *_, done, change = state
        return (done < most) & (change > tolerance)

    def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
        old, clean, move, _, done, _ = state
        ends, inside = fine(old[:-1], clean)
        correction = (ends - old[:-1]) - move  # of what the fine steps move more
        new, clean, move = sweep(correction)
        change = jnp.max(_size((new - old) * _like(coarse.unit, new)))
        return new, clean, move, inside, done + 1, change

    zero, infinite = jnp.asarray(0), jnp.asarray(jnp.inf, z.dtype)
    first = sweep(jnp.zeros((blocks, *z.shape), z.dtype))
    inside = jnp.zeros((blocks, each, *z.shape), z.dtype)
    state = (*first, inside, zero, infinite)
    m, _, _, inside, done, change = jax.lax.while_loop(going, body, state)
    rounds = blocks + done * (each - 1 + blocks)
    evaluations = blocks + done * blocks * each
    inside = inside.at[:, 0].set(m[:-1])
    path = jnp.concatenate([inside.reshape(-1, *z.shape), m[-1:]])
    counts = rounds, evaluations, change
    return _finish(flow, times, nodes, path, z, condition, denoise, counts)
