r"""Diffusion posterior sampling.

$$ u' = \mathrm{step}_\eta(u, D) - \zeta\,\nabla_u |g(D(u, r))| $$

with $g$ the rows: misfit and residual. The likelihood of a noised state is taken at
its posterior mean, and a gradient through the denoiser moves the state. Chung, Kim,
McCann, Klasky & Ye 2023, "Diffusion posterior sampling for general noisy inverse
problems", Algorithm 1, whose step is divided by the norm of the misfit, so that it has
a fixed length.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from ...process import karras
from ...types import Key, Sample, ScalarLike
from ._contract import BATCH, AbstractGuided
from ._levels import Grid, Now, Schedule, between, with_noise
from ._target import Spent, Target


class DPS(AbstractGuided):
    r"""Diffusion posterior sampling: a gradient through the denoiser in each step.

    $$ u' = \mathrm{step}_\eta(u, D) - \frac{\text{strength}\,\sigma_{data}}{N}\, w(r)
       \sum_n \sqrt{m_n}\, \nabla_u |g_n(D(u, r))| $$

    Use it as a first look at any problem, also a nonlinear one.

    **Arguments:**

    - `steps`: $N$; `grid`: the noise levels, a function of a number and the process.
    - `strength`: the way that all gradients together can move each observed number, in
      standard deviations of the data. It needs tuning: a small one ignores the
      observations, a large one leaves the data. It means the same for every number of
      steps.
    - `schedule`: $w$, of the noise level; by default
      `inference.with_noise`, a constant step in the state of a variance-preserving
      process, as in the paper. `inference.constant` is a constant step in $u$.
    - `eta`: 1 is ancestral sampling, 0 the ODE.

    **Cost:** $N$ evaluations, each with a product with the transposed Jacobian.

    **Bias:** the likelihood at the mean is not the mean of the likelihood, and steps of
    a fixed length do not follow it.
    """

    steps: int = 100
    strength: ScalarLike = 10.0
    schedule: Schedule = eqx.field(static=True, default=with_noise)
    eta: float = eqx.field(static=True, default=1.0)
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    @property
    def bias(self) -> str:
        return (
            "the likelihood of a noised state is taken at its mean, and the strength "
            "is tuned"
        )

    def step(
        self, target: Target, state: Sample, now: Now, key: Key
    ) -> tuple[Sample, Spent]:
        clean, back = target.tweedie(state, now.level)
        most = jnp.asarray(self.strength, state.dtype) * now.size
        length = most * self.schedule(now) / self.steps
        push = back(target.uphill(clean, target.alike(length)))
        noise = jax.random.normal(key, state.shape, state.dtype)
        return between(state, clean, now, self.eta, noise) - push, Spent(1, 0, 1, 1)
