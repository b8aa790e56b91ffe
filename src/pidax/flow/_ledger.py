"""The evaluation ledger: how many times a solve called its denoiser.

Every call counts: all stages of all steps, rejected steps too, and the first stage of
a first-same-as-last method. The first step's size is not searched for (it is a fixed
fraction of the way), so it costs nothing.
"""

import diffrax
from jaxtyping import Array

from ..types import Count


def solver_cost(solver: diffrax.AbstractSolver) -> tuple[int, int] | None:
    """`(calls at the start, calls a step)` of a solver; None if not known.

    Known are Euler and every explicit Runge-Kutta method with a tableau; a solver of
    your own may say so itself by an attribute `evaluations = (start, step)`.
    """
    declared = getattr(solver, "evaluations", None)
    if declared is not None:
        return declared
    if isinstance(solver, diffrax.Euler):
        return 0, 1
    if isinstance(solver, diffrax.AbstractERK):
        tableau = solver.tableau
        if isinstance(tableau, diffrax.ButcherTableau):
            return (
                (1, tableau.num_stages - 1) if tableau.fsal else (0, tableau.num_stages)
            )
    return None


def evaluations(
    solver: diffrax.AbstractSolver, steps: Array, each: int = 1
) -> Count | None:
    """Denoiser evaluations of a solve of `steps` steps, rejected ones among them.

    `each` is what one call of the denoiser costs (2 with guidance). None for a solver
    whose calls cannot be counted (implicit ones).
    """
    cost = solver_cost(solver)
    if cost is None:
        return None
    start, step = cost
    return each * (start + step * steps)
