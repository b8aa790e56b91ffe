r"""A covariance known by its spectrum, so that any function of it is two products.

$C = U \operatorname{diag}(\lambda)\, U^T + f\,(I - U U^T)$: the eigenvectors that
matter, their variances, and one variance `floor` for all other directions. A diagonal
or isotropic covariance has no `basis`; a full one has as many columns as components.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import require, show
from ..types import Elementwise, Sample, Scalar, ScalarLike, Shape, typed

SpectralFunction = Callable[[Elementwise], Elementwise]


class Covariance(eqx.Module):
    """The covariance of one event of any shape; built by the classmethods below."""

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
        asymmetry = jnp.abs(matrix - matrix.T).max()
        matrix = require(
            matrix,
            is_small(asymmetry, jnp.abs(matrix).max()),
            "a covariance must be symmetric; the largest |cov - cov.T| is "
            f"{show(asymmetry)}. Pass (cov + cov.T) / 2 if this is rounding.",
        )
        variances, vectors = jnp.linalg.eigh(matrix)
        variances = _require_psd(variances, jnp.abs(matrix).max())
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
        """This is a covariance of events of the given shape."""
        own = self.variances.shape if self.basis is None else self.basis.shape[:-1]
        if own != shape and not (self.basis is None and own == ()):
            raise ValueError(
                f"the covariance is one of events of shape {own}, but the mean has the "
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
        """Coefficients of `x` in the basis, and what lies outside its span."""
        assert self.basis is not None
        inside = jnp.tensordot(x.ravel(), self.basis.reshape(x.size, -1), axes=1)
        if self.basis.shape[-1] == x.size:  # nothing is outside: not even rounding
            return inside, jnp.zeros_like(x)
        return inside, x - jnp.tensordot(self.basis, inside, axes=1)


def _require_psd(variances: Array, scale: Array) -> Array:
    """Clip rounding below zero; refuse what is more than rounding."""
    least = jnp.min(variances)
    variances = require(
        variances,
        is_small(jnp.maximum(-least, 0.0), jnp.abs(scale).max())
        & jnp.isfinite(variances).all(),
        "a covariance must be positive semi-definite and finite; its smallest "
        f"eigenvalue is {show(least)}. Add a multiple of the identity, or pass a "
        "factor to Covariance.low_rank.",
    )
    return jnp.maximum(variances, 0.0)


def is_small(value: Array, scale: Array) -> Array:
    """Whether `value` is rounding beside `scale`."""
    return value <= 100 * jnp.finfo(value.dtype).eps * scale
