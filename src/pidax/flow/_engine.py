"""One call of Diffrax for every kind of solve, and the rule that failures are loud."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._types import Condition, Flag
from ._flow import ProbabilityFlow
from ._ledger import evaluations
from ._options import FIRST_STEP, MAX_STEPS, MAX_STEPS_DENSE, resolve_solver, step_nodes


def integrate(
    field: Any,
    flow: ProbabilityFlow,
    u0: PyTree,
    ends: tuple[Array, Array],
    saveat: diffrax.SaveAt,
    condition: Condition,
    full: dict[str, Any],
    norm: Any,
    dense: bool = False,
) -> diffrax.Solution:
    """Integrate `field` between two clock readings; never raises.

    The statistics gain `"evaluations"`, in calls of the field.
    """
    dtype = jax.tree.leaves(u0)[0].dtype
    max_steps, dt0 = full["max_steps"], full["dt0"]
    if full["steps"] is None:
        solver, controller = resolve_solver(full, dtype, norm)
        towards = ends[1] - ends[0]
        if dt0 is not None:
            dt0 = jnp.abs(jnp.asarray(dt0, dtype)) * jnp.sign(towards)
        elif not isinstance(controller, diffrax.StepTo):
            dt0 = FIRST_STEP * towards
        if max_steps is None:
            max_steps = MAX_STEPS_DENSE if dense else MAX_STEPS
    else:
        _refuse_beside_steps(full)
        solver = diffrax.Dopri5() if full["solver"] is None else full["solver"]
        nodes = step_nodes(full["steps"], flow.clock, flow.process, ends)
        controller, max_steps = diffrax.StepTo(nodes), nodes.shape[0] - 1
    passed = {
        name: full[name]
        for name in ("adjoint", "progress_meter")
        if full[name] is not None
    }
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        *ends,
        dt0,
        u0,
        args=condition,
        saveat=saveat,
        stepsize_controller=controller,
        max_steps=max_steps,
        throw=False,
        **passed,
    )
    calls = evaluations(solver, solution.stats["num_steps"], flow.denoiser.evaluations)
    solution.stats["evaluations"] = calls
    solution.stats["max_steps"] = max_steps
    return solution


def _refuse_beside_steps(full: dict[str, Any]) -> None:
    given = [
        name
        for name in ("rtol", "atol", "stepsize_controller", "dt0", "max_steps")
        if full[name] is not None
    ]
    if given:
        raise ValueError(
            f"steps= takes fixed steps without error control, so {', '.join(given)} "
            "would be ignored. Leave out steps for an adaptive solve, or leave out "
            "the others."
        )


_CAUSES = (
    "The denoiser returned NaN or infinity somewhere on the way: evaluate it at the "
    "noise levels of the path, beginning with the ends.",
    "Likely causes: a tolerance below what the dtype and the denoiser can hold "
    "(float32 floors near 1e-6, a rough network earlier): loosen rtol and atol, or "
    "enable float64; a denoiser that returns NaN; a process started far outside the "
    "data's scale. If none of these, raise max_steps.",
    "The step size fell below the controller's minimum: loosen rtol and atol, or lower "
    "dtmin.",
)


def succeed(
    value: PyTree, solution: diffrax.Solution, finite: Flag, throw: bool
) -> tuple[PyTree, Flag]:
    """`value` if the solve succeeded: else an error, or NaN everywhere."""
    ok = diffrax.is_successful(solution.result)
    good = ok & finite
    if throw:
        stopped = solution.result == diffrax.RESULTS.max_steps_reached
        index = jnp.where(ok, 0, jnp.where(stopped, 1, 2))
        limit = solution.stats["max_steps"]
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
