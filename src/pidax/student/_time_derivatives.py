r"""Derivatives of the student in time.

Each class turns the student's values at the nodes of a grid into the clean sample that
they imply (`_stencil.py`). The residual of the ODE compares it with the teacher's
denoised sample at the same state. The classes differ in order, in network passes, and
in the factor by which they amplify the network's error. Each works with any clock.

| class | passes | order | trajectory at zero residual |
|---|---|---|---|
| `Upwind()` | 2 | 1 | Euler's method |
| `Central()` | 2 | 2 | midpoint rule, teacher at the mean of both states |
| `Central("nodes")` | 3 | 2 | leapfrog method |
| `CoupledAutomaticNumerical()` | 2, one with a tangent | 2 | - |
| `Autodiff()` | 1 with its tangent | - | solution of the ODE |
| `SolverStep(solver)` | 2 | the solver's | the solver |
"""

import abc
from collections.abc import Callable
from typing import Literal, get_args

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import require
from .._compatibility import check_grid
from ..flow import AbstractClock, AngleClock, ProbabilityFlow
from ..process import AbstractProcess
from ..types import Condition, Sample, Scalar, Times, TimesLike
from ._stencil import Row, Stencil, exactly, make_stencil, rounded, widened


class AbstractDerivative(eqx.Module):
    """The method by which the student is differentiated in time, and the clock it
    uses.

    A subclass implements `_stencil`, with `make_stencil`; `fewest` if two nodes are not
    enough; and `target` if the teacher is not evaluated at exactly one state.
    """

    @property
    def fewest(self) -> int:
        """The least number of nodes of a grid; by default two."""
        return 2

    @abc.abstractmethod
    def _stencil(self, process: AbstractProcess, times: Times) -> Stencil:
        """The rows for this grid, with float64 enabled."""

    def target(
        self, flow: ProbabilityFlow, row: Row, states: Array, condition: Condition
    ) -> Sample:
        """The teacher's clean sample for the student's states at the nodes of a row.

        By default the denoiser at the one state of the row.
        """
        state = jnp.tensordot(row.state.astype(states.dtype), states, axes=1)
        return flow.denoiser(state, row.at_sigma, row.at_alpha, condition)

    def stencil(self, process: AbstractProcess, times: TimesLike) -> Stencil:
        """The coefficients on this grid, one row for each residual.

        Times decrease from `t_max`. The rows go from noise to data. There are as many
        rows as nodes after `t_max`, one for each unknown state (`Autodiff` has one for
        every node).
        """
        name = type(self).__name__
        times = check_grid(times, process)
        require(
            None,
            times.size >= self.fewest,
            f"{name} needs a grid of at least {self.fewest} times, got {times.size}. "
            "Take a finer grid, or another derivative.",
        )
        with exactly(process, times):
            # Compiled: single operations would take seconds.
            make = eqx.filter_jit(type(self)._stencil)
            made = make(self, widened(process), jnp.asarray(times, float))
        return rounded(made)


class Upwind(AbstractDerivative):
    r"""The difference to the next node: Tee et al. 2024, eq. 10.

    $$ \dot u_i \approx \frac{u_i - u_{i+1}}{\tau_i - \tau_{i+1}} $$

    First order. With `TimeClock` it is the paper's, and a student with zero residual is
    Euler's trajectory on the grid (Lemma 1).

    `last=True` adds a row at the last node, with the difference to the node before, as
    the authors' code does: one equation more than unknown states.
    """

    clock: AbstractClock = AngleClock()
    last: bool = eqx.field(static=True, default=False)

    def _stencil(self, process: AbstractProcess, times: Times) -> Stencil:
        return two_nodes(self.clock, process, times, last=self.last)


Form = Literal["midpoint", "nodes"]


class Central(AbstractDerivative):
    r"""A central difference, of second order.

    - `"midpoint"`: between two neighbouring nodes, with the ODE midway between them
      on the clock, at the mean of their states,

        $$ \dot u_{i+1/2} \approx \frac{u_i - u_{i+1}}{\tau_i - \tau_{i+1}}, \qquad
           u_{i+1/2} \approx \tfrac12 (u_i + u_{i+1}), $$

        with two passes;
    - `"nodes"`: through the node before and the node after, with the ODE at the node
      itself and weights that are exact for parabolas on an uneven grid; three passes.
      The central difference of Tee et al. 2024, Table 3. They do not describe the ends;
      here it is the upwind difference at $T$, which has no node before it.
    """

    form: Form = eqx.field(static=True, default="midpoint")
    clock: AbstractClock = AngleClock()

    def __check_init__(self):
        if self.form not in get_args(Form):
            raise ValueError(
                f"form must be one of {get_args(Form)}, got {self.form!r}."
            )

    @property
    def fewest(self) -> int:
        return 2 if self.form == "midpoint" else 3

    def _stencil(self, process: AbstractProcess, times: Times) -> Stencil:
        if self.form == "midpoint":
            nodes = jnp.stack([times[:-1], times[1:]], axis=1)
            readings = self.clock.reading(process, nodes)
            step = readings[:, 0] - readings[:, 1]
            ends = jnp.array([1.0, -1.0])
            return make_stencil(
                process,
                self.clock,
                nodes,
                readings.mean(axis=1),
                state=jnp.full_like(nodes, 0.5),
                slope=ends / step[:, None],
                reference=1,
            )
        # The node before the first does not exist; it is the first, with weight 0.
        before = jnp.concatenate([times[:1], times[:-2]])
        nodes = jnp.stack([before, times[:-1], times[1:]], axis=1)
        tau = self.clock.reading(process, nodes)
        up, down = tau[:, 0] - tau[:, 1], tau[:, 1] - tau[:, 2]
        inner = jnp.arange(nodes.shape[0]) > 0
        up = jnp.where(inner, up, 1.0)
        share = jnp.where(inner, down / (up + down), 0.0)  # of the difference upwards
        slope = jnp.stack(
            [share / up, (1 - share) / down - share / up, -(1 - share) / down], axis=1
        )
        state = jnp.zeros_like(nodes).at[:, 1].set(1.0)
        at = tau[:, 1]
        return make_stencil(
            process, self.clock, nodes, at, state=state, slope=slope, reference=2
        )


class Autodiff(AbstractDerivative):
    r"""The exact derivative, by forward-mode differentiation of the network.

    $\hat D = F + (\sigma g/(\sigma\dot\alpha - \alpha\dot\sigma))\,\dot F$, the same
    number for every clock; for EDM $F - (1 - t/T)\,dF/d\ln t$. No grid limits its
    accuracy. Neighbouring times are connected by the network only.
    """

    clock: AbstractClock = AngleClock()

    def _stencil(self, process: AbstractProcess, times: Times) -> Stencil:
        nodes = times[:, None]
        return make_stencil(
            process,
            self.clock,
            nodes,
            self.clock.reading(process, times),
            state=jnp.ones_like(nodes),
            slope=jnp.zeros_like(nodes),
            slope_of_slope=(1.0,),
        )


class CoupledAutomaticNumerical(AbstractDerivative):
    r"""The difference to the next node, with the exact derivative at that node.

    $$ \dot u_i \approx 2\,\frac{u_i - u_{i+1}}{\tau_i - \tau_{i+1}} - \dot u_{i+1} $$

    Second order by Taylor's formula, where `Upwind` is of first order. It connects
    neighbouring times, which `Autodiff` does not. The idea of Chiu et al. 2022,
    "CAN-PINN: a fast physics-informed neural network based on
    coupled-automatic-numerical differentiation method", for one upwind step.
    """

    clock: AbstractClock = AngleClock()

    def _stencil(self, process: AbstractProcess, times: Times) -> Stencil:
        return two_nodes(self.clock, process, times, coupled=True)


class SolverStep(AbstractDerivative):
    r"""The student's difference quotient against the mean slope of a solver's step.

    $$ \frac{u_{i+1} - u_i}{\tau_{i+1} - \tau_i} \quad\text{against}\quad
       \frac{\Phi(u_i) - u_i}{\tau_{i+1} - \tau_i}, $$

    where $\Phi$ is one step of any explicit one-step solver of Diffrax. A student with
    zero residual is the trajectory of this solver on the grid. Lemma 1 of Tee et al.
    2024, which is the case of `Euler`, holds with the solver's order. Costs two passes
    of the student, and one pass of the teacher for each stage; a last stage that only
    estimates the error is left out.

    `steps` is about the number of steps from noise to data, for any grid: each step
    spans the nearest whole number of gaps, at least one. A step that would begin before
    `t_max` begins there. With long steps on a fine grid the student's errors pass
    through fewer steps, and a solver of high order has a small error of its own. If
    steps span $k$ gaps, a student with zero residual consists of $k$ interleaved
    trajectories of the solver. None steps from node to node.

    Multistep solvers, which need a history, and implicit solvers are refused.
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
        self, flow: ProbabilityFlow, row: Row, states: Array, condition: Condition
    ) -> Sample:
        """The clean sample implied by the solver's step."""
        first, sigma, alpha = states[0], row.sigma[0], row.alpha[0]
        sigma_rate, alpha_rate = row.rates[0, 0], row.rates[0, 1]
        slope = self._mean_slope(flow, row, first, condition)
        wronskian = sigma * alpha_rate - alpha * sigma_rate
        return (sigma * slope - sigma_rate * first) / wronskian

    def _mean_slope(
        self, flow: ProbabilityFlow, row: Row, first: Sample, condition: Condition
    ) -> Sample:
        field = ProbabilityFlow(
            flow.denoiser,
            flow.process,
            clock=self.clock,
            shape=flow.shape,
            extrapolate=True,  # the flow itself has been checked
        )
        # Only the increment is stepped: u + increment - u would lose digits.
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


def two_nodes(
    clock: AbstractClock,
    process: AbstractProcess,
    times: Times,
    *,
    coupled: bool = False,
    last: bool = False,
    stride: int = 1,
) -> Stencil:
    """Rows of two nodes, with the ODE evaluated at the first; one row for each second
    node.

    The nodes are `stride` apart, or the first one is the start.
    """
    begin = jnp.concatenate([jnp.repeat(times[:1], stride - 1), times[:-1]])
    nodes = jnp.stack([begin[: times.size - 1], times[1:]], axis=1)
    if last:
        nodes = jnp.concatenate([nodes, nodes[-1:, ::-1]])
    readings = clock.reading(process, nodes)
    step = (readings[:, 0] - readings[:, 1])[:, None]
    first, ends = jnp.array([1.0, 0.0]), jnp.array([1.0, -1.0])
    return make_stencil(
        process,
        clock,
        nodes,
        readings[:, 0],
        state=jnp.broadcast_to(first, nodes.shape),
        slope=(2.0 if coupled else 1.0) * ends / step,
        slope_of_slope=(0.0, -1.0) if coupled else None,
        reference=1,
        stop=readings[:, 1],
    )


def _mean_of_stages(
    tableau: diffrax.ButcherTableau,
    slope: Callable[[Scalar, Sample], Sample],
    row: Row,
    zero: Sample,
) -> Sample:
    """The mean slope of an explicit Runge-Kutta step.

    Diffrax's step also evaluates a last stage without weight, for an error estimate and
    the next step, which are not needed here.
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
    """Whether it is, as far as its class tells; a history is noticed when it starts."""
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
