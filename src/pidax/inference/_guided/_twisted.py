r"""Twisted particles: guided steps, corrected by weights.

The ancestral sampler is a Markov chain from noise to data. Particles follow a guided
proposal $q$, and with the twist $\psi_r(u)$, an estimate of the likelihood of a noised
state, they are weighted by

$$ w = \frac{\psi_{r'}(u')\; p(u' \mid u)}{\psi_r(u)\; q(u' \mid u)}, \qquad
   \ln\psi_r(u) = -\tfrac12\sum_n \frac{|g_n(D(u, r))|^2}{1 + r_t^2 a_n^2}, $$

with $a_n$ the size of the Jacobian of the rows $g_n$ and
$r_t^2 = r^2\sigma_{data}^2/(r^2 + \sigma_{data}^2)$ the variance of white data. The
twist of the clean sample is the likelihood itself, so the weights correct what the
twists were wrong in. The proposal adds $r^2\nabla_u\ln\psi$ to the denoiser. Wu,
Trippe, Naesseth, Blei & Cunningham 2023, "Practical and asymptotically exact
conditional sampling in diffusion models". Without the gradient it is the steering of
Singhal et al. 2025, "A general framework for inference-time scaling and steering of
diffusion models".
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._checks import check_interval
from ...process import karras
from ...types import Key, Sample, Scalar
from ._contract import BATCH, CLOSED, EQUATION, FORWARD, NOISY
from ._levels import Grid, Now, between, spread_between
from ._population import AbstractParticles
from ._target import Spent, Target


class Particle(eqx.Module):
    """A state, its clean sample and the gradient of its twist; and the logarithm of
    what its last move owes to its weight.
    """

    u: Sample
    clean: Sample
    slope: Sample
    owed: Scalar


class Twisted(AbstractParticles):
    r"""As many particles as samples, weighted and drawn again on the way.

    $$ u' \sim N\bigl(\mathrm{step}_1(u, D + r^2\nabla_u\ln\psi_r),\ s^2\bigr), \qquad
       w = \frac{\psi_{r'}(u')\,p(u' \mid u)}{\psi_r(u)\,q(u' \mid u)} $$

    Use it where the samples must be right. Look at the effective number of particles:
    it falls with what the observations tell.

    **Arguments:** `steps` and `grid` as for `DPS`.

    - `gradient`: False leaves out $\nabla\ln\psi$: no derivative is needed, and many
      more particles.
    - `share`: particles are drawn again if they are worth less than this share.

    The result has `log_evidence`. **Cost:** $N$ evaluations a particle, each with a
    product with the transposed Jacobian.

    **Bias:** none in the limit of many particles: the samples are of the law of
    ancestral sampling in $N$ steps, given the observations. This law has an error of
    order $1/N$. All particles are in memory at once; the denoiser is called in batches.
    """

    steps: int = 100
    gradient: bool = eqx.field(static=True, default=True)
    share: float = 0.5
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    takes: ClassVar[frozenset[str]] = frozenset({NOISY, CLOSED, EQUATION, FORWARD})

    def __check_init__(self):
        check_interval("(0, share)", (0.0, self.share), most=1.0, least=0.0)

    @property
    def bias(self) -> str:
        return ""

    @property
    def advice(self) -> str:
        return "take more samples, all of which are particles, or more steps."

    def begin(self, target: Target, u: Sample, level: Scalar) -> Particle:
        none = jnp.zeros_like(u)
        return Particle(u, none, none, jnp.zeros((), u.dtype))

    def weigh(
        self, target: Target, state: Particle, now: Now
    ) -> tuple[Particle, Scalar, Spent]:
        if not target.units:
            clean = target.clean(state.u, now.level)
            none = jnp.zeros_like(clean)
            return Particle(state.u, clean, none, state.owed), state.owed, Spent(1)
        white = (now.level * now.size) ** 2 / (now.level**2 + now.size**2)
        log_twist = lambda x: self._log_twist(target, x, white)
        if self.gradient:
            clean, back = target.tweedie(state.u, now.level)
            value, slope = jax.value_and_grad(log_twist)(clean)
            slope, spent = back(slope), Spent(1, 0, 1, 1)
        else:
            clean = target.clean(state.u, now.level)
            value, slope, spent = (
                log_twist(clean),
                jnp.zeros_like(clean),
                Spent(1, 0, 0, 1),
            )
        return Particle(state.u, clean, slope, -value), value + state.owed, spent

    def step(
        self, target: Target, state: Particle, now: Now, key: Key
    ) -> tuple[Particle, Spent]:
        noise = jax.random.normal(key, state.u.shape, state.u.dtype)
        spread = spread_between(now)
        guided = state.clean + now.level**2 * state.slope
        last = spread == 0  # the last step has no noise, and cannot be guided
        guided = jnp.where(last, state.clean, guided)
        plain = between(state.u, state.clean, now, 1.0, jnp.zeros_like(noise))
        middle = between(state.u, guided, now, 1.0, jnp.zeros_like(noise))
        # ln p - ln q, with both of the same variance
        off = (middle - plain) / jnp.where(last, 1.0, spread)
        ratio = -jnp.sum(off * noise) - 0.5 * jnp.sum(off**2)
        moved = middle + spread * noise
        owed = state.owed + jnp.where(last, 0.0, ratio)
        return Particle(moved, state.clean, state.slope, owed), Spent()

    def last_weight(self, target: Target, state: Particle, x: Sample) -> Scalar:
        return target.log_likelihood(x) + state.owed

    def end(self, target: Target, state: Particle, key: Key) -> tuple[Sample, Spent]:
        return state.u, Spent()

    def _log_twist(self, target: Target, x: Sample, white: Scalar) -> Scalar:
        total = jnp.zeros((), x.dtype)
        for name, row in target.rows(x).items():
            total -= 0.5 * jnp.sum(row**2) / (1 + white * target.units[name] ** 2)
        return total
