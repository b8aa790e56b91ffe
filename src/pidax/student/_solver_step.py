"""A solver's own step as the student's derivative: its optimum is that solver."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import require
from ..flow import AbstractClock, AngleClock, ProbabilityFlow
from ..process import AbstractProcess
from ..types import Condition, Sample, Scalar, Times
from ._derivatives import AbstractDerivative, two_nodes
from ._stencil import Stencil


class SolverStep(AbstractDerivative):
    r"""The student's difference quotient against the mean slope of a solver's step.

    $$ \frac{u_{i+1} - u_i}{\tau_{i+1} - \tau_i} \quad\text{against}\quad
       \frac{\Phi(u_i) - u_i}{\tau_{i+1} - \tau_i}, $$

    where $\Phi$ is one step of any explicit one-step solver of Diffrax. A student
    without residual is that solver's trajectory on the grid, and Lemma 1 of Tee et al.
    2024 (which is the case of `Euler`) holds with the solver's order. It costs two
    passes of the student and as many of the teacher as the solver has stages; a last
    stage that only estimates the error is left out.

    `steps` is about how many steps lead from noise to data, whatever the grid: each
    spans the whole number of gaps nearest to that, at least one. A step that would
    begin before `t_max` begins there. Long steps, on a grid fine enough to be read
    anywhere: the student's errors pass through fewer steps on their way to the data,
    and a solver of high order adds little of its own. Without residual a student with
    steps over $k$ gaps is $k$ interleaved trajectories of the solver. None steps from
    node to node.

    Refused are solvers that carry a history from step to step (multistep ones), which a
    student asked at two nodes does not have, and implicit ones.
    """

    solver: diffrax.AbstractSolver
    clock: AbstractClock = AngleClock()
    steps: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        require(
            None,
            self.steps is None or self.steps >= 1,
            "steps is how many the solver takes from noise to data, at least 1, got "
            f"steps={self.steps}. None steps from node to node of the grid.",
        )
        if not _is_explicit_one_step(self.solver):
            raise _refusal(self.solver)

    def _stencil(self, process: AbstractProcess, times: Times) -> Stencil:
        gaps = times.size - 1
        stride = 1 if self.steps is None else max(1, round(gaps / self.steps))
        return two_nodes(self.clock, process, times, stride=stride)

    def target(
        self, flow: ProbabilityFlow, row: Stencil, states: Array, condition: Condition
    ) -> Sample:
        """The clean sample that the solver's step implies."""
        first, sigma, alpha = states[0], row.sigma[0], row.alpha[0]
        sigma_rate, alpha_rate = row.rates[0, 0], row.rates[0, 1]
        slope = self._mean_slope(flow, row, first, condition)
        wronskian = sigma * alpha_rate - alpha * sigma_rate
        return (sigma * slope - sigma_rate * first) / wronskian

    def _mean_slope(
        self, flow: ProbabilityFlow, row: Stencil, first: Sample, condition: Condition
    ) -> Sample:
        field = ProbabilityFlow(
            flow.denoiser,
            flow.process,
            clock=self.clock,
            shape=flow.shape,
            extrapolate=True,  # the flow itself has been checked
        )
        # The increment alone is stepped: u + increment - u would lose its digits.
        slope = lambda tau, w: field(tau, first + w, condition)
        tableau = getattr(self.solver, "tableau", None)
        if isinstance(tableau, diffrax.ButcherTableau):
            return _mean_of_stages(tableau, slope, row, jnp.zeros_like(first))
        term = diffrax.ODETerm(lambda tau, w, args: slope(tau, w))
        start, stop, zero = row.start, row.stop, jnp.zeros_like(first)
        state = self.solver.init(term, start, stop, zero, None)
        if jax.tree.leaves(eqx.filter(state, eqx.is_array)):
            raise _refusal(self.solver)
        made_jump = jnp.asarray(False)
        increment = self.solver.step(term, start, stop, zero, None, state, made_jump)[0]
        return increment / (stop - start)


def _mean_of_stages(
    tableau: diffrax.ButcherTableau,
    slope: Callable[[Scalar, Sample], Sample],
    row: Stencil,
    zero: Sample,
) -> Sample:
    """The mean slope of an explicit Runge-Kutta step.

    Diffrax's own step also takes a last stage without weight, where the method has
    one: for an error estimate and the next step, of which there are none here.
    """

    def mean(weights: np.ndarray, slopes: list[Sample]) -> Sample:
        some = jnp.asarray(weights[: len(slopes)], zero.dtype)
        return jnp.tensordot(some, jnp.stack(slopes), axes=1)

    step, count = row.stop - row.start, tableau.num_stages - (tableau.b_sol[-1] == 0)
    slopes = [slope(row.start, zero)]
    for c, weights in list(zip(tableau.c, tableau.a_lower, strict=True))[: count - 1]:
        slopes.append(slope(row.start + float(c) * step, step * mean(weights, slopes)))
    return mean(tableau.b_sol, slopes)


def _is_explicit_one_step(solver: diffrax.AbstractSolver) -> bool:
    """As far as its class tells; one that keeps a history shows when it is begun."""
    history = diffrax.LeapfrogMidpoint | diffrax.ReversibleHeun
    one_term = solver.term_structure is diffrax.AbstractTerm or isinstance(
        solver, diffrax.AbstractERK
    )
    implicit = isinstance(solver, diffrax.AbstractImplicitSolver)
    return one_term and not implicit and not isinstance(solver, history)


def _refusal(solver: diffrax.AbstractSolver) -> ValueError:
    return ValueError(
        "SolverStep takes an explicit one-step solver of Diffrax (Euler, or a "
        f"Runge-Kutta method such as Heun), got {type(solver).__name__}, which is "
        "implicit, keeps a history from step to step, or splits its equation. Use "
        "diffrax.Heun() or diffrax.Dopri5()."
    )
