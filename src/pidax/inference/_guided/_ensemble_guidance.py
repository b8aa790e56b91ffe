r"""Guidance by regression over an ensemble: no derivative of anything.

`PiGDM` needs $V A^T$ and $A V A^T$, with $A$ the Jacobian of the rows $g$ and $V$ the
variance of clean samples. They are covariances of the changes of the rows under draws
$\delta_i \sim N(0, r_t^2 I)$ of this variance (a statistical linearisation),

$$ D_i \leftarrow D_i - C_{\delta g}\,(C_{gg} + I)^{-1} g(D_i), \qquad
   C_{\delta g} = \operatorname{cov}\bigl(\delta_i, g(D_i + \delta_i) - g(D_i)\bigr), $$

the ensemble Kalman update of all members together, in every step of the sampler. In the
spirit of Zheng, Chu, Wang, Kovachki, Baptista & Yue 2024, "Ensemble Kalman diffusion
guidance: a derivative-free method for inverse problems", and of Emerick & Reynolds 2013
for the regression. All of an observation is assimilated at each level, because the
denoiser's next answer forgets what is not repeated.
"""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ...process import karras
from ...types import Batch, Key, Sample
from .._cost import Clock
from ._contract import (
    BATCH,
    CLOSED,
    EQUATION,
    FORWARD,
    NOISY,
    AbstractGuided,
    Sampled,
    each_step,
    finished,
)
from ._levels import Grid, Now, between
from ._target import Spent, Target


class EnsembleGuidance(AbstractGuided):
    r"""As many members as samples, moved by regressions on what they predict.

    $$ D_i \leftarrow D_i - C_{\delta g}\,(C_{gg} + I)^{-1} g(D_i) $$

    Use it if neither the teacher nor the forward map can be differentiated. Take more
    members than the observations tell independent numbers, and several hundred.

    **Arguments:** `steps` and `grid` as for `DPS`.

    **Cost:** $N$ evaluations and $2N$ evaluations of the rows for each member, and a
    linear system of the number of rows or of members in each step.

    **Bias:** that of `PiGDM` with the variance of white data, for which it is exact in
    the limit of many members and small steps, if rows are linear.
    """

    steps: int = 100
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    takes: ClassVar[frozenset[str]] = frozenset({NOISY, CLOSED, EQUATION, FORWARD})

    @property
    def bias(self) -> str:
        return "exact for white Gaussian data only, and for many members"

    def step(
        self, target: Target, state: Batch, now: Now, key: Key
    ) -> tuple[Batch, Spent]:
        """Of all members together."""
        each = lambda fn, over: jax.lax.map(fn, over, batch_size=self.batch_size)
        clean = each(lambda u: target.clean(u, now.level), state)
        if not target.units:
            return between(state, clean, now), Spent(1)
        told = lambda x: jnp.concatenate(list(target.rows(x).values()))
        spread = now.level * now.size / jnp.hypot(now.level, now.size)
        change = spread * jax.random.normal(key, clean.shape, clean.dtype)
        off = each(told, clean)
        changed = each(told, clean + change) - off
        fixed = _regressed(clean, change, changed, off)
        own = (now.after / now.level) * (state - clean)
        return fixed + own, Spent(1, 0, 0, 2)

    def sampled(
        self,
        target: Target,
        levels: Float[Array, " level"],
        samples: int,
        *,
        key: Key,
        clock: Clock,
        done: Callable[[int], None],
    ) -> Sampled:
        if samples < 3:
            raise ValueError(
                "an ensemble estimates covariances: expected at least 3 samples, got "
                f"{samples}. Take several hundred."
            )
        found = clock.run(_run, self, target, levels, jnp.arange(samples), key)
        done(samples)
        return found


def _regressed(
    clean: Batch,
    change: Batch,
    changed: Float[Array, "member row"],
    off: Float[Array, "member row"],
) -> Batch:
    """The clean samples after the Kalman update with the covariances of changes."""
    count = len(clean)
    centred = lambda a: (a - a.mean(axis=0)) / jnp.sqrt(jnp.asarray(count - 1, a.dtype))
    x, g = centred(change.reshape(count, -1)), centred(changed)
    if g.shape[1] < count:  # the smaller one of two systems
        inner = g.T @ g + jnp.eye(g.shape[1], dtype=g.dtype)
        gain = jax.scipy.linalg.solve(inner, g.T @ x, assume_a="pos")
        moved = off @ gain
    else:
        inner = g @ g.T + jnp.eye(count, dtype=g.dtype)
        moved = off @ g.T @ jax.scipy.linalg.solve(inner, x, assume_a="pos")
    return clean - moved.reshape(clean.shape)


@eqx.filter_jit
def _run(
    method: EnsembleGuidance,
    target: Target,
    levels: Float[Array, " level"],
    numbers: Int[Array, " member"],
    key: Key,
) -> Sampled:
    def drawn(number: Int[Array, ""]) -> Sample:
        first = jax.random.split(jax.random.fold_in(key, number))[0]
        return jax.random.normal(first, target.shape)

    latents = jax.vmap(drawn)(numbers)
    levels = levels.astype(latents.dtype)
    common = jax.random.fold_in(key, len(numbers))

    def body(carry: tuple, now: Now) -> tuple[tuple, None]:
        u, spent = carry
        own = jax.random.fold_in(common, now.number)
        u, more = method.step(target, u, now, own)
        return (u, spent.plus(more)), None

    none = jnp.zeros((), int)
    start = (levels[0] * latents, Spent(none, none, none, none))
    (x, spent), _ = jax.lax.scan(body, start, each_step(target, levels))
    ends = lambda own: finished(method, target, own[0], own[1], spent)
    return jax.lax.map(ends, (latents, x), batch_size=method.batch_size)
