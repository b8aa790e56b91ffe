r"""What a few hundred trajectories of the teacher say about where its ODE is difficult.

Two things are measured along them. *Where the clean sample moves*: the mean of
$|D(x_{i+1}, t_{i+1}) - D(x_i, t_i)|$, which says where time nodes are needed. And *how
steep the denoiser is*: the largest eigenvalue $a$ of $\alpha\,\partial D/\partial x$,
which exceeds one where neighbouring trajectories part for different modes of the data.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import check_condition, require, whole_number
from ..process import uniform_log_snr
from ..types import Condition, Key, Shape, Times, WholeLike, typed
from ._probability_flow import ProbabilityFlow
from ._solve import solve_batch

_DRAWS = 256
_FINE = 129  # times at which the motion is measured
_TOLERANCE = 1e-3  # of the trajectories: a statistic needs no more


@typed
def where_it_moves(
    flow: ProbabilityFlow,
    n: WholeLike,
    *,
    key: Key,
    draws: WholeLike = _DRAWS,
    even: float | int = 0.5,
    condition: Condition = None,
) -> Times:
    r"""`n` times from `t_max` to `t_min` between which the clean sample moves equally.

    The nodes divide $(1 - e)\, m + e\, u$ into equal parts, where $m$ is the
    share of the mean motion $E|D_{i+1} - D_i|$ that lies between `t_max` and a time,
    $u$ the share of $\ln(\alpha/\sigma)$, and $e$ is `even`. A grid for students and
    samplers with few nodes. It solves `draws` trajectories, about 50 evaluations of the
    denoiser each, and asks the denoiser at 129 times of each.

    **Arguments:** `even`, the share of the nodes that is spread evenly, in (0, 1];
    `condition`, for a flow that takes one, with the draw as the first axis.
    """
    n = whole_number("n", n, least=2)
    require(
        None,
        0 < even <= 1,
        f"even is the share of evenly spread nodes, in (0, 1], got even={even}: with "
        "none, times at which nothing moves get no node.",
    )
    times = uniform_log_snr(_FINE, flow.process)
    xs = trajectories(flow, times, key=key, draws=draws, condition=condition)
    denoise = lambda flow, *of: flow.denoiser(*of)
    clean = np.asarray(_at_times(denoise, flow, xs, times, condition), np.float64)
    steps = np.diff(clean.reshape(_FINE, xs.shape[0], -1), axis=0)
    motion = np.sqrt((steps**2).sum(-1)).mean(1)
    share = np.concatenate([[0.0], np.cumsum(motion)]) / motion.sum()
    share = (1 - even) * share + even * np.linspace(0.0, 1.0, _FINE)
    place = np.interp(np.linspace(0.0, 1.0, n), share, np.arange(_FINE))
    # Between the fine times the logarithm of the ratio is linear in the place.
    sigma, alpha = (np.asarray(a, np.float64) for a in flow.process.level(times))
    high = float(flow.process.ratio_ends()[1])
    ratio = np.log(np.where(alpha > 0, sigma / np.where(alpha > 0, alpha, 1.0), high))
    found = jnp.exp(jnp.asarray(np.interp(place, np.arange(_FINE), ratio), times.dtype))
    nodes = flow.process.time(found)
    return nodes.at[0].set(times[0]).at[-1].set(times[-1])


def trajectories(
    flow: ProbabilityFlow,
    times: Times,
    *,
    key: Key,
    draws: WholeLike = _DRAWS,
    condition: Condition = None,
    shape: Shape | None = None,
) -> Float[Array, "draw time *event"]:
    """Solved states at `times` of as many prior draws, to a relative 1e-3."""
    draws = whole_number("draws", draws)
    shape = flow.shape if shape is None else shape
    if shape is None:
        raise ValueError(
            "the shape of one sample is not known, got a flow without one. Pass "
            "shape= to ProbabilityFlow."
        )
    z = flow.process.prior(key, (draws, *shape))
    path = solve_batch(
        flow, z, times=times, condition=condition, rtol=_TOLERANCE, atol=_TOLERANCE
    )
    return path.xs


def steepest_slopes(
    flow: ProbabilityFlow,
    xs: Float[Array, "draw time *event"],
    times: Times,
    *,
    key: Key,
    condition: Condition = None,
    iterations: int = 6,
) -> Float[Array, "draw time"]:
    r"""The largest eigenvalue of $\alpha\,\partial D/\partial x$ at the states `xs`.

    By power iteration, `iterations` products with the derivative for every state. The
    derivative of an exact denoiser is symmetric and not negative:
    $\alpha\,\partial D/\partial x = (\alpha/\sigma)^2\, Cov(x_0 | x)$.
    """

    def ask(flow: ProbabilityFlow, x: Array, sigma: Any, alpha: Any, c: Any) -> Array:
        denoise = lambda x: flow.denoiser(x, sigma, alpha, c)
        v = jax.random.normal(key, x.shape, x.dtype)
        size = jnp.ones((), x.dtype)
        for _ in range(iterations):
            v = v / jnp.maximum(jnp.sqrt(jnp.sum(v**2)), jnp.finfo(v.dtype).tiny)
            v = jax.jvp(denoise, (x,), (v,))[1]
            size = jnp.sqrt(jnp.sum(v**2))
        return alpha * size

    return _at_times(ask, flow, xs, times, condition).T


def _at_times(
    ask: Callable[..., Array],
    flow: ProbabilityFlow,
    xs: Float[Array, "draw time *event"],
    times: Times,
    condition: Condition,
) -> Array:
    """`ask(flow, x, sigma, alpha, condition)` of every state, one time after another."""

    @eqx.filter_jit
    def run(
        flow: ProbabilityFlow, xs: Array, times: Times, condition: Condition
    ) -> Any:
        at = lambda x, sigma, alpha: jax.vmap(
            lambda x, c: ask(flow, x, sigma, alpha, c)
        )(x, condition)
        levels = flow.process.level(times)
        return jax.lax.map(lambda row: at(*row), (jnp.moveaxis(xs, 1, 0), *levels))

    return run(flow, xs, times, check_condition(condition, xs.shape[0]))
