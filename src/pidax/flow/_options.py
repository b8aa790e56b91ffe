"""How to solve: the keyword arguments that every solve takes, and their defaults.

The defaults are measured (`benchmarks/reference_solve.py`, docs/solvers.md): adaptive
Dopri5 in the angle clock with a PI controller, Dopri8 when the tolerance is tight, a
fixed number of Dopri5 steps without a controller for speed.
"""

from collections.abc import Callable
from typing import TypedDict

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import require, show
from .._types import Scalar, Times
from ._flow import ProbabilityFlow

TOLERANCE = 1e-4
TIGHT = 1e-6  # below this Dopri8 needs fewer evaluations than Dopri5
FIRST_STEP = 0.1  # of the whole interval: the noisy end is smooth in every clock
P_COEFFICIENT, I_COEFFICIENT = 0.3, 0.4  # rejects less than Diffrax's 0 and 1
MAX_STEPS = 4096
MAX_STEPS_DENSE = 256  # dense output allocates its whole history in advance


class SolveOptions(TypedDict, total=False):
    """Keyword arguments of `solve`, `solve_batch`, `sample`, `encode`, `log_density`.

    - `rtol`, `atol`: tolerances of the adaptive solve, on the clock's state (of order
      one in the angle clock). The default is 1e-4; `atol` follows `rtol`.
    - `steps`: no error control: this many steps, even on the clock, or steps ending
      at these process times (an array, such as `px.karras(18, process)`).
    - `solver`: any Diffrax solver. Default `Dopri5()`, or `Dopri8()` for
      `rtol < 1e-6`.
    - `stepsize_controller`, `adjoint`, `max_steps`, `progress_meter`: as in
      `diffrax.diffeqsolve`.
    - `dt0`: the size of the first step in the clock's units, by default a tenth of
      the way.
    - `throw`: raise if the solve fails (default). With False every state of a failed
      solve is NaN and `path.result` says why.
    """

    rtol: float | None
    atol: float | None
    steps: int | Float[Array, " time"] | None
    solver: diffrax.AbstractSolver | None
    stepsize_controller: diffrax.AbstractStepSizeController | None
    adjoint: diffrax.AbstractAdjoint | None
    dt0: float | Scalar | None
    max_steps: int | None
    progress_meter: diffrax.AbstractProgressMeter | None
    throw: bool


class Plan(eqx.Module):
    """The options of one solve with every gap filled.

    Tolerances and nodes are arrays, so that another value is not another compilation.
    """

    solver: diffrax.AbstractSolver
    controller: diffrax.AbstractStepSizeController
    adjoint: diffrax.AbstractAdjoint
    progress_meter: diffrax.AbstractProgressMeter
    dt0: Scalar | None
    max_steps: int = eqx.field(static=True)
    throw: bool = eqx.field(static=True)


def make_plan(
    options: SolveOptions,
    flow: ProbabilityFlow,
    ends: tuple[Scalar, Scalar],
    norm: Callable[[PyTree], Scalar],
    *,
    dense: bool = False,
) -> Plan:
    """What the options mean for a solve between two clock readings."""
    unknown = set(options) - set(SolveOptions.__annotations__)
    if unknown:
        raise TypeError(
            f"unknown option {sorted(unknown)}; expected some of "
            f"{sorted(SolveOptions.__annotations__)}."
        )
    steps = options.get("steps")
    if steps is not None:
        _refuse_beside_steps(options)
        nodes = step_nodes(steps, flow, ends)
        solver = options.get("solver") or diffrax.Dopri5()
        controller, dt0 = diffrax.StepTo(nodes), None
        max_steps = nodes.shape[0] - 1
    else:
        solver, controller = _adaptive(options, ends[0].dtype, norm)
        dt0, max_steps = options.get("dt0"), options.get("max_steps")
        towards = ends[1] - ends[0]
        if dt0 is not None:
            dt0 = jnp.abs(jnp.asarray(dt0, towards.dtype)) * jnp.sign(towards)
        elif not isinstance(controller, diffrax.StepTo):
            dt0 = FIRST_STEP * towards
        if max_steps is None:
            max_steps = MAX_STEPS_DENSE if dense else MAX_STEPS
    return Plan(
        solver,
        controller,
        options.get("adjoint") or diffrax.RecursiveCheckpointAdjoint(),
        options.get("progress_meter") or diffrax.NoProgressMeter(),
        dt0,
        max_steps,
        options.get("throw", True),
    )


def _adaptive(
    options: SolveOptions, dtype: jnp.dtype, norm: Callable[[PyTree], Scalar]
) -> tuple[diffrax.AbstractSolver, diffrax.AbstractStepSizeController]:
    rtol = options.get("rtol") or TOLERANCE
    atol = options.get("atol") or rtol
    least = float(jnp.finfo(dtype).eps)
    require(
        None,
        min(rtol, atol) >= least,
        f"rtol={rtol}, atol={atol} is below the rounding {least:.1e} of {dtype}. "
        "Loosen them, or enable float64 with "
        'jax.config.update("jax_enable_x64", True) and pass float64 arrays.',
    )
    solver = options.get("solver")
    if solver is None:
        solver = diffrax.Dopri8() if rtol < TIGHT else diffrax.Dopri5()
    controller = options.get("stepsize_controller")
    if controller is None:
        if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
            raise ValueError(
                f"{type(solver).__name__} has no error estimate, so it cannot choose "
                "its steps. Pass steps=, a number of steps or the times they end at."
            )
        controller = diffrax.PIDController(
            jnp.asarray(rtol, dtype),
            jnp.asarray(atol, dtype),
            pcoeff=P_COEFFICIENT,
            icoeff=I_COEFFICIENT,
            norm=norm,
        )
    return solver, controller


def _refuse_beside_steps(options: SolveOptions) -> None:
    named = ("rtol", "atol", "stepsize_controller", "dt0", "max_steps")
    given = [name for name in named if options.get(name) is not None]
    if given:
        raise ValueError(
            f"steps= takes fixed steps without error control, so {', '.join(given)} "
            "would be ignored. Leave out steps for an adaptive solve, or leave out "
            "the others."
        )


def step_nodes(
    steps: int | Array, flow: ProbabilityFlow, ends: tuple[Scalar, Scalar]
) -> Times:
    """Clock readings of the ends of fixed steps, from the start to the end given."""
    start, end = ends
    if isinstance(steps, int):
        require(None, steps >= 1, f"steps must be at least 1, got steps={steps}.")
        nodes = jnp.linspace(start, end, steps + 1)
    else:
        nodes = flow.clock.reading(flow.process, jnp.asarray(steps, start.dtype))
        if nodes.ndim != 1 or nodes.size < 2:
            raise ValueError(
                "steps must be a number of steps or the times they end at, from the "
                f"first time to the last, got an array of shape {nodes.shape}."
            )
        matches = jnp.isclose(nodes[0], start) & jnp.isclose(nodes[-1], end)
        nodes = require(
            nodes,
            matches & (jnp.diff(nodes) * jnp.sign(end - start) > 0).all(),
            "the times in steps must run strictly from the first to the last of times "
            "(by default t_max and t_min), got clock readings from "
            f"{show(nodes[0])} to {show(nodes[-1])} for a solve from {show(start)} to "
            f"{show(end)}. A grid with a final zero is passed as times=, and without "
            "its zero as steps=.",
        )
    # The ends to the last bit, so that no sliver of a step is left over.
    return nodes.at[0].set(start).at[-1].set(end)


def rms_of_worst_leaf(y: PyTree) -> Scalar:
    """The largest root mean square of any leaf: no part hides behind a larger one."""
    leaves = [rms(leaf) for leaf in jax.tree.leaves(y)]
    return jnp.max(jnp.stack(leaves))


def rms_of_worst_sample(y: Array) -> Scalar:
    """The largest root mean square of any sample: every one meets the tolerance."""
    return jnp.max(jax.vmap(rms)(y))


def rms(y: Array) -> Scalar:
    """Root mean square, with the derivative zero at zero."""
    square = jnp.mean(y**2)
    positive = jnp.where(square > 0, square, 1.0)
    return jnp.where(square > 0, jnp.sqrt(positive), 0.0)
