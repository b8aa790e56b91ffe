r"""Pseudo-inverse guidance: the exact posterior of a Gaussian clean sample.

If $x_0$ given the state is $N(D, V)$, and $y = A x_0 + s\eta$, Bayes' rule gives the
denoiser of the posterior,

$$ D_y = D + J^T r^2 A^T (A V A^T + s^2)^{-1} (y - A D), $$

because its score is that of $u$ plus $\nabla_u \log N(y; AD, AVA^T + s^2)$, with $V$
held, and $D = u + r^2\,\mathrm{score}$. Song, Vahdat, Mardani & Kautz 2023,
"Pseudoinverse-guided diffusion models for inverse problems", take $V = r_t^2 I$ with
$r_t^2 = r^2\sigma_{data}^2/(r^2 + \sigma_{data}^2)$, the posterior variance of white
data. Boys, Girolami, Pidstrigach, Reich, Mosca & Akyildiz 2024, "Tweedie moment
projected diffusions for inverse problems", take $V = r^2 J$, which is the covariance
itself.
"""

from typing import ClassVar

import equinox as eqx
import jax
from jaxtyping import Array

from ...process import karras
from ...types import Key, Sample
from ._contract import BATCH, EXACT, NOISY, AbstractGuided
from ._levels import Grid, Now, between
from ._matrix_free import conjugate_gradients
from ._target import Spent, Target

_WORDS = ("white", "tweedie")


class PiGDM(AbstractGuided):
    r"""The denoiser of the posterior, if clean samples are Gaussian.

    $$ D_y = D + r^2 J^T A^T (A V A^T + s^2)^{-1} (y - A D), \qquad
       u' = \mathrm{step}_\eta(u, D_y) $$

    Use it for linear observations, with noise or exact. It has no strength.

    **Arguments:** `steps` and `grid` as for `DPS`; `eta`: 1 is ancestral sampling, 0
    the ODE.

    - `covariance`: `"white"` is the paper's $V = r_t^2 I$. `"tweedie"` is $V = r^2 J$
      with the denoiser's own Jacobian, which is exact for Gaussian data.
    - `products`: the most steps of conjugate gradients for the inverse.

    **Cost:** $N$ evaluations, each with one product with the transposed Jacobian;
    with `"tweedie"` each step of conjugate gradients costs two products more.

    **Bias:** exact in the limit of small steps for white Gaussian data, with
    `"tweedie"` for all Gaussian data; otherwise clean samples are not Gaussian.
    """

    steps: int = 100
    covariance: str = eqx.field(static=True, default="white")
    eta: float = eqx.field(static=True, default=0.0)
    products: int = eqx.field(static=True, default=50)
    grid: Grid = eqx.field(static=True, default=karras)
    batch_size: int = eqx.field(static=True, default=BATCH)

    takes: ClassVar[frozenset[str]] = frozenset({NOISY, EXACT})

    def __check_init__(self):
        if self.covariance not in _WORDS:
            raise ValueError(
                f"covariance must be one of {_WORDS}, got {self.covariance!r}. "
                '"white" needs no product with the Jacobian.'
            )

    @property
    def bias(self) -> str:
        data = "white Gaussian" if self.covariance == "white" else "Gaussian"
        return f"exact for {data} data only"

    def step(
        self, target: Target, state: Sample, now: Now, key: Key
    ) -> tuple[Sample, Spent]:
        if not target.units:
            clean, spent = target.clean(state, now.level), Spent(1)
        else:
            clean, spent = self._posterior(target, state, now)
        noise = jax.random.normal(key, state.shape, state.dtype)
        return between(state, clean, now, self.eta, noise), spent

    def _posterior(self, target: Target, u: Sample, now: Now) -> tuple[Sample, Spent]:
        """The denoiser of the posterior."""
        exact_form = self.covariance == "tweedie"
        clean, push, back = target.linear(u, now.level, forward=exact_form)
        row, forth, pull = target.misfit(clean)
        square = now.level**2
        white = square * now.size**2 / (square + now.size**2)
        spread = target.noisy()

        def covered(w: Array) -> Array:
            x = pull(w)
            x = square * push(x) if exact_form else white * x
            return forth(x) + spread * w

        solution, count = conjugate_gradients(covered, -row, self.products)
        moved = clean + square * back(pull(solution))
        jvp = count if exact_form else 0
        return moved, Spent(1, jvp, 1, 2 * count + 2)
