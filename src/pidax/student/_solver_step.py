"""A solver's own step as the student's derivative: its optimum is that solver."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import require
from ..flow import AbstractClock, AngleClock, ProbabilityFlow
from ..process import AbstractProcess
from ..types import Condition, Sample, Times
from ._derivatives import AbstractDerivative, two_nodes
from ._stencil import Stencil


class SolverStep(AbstractDerivative):
    r"""The student's difference quotient against the mean slope of a solver's step.

    $$ \frac{u_{i+1} - u_i}{\tau_{i+1} - \tau_i} \quad\text{against}\quad
       \frac{\Phi(u_i) - u_i}{\tau_{i+1} - \tau_i}, $$

    where $\Phi$ is one step of any explicit one-step solver of Diffrax. A student
    without residual is that solver's trajectory on the grid, and Lemma 1 of Tee et al.
    2024 (which is the case of `Euler`) holds with the solver's order. It costs two
    passes of the student and as many of the teacher as the solver has stages.

    `steps` is how many steps the solver takes from noise to data, whatever the grid:
    each goes from a node to one several nodes later (to those nearest to the start,
    from the start). Long steps, on a grid fine enough to be read anywhere: the
    student's errors pass through fewer steps on their way to the data, and a solver of
    high order adds little of its own. Without residual the student is then as many
    interleaved trajectories of the solver as nodes are skipped. None steps from node to
    node.

    Diffrax's Runge-Kutta steps are differentiated in reverse mode, as training does.
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
        stride = 1 if self.steps is None else math.ceil(gaps / self.steps)
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
        term = diffrax.ODETerm(lambda tau, w, args: field(tau, first + w, args))
        start, stop, zero = row.start, row.stop, jnp.zeros_like(first)
        state = self.solver.init(term, start, stop, zero, condition)
        keeps = jax.tree.leaves(eqx.filter(state, eqx.is_array))
        if keeps and not isinstance(self.solver, diffrax.AbstractERK):
            raise _refusal(self.solver)
        made_jump = jnp.asarray(False)
        increment = self.solver.step(
            term, start, stop, zero, condition, state, made_jump
        )[0]
        return increment / (stop - start)


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
