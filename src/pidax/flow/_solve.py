r"""Trajectories of the probability-flow ODE: `solve`, `encode`, and many at once.

`solve` and `encode` follow one sample, each on its own adaptive steps, and vmap;
`solve_batch` and `sample` carry a whole batch on shared steps, short enough for its
worst sample.
"""

from typing import Unpack

import diffrax
import jax.numpy as jnp

from .._checks import whole_number
from ..types import (
    Batch,
    BatchLike,
    Condition,
    Key,
    SampleLike,
    TimesLike,
    WholeLike,
    typed,
)
from ._flow import ProbabilityFlow
from ._options import SolveOptions
from ._path import Path
from ._trajectory import check_state, trajectory


@typed
def solve(
    flow: ProbabilityFlow,
    z: SampleLike,
    *,
    times: TimesLike | None = None,
    saveat: diffrax.SaveAt | None = None,
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
    - `saveat`: a `diffrax.SaveAt` that says what to save, while `times` keeps its
      ends: `SaveAt(steps=True)` shows the solver's own steps. Its `ts` and what its
      `fn(t, x, args)` sees are process times and states.
    - `condition`: handed to the denoiser at every evaluation.
    - `dense`: keep the whole trajectory for `path.evaluate(t)`.
    - `denoise`: end with the step to zero noise, which is the denoiser itself:
      $x(0) = D(x, \sigma)$ from the last time; one more evaluation.
    - `options`: tolerances, solver, fixed steps, ...: see `SolveOptions`.

    **Returns:** a `Path`: `path.ts`, `path.xs`, `path.end`, `path.stats`.

    `path.stats["evaluations"]` is what it cost; docs/solvers.md says what to expect.
    `jax.vmap` gives every sample its own steps, `solve_batch` shares them.
    """
    z = check_state(flow, jnp.asarray(z), "z")
    return trajectory(
        flow, z, times, saveat, condition, options, -1, dense=dense, denoise=denoise
    )


@typed
def encode(
    flow: ProbabilityFlow,
    x0: SampleLike,
    *,
    times: TimesLike | None = None,
    saveat: diffrax.SaveAt | None = None,
    condition: Condition = None,
    dense: bool = False,
    **options: Unpack[SolveOptions],
) -> Path:
    """Follow the ODE from data to noise: `path.end` is the latent `z` of `x0`.

    The inverse of `solve`: `solve(flow, encode(flow, x0).end).end` is `x0` to the
    tolerance. `x0` is the state at the first of the increasing `times`, by default
    `(t_min, t_max)`. Options as for `solve`.
    """
    x0 = check_state(flow, jnp.asarray(x0), "x0")
    return trajectory(flow, x0, times, saveat, condition, options, 1, dense=dense)


@typed
def solve_batch(
    flow: ProbabilityFlow,
    z: BatchLike,
    *,
    times: TimesLike | None = None,
    saveat: diffrax.SaveAt | None = None,
    condition: Condition = None,
    denoise: bool = False,
    **options: Unpack[SolveOptions],
) -> Path:
    """`solve` for a batch on shared steps, each short enough for its worst sample.

    Faster than `jax.vmap(solve)`: one state, one step size, no masked work. Arrays in
    `condition` carry the batch as their first axis; scalars are shared by all.
    `path.xs` has the batch first, then the times.
    """
    z = check_state(flow, jnp.asarray(z), "z", batch=True)
    return trajectory(
        flow, z, times, saveat, condition, options, -1, denoise=denoise, batched=True
    )


@typed
def sample(
    flow: ProbabilityFlow,
    count: WholeLike,
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
    count = whole_number("count", count)
    z = flow.process.prior(key, (count, *flow.shape))
    return solve_batch(flow, z, condition=condition, denoise=denoise, **options).end
