"""Ways from noise to data: the student's, and the teacher's by one solver or another.

A way gives states at times, for errors, and the sample alone, compiled, for timing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import require
from ..flow import AbstractClock, ProbabilityFlow, solve_batch
from ..types import Batch, Condition, Scalar, Times

REFERENCE = "reference"
# The reference's tolerance by the bytes of a float. With Dopri8, whose error per step
# is far below it, 1e-5 is already near the rounding of float32.
_ACCURATE = {4: 1e-5, 8: 1e-8}


class Way(NamedTuple):
    """How to get from `z` to states, and how to say so.

    - `states(z, times, condition)`: `(xs, evaluations)`, states with the sample first,
      then the times; evaluations of one sample, None if they cannot be counted;
    - `end(z, condition)`: the states at `t_min` alone, compiled.
    """

    label: str
    states: Callable[[Batch, Times, Condition], tuple[Batch, float | None]]
    end: Callable[[Batch, Condition], Batch]


def make_ways(
    flow: ProbabilityFlow,
    student: Any,
    grid: Times,
    clock: AbstractClock,
    options: dict[str, Any],
) -> dict[str, Way]:
    """The reference, and the four that are compared with it."""
    own = ProbabilityFlow(
        flow.denoiser,
        flow.process,
        clock=clock,
        shape=flow.shape,
        extrapolate=flow.extrapolate,
    )
    steps = "1 step" if len(grid) == 2 else f"{len(grid) - 1} steps"
    on_grid = lambda solver: {"steps": grid, "solver": solver}
    return {
        REFERENCE: solver_way("reference", flow, options),
        "student": student_way(student),
        "adaptive": solver_way("teacher, default solve", flow, {}),
        "euler": solver_way(f"teacher, Euler, {steps}", own, on_grid(diffrax.Euler())),
        "heun": solver_way(f"teacher, Heun, {steps}", own, on_grid(diffrax.Heun())),
    }


def accurate(options: dict[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """The reference's options: accurate where they leave it open."""
    own = ("rtol", "atol", "steps", "stepsize_controller")
    if any(options.get(name) is not None for name in own):
        return options
    rtol = _ACCURATE.get(dtype.itemsize, _ACCURATE[4])
    solver = options.get("solver") or diffrax.Dopri8()
    return {**options, "rtol": rtol, "solver": solver}


def solver_way(label: str, flow: ProbabilityFlow, options: dict[str, Any]) -> Way:
    """The teacher's ODE by `solve_batch` with these options."""

    def states(
        z: Batch, times: Times, condition: Condition
    ) -> tuple[Batch, float | None]:
        path = solve_batch(flow, z, times=times, condition=condition, **options)
        calls = path.stats["evaluations"]
        return path.xs, None if calls is None else float(calls)

    return Way(label, states, lambda z, c: _solved_end(flow, z, c, options))


@eqx.filter_jit
def _solved_end(
    flow: ProbabilityFlow, z: Batch, condition: Condition, options: dict[str, Any]
) -> Batch:
    # That it succeeds is known by now: nothing is timed but the solve.
    options = {**options, "throw": False}
    return solve_batch(flow, z, condition=condition, **options).end


def student_way(student: Any) -> Way:
    """The student at one time after another: one compilation, memory for one time."""
    counted: Any = getattr(student, "evaluations", lambda condition: 1)

    def states(z: Batch, times: Times, condition: Condition) -> tuple[Batch, float]:
        xs = [_at(student, z, t, condition) for t in times]
        for t, x in zip(times, xs, strict=True):
            _require_states(x, float(t))
        return jnp.stack(xs, axis=1), float(counted(condition))

    last = student.process.t_min
    end = lambda z, c: _at(student, z, jnp.asarray(last, z.dtype), c)
    return Way("student", states, end)


@eqx.filter_jit
def _at(student: Any, z: Batch, t: Scalar, condition: Condition) -> Batch:
    return jax.vmap(lambda z, c: student(z, t, c))(z, condition).astype(z.dtype)


def _require_states(x: Batch, t: float) -> None:
    bad = ~np.isfinite(np.asarray(x)).reshape(len(x), -1).all(axis=1)
    require(
        None,
        not bad.any(),
        f"the student's states must be finite, got NaN or infinity at t={t:.6g} in "
        f"{int(bad.sum())} of {len(x)} samples, the first at index {int(bad.argmax())} "
        "of its block. Look at student(z, t) there; a run that diverged has its last "
        "good weights in its checkpoint.",
    )
