r"""DiffusionPDE: Heun's method with gradients of misfit and residual.

$$ u' = \mathrm{Heun}(u) - \zeta_y\,\nabla_u |g_y(D(u, r))|
   - \zeta_R\,\nabla_u |g_R(D(u, r))| $$

The residual is left out in the first phase, in which the misfit sets the large scales;
in the second the misfit has a tenth of its strength. Huang, Yang, Wang & Park 2024,
"DiffusionPDE: Generative PDE-solving under partial observation", Algorithm 1, with the
gradients at the clean sample from the beginning of the step.
"""

import equinox as eqx
import jax.numpy as jnp

from ...process import karras
from ...types import Key, Sample, ScalarLike
from ._contract import BATCH, AbstractGuided
from ._levels import Grid, Now, heun
from ._target import Spent, Target


class DiffusionPDE(AbstractGuided):
    r"""Heun's method, with gradients of the misfit and then of the residual.

    Use it if an equation is known and its fields are observed at some points.

    **Arguments:** `steps` and `grid` as for `DPS`.

    - `strength`: of the misfit, and `physics`, of the residual: the way that all
      gradients together can move each number, in standard deviations of the data.
    - `phase`: the share of steps before the residual counts.
    - `later`: the factor of the misfit's strength afterwards.

    **Cost:** $2N - 1$ evaluations, $N$ of them with a product with the transposed
    Jacobian.

    **Bias:** that of `DPS`; and a penalty of the residual prefers given fields for
    which the same error is cheaper, by $1/\lvert\det\partial R/\partial u\rvert$.
    """

    steps: int = 100
    strength: ScalarLike = 30.0
    physics: ScalarLike = 30.0
    phase: ScalarLike = 0.8
    later: ScalarLike = 0.1
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    @property
    def bias(self) -> str:
        return (
            "the likelihood of a noised state is taken at its mean, the strengths are "
            "tuned, and a penalised residual prefers some given fields"
        )

    def step(
        self, target: Target, state: Sample, now: Now, key: Key
    ) -> tuple[Sample, Spent]:
        clean, back = target.tweedie(state, now.level)
        late = now.done >= self.phase
        length = now.size / self.steps
        misfit = self.strength * jnp.where(late, self.later, 1.0)
        residual = jnp.where(late, self.physics, 0.0)
        strengths = {"misfit": misfit * length, "residual": residual * length}
        push = back(target.uphill(clean, strengths))
        moved = heun(target.clean, state, clean, now)
        more = (now.after > 0).astype(int)
        return moved - push, Spent(1 + more, 0, 1, 1)
