"""One trajectory or a batch of them: checked, entered into the clock, solved, left."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import check_condition, require_finite
from ..types import Batch, Condition, Sample, Scalar, TimesLike
from ._engine import integrate, succeed
from ._flow import ProbabilityFlow
from ._options import Plan, SolveOptions, make_plan, rms, rms_of_worst_sample
from ._path import DensePath, Path
from ._times import check_times


class BatchField(eqx.Module):
    """The flow on a whole batch: one state for Diffrax, one step for all."""

    flow: ProbabilityFlow

    def __call__(self, tau: Scalar, u: Batch, args: Condition) -> Batch:
        field = jax.vmap(self.flow, in_axes=(None, 0, 0))
        return field(tau, u, args)


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
    """Check everything that can be known now, then run the compiled solve."""
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
        end = denoised(flow, end, ends[1], condition, batched)
        if saveat is None:
            saved = jnp.concatenate([saved, end[None]])
            ts = jnp.append(ts, jnp.zeros((), ts.dtype))
        if stats["evaluations"] is not None:
            stats["evaluations"] += flow.denoiser.evaluations(condition)
    finite = jnp.isfinite(end).all()
    (saved, end), good = succeed((saved, end), solution, finite, plan)
    if batched and (saveat is None or _saves_the_state(saveat.subs)):
        saved = jnp.moveaxis(saved, 0, 1)
    path = None
    if solution.interpolation is not None:
        path = DensePath(flow.clock, flow.process, solution.interpolation, ends, good)
    return Path(ts, saved, end, stats, solution.result, path)


def denoised(
    flow: ProbabilityFlow, x: Array, t: Scalar, condition: Condition, batched: bool
) -> Array:
    """The last step to zero noise: the denoiser itself."""
    sigma, alpha = flow.process.level(t)
    call = lambda x, c: flow.denoiser(x, sigma, alpha, c)
    if batched:
        call = jax.vmap(call)
    return call(x, condition)


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
    """Process times of clock readings; the padding of unused saves stays infinite."""
    used = jnp.isfinite(taus)
    safe = jnp.where(used, taus, flow.clock.reading(flow.process, flow.process.t_min))
    return jnp.where(used, flow.clock.time(flow.process, safe), jnp.inf)


def _saves_the_state(sub: diffrax.SubSaveAt) -> bool:
    return sub.fn is diffrax.SubSaveAt(t1=True).fn


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
