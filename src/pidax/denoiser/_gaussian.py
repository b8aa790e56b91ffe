r"""The denoiser of Gaussian data, with its flow, density and posterior in closed form.

For $x_0 \sim N(m, C)$, with $C$ diagonalised,

$$ D(x, \sigma, \alpha) = m + \frac{\alpha C}{\alpha^2 C + \sigma^2}(x - \alpha m),
\qquad \frac{x_t - \alpha_t m}{\sqrt{\alpha_t^2 C + \sigma_t^2}} = \text{const} $$

along every trajectory of the probability-flow ODE. Solvers are tested against it.

The posterior given noisy linear observations follows from Bayes' rule. With $x_0 = m +
Fw$, $w \sim N(0, I)$, and $b = A x_0 + s\eta$, the singular value decomposition $AF = U
S V^T$ decouples the components of $V^T w$. Each has the variance $s^2 / (S^2 + s^2)$
and the mean $S\,(U^T(b - Am)) / (S^2 + s^2)$. No matrix is inverted, so noise-free
observations ($s = 0$) are treated exactly.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._checks import is_traced, require, require_finite, settled, show
from ..types import (
    Condition,
    Elementwise,
    ElementwiseLike,
    Key,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Shape,
    typed,
)
from ._denoiser import AbstractExactDenoiser, as_arrays

SpectralFunction = Callable[[Elementwise], Elementwise]


class Covariance(eqx.Module):
    """The covariance of an event of any shape. Use the class methods to make one."""

    basis: Float[Array, "*event rank"] | None
    variances: Float[Array, "..."]
    floor: Scalar

    @classmethod
    @typed
    def diagonal(cls, variances: Float[Array | np.ndarray, "..."]) -> "Covariance":
        """Independent components: a scalar or an array of the event's shape."""
        variances = jnp.asarray(variances)
        _require_psd(variances, variances)
        return cls(None, variances, jnp.zeros((), variances.dtype))

    @classmethod
    @typed
    def full(
        cls, matrix: Float[Array | np.ndarray, "size size"], shape: Shape
    ) -> "Covariance":
        """A matrix over the flattened event."""
        matrix = jnp.asarray(matrix)
        known = settled(matrix)
        asymmetry = abs(known - known.T).max()
        matrix = require(
            matrix,
            is_small(asymmetry, abs(known).max()),
            "a covariance must be symmetric; the largest |cov - cov.T| is "
            f"{show(asymmetry)}. Pass (cov + cov.T) / 2 if this is rounding.",
        )
        variances, vectors = jnp.linalg.eigh(matrix)
        variances = _require_psd(variances, matrix)
        basis = vectors.reshape((*shape, -1))
        return cls(basis, variances, jnp.zeros((), matrix.dtype))

    @classmethod
    @typed
    def low_rank(
        cls,
        factor: Float[Array | np.ndarray, "*event rank"],
        floor: ScalarLike = 0.0,
    ) -> "Covariance":
        """`factor @ factor.T + floor * I`, over the flattened event.

        Costs `O(size * rank^2)` once and `O(size * rank)` a call.
        """
        factor = jnp.asarray(factor)
        floor = jnp.asarray(floor, factor.dtype)
        floor = _require_psd(floor, floor)
        rows = factor.reshape(-1, factor.shape[-1])
        vectors, singular, _ = jnp.linalg.svd(rows, full_matrices=False)
        basis = vectors.reshape((*factor.shape[:-1], vectors.shape[-1]))
        return cls(basis, singular**2 + floor, floor)

    def require_shape(self, shape: Shape) -> None:
        """Check that this is a covariance of events of the shape `shape`."""
        own = self.variances.shape if self.basis is None else self.basis.shape[:-1]
        if own != shape and not (self.basis is None and own == ()):
            raise ValueError(
                f"the covariance is for events of shape {own}, but the mean has the "
                f"shape {shape}. Make both for the same event."
            )

    def apply(self, fn: SpectralFunction, x: Sample) -> Sample:
        """`fn(C) @ x`: the function acts on the eigenvalues."""
        if self.basis is None:
            return fn(self.variances) * x
        inside, outside = self._split(x)
        return (
            jnp.tensordot(self.basis, fn(self.variances) * inside, axes=1)
            + fn(self.floor) * outside
        )

    def gaussian_log_density(self, fn: SpectralFunction, x: Sample) -> Scalar:
        """`log N(x; 0, fn(C))` for a positive function of the eigenvalues."""
        if self.basis is None:
            variances = jnp.broadcast_to(fn(self.variances), x.shape)
            terms = x**2 / variances + jnp.log(2 * jnp.pi * variances)
            return -0.5 * jnp.sum(terms)
        inside, outside = self._split(x)
        variances, rest = fn(self.variances), x.size - self.basis.shape[-1]
        terms = inside**2 / variances + jnp.log(2 * jnp.pi * variances)
        value = -0.5 * jnp.sum(terms)
        if rest > 0:
            floor = fn(self.floor)
            value += -0.5 * (
                jnp.sum(outside**2) / floor + rest * jnp.log(2 * jnp.pi * floor)
            )
        return value

    def factor(self, shape: Shape) -> Float[Array, "size columns"]:
        """A matrix `F` with `F @ F.T = C`, over the flattened event of this shape."""
        size = math.prod(shape)
        if self.basis is not None and self.basis.shape[-1] == size:
            return self.basis.reshape(size, -1) * jnp.sqrt(self.variances)
        identity = jnp.eye(size, dtype=self.variances.dtype)
        columns = identity.reshape((size, *shape))
        rows = jax.vmap(lambda column: self.apply(jnp.sqrt, column))(columns)
        return rows.reshape(size, size)

    def _split(self, x: Sample) -> tuple[Float[Array, " rank"], Sample]:
        """Coefficients of `x` in the basis, and the remainder outside its span."""
        assert self.basis is not None
        inside = jnp.tensordot(x.ravel(), self.basis.reshape(x.size, -1), axes=1)
        if self.basis.shape[-1] == x.size:  # nothing is outside: not even rounding
            return inside, jnp.zeros_like(x)
        return inside, x - jnp.tensordot(self.basis, inside, axes=1)


class Gaussian(AbstractExactDenoiser):
    """Data `x0 ~ N(mean, cov)`, of any event shape.

    `cov` is a scalar or an array of the event's shape (variances of independent
    components), a matrix over the flattened event, or a `Covariance` (low rank:
    `Gaussian(mean, Covariance.low_rank(factor))`). The condition is ignored.

    The covariance is stored as eigenvectors. Gradients with respect to a matrix or a
    factor exist where the eigenvalues differ, and are NaN where two coincide. Pass
    variances if you need such gradients.
    """

    mean: Float[Array, "*event"]
    covariance: Covariance

    @typed
    def __init__(
        self,
        mean: SampleLike,
        cov: ElementwiseLike | Covariance,
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
        x, sigma, alpha, _ = _of_order_one(*as_arrays(x, sigma, alpha, self.shape))
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
        level = as_arrays(x, sigma, alpha, self.shape)
        x, sigma, alpha, scale = _of_order_one(*level)
        density = self.covariance.gaussian_log_density(
            lambda c: alpha**2 * c + sigma**2, x - alpha * self.mean
        )
        return density - x.size * jnp.log(scale)

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

        def ratio(c: Array) -> Array:
            spread = jnp.hypot(alpha0 * jnp.sqrt(c), sigma0)
            moving = spread > 0  # a direction without spread stays at the mean
            end_spread = jnp.hypot(alpha1 * jnp.sqrt(c), sigma1)
            return jnp.where(moving, end_spread / jnp.where(moving, spread, 1.0), 0.0)

        residual = x - alpha0 * self.mean
        return alpha1 * self.mean + self.covariance.apply(ratio, residual)

    @typed
    def posterior(
        self,
        operator: Float[Array | np.ndarray, "observation *event"]
        | lx.AbstractLinearOperator,
        observations: Float[Array | np.ndarray, " observation"],
        noise: ScalarLike,
    ) -> "Gaussian":
        r"""The distribution of $x_0$ given $b = A x_0 + s\,\eta$, $\eta \sim N(0, I)$.

        The result is a denoiser with flow, samples and density; methods of inference
        are tested against it. `operator` is an array whose last axes are the axes of
        the event, or a Lineax operator on the event. `noise` is the standard deviation
        $s \ge 0$. Costs `O(size^3)` once.

        With `noise=0` the covariance is singular, and the samples satisfy the
        observations to rounding.
        """
        observations = jnp.asarray(observations)
        rows = _rows(operator, self.shape, observations.shape[0])
        noise = jnp.asarray(noise, rows.dtype)
        noise = require(
            noise,
            noise >= 0,
            "noise is a standard deviation and must not be negative, got "
            f"{show(noise)}. Pass 0 for exact observations.",
        )
        factor = self.covariance.factor(self.shape)
        left, singular, right = jnp.linalg.svd(rows @ factor, full_matrices=True)
        columns = factor.shape[1]
        misfit = left.T @ (observations - rows @ self.mean.ravel())
        # Pad to every direction of w: those beyond the observations keep their prior.
        fit = lambda a: jnp.zeros(columns, a.dtype).at[: a.size].set(a)
        singular, misfit = fit(singular), fit(misfit[:columns])
        # Below rounding a direction is not observed at all, whatever the noise.
        floor = columns * jnp.finfo(rows.dtype).eps * singular.max()
        observed = singular > floor
        total = jnp.where(observed, singular**2 + noise**2, 1.0)
        mean_w = jnp.where(observed, singular / total, 0.0) * misfit
        std_w = jnp.where(observed, noise / jnp.sqrt(total), 1.0)
        mean = self.mean + (factor @ (right.T @ mean_w)).reshape(self.shape)
        spread = (factor @ right.T * std_w).reshape((*self.shape, columns))
        return Gaussian(mean, Covariance.low_rank(spread))


def _of_order_one(
    x: Sample, sigma: Scalar, alpha: Scalar
) -> tuple[Sample, Scalar, Scalar, Scalar]:
    """Both values in units of the larger one, whose squares do not overflow."""
    scale = jax.lax.stop_gradient(jnp.maximum(sigma, alpha))
    scale = jnp.where(scale > 0, scale, 1.0)
    return x / scale, sigma / scale, alpha / scale, scale


def _safe(variance: Array) -> Array:
    """A gain of zero instead of 0/0, for a direction without data at zero noise."""
    return jnp.where(variance > 0, variance, 1.0)


def _rows(
    operator: Array | np.ndarray | lx.AbstractLinearOperator,
    shape: Shape,
    count: int,
) -> Float[Array, "observation size"]:
    if isinstance(operator, lx.AbstractLinearOperator):
        rows = operator.as_matrix()
    else:
        rows = jnp.asarray(operator)
    event = rows.shape[1:]
    if event not in (shape, (math.prod(shape),)):
        raise ValueError(
            f"operator must map an event of shape {shape} to {count} "
            f"observations, so have the shape {(count, *shape)}, got "
            f"{rows.shape}. Leave no axis of the event out."
        )
    return rows.reshape(count, -1)


def _require_psd(variances: Array, scale: ArrayLike) -> Array:
    """Clip rounding errors below zero; refuse anything larger."""
    known = settled(variances)
    least = known.min()
    variances = require(
        variances,
        is_small(-least, abs(settled(scale)).max()) & (abs(known) < math.inf).all(),
        "a covariance must be positive semi-definite and finite; its smallest "
        f"eigenvalue is {show(least)}. Add a multiple of the identity, or pass a "
        "factor to Covariance.low_rank.",
    )
    return variances if not is_traced(least) and least >= 0 else variances.clip(0.0)


def is_small(value: Any, scale: Any) -> Any:
    """Whether `value` is a rounding error relative to `scale`."""
    return value <= 100 * jnp.finfo(value.dtype).eps * scale
