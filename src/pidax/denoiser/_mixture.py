r"""The exact denoiser of a mixture of Gaussians.

Each component has the denoiser of a Gaussian. They are weighted by the probability
of the component given the noised sample:

$$ D = \sum_k r_k D_k, \qquad
   r_k \propto w_k\, N(x;\ \alpha m_k,\ \alpha^2 C_k + \sigma^2 I). $$
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from .._checks import require, settled, show, whole_number
from ..types import (
    Condition,
    ElementwiseLike,
    Key,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Shape,
    WholeLike,
    typed,
)
from ._denoiser import AbstractExactDenoiser, as_arrays
from ._gaussian import Covariance, Gaussian, is_small


class GaussianMixture(AbstractExactDenoiser):
    """Data from `sum_k weights[k] N(means[k], covariance_k)`.

    `scales` are standard deviations: one number, one number for each component
    (isotropic), or an array of the shape of `means` (diagonal). Pass full covariances
    as `covariances`, matrices over the flattened event, instead of `scales`.

    `labels` gives each component a class. The condition is then a class label, or class
    probabilities (such as a one-hot), and selects the components of this class: an
    exact conditional model, for tests of guidance.
    """

    means: Float[Array, "component *event"]
    covariances: Covariance
    log_weights: Float[Array, " component"]
    labels: Integer[Array, " component"] | None
    classes: int | None = eqx.field(static=True)

    @typed
    def __init__(
        self,
        means: Float[Array | np.ndarray, "component *event"],
        scales: ElementwiseLike | None = None,
        weights: Float[Array | np.ndarray, " component"] | None = None,
        *,
        covariances: Float[Array | np.ndarray, "component size size"] | None = None,
        labels: Integer[Array | np.ndarray, " component"] | None = None,
    ):
        self.means = jnp.asarray(means)
        count = self.means.shape[0]
        if weights is None:
            weights = jnp.full(count, 1 / count, self.means.dtype)
        self.log_weights = _log_weights(jnp.asarray(weights, self.means.dtype))
        self.labels = None if labels is None else jnp.asarray(labels)
        self.classes = None if labels is None else int(np.max(labels)) + 1
        if (scales is None) == (covariances is None):
            raise ValueError(
                "pass exactly one of scales (standard deviations) and covariances "
                f"(matrices), got {'neither' if scales is None else 'both'}."
            )
        if covariances is None:
            self.covariances = _diagonal(
                jnp.asarray(scales, self.means.dtype), self.means
            )
        else:
            self.covariances = _full(
                jnp.asarray(covariances, self.means.dtype), self.means
            )

    @classmethod
    @typed
    def ring(
        cls, count: WholeLike = 8, *, radius: ScalarLike = 0.7, scale: ScalarLike = 0.08
    ) -> "GaussianMixture":
        """`count` equal components on a circle in the plane, labelled in order."""
        count = whole_number("count", count)
        angles = 2 * jnp.pi * jnp.arange(count, dtype=float) / count
        means = radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return cls(means, scale, labels=jnp.arange(count))

    @classmethod
    @typed
    def grid(
        cls, side: WholeLike = 3, *, spacing: ScalarLike = 0.5, scale: ScalarLike = 0.05
    ) -> "GaussianMixture":
        """`side * side` equal components on a square lattice about the origin."""
        side = whole_number("side", side)
        ticks = spacing * (jnp.arange(side, dtype=float) - (side - 1) / 2)
        means = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
        return cls(means, scale, labels=jnp.arange(side * side))

    @classmethod
    @typed
    def two_moons(
        cls,
        count: WholeLike = 16,
        *,
        radius: ScalarLike = 0.5,
        scale: ScalarLike = 0.05,
    ) -> "GaussianMixture":
        """Two interleaved half circles, each of `count` components and one class."""
        count = whole_number("count", count)
        angles = jnp.pi * (jnp.arange(count, dtype=float) + 0.5) / count
        arc = radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        offset = radius * jnp.array([0.5, -0.25])
        means = jnp.concatenate([arc - offset, offset - arc])
        return cls(means, scale, labels=jnp.repeat(jnp.arange(2), count))

    @classmethod
    @typed
    def from_samples(
        cls,
        samples: Float[Array | np.ndarray, "sample *event"],
        bandwidth: ScalarLike,
        *,
        labels: Integer[Array | np.ndarray, " sample"] | None = None,
    ) -> "GaussianMixture":
        """A Gaussian of standard deviation `bandwidth` on every sample.

        With a small bandwidth this denoiser memorises the data set. It is the optimum
        of denoising score matching on these samples.
        """
        return cls(samples, bandwidth, labels=labels)

    @property
    def shape(self) -> Shape:
        return self.means.shape[1:]

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
        logits = self._joint(x, sigma, alpha, condition)
        denoised = jax.vmap(lambda mean, cov: Gaussian(mean, cov)(x, sigma, alpha))(
            self.means, self.covariances
        )
        return jnp.tensordot(jax.nn.softmax(logits), denoised, axes=1)

    @typed
    def log_density(
        self,
        x: SampleLike,
        sigma: ScalarLike = 0.0,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
    ) -> Scalar:
        x, sigma, alpha = as_arrays(x, sigma, alpha, self.shape)
        joint = self._joint(x, sigma, alpha, condition)
        return jax.nn.logsumexp(joint)

    @typed
    def sample(self, *, key: Key, condition: Condition = None) -> Sample:
        which, noise = jax.random.split(key)
        index = jax.random.categorical(which, self._log_prior(condition))
        mean, cov = jax.tree.map(lambda a: a[index], (self.means, self.covariances))
        return Gaussian(mean, cov).sample(key=noise)

    def responsibilities(
        self,
        x: Array,
        sigma: Array,
        alpha: Array,
        condition: Condition = None,
    ) -> Float[Array, " component"]:
        """The probability of each component given the noised `x`; they sum to 1."""
        return jax.nn.softmax(self._joint(x, sigma, alpha, condition))

    def _joint(
        self, x: Array, sigma: Array, alpha: Array, condition: Condition
    ) -> Float[Array, " component"]:
        """log( weight_k * density of component k at x ), for every k."""
        densities = jax.vmap(
            lambda mean, cov: Gaussian(mean, cov).log_density(x, sigma, alpha)
        )(self.means, self.covariances)
        return self._log_prior(condition) + densities

    def _log_prior(self, condition: Condition) -> Float[Array, " component"]:
        if condition is None:
            return self.log_weights
        if self.labels is None:
            raise ValueError(
                "a condition was passed to a GaussianMixture without classes. Pass "
                "labels=, the class of each component, when making it."
            )
        condition = jnp.asarray(condition)
        if condition.ndim == 0 and jnp.issubdtype(condition.dtype, jnp.integer):
            admitted = self.labels == condition.astype(self.labels.dtype)
            chosen = jnp.where(admitted, self.log_weights, -jnp.inf)
        elif condition.shape == (self.classes,):
            # p(x | c) has the weights of its class; probabilities mix the classes.
            same = self.labels[:, None] == self.labels[None, :]
            within = jnp.where(same, self.log_weights[None, :], -jnp.inf)
            class_weights = jax.nn.logsumexp(within, axis=1)
            mass = condition.astype(self.log_weights.dtype)[self.labels]
            admitted = mass > 0
            log_mass = jnp.log(jnp.where(admitted, mass, 1.0))
            mixed = self.log_weights - class_weights + log_mass
            chosen = jnp.where(admitted, mixed, -jnp.inf)
        else:
            raise ValueError(
                "the condition of a mixture is an integer class label, or a one-hot or "
                f"probabilities of shape {(self.classes,)}, one per class, got shape "
                f"{condition.shape} and dtype {condition.dtype}."
            )
        chosen = require(
            chosen,
            admitted.any(),
            "the condition must name a component of the mixture: one of its classes, "
            f"at most {self.classes} - 1, or probabilities of them, got "
            f"{show(condition)}. Pass one of the labels it was made with.",
        )
        return jax.nn.log_softmax(chosen)


def _log_weights(weights: Array) -> Array:
    known = settled(weights)
    total = known.sum()
    weights = require(
        weights,
        (known >= 0).all() & is_small(abs(total - 1), 1.0),
        "mixture weights must be non-negative and sum to 1; they sum to "
        f"{show(total)} with least {show(known.min())}. "
        "Pass weights / weights.sum().",
    )
    return jnp.log(weights)


def _diagonal(scales: Array, means: Array) -> Covariance:
    count = means.shape[0]
    if scales.shape == ():
        scales = jnp.full(count, scales)
    if scales.shape not in ((count,), means.shape):
        raise ValueError(
            f"scales must be a number, one per component {(count,)}, or of the shape "
            f"{means.shape} of the means (standard deviations of every component), "
            f"got {scales.shape}. Matrices are passed as covariances=."
        )
    known = settled(scales)
    scales = require(
        scales,
        (known >= 0).all(),
        "scales are standard deviations and must not be negative, the least is "
        f"{show(known.min())}.",
    )
    return Covariance(None, scales**2, jnp.zeros(count, means.dtype))


def _full(covariances: Array, means: Array) -> Covariance:
    count, shape = means.shape[0], means.shape[1:]
    size = math.prod(shape)
    if covariances.shape != (count, size, size):
        raise ValueError(
            f"covariances must have the shape {(count, size, size)}: a matrix over "
            f"the flattened event for each component, got {covariances.shape}."
        )
    each = [Covariance.full(matrix, shape) for matrix in covariances]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
