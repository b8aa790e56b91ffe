r"""The denoiser of a uniform circle: data on a curve, exact through Bessel functions.

For $x_0$ uniform on the circle of radius $R$, with $\kappa = \alpha R |x| / \sigma^2$
and $A = I_1 / I_0$,

$$ D(x, \sigma, \alpha) = R\, A(\kappa)\, \frac{x}{|x|}, \qquad
   p(x) = \frac{e^{-(|x| - \alpha R)^2 / 2\sigma^2}}{2\pi\sigma^2}\,
          e^{-\kappa} I_0(\kappa). $$

At small noise $\kappa$ is large and $1 - A \approx 1/2\kappa$. $1 - A$ is computed
directly, not as a difference.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import i0e, i1e
from jaxtyping import Array

from .._checks import as_float, require_positive
from ..types import (
    Condition,
    Elementwise,
    Key,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Shape,
    at_least_float32,
    typed,
)
from ._denoiser import AbstractExactDenoiser, as_arrays


class Circle(AbstractExactDenoiser):
    """Data uniform on the circle of this radius about the origin of the plane.

    The density of the clean data is singular: `log_density` is finite for `sigma > 0`
    only. The condition is ignored.
    """

    radius: float = eqx.field(default=1.0, converter=as_float)

    def __check_init__(self):
        require_positive(radius=self.radius)

    @property
    def shape(self) -> Shape:
        return (2,)

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
        dtype = jnp.asarray(x).dtype
        x, norm, sigma, radius = self._seen(x, sigma, alpha)
        kappa = (radius / sigma) * (norm / sigma)
        # At the centre A(kappa)/|x| -> kappa/2|x|, and x makes it zero: no 0/0.
        at_centre = 0.5 * (radius / sigma) / sigma
        nonzero = jnp.where(norm > 0, norm, 1.0)
        ratio = jnp.where(norm > 0, (1 - bessel_deficit(kappa)) / nonzero, at_centre)
        return (self.radius * ratio * x).astype(dtype)

    @typed
    def log_density(
        self,
        x: SampleLike,
        sigma: ScalarLike = 0.0,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
    ) -> Scalar:
        _, norm, sigma, radius = self._seen(x, sigma, alpha)
        gauss = -0.5 * ((norm - radius) / sigma) ** 2
        kappa = (radius / sigma) * (norm / sigma)
        return gauss + log_i0e(kappa) - math.log(2 * math.pi) - 2 * jnp.log(sigma)

    def _seen(
        self, x: SampleLike, sigma: ScalarLike, alpha: ScalarLike
    ) -> tuple[Sample, Scalar, Scalar, Scalar]:
        r"""$x$, $|x|$, $\sigma$ and $\alpha R$ in float32 or more. The square of a
        small noise underflows in half precision.
        """
        level = as_arrays(x, sigma, alpha, self.shape)
        dtype = at_least_float32(level[0].dtype)
        x, sigma, alpha = (a.astype(dtype) for a in level)
        return x, _norm(x), sigma, alpha * self.radius

    @typed
    def sample(self, *, key: Key, condition: Condition = None) -> Sample:
        angle = jax.random.uniform(key, maxval=2 * jnp.pi)
        return self.radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def _series() -> tuple[float, ...]:
    """Coefficients a_n of 1 - I1/I0 = sum a_n kappa^-n for large kappa.

    A = I1/I0 solves the Riccati equation A' = 1 - A/kappa - A^2; matching powers of
    1/kappa gives 2 A_{n+1} = (n - 1) A_n - sum_{i=1..n} A_i A_{n+1-i}, from A_0 = 1.
    """
    a = [1.0]
    for n in range(15):
        products = sum(a[i] * a[n + 1 - i] for i in range(1, n + 1))
        a.append(0.5 * ((n - 1) * a[n] - products))
    return tuple(-value for value in a[1:])


_LARGE = 40.0  # from here the series below is exact to rounding in float64
_COEFFICIENTS = _series()


def bessel_deficit(kappa: Elementwise) -> Elementwise:
    r"""$1 - I_1(\kappa)/I_0(\kappa)$ for $\kappa \ge 0$, without cancellation."""
    large = jnp.maximum(kappa, _LARGE)
    series = jnp.zeros_like(large)
    for coefficient in reversed(_COEFFICIENTS):
        series = (series + coefficient) / large
    small = jnp.minimum(kappa, _LARGE)
    return jnp.where(kappa > _LARGE, series, 1 - i1e(small) / i0e(small))


@jax.custom_jvp
def log_i0e(kappa: Elementwise) -> Elementwise:
    r"""$\log(e^{-\kappa} I_0(\kappa))$, whose derivative is $A(\kappa) - 1$."""
    return jnp.log(i0e(kappa))


@log_i0e.defjvp
def _log_i0e_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (kappa,), (tangent,) = primals, tangents
    return log_i0e(kappa), -bessel_deficit(kappa) * tangent


def _norm(x: Array) -> Array:
    """|x| with the derivative zero at the origin instead of NaN, and no overflow."""
    most = jax.lax.stop_gradient(jnp.abs(x).max())
    zero = most == 0
    size = jnp.where(zero, 1.0, most)
    square = jnp.sum((x / size) ** 2)
    return jnp.where(zero, 0.0, size * jnp.sqrt(jnp.where(zero, 1.0, square)))
