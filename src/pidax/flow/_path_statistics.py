r"""What a few hundred trajectories of the teacher say about where its ODE is difficult.

Two things are measured along them. *Where the clean sample moves*: how large
$|D(x_{i+1}, t_{i+1}) - D(x_i, t_i)|$ is, which says where time nodes are needed. *How
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
_QUANTILE = 0.99  # of the motion over the draws
_SMOOTH = 5  # fine intervals, the standard deviation of what smooths the motion
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

    The nodes divide $(1 - e)\, m + e\, u$ into equal parts, where $m$ is the share of
    the motion $|D_{i+1} - D_i|$ that lies between `t_max` and a time, $u$ the share of
    $\ln(\alpha/\sigma)$, and $e$ is `even`. The motion is its 99% quantile over the
    draws, smoothed with a standard deviation of 4% of the logarithmic interval: draws
    near a border between two modes move late, and a mean does not see them. A grid for
    students and samplers with few nodes. It solves `draws` trajectories, about 50
    evaluations of the denoiser each, and asks the denoiser at 129 times of each.

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
    clean = _at_times(_denoised, flow, xs, times, condition).astype(np.float64)
    steps = np.diff(clean.reshape(xs.shape[0], _FINE, -1), axis=1)
    motion = _smooth(np.quantile(np.sqrt((steps**2).sum(-1)), _QUANTILE, axis=0))
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
    v = np.asarray(jax.random.normal(key, xs.shape, xs.dtype))
    for _ in range(iterations):
        v = _at_times(_slope_along, flow, xs, times, condition, v)
    size = np.sqrt((v.reshape(*v.shape[:2], -1) ** 2).sum(-1))
    return jnp.asarray(flow.process.alpha(times) * size)


def _denoised(flow: Any, x: Array, sigma: Any, alpha: Any, condition: Any) -> Array:
    return flow.denoiser(x, sigma, alpha, condition)


def _slope_along(
    flow: Any, x: Array, sigma: Any, alpha: Any, condition: Any, v: Array
) -> Array:
    """The derivative of the denoiser along `v`, which is first made a unit vector."""
    v = v / jnp.maximum(jnp.sqrt(jnp.sum(v**2)), jnp.finfo(v.dtype).tiny)
    denoise = lambda x: flow.denoiser(x, sigma, alpha, condition)
    return jax.jvp(denoise, (x,), (v,))[1]


def _smooth(motion: np.ndarray) -> np.ndarray:
    reach = np.arange(-3 * _SMOOTH, 3 * _SMOOTH + 1)
    kernel = np.exp(-0.5 * (reach / _SMOOTH) ** 2)
    wide = np.pad(motion, 3 * _SMOOTH, mode="edge")
    return np.convolve(wide, kernel / kernel.sum(), mode="valid")


def _at_times(
    ask: Callable[..., Array],
    flow: ProbabilityFlow,
    xs: Any,
    times: Times,
    condition: Condition,
    *more: Any,
) -> np.ndarray:
    """`ask(flow, x, sigma, alpha, condition, ...)` of every state, time by time.

    A loop of Python: XLA's CPU backend is slow in convolutions inside a loop.
    """
    xs, condition = np.asarray(xs), check_condition(condition, xs.shape[0])
    levels = zip(*map(np.asarray, flow.process.level(times)), strict=True)
    rows = [
        _of_all_draws(ask, flow, xs[:, i], *level, condition, *(m[:, i] for m in more))
        for i, level in enumerate(levels)
    ]
    return np.stack([np.asarray(row) for row in rows], axis=1)


@eqx.filter_jit
def _of_all_draws(
    ask: Callable[..., Array],
    flow: ProbabilityFlow,
    x: Array,
    sigma: Array,
    alpha: Array,
    condition: Condition,
    *more: Array,
) -> Array:
    one = lambda x, c, *more: ask(flow, x, sigma, alpha, c, *more)
    return jax.vmap(one)(x, condition, *more)
