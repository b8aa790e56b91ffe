r"""D-Flow: the latent whose ODE ends at the observations.

$$ \min_\epsilon\ \tfrac12 |g(\Phi(\epsilon))|^2 $$

with $\Phi$ the solve of the teacher's ODE, from a draw of the latent, by a
quasi-Newton method whose gradient goes through the solver. There is no anchor: the draw
is the start, and the number of steps is the regularisation. Ben-Hamu, Puny, Gat,
Karrer, Singer & Lipman 2024, "D-Flow: differentiating through flows for controlled
generation". With an anchor it is `RandomisedMaximumLikelihood` on `SolvedFlow`.
"""

from typing import Any

import equinox as eqx

from ..._checks import whole_number
from .._minimisers import LBFGS, AbstractMethod


class DFlow(eqx.Module):
    r"""Minimise the misfit over the latent, through the solve of the ODE.

    $$ \min_\epsilon\ \tfrac12 |g(\Phi(\epsilon))|^2 $$

    Use it if few samples are needed and memory allows: it keeps the states of a solve
    at recursive checkpoints.

    **Arguments:**

    - `steps`: of Heun's method for $\Phi$, as for `SolvedFlow`.
    - `solver`: the minimiser and its number of steps; by default 20 steps of `LBFGS`.
    - `tightness`, `batch_size`: as for `refine`.

    **Cost:** each step of the minimiser is a solve, $2\,\text{steps} + 1$ evaluations,
    with one product with its transposed Jacobian.

    **Bias:** minima without an anchor leave the prior, and samples no stated law.
    """

    steps: int = eqx.field(static=True, default=6)
    solver: AbstractMethod = LBFGS(steps=20, rtol=1e-6, atol=1e-6)
    tightness: float = 0.1
    batch_size: int = eqx.field(static=True, default=64)

    def __check_init__(self):
        whole_number("steps", self.steps)
        whole_number("batch_size", self.batch_size)

    @property
    def metropolis(self) -> bool:
        """It has no weights, and so no chain of minima."""
        return False

    @property
    def caution(self) -> str:
        """Why its samples are not of the posterior."""
        return "minima without an anchor leave the prior, and sample no stated law"

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `refine`."""
        names = ("solver", "tightness", "batch_size")
        plain = {name: getattr(self, name) for name in names}
        return plain | {"anchor": None, "antithetic": False, "weigh": False}
