r"""Trajectories of the probability-flow ODE: `solve`, `encode`, and many at once.

`solve` and `encode` follow one sample, each on its own adaptive steps, and vmap;
`solve_batch` and `sample` carry a whole batch on shared steps, short enough for its
worst sample.
"""

from typing import Any, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import require_finite
from .._types import (
    Batch,
    BatchLike,
    Condition,
    Key,
    Sample,
    SampleLike,
    Scalar,
    TimesLike,
    typed,
)
from ._engine import integrate, succeed
from ._flow import ProbabilityFlow
from ._options import (
    SolveOptions,
    diffrax_rms,
    known_options,
    rms_of_worst_sample,
)
from ._path import DensePath, Path
from ._times import check_times


@typed
def solve(
    flow: ProbabilityFlow,
    z: SampleLike,
    *,
    times: TimesLike | None = None,
    condition: Condition = None,
    dense: bool = False,
    denoise: bool = False,
    **options: Unpack[SolveOptions],
) -> Path:
    r"""Follow the probability-flow ODE from noise to data: one sample.

    **Arguments:**

    - `flow`: the ODE.
    - `z`: the state at the first time; at the default, a draw of `process.prior`.
    - `times`: decreasing process times at which to save, from where `z` is to where
      the solve ends. Default: `(t_max, t_min)`. A last 0 right after `t_min` asks for
      `denoise=True`.
    - `condition`: handed to the denoiser at every evaluation.
    - `dense`: keep the whole trajectory for `path.evaluate(t)`.
    - `denoise`: end with the step to zero noise, which is the denoiser itself:
      $x(0) = D(x, \sigma)$ from the last time; one more evaluation.
    - `options`: tolerances, solver, fixed steps, ...: see `SolveOptions`.

    **Returns:** a `Path`: `path.ts`, `path.xs`, `path.end`, `path.stats`.

    Costs about 70 evaluations at the default tolerance; `jax.vmap` gives every sample
    its own steps, `solve_batch` shares them.
    """
    z = _check_state(flow, jnp.asarray(z), "z")
    return _trajectory(flow, z, times, condition, dense, denoise, -1, options)


@typed
def encode(
    flow: ProbabilityFlow,
    x0: SampleLike,
    *,
    times: TimesLike | None = None,
    condition: Condition = None,
    dense: bool = False,
    **options: Unpack[SolveOptions],
) -> Path:
    """Follow the ODE from data to noise: `path.end` is the latent `z` of `x0`.

    The inverse of `solve`: `solve(flow, encode(flow, x0).end).end` is `x0` to the
    tolerance. `x0` is the state at the first of the increasing `times`, by default
    `(t_min, t_max)`. Options as for `solve`.
    """
    x0 = _check_state(flow, jnp.asarray(x0), "x0")
    return _trajectory(flow, x0, times, condition, dense, False, 1, options)


@typed
def solve_batch(
    flow: ProbabilityFlow,
    z: BatchLike,
    *,
    times: TimesLike | None = None,
    condition: Condition = None,
    denoise: bool = False,
    **options: Unpack[SolveOptions],
) -> Path:
    """`solve` for a batch on shared steps, with the worst sample within tolerance.

    Faster than `jax.vmap(solve)`: one state, one step size, no masked work. Arrays in
    `condition` carry the batch as their first axis; scalars are shared by all.
    `path.xs` has the batch first, then the times.
    """
    z = _check_state(flow, jnp.asarray(z), "z", batch=True)
    return _trajectory(flow, z, times, condition, False, denoise, -1, options, True)


@typed
def sample(
    flow: ProbabilityFlow,
    count: int,
    *,
    key: Key,
    condition: Condition = None,
    denoise: bool = False,
    **options: Unpack[SolveOptions],
) -> Batch:
    """Draw `count` samples: prior draws followed to data by `solve_batch`."""
    if flow.shape is None:
        raise ValueError(
            "the shape of one sample is not known. Pass shape= to ProbabilityFlow or "
            "to the wrapper of your model."
        )
    z = flow.process.prior(key, (count, *flow.shape))
    return solve_batch(flow, z, condition=condition, denoise=denoise, **options).end


class BatchField(eqx.Module):
    """The flow on a whole batch: one state for Diffrax, one step for all."""

    flow: ProbabilityFlow

    def __call__(self, tau: Scalar, u: Batch, args: Condition) -> Batch:
        return jax.vmap(self.flow, in_axes=(None, 0, condition_axes(args)))(
            tau, u, args
        )


def condition_axes(condition: Condition) -> Condition:
    """Arrays carry the batch as their first axis, scalars are shared."""
    return jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) > 0 else None, condition)


def _trajectory(
    flow: ProbabilityFlow,
    x: Array,
    times: TimesLike | None,
    condition: Condition,
    dense: bool,
    denoise: bool,
    direction: int,
    options: SolveOptions,
    batched: bool = False,
) -> Path:
    full = known_options(options)
    ts, final_zero = check_times(times, flow.process, direction, x.dtype)
    if condition is not None and batched:
        _check_batch_condition(condition, x.shape[0])
    return _compiled(
        flow, x, ts, condition, dense, denoise or final_zero, batched, full
    )


@eqx.filter_jit
def _compiled(
    flow: ProbabilityFlow,
    x: Array,
    ts: Array,
    condition: Condition,
    dense: bool,
    denoise: bool,
    batched: bool,
    full: dict[str, Any],
) -> Path:
    taus = flow.clock.reading(flow.process, ts)
    solution = integrate(
        BatchField(flow) if batched else flow,
        flow,
        x * flow.magnification(ts[0]),
        (taus[0], taus[-1]),
        diffrax.SaveAt(ts=taus, dense=dense),
        condition,
        full,
        rms_of_worst_sample if batched else diffrax_rms,
    )
    us = solution.ys
    assert (us is not None and solution.interpolation is not None) or not dense
    shrink = flow.magnification(ts).reshape((-1,) + (1,) * (us.ndim - 1))
    xs = (us / shrink).at[0].set(x)  # the start to the last bit
    stats = dict(solution.stats)
    if denoise:
        xs, ts = _append_denoised(flow, xs, ts, condition, batched)
        if stats["evaluations"] is not None:
            stats["evaluations"] += flow.denoiser.evaluations
    xs, good = succeed(xs, solution, jnp.isfinite(xs[-1]).all(), full["throw"])
    path = DensePath(flow, solution.interpolation, good) if dense else None
    end = xs[-1]
    if batched:
        xs = jnp.moveaxis(xs, 0, 1)
    return Path(ts, xs, end, stats, solution.result, path)


def _append_denoised(
    flow: ProbabilityFlow, xs: Array, ts: Array, condition: Condition, batched: bool
) -> tuple[Array, Array]:
    """The last step to zero noise: the denoiser itself."""
    sigma, alpha = flow.process.sigma(ts[-1]), flow.process.alpha(ts[-1])
    call = lambda x, c: flow.denoiser(x, sigma, alpha, c)
    if batched:
        call = jax.vmap(call, in_axes=(0, condition_axes(condition)))
    x0 = call(xs[-1], condition)
    zero = jnp.zeros(1, ts.dtype)
    return jnp.concatenate([xs, x0[None]]), jnp.concatenate([ts, zero])


def _check_state(
    flow: ProbabilityFlow, x: Array, name: str, batch: bool = False
) -> Sample:
    event = x.shape[1:] if batch else x.shape
    if flow.shape is not None and event != flow.shape:
        advice = (
            "For many samples at once use solve_batch, or jax.vmap."
            if event[1:] == flow.shape and not batch
            else "Reshape it, or check which denoiser the flow was made of."
        )
        leading = "(batch, ...) + " if batch else ""
        raise ValueError(
            f"{name} must have the shape {leading}{flow.shape} of the flow's samples, "
            f"got {x.shape}. {advice}"
        )
    return require_finite(name, x, "Check how it was made before solving.")


def _check_batch_condition(condition: Condition, count: int) -> None:
    for leaf in jax.tree.leaves(condition):
        if jnp.ndim(leaf) > 0 and jnp.shape(leaf)[0] != count:
            raise ValueError(
                "arrays in condition carry the batch as their first axis: expected "
                f"length {count}, got shape {jnp.shape(leaf)}. To share one condition, "
                "repeat it with jnp.broadcast_to."
            )
