"""The call of Diffrax that every solve uses: options, cost, failures.

The defaults were measured (`benchmarks/solvers/reference.py`,
docs/results/ode_solver.md): adaptive Tsit5 in the angle clock with a PI controller,
Dopri8 for small tolerances, and Dopri5 for a fixed number of steps, where it has
smaller errors.

Every call of the denoiser is counted: all stages of all steps, including rejected
steps. A first-same-as-last method takes its first stage from the step before, except in
every attempt at a first step and after a discontinuity; a wrapped controller counts
those. The size of the first step is not searched for, so it costs nothing.
"""

from collections.abc import Callable
from typing import Any, TypedDict

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._checks import is_traced, require, show, whole_number
from ..process import AbstractProcess
from ..types import (
    Condition,
    Count,
    Flag,
    Scalar,
    ScalarLike,
    Times,
    TimesLike,
    WholeLike,
)
from ._probability_flow import ProbabilityFlow

TOLERANCE = 1e-4
TIGHT = 1e-6  # below it Dopri8 needs fewer evaluations than Tsit5
FIRST_STEP = 0.1  # of the way, by the clock and by the angle, whichever is less
P_COEFFICIENT, I_COEFFICIENT = 0.3, 0.4  # rejects less than Diffrax's 0 and 1
MAX_STEPS = 4096
MAX_STEPS_DENSE = 256  # dense output allocates its whole history in advance
_CAUSES = (
    "The denoiser returned NaN or infinity somewhere on the way: evaluate it at the "
    "noise levels of the path, beginning with the ends.",
    "Likely causes: a tolerance below what the dtype and the denoiser can hold "
    "(errors floor above its rounding, a rough network's earlier): loosen rtol and "
    "atol, or "
    "enable float64; a denoiser that returns NaN; a process started far outside the "
    "data's scale. If none of these, raise max_steps.",
    "The step size fell below the controller's minimum: loosen rtol and atol, or lower "
    "dtmin.",
)


class SolveOptions(TypedDict, total=False):
    """Keyword arguments of `solve`, `solve_batch`, `sample`, `encode`, `log_density`.

    - `rtol`, `atol`: tolerances of the adaptive solve, for the clock's state (of size
      one in the angle clock). The default is 1e-4; `atol` equals `rtol` by default.
    - `steps`: fixed steps without error control: a number of equal steps in the clock,
      or an array of process times at which steps end, such as `px.karras(18, process)`.
    - `solver`: any Diffrax solver. Default `Tsit5()`, `Dopri8()` for `rtol < 1e-6`, and
      `Dopri5()` for fixed steps.
    - `stepsize_controller`, `adjoint`, `max_steps`, `progress_meter`: as in
      `diffrax.diffeqsolve`. A controller has its own tolerances and, for a batch,
      should have `norm=pidax.flow.rms_of_worst_sample`.
    - `dt0`: the size of the first step in the clock's unit, by default a tenth of the
      way, measured by the clock or by the angle, whichever is less.
    - `throw`: raise if the solve fails (default). With False every state of a failed
      solve is NaN, and `path.result` names the reason.
    """

    rtol: ScalarLike | None
    atol: ScalarLike | None
    steps: WholeLike | TimesLike | None
    solver: diffrax.AbstractSolver | None
    stepsize_controller: diffrax.AbstractStepSizeController | None
    adjoint: diffrax.AbstractAdjoint | None
    dt0: ScalarLike | None
    max_steps: WholeLike | None
    progress_meter: diffrax.AbstractProgressMeter | None
    throw: bool


class Plan(eqx.Module):
    """The options of one solve, complete.

    Tolerances and nodes are arrays, so that another value needs no new compilation.
    """

    solver: diffrax.AbstractSolver
    controller: diffrax.AbstractStepSizeController
    adjoint: diffrax.AbstractAdjoint
    progress_meter: diffrax.AbstractProgressMeter
    dt0: Scalar | None
    max_steps: int = eqx.field(static=True)
    throw: bool = eqx.field(static=True)


class Watched(diffrax.AbstractStepSizeController):
    """A controller that counts the steps begun without a stored first stage."""

    inner: diffrax.AbstractStepSizeController

    def wrap(self, direction: Any) -> "Watched":
        return Watched(self.inner.wrap(direction))

    def init(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        end, state = self.inner.init(*args, **kwargs)
        return end, (state, jnp.asarray(True), jnp.asarray(0))

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: Any,
        y1_candidate: Any,
        args: Any,
        y_error: Any,
        error_order: Any,
        controller_state: Any,
    ) -> tuple[Any, Any, Any, Any, Any, Any]:
        state, fresh, count = controller_state
        keep, next_t0, next_t1, jumped, state, result = self.inner.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, state
        )
        count = count + jnp.where(fresh, 1, 0)
        fresh = jnp.where(keep, jumped, fresh)
        return keep, next_t0, next_t1, jumped, (state, fresh, count), result


class Leaves(eqx.Module):
    """A vector field as a list of its leaves.

    `diffrax.BacksolveAdjoint` carries an adjoint with the structure of the field, and
    fails if the field contains an empty tuple, as a network without some layers does.
    """

    leaves: list[Any]
    structure: Any = eqx.field(static=True)

    @property
    def field(self) -> Any:
        return jax.tree.unflatten(self.structure, self.leaves)

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> PyTree:
        return self.field(t, y, args)


def make_plan(
    options: SolveOptions,
    flow: ProbabilityFlow,
    times: Times,
    norm: Callable[[PyTree], Scalar],
    *,
    dense: bool = False,
) -> Plan:
    """Complete the options for a solve from the first of these times to the last.

    A solver with a method `prepare(flow, times, steps, adjoint)` is told what it is
    used for: it refuses what cannot work, and returns itself for this number of fixed
    steps (None with error control).
    """
    unknown = set(options) - set(SolveOptions.__annotations__)
    if unknown:
        raise TypeError(
            f"unknown option {sorted(unknown)}; expected some of "
            f"{sorted(SolveOptions.__annotations__)}."
        )
    if flow.clock.needs_signal:
        require_signal(flow.process, times, type(flow.clock).__name__)
    steps = options.get("steps")
    if steps is not None:
        named = ("rtol", "atol", "stepsize_controller", "dt0", "max_steps")
        given = [name for name in named if options.get(name) is not None]
        if given:
            raise ValueError(
                "steps= takes fixed steps without error control, so "
                f"{', '.join(given)} would be ignored. Leave out steps for an adaptive "
                "solve, or leave out the others."
            )
        nodes = step_nodes(steps, flow, times)
        solver = options.get("solver")
        solver = diffrax.Dopri5() if solver is None else solver
        controller, dt0 = diffrax.StepTo(nodes), None
        max_steps = nodes.shape[0] - 1
    else:
        solver, controller = _adaptive(options, times.dtype, norm)
        dt0, max_steps = options.get("dt0"), options.get("max_steps")
        if dt0 is not None or not isinstance(controller, diffrax.StepTo):
            given = None if dt0 is None else jnp.asarray(dt0, times.dtype)
            dt0 = _first_step(flow, times, given)
        if max_steps is None:
            max_steps = MAX_STEPS_DENSE if dense else MAX_STEPS
        max_steps = whole_number("max_steps", max_steps)
    adjoint = options.get("adjoint") or diffrax.RecursiveCheckpointAdjoint()
    prepare = getattr(solver, "prepare", None)
    if prepare is not None:
        fixed = isinstance(controller, diffrax.StepTo)
        count = len(controller.ts) - 1 if fixed else None
        solver = prepare(flow, times, count, adjoint)
    return Plan(
        solver,
        controller,
        adjoint,
        options.get("progress_meter") or diffrax.NoProgressMeter(),
        dt0,
        max_steps,
        options.get("throw", True),
    )


def require_signal(process: AbstractProcess, times: Times, who: str) -> None:
    """No end of the solve is pure noise, where `sigma / alpha` is infinite.

    Nothing is checked while tracing.
    """
    if is_traced(process, times):
        return
    ends = np.asarray(times)[[0, -1]]
    require(
        None,
        (np.asarray(process.level(ends)[1]) > 0).all(),
        f"{who} needs a signal at every time, alpha > 0, got alpha = 0 at an end of "
        f"the solve from {ends[0]} to {ends[1]}: sigma/alpha and its logarithm are "
        "infinite there. Take the angle (AngleClock(), variable='angle') or "
        "UnitNoiseClock(), or a process that ends before pure noise.",
    )


@eqx.filter_jit
def _first_step(flow: ProbabilityFlow, times: Times, given: Scalar | None) -> Scalar:
    """The step that was passed, or a tenth of the way, with its sign.

    A tenth by the clock alone would skip the data's end for some clocks, and no error
    estimate sees what lies between two stages.
    """
    clock, process, start, end = flow.clock, flow.process, times[0], times[-1]
    if given is None:
        angle = process.angle(start)
        turned = angle + FIRST_STEP * (process.angle(end) - angle)
        here = clock.reading(process, start)
        by_angle = clock.reading(process, process.time_of_angle(turned)) - here
        by_clock = FIRST_STEP * (clock.reading(process, end) - here)
        given = jnp.minimum(jnp.abs(by_angle), jnp.abs(by_clock))
    return jnp.abs(given) * jnp.sign(end - start)


def _adaptive(
    options: SolveOptions, dtype: jnp.dtype, norm: Callable[[PyTree], Scalar]
) -> tuple[diffrax.AbstractSolver, diffrax.AbstractStepSizeController]:
    rtol, atol = options.get("rtol"), options.get("atol")
    solver, controller = options.get("solver"), options.get("stepsize_controller")
    if controller is not None:
        if rtol is not None or atol is not None:
            raise ValueError(
                "a stepsize_controller has tolerances of its own, so rtol and atol "
                f"would be ignored, got rtol={rtol}, atol={atol} beside it. Put them "
                "into the controller, or leave the controller out."
            )
        return diffrax.Tsit5() if solver is None else solver, controller
    rtol = TOLERANCE if rtol is None else rtol
    atol = rtol if atol is None else atol
    rtol, atol = _above_rounding(rtol, atol, dtype)
    if solver is None:
        tight = not is_traced(rtol) and float(rtol) < TIGHT
        solver = diffrax.Dopri8() if tight else diffrax.Tsit5()
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            "expected a solver with an error estimate to choose its steps by, such as "
            f"diffrax.Tsit5(), got {type(solver).__name__}(). Pass that, or fix the "
            "steps: steps=, a number of steps or the times they end at."
        )
    controller = diffrax.PIDController(
        rtol, atol, pcoeff=P_COEFFICIENT, icoeff=I_COEFFICIENT, norm=norm
    )
    return solver, controller


def _above_rounding(
    rtol: ScalarLike, atol: ScalarLike, dtype: jnp.dtype
) -> tuple[Scalar, Scalar]:
    least = float(jnp.finfo(dtype).eps)
    message = (
        f"rtol={show(rtol)}, atol={show(atol)} is below the rounding {least:.1e} of "
        f"{dtype}. Loosen them, or enable float64 with "
        'jax.config.update("jax_enable_x64", True) and pass float64 arrays.'
    )
    xp = jnp if is_traced(rtol, atol) else np
    rtol, atol = (xp.asarray(tolerance, dtype) for tolerance in (rtol, atol))
    rtol, atol = require((rtol, atol), (rtol >= least) & (atol >= least), message)
    return jnp.asarray(rtol), jnp.asarray(atol)


def step_nodes(
    steps: WholeLike | TimesLike, flow: ProbabilityFlow, times: Times
) -> Times:
    """Solver times at the ends of fixed steps, from start to end of the solve."""
    return _readings(flow, times, _checked_steps(steps, times))


def step_times(
    steps: WholeLike | TimesLike, flow: ProbabilityFlow, times: Times
) -> Times:
    """Process times at the ends of the fixed steps that `solve(steps=)` takes between
    the first of `times` and the last.
    """
    nodes = _checked_steps(steps, times)
    if isinstance(nodes, int):
        nodes = flow.clock.time(flow.process, _readings(flow, times, nodes))
    return nodes.at[0].set(times[0]).at[-1].set(times[-1])


def _checked_steps(steps: WholeLike | TimesLike, times: Times) -> int | Times:
    """A number of steps, or the times at which they end, checked."""
    if np.ndim(steps) == 0:
        return whole_number("steps", steps)
    xp = jnp if is_traced(steps, times) else np  # what is known compiles nothing
    ends = xp.asarray(steps, times.dtype)
    if ends.ndim != 1 or ends.size < 2:
        raise ValueError(
            "steps must be a number of steps or the times they end at, from the first "
            f"time to the last, got an array of shape {ends.shape}."
        )
    start, end = xp.asarray(times)[0], xp.asarray(times)[-1]
    matches = xp.isclose(ends[0], start) & xp.isclose(ends[-1], end)
    onwards = (xp.diff(ends) * xp.sign(end - start) > 0).all()
    ends = require(
        ends,
        matches & onwards,
        "the times in steps must run strictly from the start to the end of the solve, "
        f"here from {show(start)} to {show(end)}, got {show(ends)}. Pass the same "
        "grid without its final zero, or set the ends of the solve with times=.",
    )
    return jnp.asarray(ends)


@eqx.filter_jit
def _readings(flow: ProbabilityFlow, times: Times, steps: int | Times) -> Times:
    read = lambda t: flow.clock.reading(flow.process, t)
    start, end = read(times[jnp.array([0, -1])])
    even = isinstance(steps, int)
    nodes = jnp.linspace(start, end, steps + 1) if even else read(steps)
    # The ends to the last bit, so that no sliver of a step is left over.
    return nodes.at[0].set(start).at[-1].set(end)


def rms_of_worst_leaf(y: PyTree) -> Scalar:
    """The largest root mean square of any leaf."""
    leaves = [rms(leaf) for leaf in jax.tree.leaves(y)]
    return jnp.max(jnp.stack(leaves))


def rms_of_worst_sample(y: PyTree) -> Scalar:
    """The largest root mean square of any sample, so that every sample meets the
    tolerance.

    `BacksolveAdjoint` adds adjoint states, which belong to no sample; then it is the
    root mean square of all.
    """
    return jnp.max(jax.vmap(rms)(y)) if isinstance(y, jax.Array) else rms(y)


def rms(y: PyTree) -> Scalar:
    """Root mean square over all leaves, with the derivative zero at zero."""
    leaves = [leaf for leaf in jax.tree.leaves(y) if eqx.is_inexact_array(leaf)]
    square = sum(jnp.sum(leaf**2) for leaf in leaves) / sum(a.size for a in leaves)
    positive = jnp.where(square > 0, square, 1.0)
    return jnp.where(square > 0, jnp.sqrt(positive), 0.0)


def integrate(
    field: eqx.Module,
    flow: ProbabilityFlow,
    u0: PyTree,
    ends: tuple[Scalar, Scalar],
    saveat: diffrax.SaveAt,
    condition: Condition,
    plan: Plan,
) -> diffrax.Solution:
    """Integrate the vector field between two clock readings; never raises.

    The statistics gain `"evaluations"`, the calls of the flow's denoiser.
    """
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(Leaves(*jax.tree.flatten(field))),
        plan.solver,
        *ends,
        plan.dt0,
        u0,
        args=condition,
        saveat=eqx.tree_at(lambda s: s.controller_state, saveat, True),
        stepsize_controller=watch(plan.solver, _onto(plan.controller, ends)),
        adjoint=plan.adjoint,
        progress_meter=plan.progress_meter,
        max_steps=plan.max_steps,
        throw=False,
    )
    each = flow.denoiser.evaluations(condition)
    solution.stats["evaluations"] = evaluations(plan.solver, solution, each)
    return solution


def _onto(controller: Any, ends: tuple[Scalar, Scalar]) -> Any:
    """Explicit steps, with their ends set to the ends of the solve if rounding
    separates them.

    The same solver time differs in its last bits between places of a compiled program,
    and Diffrax needs equal bits. Other ends do not change.
    """
    if not isinstance(controller, diffrax.StepTo):
        return controller
    wanted = jnp.stack(ends)
    outer = jnp.array([0, -1])
    got = controller.ts[outer]
    least = 16 * jnp.finfo(wanted.dtype).eps * jnp.abs(wanted).max()
    moved = jnp.where(jnp.abs(got - wanted) <= least, wanted.astype(got.dtype), got)
    return eqx.tree_at(lambda c: c.ts, controller, controller.ts.at[outer].set(moved))


def succeed(
    value: PyTree, solution: diffrax.Solution, finite: Flag, plan: Plan
) -> tuple[PyTree, Flag]:
    """`value` if the solve succeeded; otherwise an error, or NaN everywhere."""
    ok = diffrax.is_successful(solution.result)
    good = ok & finite
    if plan.throw:
        stopped = solution.result == diffrax.RESULTS.max_steps_reached
        index = jnp.where(ok, 0, jnp.where(stopped, 1, 2))
        limit = plan.max_steps
        messages = [
            "the solve produced non-finite states.",
            f"the solve did not reach its end within max_steps={limit} steps.",
            "the solve failed.",
        ]
        joined = [
            f"{message} There is no sample to return. {cause} (throw=False returns "
            "NaN instead of raising.)"
            for message, cause in zip(messages, _CAUSES, strict=True)
        ]
        return eqx.branched_error_if(value, ~good, index, joined), good
    return jax.tree.map(lambda a: jnp.where(good, a, jnp.nan), value), good


def evaluations(
    solver: diffrax.AbstractSolver, solution: diffrax.Solution, each: int
) -> Count | None:
    """Denoiser evaluations of a solve whose controller was `Watched`.

    `each` is the cost of one call of the denoiser (2 with guidance). The count is known
    for Euler and for every explicit Runge-Kutta method with a tableau. Another solver
    states its cost by an attribute `evaluations = (calls at the start, calls a step)`,
    or by a method `evaluations(steps)` if its steps do not cost the same.
    None if the calls cannot be counted, as for implicit solvers.
    """
    steps: Array = solution.stats["num_steps"]
    declared: Any = getattr(solver, "evaluations", None)
    if callable(declared):
        counted: Any = declared(steps)
        return each * counted
    if declared is not None:
        return each * (declared[0] + declared[1] * steps)
    if isinstance(solver, diffrax.Euler):
        return each * steps
    tableau = _tableau(solver)
    if tableau is None:
        return None
    if not tableau.fsal:
        return each * tableau.num_stages * steps
    assert solution.controller_state is not None
    *_, first_stages = solution.controller_state
    return each * (first_stages + (tableau.num_stages - 1) * steps)


def watch(
    solver: diffrax.AbstractSolver, controller: diffrax.AbstractStepSizeController
) -> diffrax.AbstractStepSizeController:
    """Wrap the controller if the number of calls depends on the steps taken."""
    tableau = _tableau(solver)
    return controller if tableau is None or not tableau.fsal else Watched(controller)


def _tableau(solver: diffrax.AbstractSolver) -> diffrax.ButcherTableau | None:
    """The tableau of an explicit Runge-Kutta method."""
    tableau = getattr(solver, "tableau", None)
    explicit = isinstance(solver, diffrax.AbstractERK)
    return tableau if explicit and isinstance(tableau, diffrax.ButcherTableau) else None
