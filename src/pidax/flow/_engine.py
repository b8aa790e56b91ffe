"""One call of Diffrax for every kind of solve, and the rule that failures are loud."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..types import Condition, Flag, Scalar
from ._flow import ProbabilityFlow
from ._ledger import evaluations, watch
from ._options import Plan


def integrate(
    field: Callable[[Any, Any, Any], Any],
    flow: ProbabilityFlow,
    u0: PyTree,
    ends: tuple[Scalar, Scalar],
    saveat: diffrax.SaveAt,
    condition: Condition,
    plan: Plan,
) -> diffrax.Solution:
    """Integrate `field` between two clock readings; never raises.

    The statistics gain `"evaluations"`, the calls of the flow's denoiser.
    """
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
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
    """Steps given one by one, their ends moved onto the solve's if rounding parts them.

    The same reading of a clock differs in its last bits from one place of a compiled
    program to another, and Diffrax asks for the same bits. Other ends stay as they are.
    """
    if not isinstance(controller, diffrax.StepTo):
        return controller
    wanted = jnp.stack(ends)
    outer = jnp.array([0, -1])
    got = controller.ts[outer]
    least = 16 * jnp.finfo(wanted.dtype).eps * jnp.abs(wanted).max()
    moved = jnp.where(jnp.abs(got - wanted) <= least, wanted.astype(got.dtype), got)
    return eqx.tree_at(lambda c: c.ts, controller, controller.ts.at[outer].set(moved))


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


def succeed(
    value: PyTree, solution: diffrax.Solution, finite: Flag, plan: Plan
) -> tuple[PyTree, Flag]:
    """`value` if the solve succeeded: else an error, or NaN everywhere."""
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
