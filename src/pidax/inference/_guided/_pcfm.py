r"""PCFM: projections of the clean sample onto nonlinear conditions.

$$ x_1 = D - J^T (J J^T)^{-1} h(D), \qquad u' = x_1 + r'\,\epsilon $$

one step of Gauss-Newton, and a noise $\epsilon$. Where the state is moved to
the next level, a relaxed correction moves it so that its own clean sample is nearer to
the conditions, and at the end Gauss-Newton is iterated until they hold. Utkarsh, Cai,
Edelman, Gomez-Bombarelli & Rackauckas 2025, "Physics-constrained flow matching:
sampling generative models with hard constraints". No Jacobian is formed.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._checks import whole_number
from ...process import karras
from ...types import Key, Sample, Scalar, ScalarLike, Stacked
from ._contract import BATCH, CLOSED, EQUATION, EXACT, AbstractGuided
from ._levels import Grid, Now, check_noise, onward
from ._projection import gauss_newton, onto, proximal, violations, worst
from ._target import Rows, Spent, Target


class PCFM(AbstractGuided):
    r"""One step of Gauss-Newton on the clean sample in every step, and as many as are
    needed at the end.

    $$ x_1 = D - J^T (J J^T)^{-1} h(D), \qquad u' = x_1 + r'\,\epsilon $$

    Use it for equations and exact values that must hold: $h$ are the residual and the
    exact values. With exact values only, and `relaxation=0`, it is `ECI`.

    **Arguments:** `steps` and `grid` as for `DPS`.

    - `relaxation`: $\lambda$ of the correction after each step,
      $\min_\delta |\delta|^2 + \lambda|h(D(u', r') + \delta)|^2$, by which $u'$ is
      moved; 0 leaves it out.
    - `noise`: $\epsilon$, as for `ECI`; `"first"` is the paper's.
    - `products`: the most steps of conjugate gradients in a step of Gauss-Newton.

    **Cost:** $N$ evaluations, or $2N - 1$ with the relaxed correction, and no product
    with the Jacobian of the denoiser. Products with the Jacobian of $h$ are counted
    with the residual.

    **Bias:** as for `ECI`; and a projection has the density of the points that are
    projected, which differs from the posterior by a factor of the angle at which they
    arrive (the co-area factor).
    """

    steps: int = 100
    relaxation: ScalarLike = 1.0
    noise: str = eqx.field(static=True, default="own")
    products: int = eqx.field(static=True, default=50)
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    takes: ClassVar[frozenset[str]] = frozenset({EXACT, CLOSED, EQUATION})

    def __check_init__(self):
        whole_number("products", self.products)
        check_noise(self.noise)

    @property
    def bias(self) -> str:
        return "a projected clean sample is not a sample of the posterior"

    def begin(self, target: Target, u: Sample, level: Scalar) -> Any:
        return u, u / level

    def step(self, target: Target, state: Any, now: Now, key: Key) -> tuple[Any, Spent]:
        u, first = state
        told = lambda x: violations(target, x)
        clean, fixed, spent = target.clean(u, now.level), None, 0
        if target.units:
            fixed, spent = gauss_newton(told, clean, self.products)
        fixed = clean if fixed is None else fixed
        u = onward(fixed, u, clean, first, now.after, now, self.noise, key)
        if not target.units:
            return (u, first), Spent(1)
        if isinstance(self.relaxation, int | float) and self.relaxation == 0:
            return (u, first), Spent(1, 0, 0, spent)

        def relaxed() -> tuple[Sample, Any]:
            own = target.clean(u, now.after)
            weight = jax.lax.rsqrt(jnp.asarray(self.relaxation, u.dtype))
            moved, more = proximal(told, own, own, weight, self.products)
            return u + moved - own, more

        last = lambda: (u, jnp.zeros_like(spent))
        u, more = jax.lax.cond(now.after > 0, relaxed, last)
        again = (now.after > 0).astype(int)
        return (u, first), Spent(1 + again, 0, 0, spent + more)

    def end(self, target: Target, state: Any, key: Key) -> tuple[Sample, Spent]:
        if not target.units:
            return state[0], Spent()
        told: Any = lambda x: violations(target, x)
        x, count = onto(told, state[0], self.products)
        return x, Spent(0, 0, 0, count)

    def seal(self, target: Target, fields: Stacked) -> Stacked:
        return target.problem.overwrite(fields, None)

    def left(self, target: Target, fields: Stacked) -> Scalar:
        rows: Rows = target.violations_of(fields)
        return worst(rows)
