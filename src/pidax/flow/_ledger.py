"""The evaluation ledger: how many times a solve called its denoiser.

Every call counts: all stages of all steps, rejected steps too. A first-same-as-last
method takes its first stage from the step before, except in every attempt at a first
step and after a discontinuity; a controller that watches the steps counts those. The
first step's size is not searched for, so it costs nothing.
"""

from typing import Any

import diffrax
import jax.numpy as jnp
from jaxtyping import Array

from ..types import Count


def _tableau(solver: diffrax.AbstractSolver) -> diffrax.ButcherTableau | None:
    """The tableau of an explicit Runge-Kutta method."""
    tableau = getattr(solver, "tableau", None)
    explicit = isinstance(solver, diffrax.AbstractERK)
    return tableau if explicit and isinstance(tableau, diffrax.ButcherTableau) else None


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


def evaluations(
    solver: diffrax.AbstractSolver, solution: diffrax.Solution, each: int
) -> Count | None:
    """Denoiser evaluations of a solve whose controller was `Watched`.

    `each` is what one call of the denoiser costs (2 with guidance). Known are Euler
    and every explicit Runge-Kutta method with a tableau; a solver of your own may say
    so itself by an attribute `evaluations = (calls at the start, calls a step)`. None
    for others (implicit ones), whose calls cannot be counted.
    """
    steps: Array = solution.stats["num_steps"]
    declared = getattr(solver, "evaluations", None)
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
    """The controller, watched if the solver's calls depend on how the steps went."""
    tableau = _tableau(solver)
    return controller if tableau is None or not tableau.fsal else Watched(controller)
