r"""CoCoGen: gradient steps on the residual in the last steps and after them.

$$ u' = \mathrm{step}_\eta(u, D), \qquad
   u' \leftarrow u' - \text{length}\;\frac{\nabla |g(u')|^2}{\max|\nabla |g(u')|^2|} $$

Jacobsen, Zhuang & Duraisamy 2025, "CoCoGen: Physically consistent and conditioned
score-based generative models for forward and inverse problems". The gradient is taken
at the state, which in the last steps is nearly clean.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._checks import whole_number
from ...process import karras
from ...types import Key, Sample, ScalarLike
from ._contract import BATCH, AbstractGuided
from ._levels import Grid, Now, between
from ._target import Spent, Target


class CoCoGen(AbstractGuided):
    r"""Corrections of a nearly clean state, of a fixed length.

    Use it to lower the residual of a teacher that nearly satisfies its equation.

    **Arguments:** `steps` and `grid` as for `DPS`; `eta`: 1 is ancestral sampling, 0
    the ODE.

    - `share`: of the steps, at the end, that are corrected.
    - `extra`: corrections of the clean sample after the last step.
    - `length`: the largest change of an entry in one correction, in standard
      deviations of the data. The residual does not fall below what this length makes of
      it.

    **Cost:** $N$ evaluations, and no derivative of the denoiser.

    **Bias:** the corrections follow the gradient of the residual, not the posterior.
    """

    steps: int = 100
    share: ScalarLike = 0.2
    extra: int = eqx.field(static=True, default=20)
    length: ScalarLike = 0.01
    eta: float = eqx.field(static=True, default=0.0)
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    def __check_init__(self):
        whole_number("extra", self.extra, least=0)

    @property
    def bias(self) -> str:
        return "corrections follow the gradient of the residual, not the posterior"

    def step(
        self, target: Target, state: Sample, now: Now, key: Key
    ) -> tuple[Sample, Spent]:
        clean = target.clean(state, now.level)
        noise = jax.random.normal(key, state.shape, state.dtype)
        u = between(state, clean, now, self.eta, noise)
        late = now.done >= 1 - jnp.asarray(self.share, u.dtype)
        return jnp.where(late, self._corrected(target, u), u), Spent(1, 0, 0, 1)

    def end(self, target: Target, state: Sample, key: Key) -> tuple[Sample, Spent]:
        again = lambda _, x: self._corrected(target, x)
        x = jax.lax.fori_loop(0, self.extra, again, state)
        return x, Spent(0, 0, 0, self.extra)

    def _corrected(self, target: Target, x: Sample) -> Sample:
        if not target.units:
            return x
        way = target.downhill(x)
        size = jnp.abs(way).max()
        length = jnp.asarray(self.length, x.dtype) * target.size
        return x + length * way / jnp.where(size > 0, size, 1.0)
