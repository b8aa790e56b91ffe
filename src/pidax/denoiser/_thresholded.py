r"""Thresholding: a denoiser whose clean samples stay in the range of the data.

Pixels lie in a known interval $[a, b]$. With strong guidance, and at large noise, a
network predicts clean samples outside it. With $u = (D - c)/w$, centre $c$ and half
width $w$ of the interval, the prediction becomes

$$ c + w\, \frac{\operatorname{clip}(u, -s, s)}{s}, \qquad
   s = \max\bigl(1,\ \text{a quantile of } |u|\bigr), $$

dynamic thresholding (Saharia et al. 2022, section 2.3), or with $s = 1$ static
thresholding.
"""

import equinox as eqx
import jax.numpy as jnp

from .._checks import check_interval
from ..types import Condition, Key, Sample, SampleLike, ScalarLike, Shape, typed
from ._denoiser import AbstractDenoiser


class Thresholded(AbstractDenoiser):
    r"""`denoiser`, with predictions moved into `bounds`, the range of one component of
    the data.

    Use it around a guided image model: `Thresholded(Guided(denoiser, 7.5))`. It costs
    no evaluation. The result has kinks where a component reaches a bound, so solvers of
    high order lose their order there, and it is no longer the posterior mean: a
    likelihood belongs to the denoiser itself.

    **Arguments:**

    - `denoiser`: any denoiser of data with bounds. The samples of a whitened or latent
      field have none.
    - `bounds`: the least and the largest value of the data.
    - `quantile`: of $|u|$ over the components of a sample, such as 0.995: dynamic
      thresholding. By default None: static thresholding, which clips.
    """

    denoiser: AbstractDenoiser
    bounds: tuple[float, float] = (-1.0, 1.0)
    quantile: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_interval(
            "bounds",
            self.bounds,
            cure="Thresholding needs data with known finite bounds, such as pixels in "
            "(-1, 1). Leave Thresholded out for other fields.",
        )
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise ValueError(
                "quantile must be a share of the components in (0, 1), or None for "
                f"static thresholding, got quantile={self.quantile}. Usual is 0.995."
            )

    @property
    def shape(self) -> Shape | None:
        return self.denoiser.shape

    @property
    def interval(self) -> tuple[float, float]:
        return self.denoiser.interval

    def evaluations(self, condition: Condition = None) -> int:
        return self.denoiser.evaluations(condition)

    @typed
    def __call__(
        self,
        x: SampleLike,
        sigma: ScalarLike,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
        *,
        augment: Condition = None,
        key: Key | None = None,
    ) -> Sample:
        x0 = self.denoiser(x, sigma, alpha, condition, augment=augment, key=key)
        low, high = (jnp.asarray(end, x0.dtype) for end in self.bounds)
        if self.quantile is None:
            return jnp.clip(x0, low, high)
        centre, half = (low + high) / 2, (high - low) / 2
        unit = (x0 - centre) / half
        most = jnp.maximum(jnp.quantile(jnp.abs(unit), self.quantile), 1)
        return centre + half * jnp.clip(unit, -most, most) / most
