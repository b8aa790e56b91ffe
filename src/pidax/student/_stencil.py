r"""The clean sample implied by a numerical derivative, as a table of coefficients.

With a clock, $u = \sigma\epsilon + gF$ is the student's state at the noise level
$(\sigma, \alpha)(\tau)$, with the unit latent $\epsilon = z/\sigma_T$ and $g$ the
factor of $F$. The ODE, solved for the denoiser, reads

$$ D = \frac{\sigma\,\dot u - \dot\sigma\,u}{\sigma\dot\alpha - \alpha\dot\sigma}. $$

A derivative replaces $u$ and $\dot u$ by weighted sums over a few nodes,
$u \approx \sum_j m_j u_j$ and $\dot u \approx \sum_j d_j u_j + e_j \dot u_j$. This
gives the *implied* clean sample:

$$ \hat D = \sum_j w_j u_j + s_j \dot u_j
   = Z\epsilon + A\,F_r + \sum_{j \ne r} w_j g_j (F_j - F_r)
     + \sum_j s_j (\dot g_j (F_j - F_r) + g_j \dot F_j). $$

The second form is computed. Its constants $Z = \sum_j w_j\sigma_j + s_j\dot\sigma_j$
(zero for the paper's scheme: `z` cancels) and $A$ (near one) are sums of large numbers
that cancel; they are taken in float64 when the grid is made, once. In float32 only
differences of the network remain. The first form would subtract states of size
$\sigma_T$.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._checks import is_traced
from ..flow import AbstractClock
from ..process import AbstractProcess

Nodes = Float[Array, "*row node"]
Rows = Float[Array, "*row"]


class Row(eqx.Module):
    r"""The coefficients of one residual of a derivative, or of many along first axes.

    - `times`: process times of the nodes; `sigma`, `alpha`: their noise levels on the
      clock;
    - `value`, `slope`: the factors $w$ of $u_j$ and $s$ of $\dot u_j$ in the implied
      clean sample; `noise` is $Z$; `signal` is the same sum over $\alpha$: $A$ is the
      student's factor of $F$ at this level;
    - `rates`: $\dot\sigma, \dot\alpha$ and $dt/d\tau$ at the nodes;
    - `state`: the factors $m$ of $u_j$ in the state at which the teacher is evaluated;
      `at_sigma`, `at_alpha`: its noise level; `at_time`: its process time; `start`,
      `stop`: the solver time there and at the end of the step;
    - `reference`: the node $r$; `differentiated`: the nodes with a slope.
    """

    times: Nodes
    sigma: Nodes
    alpha: Nodes
    rates: Float[Array, "*row node 3"]
    value: Nodes
    slope: Nodes
    state: Nodes
    noise: Rows
    signal: Rows
    at_sigma: Rows
    at_alpha: Rows
    at_time: Rows
    start: Rows
    stop: Rows
    reference: int = eqx.field(static=True)
    differentiated: tuple[int, ...] = eqx.field(static=True)


class Stencil(eqx.Module):
    """A derivative on a grid: one row for each residual, from noise to data.

    `stencil[i]` is the residual of index `i`. `stencil.rows` are all residuals, with
    the index as the first axis of every array.
    """

    rows: Row

    def __getitem__(self, i: Array | int) -> Row:
        return jax.tree.map(lambda a: a[i], self.rows)

    def __len__(self) -> int:
        return self.rows.times.shape[0]


def make_stencil(
    process: AbstractProcess,
    clock: AbstractClock,
    times: Nodes,
    at: Rows,
    *,
    state: Nodes,
    slope: Nodes,
    slope_of_slope: tuple[float, ...] | None = None,
    reference: int = 0,
    stop: Rows | None = None,
) -> Stencil:
    """Rows from the nodes and the weights $m$, $d$ and $e$ of the derivative.

    `at` is the solver time at which the ODE is evaluated, `stop` the solver time at the
    end of a solver's step. Call it inside `exactly`.
    """
    readings = clock.reading(process, times)
    sigma, alpha, sigma_rate, alpha_rate = _level(process, clock, readings)
    s, a, ds, da = _level(process, clock, at)
    time_rate = _derivative(lambda r: clock.time(process, r), readings)[1]
    exact = (0.0,) * times.shape[1] if slope_of_slope is None else slope_of_slope
    column = lambda row: row[:, None]
    wronskian = column(s * da - a * ds)
    w = (column(s) * slope - column(ds) * state) / wronskian
    ws = column(s) * jnp.array(exact) / wronskian
    rows = Row(
        times=times,
        sigma=sigma,
        alpha=alpha,
        rates=jnp.stack([sigma_rate, alpha_rate, time_rate], axis=-1),
        value=w,
        slope=ws,
        state=state,
        noise=(w * sigma + ws * sigma_rate).sum(axis=1),
        signal=(w * alpha + ws * alpha_rate).sum(axis=1),
        at_sigma=s,
        at_alpha=a,
        at_time=clock.time(process, at),
        start=at,
        stop=at if stop is None else stop,
        reference=reference,
        differentiated=tuple(j for j, e in enumerate(exact) if e != 0),
    )
    return Stencil(rows)


@contextlib.contextmanager
def exactly(*known: object) -> Iterator[None]:
    """Compute known values in float64, whatever the session's precision."""
    if is_traced(*known):
        yield
        return
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        yield


def rounded(stencil: Stencil) -> Stencil:
    """The same in the session's precision."""
    if is_traced(stencil):
        return stencil
    dtype = np.dtype(jnp.zeros(()).dtype)
    small = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), dtype), stencil)

    def down(exact: Array) -> Array:
        # A reading just below pi/2 must not be rounded up beyond it, where alpha < 0.
        wide = np.asarray(exact)
        near = wide.astype(dtype)
        near = np.where(near > wide, np.nextafter(near, np.zeros_like(near)), near)
        return jnp.asarray(near, dtype)

    start, stop = down(stencil.rows.start), down(stencil.rows.stop)
    return Stencil(dataclasses.replace(small.rows, start=start, stop=stop))


def widened(tree: PyTree) -> PyTree:
    """Its floating-point arrays in the widest precision that is enabled now."""
    wide = lambda a: a.astype(float) if eqx.is_inexact_array(a) else a
    return jax.tree.map(wide, tree)


def _level(
    process: AbstractProcess, clock: AbstractClock, tau: Array
) -> tuple[Array, Array, Array, Array]:
    """sigma, alpha and their derivatives at these solver times."""
    level, rates = _derivative(lambda r: clock.level(process, r), tau)
    return *level, *rates


def _derivative(fn: Callable[[Array], Any], x: Array) -> tuple[Any, Any]:
    """An elementwise function and its derivative."""
    return jax.jvp(fn, (x,), (jnp.ones_like(x),))
