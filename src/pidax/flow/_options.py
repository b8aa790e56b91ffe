"""How to solve: the keyword arguments that every solve takes, and their defaults.

The defaults are measured (`benchmarks/reference_solve.py`, docs/solvers.md): adaptive
Dopri5 in the angle clock with a PI controller, Dopri8 when the tolerance is tight, a
fixed number of Dopri5 steps without a controller for speed.
"""

from typing import Any, TypedDict

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import require
from .._types import Scalar
from ..process import AbstractProcess
from ._clock import AbstractClock

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


def known_options(options: SolveOptions) -> dict[str, Any]:
    """`options` with its gaps filled by None; an unknown name is an error."""
    unknown = set(options) - set(SolveOptions.__annotations__)
    if unknown:
        raise TypeError(
            f"unknown option {sorted(unknown)}; expected some of "
            f"{sorted(SolveOptions.__annotations__)}."
        )
    full: dict[str, Any] = dict.fromkeys(SolveOptions.__annotations__)
    full.update(options)
    full["throw"] = options.get("throw", True)
    return full


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


def resolve_solver(
    full: dict[str, Any], dtype: Any, norm: Any
) -> tuple[diffrax.AbstractSolver, diffrax.AbstractStepSizeController]:
    """The solver and the controller that the options mean (adaptive case)."""
    rtol = TOLERANCE if full["rtol"] is None else full["rtol"]
    atol = rtol if full["atol"] is None else full["atol"]
    least = float(jnp.finfo(dtype).eps)
    require(
        None,
        min(rtol, atol) >= least,
        f"rtol={rtol}, atol={atol} is below the rounding {least:.1e} of {dtype}. "
        "Loosen them, or enable float64 with "
        'jax.config.update("jax_enable_x64", True) and pass float64 arrays.',
    )
    solver = full["solver"]
    if solver is None:
        solver = diffrax.Dopri8() if rtol < TIGHT else diffrax.Dopri5()
    controller = full["stepsize_controller"]
    if controller is None:
        if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
            raise ValueError(
                f"{type(solver).__name__} has no error estimate, so it cannot choose "
                "its steps. Pass steps=, a number of steps or the times they end at."
            )
        controller = diffrax.PIDController(
            rtol, atol, pcoeff=P_COEFFICIENT, icoeff=I_COEFFICIENT, norm=norm
        )
    return solver, controller


def step_nodes(
    steps: int | Array,
    clock: AbstractClock,
    process: AbstractProcess,
    ends: tuple[Array, Array],
) -> Array:
    """Clock readings of the ends of fixed steps, from the start to the end given."""
    start, end = ends
    if isinstance(steps, int):
        require(None, steps >= 1, f"steps must be at least 1, got steps={steps}.")
        nodes = jnp.linspace(start, end, steps + 1)
    else:
        nodes = clock.reading(process, jnp.asarray(steps, start.dtype))
    # The ends to the last bit, so that no sliver of a step is left over.
    return nodes.at[0].set(start).at[-1].set(end)
