r"""Decoupled annealing: a sample of a local posterior, noised to the next level.

$$ x \sim N(\hat x, r_t^2 I)\, L(x), \qquad u' = x + r'\,\xi, \qquad
   r_t^2 = \frac{r^2\sigma_{data}^2}{r^2 + \sigma_{data}^2}, $$

with $\hat x$ the end of a short solve of the ODE from the state. The next state does
not depend on the last one otherwise, so that early errors are forgotten. Zhang, Chu,
Berner, Meng, Anandkumar & Song 2024, "Improving diffusion inverse problem solving with
decoupled noise annealing". In place of the paper's Langevin steps a draw of both laws
is made and the least-squares problem solved (randomise, then optimise),

$$ x = \operatorname*{arg\,min}_x\ \frac{|x - \hat x - r_t\xi_1|^2}{2 r_t^2}
   + \tfrac12 |g(x) - \xi_2|^2, $$

which is an exact sample where the rows are linear, and needs no step size.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._checks import whole_number
from ...process import karras
from ...types import Key, Sample, Scalar
from ._contract import BATCH, CLOSED, EQUATION, FORWARD, NOISY, AbstractGuided
from ._levels import Grid, Now
from ._projection import proximal
from ._target import Spent, Target


class DAPS(AbstractGuided):
    r"""A sample of the local posterior in every step, and fresh noise.

    $$ x \sim N(\hat x, r_t^2 I)\, L(x), \qquad u' = x + r'\,\xi $$

    Use it for nonlinear forward maps and for posteriors with several modes, if no
    derivative of the teacher can be paid.

    **Arguments:** `steps` and `grid` as for `DPS`.

    - `inner`: evaluations of the solve from a state to $\hat x$; 1 is $D$.
    - `iterations`, `products`: of Gauss-Newton, and the most steps of conjugate
      gradients in each.

    **Cost:** $N$ times `inner` evaluations, and no product with the Jacobian of the
    denoiser.

    **Bias:** with one inner evaluation none for white Gaussian data and linear rows;
    otherwise the data have another variance than $r_t^2$, and the end of the ODE is
    not its mean.
    """

    steps: int = 50
    inner: int = eqx.field(static=True, default=4)
    iterations: int = eqx.field(static=True, default=2)
    products: int = eqx.field(static=True, default=50)
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    takes: ClassVar[frozenset[str]] = frozenset({NOISY, CLOSED, EQUATION, FORWARD})

    def __check_init__(self):
        for name in ("inner", "iterations", "products"):
            whole_number(name, getattr(self, name))

    @property
    def bias(self) -> str:
        return "a local posterior has the variance of white data"

    def step(
        self, target: Target, state: Sample, now: Now, key: Key
    ) -> tuple[Sample, Spent]:
        first, second, third = jax.random.split(key, 3)
        guess = self._solved(target, state, now.level)
        normal = lambda key: jax.random.normal(key, state.shape, state.dtype)
        if not target.units:
            return guess + now.after * normal(third), Spent(self.inner)
        spread = now.level * now.size / jnp.hypot(now.level, now.size)
        centre = guess + spread * normal(first)
        noise = {
            name: jax.random.normal(jax.random.fold_in(second, i), row.shape, row.dtype)
            for i, (name, row) in enumerate(target.rows(guess).items())
        }
        told = lambda x: jax.tree.map(jnp.subtract, target.rows(x), noise)
        x, count = centre, jnp.zeros((), int)
        for _ in range(self.iterations):
            x, more = proximal(told, x, centre, 1 / spread, self.products)
            count = count + more
        return x + now.after * normal(third), Spent(self.inner, 0, 0, count + 1)

    def _solved(self, target: Target, u: Sample, level: Scalar) -> Sample:
        """DDIM to zero noise, at levels that fall by equal factors to a tenth."""
        shares = [0.1 ** (i / max(self.inner - 1, 1)) for i in range(self.inner)]
        for share, after in zip(shares, [*shares[1:], 0.0], strict=True):
            clean = target.clean(u, share * level)
            u = clean + (after / share) * (u - clean)
        return u
