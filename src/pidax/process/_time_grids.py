r"""Time grids from noise to data, for samplers, students and figures.

Each function returns `n` decreasing process times from exactly `t_max` to exactly
`t_min`, for any process. `final_zero=True` appends $t = 0$, which stands for the step
to zero noise: one call of the denoiser.

A grid in the noise-to-signal ratio $r = \sigma/\alpha$ has no finite first time where
$\alpha(T) = 0$ (`RectifiedFlow`). The times after $T$ then start from the cap
$r = 160\,\sigma_{data}$, the ratio of EDM's $\sigma_{max} = 80$ to its
$\sigma_{data} = 0.5$. 0.4% of the quarter circle of angles lies above it.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

from .._checks import as_float, is_traced, require_positive, whole_number
from ..types import ScalarLike, Times, WholeLike, typed
from ._processes import AbstractProcess

_nodes = functools.partial(
    whole_number, "n", least=2, cure="For a single step to data, use n=2."
)
_Grid = TypeVar("_Grid", bound=Callable[..., Times])


def _concrete(grid: _Grid) -> _Grid:
    """Compute a grid of a known process as known numbers, inside jit too."""

    @functools.wraps(grid)
    def made(n: Any, process: AbstractProcess, **options: Any) -> Times:
        if is_traced(process):
            return grid(n, process, **options)
        with jax.ensure_compile_time_eval():
            return grid(n, process, **options)

    return cast(_Grid, made)


@typed
@_concrete
def karras(
    n: WholeLike,
    process: AbstractProcess,
    *,
    rho: ScalarLike = 7,
    final_zero: bool = False,
) -> Times:
    r"""Uniform in $r^{1/\rho}$, the grid of EDM (Karras et al. 2022, eq. 5).

    $$ r_i = \Bigl(r_{max}^{1/\rho}
        + \tfrac{i}{n-1}(r_{min}^{1/\rho} - r_{max}^{1/\rho})\Bigr)^\rho $$
    """
    rho = as_float(rho)
    require_positive(rho=rho)
    low, high = process.ratio_ends()
    ratios = jnp.linspace(high ** (1 / rho), low ** (1 / rho), _nodes(n)) ** rho
    return _finish(process, process.time(ratios), final_zero)


@typed
@_concrete
def uniform_log_snr(
    n: WholeLike, process: AbstractProcess, *, final_zero: bool = False
) -> Times:
    r"""Uniform in $\log(\alpha/\sigma)$, the grid of DPM-Solver (Lu et al. 2022)."""
    low, high = process.ratio_ends()
    ratios = jnp.exp(jnp.linspace(jnp.log(high), jnp.log(low), _nodes(n)))
    return _finish(process, process.time(ratios), final_zero)


@typed
@_concrete
def uniform_angle(
    n: WholeLike, process: AbstractProcess, *, final_zero: bool = False
) -> Times:
    r"""Uniform in the angle $\varphi$: the fixed steps of the default clock."""
    high, low = process.angle(process.t_max), process.angle(process.t_min)
    angles = jnp.linspace(high, low, _nodes(n))
    return _finish(process, process.time_of_angle(angles), final_zero)


@typed
@_concrete
def uniform_time(
    n: WholeLike, process: AbstractProcess, *, final_zero: bool = False
) -> Times:
    """Uniform in the process time: the usual choice for `RectifiedFlow`."""
    times = jnp.linspace(process.t_max, process.t_min, _nodes(n))
    return _finish(process, times, final_zero)


def _finish(process: AbstractProcess, times: Times, final_zero: bool) -> Times:
    # The ends are the process's own numbers to the last bit, so that x(z, T) = z.
    times = times.at[0].set(process.t_max).at[-1].set(process.t_min)
    return jnp.append(times, jnp.zeros((), times.dtype)) if final_zero else times
