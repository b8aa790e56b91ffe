r"""ProFlow: the most probable clean sample near the denoiser's, in every step.

$$ x_1 = \operatorname*{arg\,min}_x\ \frac{|x - D|^2}{2 r_t^2} + \tfrac12 |g(x)|^2,
   \qquad u' = x_1 + r'\,\epsilon, \qquad
   r_t^2 = \frac{r^2\sigma_{data}^2}{r^2 + \sigma_{data}^2} $$

a proximal step on observations and equation together, and an interpolation with noise:
each step is the maximum of a local posterior, whose prior is $N(D, r_t^2 I)$. Yu, Li,
Zhang, Zou & Gao 2026, "ProFlow: zero-shot physics-consistent sampling via proximal flow
guidance". The weight of the paper's proximal term is replaced by the variance of white
data, which needs no tuning.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ..._checks import whole_number
from ...process import karras
from ...types import Key, Sample, Scalar
from ._contract import BATCH, AbstractGuided
from ._levels import Grid, Now, check_noise, onward
from ._projection import proximal
from ._target import Spent, Target


class ProFlow(AbstractGuided):
    r"""A proximal step on the clean sample in every step, by Gauss-Newton.

    $$ x_1 = \operatorname*{arg\,min}_x \frac{|x - D|^2}{2 r_t^2}
       + \tfrac12 |g(x)|^2, \qquad u' = x_1 + r'\,\epsilon $$

    Use it for observations with noise and an equation together, if no derivative of
    the teacher can be paid. It has no strength. Exact values have a noise of a
    thousandth of their field's standard deviation.

    **Arguments:** `steps` and `grid` as for `DPS`.

    - `iterations`: steps of Gauss-Newton for each minimum.
    - `noise`: $\epsilon$, as for `ECI`.
    - `products`: the most steps of conjugate gradients in a step of Gauss-Newton.

    **Cost:** $N$ evaluations, and no product with the Jacobian of the denoiser.

    **Bias:** a maximum in place of a sample in every step, so the spread is too small
    where observations tell something.
    """

    steps: int = 100
    iterations: int = eqx.field(static=True, default=3)
    noise: str = eqx.field(static=True, default="own")
    products: int = eqx.field(static=True, default=50)
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    def __check_init__(self):
        whole_number("iterations", self.iterations)
        whole_number("products", self.products)
        check_noise(self.noise)

    @property
    def bias(self) -> str:
        return "every step takes the maximum of a local posterior, not a sample of it"

    def begin(self, target: Target, u: Sample, level: Scalar) -> Any:
        return u, u / level

    def step(self, target: Target, state: Any, now: Now, key: Key) -> tuple[Any, Spent]:
        u, first = state
        clean = target.clean(u, now.level)
        weight = jnp.hypot(now.level, now.size) / (now.level * now.size)
        x, count = clean, jnp.zeros((), int)
        for _ in range(self.iterations if target.units else 0):
            x, more = proximal(target.tight, x, clean, weight, self.products)
            count = count + more
        u = onward(x, u, clean, first, now.after, now, self.noise, key)
        return (u, first), Spent(1, 0, 0, count)

    def end(self, target: Target, state: Any, key: Key) -> tuple[Sample, Spent]:
        return state[0], Spent()
