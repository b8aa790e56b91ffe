r"""The denoiser of Gaussian data: everything about it is known in closed form.

For $x_0 \sim N(m, C)$, with $C$ diagonalised,

$$ D(x, \sigma, \alpha) = m + \frac{\alpha C}{\alpha^2 C + \sigma^2}(x - \alpha m),
\qquad \frac{x_t - \alpha_t m}{\sqrt{\alpha_t^2 C + \sigma_t^2}} = \text{const} $$

along every trajectory of the probability-flow ODE: the oracle of the solvers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import is_traced, require_finite
from ..types import (
    Condition,
    Key,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Shape,
    typed,
)
from ._base import AbstractExactDenoiser, as_arrays
from ._covariance import Covariance


class Gaussian(AbstractExactDenoiser):
    """Data `x0 ~ N(mean, cov)`, of any event shape.

    `cov` is a scalar or an array of the event's shape (variances of independent
    components), a matrix over the flattened event, or a `Covariance` (low rank:
    `Gaussian(mean, Covariance.low_rank(factor))`). The condition is ignored.

    The covariance is kept by its eigenvectors: gradients with respect to a matrix or
    a factor exist where its eigenvalues differ, and are NaN where two coincide. Pass
    variances where that matters.
    """

    mean: Float[Array, "*event"]
    covariance: Covariance

    @typed
    def __init__(
        self,
        mean: SampleLike,
        cov: float | int | Float[Array | np.ndarray, "..."] | Covariance,
    ):
        self.mean = jnp.asarray(mean)
        shape, size = self.mean.shape, self.mean.size
        if not is_traced(self.mean):  # a mixture makes its Gaussians at every call
            require_finite("mean", self.mean, "Check how it was made.")
        if isinstance(cov, Covariance):
            cov.require_shape(shape)
            self.covariance = cov
            return
        cov = jnp.asarray(cov, self.mean.dtype)
        if cov.shape in ((), shape):
            self.covariance = Covariance.diagonal(cov)
        elif cov.shape in ((size, size), shape + shape):
            self.covariance = Covariance.full(cov.reshape(size, size), shape)
        else:
            raise ValueError(
                f"cov must be a scalar, have the shape {shape} of the mean "
                f"(variances), or the shape {(size, size)} (a matrix over the "
                f"flattened event), got {cov.shape}. For a factor F of cov = F F^T "
                "use Gaussian(mean, Covariance.low_rank(F))."
            )

    @property
    def shape(self) -> Shape:
        return self.mean.shape

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
        x, sigma, alpha = as_arrays(x, sigma, alpha, self.shape)
        gain = lambda c: alpha * c / _safe(alpha**2 * c + sigma**2)
        return self.mean + self.covariance.apply(gain, x - alpha * self.mean)

    @typed
    def log_density(
        self,
        x: SampleLike,
        sigma: ScalarLike = 0.0,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
    ) -> Scalar:
        x, sigma, alpha = as_arrays(x, sigma, alpha, self.shape)
        return self.covariance.gaussian_log_density(
            lambda c: alpha**2 * c + sigma**2, x - alpha * self.mean
        )

    @typed
    def sample(self, *, key: Key, condition: Condition = None) -> Sample:
        xi = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + self.covariance.apply(jnp.sqrt, xi)

    @typed
    def transport(
        self,
        x: SampleLike,
        start: tuple[ScalarLike, ScalarLike],
        end: tuple[ScalarLike, ScalarLike],
    ) -> Sample:
        """The exact solution of the probability-flow ODE through `x`.

        `start` and `end` are noise levels `(sigma, alpha)`, of one process or of two.
        """
        x, sigma0, alpha0 = as_arrays(x, *start, self.shape)
        _, sigma1, alpha1 = as_arrays(x, *end)

        def ratio(c):
            spread = jnp.hypot(alpha0 * jnp.sqrt(c), sigma0)
            moving = spread > 0  # a direction without spread stays at the mean
            end_spread = jnp.hypot(alpha1 * jnp.sqrt(c), sigma1)
            return jnp.where(moving, end_spread / jnp.where(moving, spread, 1.0), 0.0)

        residual = x - alpha0 * self.mean
        return alpha1 * self.mean + self.covariance.apply(ratio, residual)


def _safe(variance: Array) -> Array:
    """No 0/0 for a direction without data, at zero noise: its gain is zero."""
    return jnp.where(variance > 0, variance, 1.0)
