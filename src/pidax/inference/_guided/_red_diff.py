r"""RED-diff: the denoiser as the gradient of a regulariser.

$$ \mu \leftarrow \mathrm{Adam}\bigl(\mu,\ \nabla\tfrac12|g(\mu)|^2
   + \lambda\,(\mu - D(\mu + r\epsilon, r))\bigr), \qquad \epsilon \sim N(0, I) $$

at falling levels. The second term is the gradient of the distance to the prior of a
Gaussian law around $\mu$, with the weight $r$ of the paper: $r(\hat\epsilon - \epsilon)
= \mu - D$. Mardani, Song, Kautz & Vahdat 2024, "A variational perspective on solving
inverse problems with diffusion models".
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ...process import karras
from ...types import Key, Sample, Scalar, ScalarLike
from ._contract import BATCH, AbstractGuided
from ._levels import Grid, Now
from ._target import Spent, Target

_FIRST, _SECOND = 0.9, 0.99  # Adam's


class REDDiff(AbstractGuided):
    r"""One clean sample, moved by the misfit and by the denoiser at falling levels.

    $$ \mu \leftarrow \mathrm{Adam}\bigl(\mu,\ \nabla\tfrac12|g(\mu)|^2
       + \lambda\,(\mu - D(\mu + r\epsilon, r))\bigr) $$

    Use it for one reconstruction; not for uncertainty.

    **Arguments:** `steps` and `grid` as for `DPS`.

    - `weight`: $\lambda$, for rows in units of the coordinates.
    - `rate`: the step of Adam, in standard deviations of the data.

    **Cost:** $N$ evaluations, and no derivative of the denoiser.

    **Bias:** it looks for one probable sample: the spread has no meaning.
    """

    steps: int = 200
    weight: ScalarLike = 0.25
    rate: ScalarLike = 0.1
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    @property
    def bias(self) -> str:
        return "it looks for one probable sample, and the spread has no meaning"

    def begin(self, target: Target, u: Sample, level: Scalar) -> Any:
        middle = target.clean(u, level)
        return middle, jnp.zeros_like(u), jnp.zeros_like(u)

    def step(self, target: Target, state: Any, now: Now, key: Key) -> tuple[Any, Spent]:
        x, first, second = state
        noise = jax.random.normal(key, x.shape, x.dtype)
        clean = target.clean(x + now.level * noise, now.level)
        slope = jnp.asarray(self.weight, x.dtype) * (x - clean) - target.downhill(x)
        first = _FIRST * first + (1 - _FIRST) * slope
        second = _SECOND * second + (1 - _SECOND) * slope**2
        count = now.number.astype(x.dtype) + 1
        mean, size = first / (1 - _FIRST**count), second / (1 - _SECOND**count)
        length = jnp.asarray(self.rate, x.dtype) * now.size
        least = 1e-8 * now.size
        return (x - length * mean / (jnp.sqrt(size) + least), first, second), Spent(
            1, 0, 0, 1
        )

    def end(self, target: Target, state: Any, key: Key) -> tuple[Sample, Spent]:
        return state[0], Spent(1)  # which the beginning spent
