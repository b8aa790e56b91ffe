r"""FlowChef: guidance that skips the gradient through the denoiser.

$$ u' = \mathrm{step}(u, D) + \zeta\, w(r)\, \bigl(-\nabla_D \tfrac12 |g(D)|^2\bigr) $$

The Jacobian of the denoiser is replaced by the identity. On straight trajectories it is
nearly the right direction, and a step costs no backward pass. Patel, Wen, Metaxas &
Yang 2024, "Steering rectified flow models in the vector field for controlled image
generation".
"""

import equinox as eqx

from ...process import karras
from ...types import Key, Sample, ScalarLike
from ._contract import BATCH, AbstractGuided
from ._levels import Grid, Now, Schedule, between, constant
from ._target import Spent, Target


class FlowChef(AbstractGuided):
    r"""The step of the ODE, moved along the gradient at the clean sample.

    $$ u' = \mathrm{step}(u, D) - \text{strength}\; w(r)\,
       \nabla_D \tfrac12 \sum_n |g_n(D)|^2 $$

    Use it if a backward pass through the teacher is too expensive.

    **Arguments:** `steps` and `grid` as for `DPS`.

    - `strength`: the share of the misfit that one step removes, of values at points;
      more than 2 diverges.
    - `schedule`: $w$; constant by default.

    **Cost:** $N$ evaluations.

    **Bias:** no law is stated that it samples: the last steps set the observed values,
    and the others follow as far as the denoiser still moves them.
    """

    steps: int = 100
    strength: ScalarLike = 0.5
    schedule: Schedule = eqx.field(static=True, default=constant)
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    @property
    def bias(self) -> str:
        return "it fits the observations along the way, and samples no stated law"

    def step(
        self, target: Target, state: Sample, now: Now, key: Key
    ) -> tuple[Sample, Spent]:
        clean = target.clean(state, now.level)
        move = self.strength * self.schedule(now) * target.downhill(clean)
        return between(state, clean, now) + move, Spent(1, 0, 0, 1)
