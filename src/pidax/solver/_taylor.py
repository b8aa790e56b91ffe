r"""Taylor's method of second order, with the derivative along the trajectory.

$$ u_1 = u_0 + h f + \tfrac12 h^2 \frac{df}{d\tau}, \qquad
   \frac{df}{d\tau} = \partial_\tau f + (\partial_u f) f, $$

by one Jacobian-vector product of the flow.
"""

from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..flow import ProbabilityFlow
from ..types import Condition, Times
from ._multistep import refuse_backsolve, unwrapped


class Taylor2(diffrax.AbstractAdaptiveSolver):
    """The second-order Taylor step, in the variables of the flow's clock.

    In `UnitSignalClock` it is GENIE (Dockhorn, Vahdat and Kreis 2022, "GENIE:
    higher-order denoising diffusion solvers") with the exact derivative in place of
    their distilled head. A step costs an evaluation and a Jacobian-vector product,
    which the ledger counts as two evaluations. The error is estimated by the
    second-order term.
    """

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation
    evaluations: ClassVar[tuple[int, int]] = (0, 2)

    def order(self, terms: PyTree) -> int:
        return 2

    def func(self, terms: Any, t0: Any, y0: Array, args: Condition) -> Array:
        return terms.vf(t0, y0, args)

    def prepare(
        self, flow: ProbabilityFlow, times: Times, steps: int | None, adjoint: Any
    ) -> "Taylor2":
        """Refuses an adjoint that solves another equation."""
        refuse_backsolve(self, adjoint)
        return self

    def init(self, terms: Any, t0: Any, t1: Any, y0: Array, args: Condition) -> None:
        return None

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Array,
        args: Condition,
        solver_state: None,
        made_jump: Any,
    ) -> tuple[Array, Array, dict[str, Any], None, diffrax.RESULTS]:
        del made_jump
        field, direction = unwrapped(terms)
        tau, step = t0 * direction, (t1 - t0) * direction
        slope, along = jax.linearize(lambda t, u: field(t, u, args), tau, y0)
        h = step.astype(y0.dtype)
        k0 = h * slope
        second = h**2 / 2 * along(jnp.ones_like(tau), slope)
        y1 = y0 + k0 + second
        inside = dict(y0=y0, y1=y1, k0=k0, k1=k0 + 2 * second)
        return y1, second, inside, solver_state, diffrax.RESULTS.successful
