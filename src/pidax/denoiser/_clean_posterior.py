r"""The distribution of the clean sample given a noised one.

$$ p(x_0 \mid x) \propto p(x_0)\, e^{-|x - \alpha x_0|^2 / 2\sigma^2} $$

A denoiser is the mean of this distribution. For some data the distribution is known:

- a circle: the angle is von Mises with $\kappa = \alpha R|x|/\sigma^2$;
- a Gaussian: a Gaussian with the same eigenvectors and the variances
  $c\sigma^2/(\alpha^2c+\sigma^2)$;
- a mixture: the posteriors of the components, weighted by their likelihoods. With
  components of zero width it is the distribution of a finite set: the points, with a
  softmax of their distances as weights.

For data made by a function, $x_0 = G(\xi)$ with $\xi \sim N(0, I)$ (the modes of a
coefficient, and a solver), the latent given $x = \alpha x_0 + \sigma\epsilon$ has

$$ -\log p(\xi \mid x) = \tfrac12 |\xi|^2
   + \frac{|x - \alpha G(\xi)|^2}{2\sigma^2} + \text{const}. $$

The Gauss-Newton method finds its maximum. $H = I + \alpha^2 J^T J/\sigma^2$ is its
curvature there, $N(\xi_*, H^{-1})$ proposes samples, and importance weights correct the
difference to a Gaussian. Linear $G$ needs no correction, nor does a smooth $G$ at small
noise.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import is_traced, whole_number
from ..types import Key, Sample, SampleLike, Scalar, ScalarLike, WholeLike, typed
from ._circle import Circle
from ._denoiser import AbstractDenoiser, as_arrays
from ._gaussian import Covariance, Gaussian
from ._mixture import GaussianMixture

_FRACTIONS = (1.0, 0.5, 0.2, 0.05, 0.0)  # of a Newton step: the best is taken
_REACH = 16.0  # standard deviations: the tails beyond are below rounding


class WeightedSamples(NamedTuple):
    """Samples of a distribution, with weights that sum to one."""

    values: Float[Array, "sample *event"]
    weights: Float[Array, " sample"]

    def expect(self, values: Float[Array, "sample *any"]) -> Float[Array, "*any"]:
        """The weighted mean of values that were computed for each sample."""
        return jnp.tensordot(self.weights, values, axes=1)

    @property
    def mean(self) -> Sample:
        """The posterior mean: the output of the denoiser."""
        return self.expect(self.values)

    @property
    def effective(self) -> Scalar:
        r"""$1/\sum_i w_i^2$: the effective sample size.

        Near one, the weights have collapsed onto a single sample, whatever the true
        distribution is.
        """
        return 1 / jnp.sum(self.weights**2)


@typed
def clean_posterior(
    denoiser: AbstractDenoiser,
    x: SampleLike,
    sigma: ScalarLike,
    alpha: ScalarLike = 1.0,
    *,
    key: Key | None = None,
    samples: WholeLike = 1024,
) -> WeightedSamples:
    r"""Weighted samples of $x_0$ given $\alpha x_0 + \sigma\epsilon = x$.

    For a `Circle` they are nodes of a quadrature, exact to rounding from 64 nodes on.
    For a `Gaussian` they are random (`key`), in pairs about the mean, so that means of
    odd functions are exact. For a `GaussianMixture` each component has its share of
    `samples`. If all components have scale zero (`from_samples(data, 0.0)`) the samples
    are their points, and nothing is random. The weighted mean equals the denoiser's
    output to rounding.
    """
    x, sigma, alpha = as_arrays(x, sigma, alpha, denoiser.shape)
    samples = whole_number("samples", samples)
    if isinstance(denoiser, Circle):
        return _of_circle(denoiser, x, sigma, alpha, samples)
    if isinstance(denoiser, Gaussian):
        values = _of_gaussian(denoiser, x, sigma, alpha, key, samples)
        equal = jnp.full(len(values), 1 / len(values), values.dtype)
        return WeightedSamples(values, equal)
    if isinstance(denoiser, GaussianMixture):
        return _of_mixture(denoiser, x, sigma, alpha, key, samples)
    raise ValueError(
        "the posterior of a clean sample is known where the data's law is: for Circle, "
        f"Gaussian and GaussianMixture, got {type(denoiser).__name__}, which knows its "
        "mean alone. GaussianMixture.from_samples(data, 0.0) is the law of a data set."
    )


@typed
def latent_posterior(
    make: Callable[..., Sample],
    latents: WholeLike,
    x: SampleLike,
    sigma: ScalarLike,
    alpha: ScalarLike = 1.0,
    *,
    key: Key,
    samples: WholeLike = 512,
    iterations: WholeLike = 10,
) -> WeightedSamples:
    r"""Weighted samples of $x_0 = G(\xi)$ given $\alpha x_0 + \sigma\epsilon = x$.

    `make` is $G$, a function from `latents` standard normal numbers to one sample. The
    weighted mean is a denoiser for the true distribution, not for a data set.
    `.effective` is the effective sample size. A value near one means that the result is
    useless: the posterior is far from Gaussian (jumps, several maxima), or $\xi$ has
    too many directions.

    Costs `samples + iterations * (latents + 5)` calls of $G$, most of them batched.
    """
    x, sigma, alpha = as_arrays(x, sigma, alpha)
    latents = whole_number("latents", latents)
    samples = whole_number("samples", samples)
    iterations = whole_number("iterations", iterations)
    signal = lambda xi: alpha * make(xi).ravel() / sigma
    target = x.ravel() / sigma

    def energy(xi: Array) -> Scalar:
        return 0.5 * (jnp.sum((target - signal(xi)) ** 2) + jnp.sum(xi**2))

    def curvature(xi: Array) -> tuple[Array, Array]:
        jacobian = jax.jacfwd(signal)(xi)
        return jacobian, jacobian.T @ jacobian + jnp.eye(latents, dtype=x.dtype)

    def newton(xi: Array, _: None) -> tuple[Array, None]:
        jacobian, hessian = curvature(xi)
        slope = jacobian.T @ (target - signal(xi)) - xi
        step = jnp.linalg.solve(hessian, slope)
        tried = xi + jnp.asarray(_FRACTIONS, x.dtype)[:, None] * step
        best = jnp.argmin(jax.vmap(energy)(tried))
        return tried[best], None

    start = jnp.zeros(latents, x.dtype)
    mode, _ = jax.lax.scan(newton, start, length=iterations)
    root = jnp.linalg.cholesky(curvature(mode)[1])
    half = jax.random.normal(key, (-(-samples // 2), latents), x.dtype)
    z = jnp.concatenate([half, -half])
    xi = mode + jax.scipy.linalg.solve_triangular(root.T, z.T, lower=False).T
    values = jax.vmap(make)(xi)
    distance = jnp.sum((target - alpha * values.reshape(len(z), -1) / sigma) ** 2, 1)
    log_weights = 0.5 * (jnp.sum(z**2, 1) - distance - jnp.sum(xi**2, 1))
    return WeightedSamples(values, jax.nn.softmax(log_weights))


def _of_circle(
    circle: Circle, x: Sample, sigma: Scalar, alpha: Scalar, samples: int
) -> WeightedSamples:
    """Equal steps of the angle, over the whole circle or 16 widths of a narrow
    distribution.
    """
    norm = jnp.sqrt(jnp.sum(x**2))
    kappa = (alpha * circle.radius / sigma) * (norm / sigma)
    reach = jnp.minimum(jnp.pi, _REACH / jnp.sqrt(_or_one(kappa)))
    steps = jnp.asarray((2 * jnp.arange(samples) + 1) / samples - 1, x.dtype)
    angle = jnp.where(kappa > 0, reach, jnp.pi) * steps
    weights = jax.nn.softmax(-2 * kappa * jnp.sin(0.5 * angle) ** 2)
    along = jnp.where(norm > 0, x / _or_one(norm), jnp.array([1.0, 0.0], x.dtype))
    across = jnp.stack([-along[1], along[0]])
    values = jnp.cos(angle)[:, None] * along + jnp.sin(angle)[:, None] * across
    return WeightedSamples(circle.radius * values, weights)


def _of_gaussian(
    gaussian: Gaussian,
    x: Sample,
    sigma: Scalar,
    alpha: Scalar,
    key: Key | None,
    samples: int,
) -> Float[Array, "sample *event"]:
    if key is None:
        raise ValueError(
            "the posterior of a Gaussian is sampled: expected key=, got None. Pass "
            "key=jax.random.key(0)."
        )
    noise = jax.random.normal(key, (-(-samples // 2), *x.shape), x.dtype)

    def std(c: Array) -> Array:
        total = alpha**2 * c + sigma**2
        known = total > 0  # a direction without spread or noise stays at the mean
        return jnp.where(known, jnp.sqrt(c) * sigma / jnp.sqrt(_or_one(total)), 0.0)

    mean = gaussian(x, sigma, alpha)
    offset = jax.vmap(lambda xi: gaussian.covariance.apply(std, xi))(noise)
    return jnp.concatenate([mean + offset, mean - offset])


def _of_mixture(
    mixture: GaussianMixture,
    x: Sample,
    sigma: Scalar,
    alpha: Scalar,
    key: Key | None,
    samples: int,
) -> WeightedSamples:
    weights = mixture.responsibilities(x, sigma, alpha)
    if _is_points(mixture.covariances):
        return WeightedSamples(mixture.means, weights)
    count = weights.size
    each = 2 * -(-samples // (2 * count))
    keys = None if key is None else jax.random.split(key, count)
    one = lambda mean, covariance, key: _of_gaussian(
        Gaussian(mean, covariance), x, sigma, alpha, key, each
    )
    values = jax.vmap(one)(mixture.means, mixture.covariances, keys)
    spread = jnp.repeat(weights / each, each)
    return WeightedSamples(values.reshape(-1, *x.shape), spread)


def _is_points(covariances: Covariance) -> bool:
    """Whether all components are known to have no width."""
    variances = covariances.variances
    return not is_traced(variances) and not np.any(np.asarray(variances))


def _or_one(variance: Array) -> Array:
    return jnp.where(variance > 0, variance, 1.0)
