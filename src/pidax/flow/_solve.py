r"""Trajectories of the probability-flow ODE: `solve`, `encode`, and many at once.

`solve` and `encode` take one sample, which has its own adaptive steps under `jax.vmap`.
`solve_batch` and `sample` solve a whole batch with shared steps, which are short enough
for the worst sample.
"""

from typing import Any, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._checks import (
    check_condition,
    is_traced,
    require,
    require_finite,
    show,
)
from ..process import AbstractProcess
from ..types import (
    Batch,
    BatchLike,
    Condition,
    Elementwise,
    Flag,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Times,
    TimesLike,
    typed,
)
from ._clocks import AbstractClock, magnification
from ._integrate import (
    Leaves,
    Plan,
    SolveOptions,
    integrate,
    make_plan,
    rms,
    rms_of_worst_sample,
    succeed,
)
from ._probability_flow import ProbabilityFlow

_SLACK = 1e-6  # relative; t_max and t_min in float32 are still themselves


class DensePath(eqx.Module):
    """A trajectory that can be evaluated at every time between its ends."""

    clock: AbstractClock
    process: AbstractProcess
    interpolation: diffrax.DenseInterpolation
    ends: Float[Array, "2"]
    successful: Flag


class Path(eqx.Module):
    """A solved trajectory.

    - `ts`: the process times of the saved states;
    - `xs`: the states, `xs[i]` at `ts[i]` (`xs[:, i]` for a batch);
    - `end`: the final state: the sample (after the step to zero noise if
      `denoise=True`), or the latent of `encode`;
    - `stats`: Diffrax's statistics and `"evaluations"`, the number of denoiser calls
      (None for a solver whose calls cannot be counted);
    - `result`: Diffrax's result. After a failed solve all states are NaN.
    """

    ts: Float[Array, "*batch time"]
    xs: Any
    end: Float[Array, "..."]
    stats: dict[str, Any]
    result: diffrax.RESULTS
    dense: DensePath | None = None

    @typed
    def evaluate(self, t: ScalarLike) -> Sample:
        """The state at any process time between the ends; needs `dense=True`."""
        if self.dense is None:
            raise ValueError(
                "this path was saved at its times only. Solve with dense=True to "
                "evaluate it anywhere, or pass the times you want as times=."
            )
        clock, process = self.dense.clock, self.dense.process
        at, ends = jnp.asarray(t, self.end.dtype), jnp.sort(self.dense.ends)
        at = require(
            at,
            (at >= ends[0]) & (at <= ends[1]),
            f"t must lie between the ends {show(ends[0])} and {show(ends[1])} of the "
            f"path, got {show(at)}. Solve over a longer interval.",
        )
        u = self.dense.interpolation.evaluate(clock.reading(process, at))
        x = u / magnification(clock, process, at)
        return jnp.where(self.dense.successful, x, jnp.nan)

    def evaluations(self) -> tuple[float, int]:
        """Mean and maximum of the denoiser evaluations over the samples.

        They differ under `jax.vmap`, where every sample has its own steps and the
        compiled loop runs until the last sample is done.
        """
        count: Elementwise | None = self.stats["evaluations"]
        if count is None:
            raise ValueError(
                "the calls of this solver cannot be counted. Give it an attribute "
                "`evaluations = (calls at the start, calls a step)` if you know them."
            )
        return float(jnp.mean(count)), int(jnp.max(count))

    def __str__(self) -> str:
        if is_traced(self):
            return repr(self)
        ok = jnp.all(diffrax.is_successful(self.result))
        shapes = jax.tree.map(jnp.shape, self.xs)
        text = f"Path of shape {shapes}, {'solved' if ok else 'FAILED'}"
        if self.stats["evaluations"] is not None:
            mean, most = self.evaluations()
            text += f", evaluations: mean {mean:.1f}, max {most}"
        return text


class BatchField(eqx.Module):
    """The flow for a whole batch: one state and one step for all samples."""

    flow: ProbabilityFlow

    def __call__(self, tau: Scalar, u: Batch, args: Condition) -> Batch:
        field = jax.vmap(self.flow, in_axes=(None, 0, 0))
        return field(tau, u, args)

    def denoised(
        self, u: Batch, sigma: Scalar, alpha: Scalar, args: Condition
    ) -> Batch:
        ask = jax.vmap(self.flow.denoised, in_axes=(0, None, None, 0))
        return ask(u, sigma, alpha, args)


def field_of_flow(field: Any) -> tuple[Any, ProbabilityFlow]:
    """The `ProbabilityFlow` in the vector field of a term, and itself or its batch.

    A solver that steps the denoised sample needs it: the first value has a method
    `denoised(u, sigma, alpha, args)`, for one sample or for a batch as `u` is.
    """
    field = field.field if isinstance(field, Leaves) else field
    if isinstance(field, BatchField):
        return field, field.flow
    if isinstance(field, ProbabilityFlow):
        return field, field
    raise ValueError(
        "expected the vector field of a ProbabilityFlow, whose denoiser this solver "
        f"asks itself, got {type(field).__name__}. Pass flow.term(), or take a solver "
        "of any equation: pidax.solver.Multistep(order, 'slope', 'clock'), or one of "
        "Diffrax."
    )


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
    r"""Follow the probability-flow ODE from noise to data, for one sample.

    **Arguments:**

    - `flow`: the ODE.
    - `z`: the state at the first time; by default a draw of `process.prior`.
    - `times`: decreasing process times at which to save, from the time of `z` to the
      end of the solve. Default: `(t_max, t_min)`. A last 0 directly after `t_min` asks
      for `denoise=True`.
    - `saveat`: a `diffrax.SaveAt` that chooses what to save; `times` then gives the two
      ends only. `SaveAt(steps=True)` shows the solver's steps. Its `ts` and the
      arguments of its `fn(t, x, args)` are process times and states.
    - `condition`: passed to the denoiser at every evaluation.
    - `dense`: keep the whole trajectory for `path.evaluate(t)`.
    - `denoise`: end with the step to zero noise, $x(0) = D(x, \sigma)$ from the last
      time, for one more evaluation.
    - `options`: tolerances, solver, fixed steps: see `SolveOptions`.

    **Returns:** a `Path`: `path.ts`, `path.xs`, `path.end`, `path.stats`.

    `path.stats["evaluations"]` is the cost; docs/results/ode_solver.md has typical
    values. Under `jax.vmap` every sample has its own steps; `solve_batch` shares them.
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

    It is the inverse of `solve` up to the errors of both solves. `x0` is the state at
    the first of the increasing `times`, by default `(t_min, t_max)`. Options as for
    `solve`.
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
    """`solve` for a batch, with shared steps that are short enough for the worst
    sample.

    Faster than `jax.vmap(solve)`: one state, one step size, no masked work. Arrays in
    `condition` have the batch as their first axis; a scalar is shared by all samples.
    `path.xs` has the batch first, then the times.
    """
    z = check_state(flow, jnp.asarray(z), "z", batch=True)
    return trajectory(
        flow, z, times, saveat, condition, options, -1, denoise=denoise, batched=True
    )


def trajectory(
    flow: ProbabilityFlow,
    x: Array,
    times: TimesLike | None,
    saveat: diffrax.SaveAt | None,
    condition: Condition,
    options: SolveOptions,
    direction: int,
    *,
    dense: bool = False,
    denoise: bool = False,
    batched: bool = False,
) -> Path:
    """Check everything that is known before compiling, then run the compiled solve."""
    ts, final_zero = check_times(times, flow.process, direction, x.dtype)
    if saveat is not None:
        dense = dense or saveat.dense
        saveat = check_saveat(saveat)
    if batched:
        condition = check_condition(condition, x.shape[0])
    norm = rms_of_worst_sample if batched else rms
    plan = make_plan(options, flow, ts, norm, dense=dense)
    denoise = denoise or final_zero
    return _compiled(flow, x, ts, saveat, condition, plan, dense, denoise, batched)


@eqx.filter_jit
def _compiled(
    flow: ProbabilityFlow,
    x: Array,
    ts: Array,
    saveat: diffrax.SaveAt | None,
    condition: Condition,
    plan: Plan,
    dense: bool,
    denoise: bool,
    batched: bool,
) -> Path:
    taus = flow.clock.reading(flow.process, ts)
    if saveat is None:
        save = diffrax.SaveAt(ts=taus, dense=dense)
    else:
        asked = _in_the_clock(saveat.subs, flow)
        save = diffrax.SaveAt(subs=[asked, diffrax.SubSaveAt(t1=True)], dense=dense)
    solution = integrate(
        BatchField(flow) if batched else flow,
        flow,
        x * flow.magnification(ts[0]),
        (taus[0], taus[-1]),
        save,
        condition,
        plan,
    )
    assert solution.ys is not None
    assert solution.ts is not None
    stats = dict(solution.stats)
    ends = ts[jnp.array([0, -1])]
    if saveat is None:
        shrink = flow.magnification(ts).reshape((-1,) + (1,) * x.ndim)
        saved = (solution.ys / shrink).at[0].set(x)  # the start to the last bit
        end = saved[-1]
    else:
        saved, end = solution.ys[0], solution.ys[1][0] / flow.magnification(ts[-1])
        ts = _process_times(solution.ts[0], flow)
    if denoise:
        sigma, alpha = flow.process.level(ends[1])
        call = lambda x, c: flow.denoiser(x, sigma, alpha, c)
        end = (jax.vmap(call) if batched else call)(end, condition)
        if saveat is None:
            saved = jnp.concatenate([saved, end[None]])
            ts = jnp.append(ts, jnp.zeros((), ts.dtype))
        if stats["evaluations"] is not None:
            stats["evaluations"] += flow.denoiser.evaluations(condition)
    finite = jnp.isfinite(end).all()
    (saved, end), good = succeed((saved, end), solution, finite, plan)
    the_state = saveat is None or saveat.subs.fn is diffrax.SubSaveAt(t1=True).fn
    if batched and the_state:
        saved = jnp.moveaxis(saved, 0, 1)
    path = None
    if solution.interpolation is not None:
        path = DensePath(flow.clock, flow.process, solution.interpolation, ends, good)
    return Path(ts, saved, end, stats, solution.result, path)


def _in_the_clock(sub: diffrax.SubSaveAt, flow: ProbabilityFlow) -> diffrax.SubSaveAt:
    """The user's SubSaveAt, in process times and states, for the clock's solve."""
    process, clock = flow.process, flow.clock

    def fn(tau: Scalar, u: Array, args: PyTree) -> PyTree:
        t = clock.time(process, tau)
        return sub.fn(t, u / flow.magnification(t), args)

    ts = None
    if sub.ts is not None:
        ts = clock.reading(process, jnp.asarray(sub.ts))
    return diffrax.SubSaveAt(t0=sub.t0, t1=sub.t1, ts=ts, steps=sub.steps, fn=fn)


def _process_times(taus: Array, flow: ProbabilityFlow) -> Array:
    """Process times of solver times; unused entries stay infinite."""
    used = jnp.isfinite(taus)
    safe = jnp.where(used, taus, flow.clock.reading(flow.process, flow.process.t_min))
    return jnp.where(used, flow.clock.time(flow.process, safe), jnp.inf)


def check_saveat(saveat: diffrax.SaveAt) -> diffrax.SaveAt | None:
    """One SubSaveAt, or only `dense`; more are for `diffrax.diffeqsolve` itself."""
    internal = ("solver_state", "controller_state", "made_jump")
    asked = [name for name in internal if getattr(saveat, name)]
    several = not isinstance(saveat.subs, diffrax.SubSaveAt | None)
    if asked or several or (saveat.subs is None and not saveat.dense):
        raise ValueError(
            "saveat must say where to save states, such as diffrax.SaveAt(steps=True), "
            f"in one SubSaveAt, got {', '.join(asked) or saveat.subs}. For more, pass "
            "flow.term() to diffrax.diffeqsolve."
        )
    return None if saveat.subs is None else saveat


def check_state(
    flow: ProbabilityFlow, x: Array, name: str, batch: bool = False
) -> Sample:
    """The state has the flow's event shape and is finite."""
    event = x.shape[1:] if batch else x.shape
    if batch and not x.size:
        raise ValueError(
            f"{name} must hold at least one sample, got the shape {x.shape}. Leave out "
            "the call where there is nothing to solve."
        )
    if flow.shape is not None and event != flow.shape:
        if event[1:] == flow.shape and not batch:
            advice = "For many samples at once use solve_batch, or jax.vmap."
        elif batch and x.shape == flow.shape:
            advice = f"For one sample use solve, or pass {name}[None]."
        else:
            advice = "Reshape it, or check which denoiser the flow was made of."
        expected = f"(batch, ...) with samples of {flow.shape}" if batch else flow.shape
        raise ValueError(
            f"{name} must have the shape {expected}, as the flow's samples have, got "
            f"{x.shape}. {advice}"
        )
    return require_finite(name, x, "Check how it was made before solving.")


def check_times(
    times: TimesLike | None, process: AbstractProcess, direction: int, dtype: np.dtype
) -> tuple[Times, bool]:
    """The times to save at, and whether a final zero (the denoiser) was asked for.

    `direction` is -1 from noise to data, +1 from data to noise.
    """
    xp = jnp if is_traced(times, process) else np  # what is known compiles nothing
    if times is None:
        ends = (process.t_min, process.t_max)[::direction]
        return jnp.asarray(xp.stack([xp.asarray(end, dtype) for end in ends])), False
    ts = xp.asarray(times, dtype)
    verb, start = ("decrease", "z") if direction < 0 else ("increase", "x0")
    if ts.size < 2:
        raise ValueError(
            f"times must hold at least the start (where {start} is) and the end of "
            f"the trajectory, got {ts.size} of them."
        )
    ts, final_zero = _split_final_zero(ts, process, direction)
    low, high = process.t_min, process.t_max
    inside = (ts >= low * (1 - _SLACK)) & (ts <= high * (1 + _SLACK))
    ts = require(
        ts,
        inside.all(),
        "times must lie in the interval [t_min, t_max] = "
        f"[{show(low)}, {show(high)}] of "
        f"{type(process).__name__}, got times from {show(ts.min())} to "
        f"{show(ts.max())}. Make the process with other ends, or move the times.",
    )
    ts = require(
        ts,
        (direction * xp.diff(ts) > 0).all(),
        f"times must strictly {verb} from the start to the end of the trajectory, got "
        f"{show(ts)}. Sort them, or use "
        f"{'encode' if direction < 0 else 'solve'} for the other direction.",
    )
    return jnp.asarray(xp.clip(ts, low, high), dtype), final_zero


def _split_final_zero(
    ts: Any, process: AbstractProcess, direction: int
) -> tuple[Any, bool]:
    """Remove a last time 0, where the ODE is singular and the denoiser is not."""
    if is_traced(ts, process) or direction > 0:
        return ts, False
    before, last = np.asarray(ts)[-2:]  # numbers, inside jit too
    if last != 0.0:
        return ts, False
    if ts.size > 2 and abs(before / process.t_min - 1) <= _SLACK:
        return ts[:-1], True
    raise ValueError(
        "time 0 is zero noise, where the ODE is singular; the last step to it is the "
        f"denoiser itself, from t_min={process.t_min}. Expected t_min right before "
        f"the 0, got {before}. Use a grid with final_zero=True, or end at "
        "t_min and pass denoise=True."
    )
